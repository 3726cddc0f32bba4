"""redis:// passes the conformance suite, over kombu's transport with a visibility timeout."""

from __future__ import annotations

from pathlib import Path

import pytest

from queuelib.ports import Redelivery, ResultCapabilities, TransportCapabilities
from queuelib.testing import ResultConformance, SettlementConformance, TransportConformance


@pytest.fixture
def url(redis_url: str) -> str:
    """The server of the tests, which gives a dead taker's messages back after two seconds."""
    return f"{redis_url}?visibility_timeout=2"


@pytest.fixture
def results_url(url: str) -> str:
    """The same server."""
    return url


class TestTransport(TransportConformance):
    """kombu's transport, with delays."""

    expected = TransportCapabilities(redelivery=Redelivery.VISIBILITY, recovery=3.0, delays=True)


class TestResults(ResultConformance):
    """Hashes and scripts."""

    expected = ResultCapabilities(records=True)


class TestSettlement(SettlementConformance):
    """Stored first, then acknowledged."""


class TestSettlementWithSqlite(SettlementConformance):
    """Results in a file beside the broker."""

    @pytest.fixture
    def results_url(self, tmp_path: Path) -> str:
        """A file."""
        return f"sqlite:///{tmp_path}/results.db"
