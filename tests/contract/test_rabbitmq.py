"""amqp:// passes the conformance suite, with results in a stream or on another server."""

from __future__ import annotations

import secrets
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from queuelib import plugins
from queuelib.errors import BrokerUnavailable
from queuelib.ids import Key
from queuelib.outcome import CANCELLED, Record
from queuelib.ports import Memo, Redelivery, ResultCapabilities, TransportCapabilities
from queuelib.testing import (
    BlobConformance,
    MemoConformance,
    ResultConformance,
    SettlementConformance,
    TransportConformance,
    eventually,
)
from queuelib_rabbitmq.blobs import session
from queuelib_rabbitmq.transport import parse

if TYPE_CHECKING:
    from queuelib.ports import ResultBackend


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

    expected = ResultCapabilities(survives_restart=True, large_apart=False)


class TestSettlement(SettlementConformance):
    """On the channel that holds the deliveries."""

    @pytest.fixture
    def place(self, url: str) -> str:
        """A namespace whose stream of outcomes has a leader.

        While one client declares a stream, RabbitMQ up to 4.0.5 answers another one at once, and ends the connection of
        whoever publishes to it before it has a leader (rabbitmq-server 12969). A worker connects again; a test of one
        settlement does not.
        """
        place = f"c{secrets.token_hex(6)}"
        with closing(plugins.backend_for(url).results(url, place, 3600.0)) as results:
            eventually(lambda: _has_stored(results), within=10.0)
        return place


def _has_stored(results: ResultBackend) -> bool:
    try:
        results.store([Record(Key(bytes(16), 0), CANCELLED)])
    except BrokerUnavailable:
        return False
    return True


class TestSettlementWithRedis(SettlementConformance):
    """Results on another server."""

    @pytest.fixture
    def results_url(self, redis_url: str) -> str:
        """Redis."""
        return redis_url


class TestBlobs(BlobConformance):
    """A queue each."""

    def test_a_queue_that_was_never_filled(self, url: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who dies between making a queue and filling it leaves no piece, and the next put fills it."""
        monkeypatch.setattr("queuelib_rabbitmq.blobs._PATIENCE", 0.05)
        with self.blobs(url, place) as blobs:
            with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
                patch.setattr("queuelib_rabbitmq.blobs.Session.publish", lambda *_: 1 / 0)
                blobs.put({b"name": b"data"})
            assert blobs.get([b"name"]) == [None]
            assert blobs.renew([b"name"]) == [False]
            blobs.put({b"name": b"data"})
            assert blobs.get([b"name"]) == [b"data"]
            blobs.drop([b"name"])

    def test_others_may_keep_it_for_another_time(self, url: str, place: str) -> None:
        """A queue of another time to live serves as it is."""
        with self.blobs(url, place, 60.0) as ours, self.blobs(url, place, 90.0) as theirs:
            ours.put({b"name": b"data"})
            theirs.put({b"name": b"data", b"more": b"data"})
            assert ours.get([b"name", b"more"]) == [b"data", b"data"]
            ours.drop([b"name", b"more"])

    def test_it_is_one_message(self, url: str, place: str) -> None:
        """Published twice at once it is there once."""
        with self.blobs(url, place) as blobs:
            blobs.put({b"name": b"data"})
            with session(parse(url)) as opened:
                queue = blobs._queue(b"name")  # type: ignore[attr-defined]
                opened.publish(queue, b"data")
                assert opened.waiting(queue) == 1
            blobs.drop([b"name"])


class TestMemos(MemoConformance):
    """A queue each."""

    def test_a_queue_that_was_never_filled(self, url: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who dies between making a queue and filling it leaves none for good: it is read as nothing, and filled later."""
        monkeypatch.setattr("queuelib_rabbitmq.memos._PATIENCE", 0.05)
        key = Key(bytes(16), 1)
        memo = Memo(key, "state", b"data", 60.0)
        with self.memos(url, place, key) as memos, session(parse(url)) as opened:
            arguments = {"x-queue-type": "classic", "x-expires": 90_000, "x-max-length": 1}
            opened.waiting(memos._queue("state", key), arguments)  # type: ignore[attr-defined]
            assert memos.read("state", [key]) == [None]
            memos.write([memo])
            assert memos.read("state", [key]) == [b"data"]

    def test_a_queue_that_has_gone(self, url: str, place: str) -> None:
        """Somebody removed it behind the writer's back: the next write makes it anew."""
        key = Key(bytes(16), 2)
        memo = Memo(key, "state", b"data", 60.0)
        with self.memos(url, place, key) as memos:
            memos.write([memo])
            with session(parse(url)) as opened:
                opened.channel.queue_delete(memos._queue("state", key))  # type: ignore[attr-defined]
            memos.write([memo])
            assert memos.read("state", [key]) == [b"data"]
