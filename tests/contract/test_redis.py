"""redis:// passes the conformance suite: one door where it keeps the results as well."""

from __future__ import annotations

from pathlib import Path

import pytest

from queuelib.ports import Redelivery, ResultCapabilities, TransportCapabilities
from queuelib.testing import (
    BlobConformance,
    MemoConformance,
    ResultConformance,
    SettlementConformance,
    TransportConformance,
)


@pytest.fixture
def url(redis_url: str) -> str:
    """The server of the tests."""
    return redis_url


@pytest.fixture
def results_url(url: str) -> str:
    """The same server."""
    return url


class TestTransport(TransportConformance):
    """Leases, delays and markers."""

    expected = TransportCapabilities(
        has_batch_verbs=True,
        redelivery=Redelivery.LEASE,
        recovery=20.0,
        lease=15.0,
        delays=True,
        deduplicates=True,
        wakes=True,
    )


class TestResults(ResultConformance):
    """Hashes and scripts."""

    expected = ResultCapabilities(records=True)


class TestSettlement(SettlementConformance):
    """One script."""


class TestSettlementWithSqlite(SettlementConformance):
    """Results in a file beside the broker."""

    @pytest.fixture
    def results_url(self, tmp_path: Path) -> str:
        """A file."""
        return f"sqlite:///{tmp_path}/results.db"


class TestBlobs(BlobConformance):
    """Keys."""


class TestMemos(MemoConformance):
    """Keys."""
