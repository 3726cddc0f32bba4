"""sqlite:// passes the conformance suite, and its results together with another broker's messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from queuelib.ports import Redelivery, ResultCapabilities, TransportCapabilities
from queuelib.testing import ResultConformance, SettlementConformance, TransportConformance


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A file of this test's own."""
    return f"sqlite:///{tmp_path}/a file.db"


class TestTransport(TransportConformance):
    """A file and the processes of one machine."""

    expected = TransportCapabilities(
        has_batch_verbs=True,
        redelivery=Redelivery.LEASE,
        recovery=2.0,
        delays=True,
        deduplicates=True,
        wakes=True,
        survives_restart=True,
    )


class TestResults(ResultConformance):
    """The same file."""

    expected = ResultCapabilities(records=True, survives_restart=True, cancels_at_once=True)


class TestSettlement(SettlementConformance):
    """One transaction."""

    @pytest.fixture
    def results_url(self, url: str) -> str:
        """The same file."""
        return url


class TestSettlementInTwoFiles(SettlementConformance):
    """Stored first, then acknowledged."""

    @pytest.fixture
    def results_url(self, tmp_path: Path) -> str:
        """Another file."""
        return f"sqlite:///{tmp_path}/results.db"
