"""memory:// passes the conformance suite."""

from __future__ import annotations

import uuid

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
def url() -> str:
    """A server of this test's own."""
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def results_url(url: str) -> str:
    """The same server."""
    return url


class TestTransport(TransportConformance):
    """Everything within one process."""

    expected = TransportCapabilities(
        has_batch_verbs=True,
        redelivery=Redelivery.LEASE,
        recovery=0.0,
        delays=True,
        deduplicates=True,
        wakes=True,
        crosses_processes=False,
    )


class TestResults(ResultConformance):
    """Everything within one process."""

    expected = ResultCapabilities(records=True, crosses_processes=False, cancels_at_once=True)


class TestSettlement(SettlementConformance):
    """Under one lock."""


class TestBlobs(BlobConformance):
    """In a dictionary."""

    crosses_processes = False


class TestMemos(MemoConformance):
    """In a dictionary."""
