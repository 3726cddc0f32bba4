"""For tests: of programs that submit jobs, by a pytest plugin; and of backends, by classes to subclass.

The plugin is loaded by itself where queuelib is installed; `pytest --fixtures` shows its fixtures. They are built from
`in_process`, `real_workers`, `FakeClock` and `AssertSubmitted`, which need no pytest.

Whoever writes a backend subclasses the conformance suite in a test module. A subclass says how to open the thing and
what it promises; the suite asks everything else by those promises and never by name. What stands in a class's `CORE`
cannot be overridden or switched off.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from queuelib.testing.beside import real_workers
    from queuelib.testing.blobs import BlobConformance
    from queuelib.testing.clock import FakeClock
    from queuelib.testing.conformance import ResultConformance, SettlementConformance, TransportConformance
    from queuelib.testing.inprocess import InProcess, in_process
    from queuelib.testing.memos import MemoConformance
    from queuelib.testing.submissions import AssertSubmitted, Submission
    from queuelib.testing.waiting import eventually

__all__ = [
    "AssertSubmitted",
    "BlobConformance",
    "FakeClock",
    "InProcess",
    "MemoConformance",
    "ResultConformance",
    "SettlementConformance",
    "Submission",
    "TransportConformance",
    "eventually",
    "in_process",
    "real_workers",
]

# Each loads when it is asked for: the plugin is in every test run, and pytest in few programs.
_MODULES = {
    "AssertSubmitted": "submissions",
    "BlobConformance": "blobs",
    "FakeClock": "clock",
    "InProcess": "inprocess",
    "MemoConformance": "memos",
    "ResultConformance": "conformance",
    "SettlementConformance": "conformance",
    "Submission": "submissions",
    "TransportConformance": "conformance",
    "eventually": "waiting",
    "in_process": "inprocess",
    "real_workers": "beside",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
