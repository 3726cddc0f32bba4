"""A plain kombu program that loses its server, or never had one, goes on as kombu says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from kombu import Connection, Producer
from kombu.exceptions import OperationalError
from kombu.message import Message
from kombu.mixins import ConsumerMixin

from queuelib.errors import BrokerUnavailable, SubmitUnknown
from tests.contract.cuts import Cuts
from tests.contract.plain_kombu import Differences, Place, drain, publish, waiting

_DEAD = {
    "qlredis": "qlredis://127.0.0.1:1/0",
    "redis": "redis://127.0.0.1:1/0",
    "pyamqp": "pyamqp://guest:guest@127.0.0.1:1//",
}

DIFFERENCES: Differences = {}


def test_fail_over(connection: Connection, place: Place) -> None:
    """The second server of a list is used when the first is dead, and may be of another kind."""
    urls = f"{_DEAD.get(place.kind, _DEAD['qlredis'])};{place.url}"
    queue = place.queue("over")
    with Connection(urls, transport_options=place.options, failover_strategy="round-robin") as listed:
        listed.ensure_connection(max_retries=3, interval_start=0, interval_step=0)
        publish(listed, queue, "x")
    (message,) = drain(connection, queue, 1)
    message.ack()


@pytest.mark.parametrize("kind", _DEAD)
def test_a_dead_server(kind: str) -> None:
    """Who asks to retry is told by an OperationalError, after so many tries."""
    tries: list[float] = []
    with Connection(_DEAD[kind]) as connection:
        with pytest.raises(OperationalError):
            connection.ensure_connection(lambda _, seconds: tries.append(seconds), 2, 0, 0)
        with pytest.raises(OperationalError):
            Producer(connection).publish("x", retry=True, retry_policy={"max_retries": 1, "interval_start": 0})
    assert len(tries) == 2


def test_what_is_retried() -> None:
    """A lost server is a connection error, so that kombu connects anew; a publish in doubt is not repeated blindly."""
    with Connection("qlredis://") as connection:
        assert issubclass(BrokerUnavailable, connection.connection_errors)
        assert not issubclass(SubmitUnknown, connection.connection_errors)


@pytest.fixture
def cuts(kind: str, request: pytest.FixtureRequest) -> Iterator[Cuts]:
    """A proxy before a server."""
    url = urlsplit(request.getfixturevalue("amqp_url" if kind == "pyamqp" else "redis_url"))
    with Cuts(url.hostname or "127.0.0.1", url.port or 5672) as proxy:
        yield proxy


@pytest.fixture
def shaky(place: Place, cuts: Cuts) -> Iterator[Connection]:
    """A connection through it."""
    with Connection(place.url, transport_options=place.options) as direct:
        with direct.clone(hostname="127.0.0.1", port=cuts.port) as connection:
            yield connection


def _publish(connection: Connection, producer: Producer, way: str, body: str) -> None:
    """Publish, and again over a new connection if this one broke, in one of the ways that kombu has for it."""
    if way == "retry":
        producer.publish(body, retry=True)
    elif way == "ensure":
        connection.ensure(producer, producer.publish, max_retries=3, interval_start=0)(body)
    else:
        told = {"routing_key": producer.routing_key, "serializer": "json"}
        connection.autoretry(lambda channel: Producer(channel).publish(body, **told), max_retries=3, interval_start=0)()


@pytest.mark.parametrize("kind", _DEAD)
@pytest.mark.parametrize("way", ["retry", "ensure", "autoretry"])
def test_a_cut_connection_publishes_again(
    connection: Connection, place: Place, shaky: Connection, cuts: Cuts, way: str
) -> None:
    """What a producer publishes after its connection was cut arrives, once."""
    queue = place.queue("cut")
    queue(connection.default_channel).declare()
    producer = Producer(shaky, routing_key=queue.name, serializer="json")
    for number in range(4):
        _publish(shaky, producer, way, str(number))
        assert cuts.cut() > 0
    assert [message.payload for message in drain(connection, queue, 4)] == ["0", "1", "2", "3"]
    assert waiting(connection, queue) == 0


@pytest.mark.parametrize("kind", ["qlredis"])
def test_a_publish_in_doubt_is_not_repeated(
    connection: Connection, place: Place, shaky: Connection, cuts: Cuts
) -> None:
    """When its answer is lost, the program hears of it, whatever it wished for; the message is there once."""
    queue = place.queue("doubt")
    queue(connection.default_channel).declare()
    producer = Producer(shaky, routing_key=queue.name, serializer="json")
    producer.publish("before")
    cuts.lose_the_next_answer()
    with pytest.raises(SubmitUnknown):
        producer.publish("doubtful", retry=True)
    producer.publish("after", retry=True)
    assert [message.payload for message in drain(connection, queue, 3)] == ["before", "doubtful", "after"]
    assert waiting(connection, queue) == 0


@pytest.mark.parametrize("kind", _DEAD)
def test_a_cut_consumer_goes_on(
    connection: Connection, place: Place, shaky: Connection, cuts: Cuts, caplog: pytest.LogCaptureFixture
) -> None:
    """A ConsumerMixin connects anew, gets again what it had not acknowledged, and all else once."""
    queue = place.queue("cut")
    publish(connection, queue, "held")

    class Worker(ConsumerMixin):
        connect_max_retries = 3

        def __init__(self, connection: Connection) -> None:
            self.connection = connection
            self.seen: list[object] = []

        def get_consumers(self, Consumer: Any, channel: Any) -> list[Any]:  # noqa: N803 - kombu's name
            return [Consumer([queue], callbacks=[self.work], accept=["json"])]

        def work(self, body: object, message: Message) -> None:
            self.seen.append(body)
            if len(self.seen) == 1:
                cuts.cut()
                publish(connection, queue, "later")
                return
            message.ack()
            self.should_stop = len(self.seen) == 3

    worker = Worker(shaky)
    worker.run()
    assert sorted(map(str, worker.seen)) == ["held", "held", "later"]
    shaky.release()
    caplog.clear()  # the traceback of what kombu logged holds a stock channel's connection
    assert waiting(connection, queue) == 0
