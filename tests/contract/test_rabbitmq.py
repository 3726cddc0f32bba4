"""amqp:// passes the conformance suite, with results in a stream or on another server."""

from __future__ import annotations

import pytest

from queuelib.ports import Redelivery, ResultCapabilities, TransportCapabilities
from queuelib.testing import ResultConformance, SettlementConformance, TransportConformance


@pytest.fixture
def url(amqp_url: str) -> str:
    """The server of the tests."""
    return amqp_url


@pytest.fixture
def results_url(url: str) -> str:
    """The same server."""
    return url


class TestTransport(TransportConformance):
    """Quorum queues."""

    expected = TransportCapabilities(
        redelivery=Redelivery.CONNECTION, recovery=1.0, lease=20.0, delays=True, wakes=True, survives_restart=True
    )


class TestClassicQueues(TransportConformance):
    """Classic queues by option."""

    expected = TransportCapabilities(
        redelivery=Redelivery.CONNECTION, recovery=1.0, lease=20.0, delays=True, wakes=True, survives_restart=True
    )

    @pytest.fixture
    def url(self, amqp_url: str) -> str:
        """The server of the tests."""
        return f"{amqp_url}?queue_type=classic"


class TestResults(ResultConformance):
    """A stream."""

    expected = ResultCapabilities(survives_restart=True)


class TestSettlement(SettlementConformance):
    """On the channel that holds the deliveries."""


class TestSettlementWithRedis(SettlementConformance):
    """Results on another server."""

    @pytest.fixture
    def results_url(self, redis_url: str) -> str:
        """Redis."""
        return redis_url
