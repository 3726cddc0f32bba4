"""For whoever writes a backend: the conformance suite, as classes to subclass in a test module.

A subclass says how to open the thing and what it promises; the suite asks everything else by those promises and
never by name. What stands in a class's `CORE` cannot be overridden or switched off.
"""

from __future__ import annotations

from queuelib.testing.conformance import ResultConformance, SettlementConformance, TransportConformance
from queuelib.testing.waiting import eventually

__all__ = ["ResultConformance", "SettlementConformance", "TransportConformance", "eventually"]
