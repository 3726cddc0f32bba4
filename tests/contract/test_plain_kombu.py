"""A program that uses kombu and nothing of ours but the alias runs on our own transports."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu import Connection, Consumer, Producer, Queue
from kombu.message import Message
from kombu.transport import TRANSPORT_ALIASES


@pytest.fixture(params=["memory", "sqlite"])
def connection(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connection]:
    """A kombu connection to each of our transports."""
    kind = request.param
    TRANSPORT_ALIASES[f"ql{kind}"] = f"queuelib_{kind}.transport:Transport"
    place = str(tmp_path / "plain.db") if kind == "sqlite" else uuid.uuid4().hex
    with Connection(transport=f"ql{kind}", virtual_host=place) as connection:
        yield connection


def drain(connection: Connection, queue: Queue, count: int) -> list[Message]:
    """Consume so many messages, without acknowledging them."""
    taken: list[Message] = []
    with Consumer(connection.channel(), [queue], on_message=taken.append, accept=["json"]):
        while len(taken) < count:
            connection.drain_events(timeout=5)
    return taken


def test_produced_is_consumed_and_acknowledged(connection: Connection) -> None:
    """What a Producer publishes a Consumer gets, decoded, in order; acknowledged, it is gone."""
    queue = Queue("plain", durable=True)
    producer = Producer(connection.channel())
    for number in range(3):
        producer.publish({"number": number}, routing_key="plain", serializer="json", declare=[queue])
    taken = drain(connection, queue, 3)
    assert [message.payload for message in taken] == [{"number": number} for number in range(3)]
    for message in taken:
        message.ack()
    assert connection.default_channel.queue_declare("plain", passive=True).message_count == 0


def test_rejected_is_dropped_and_requeued_comes_back(connection: Connection) -> None:
    """`reject` drops a message, `requeue` returns it."""
    queue = Queue("plain", durable=True)
    producer = Producer(connection.channel())
    for text in ("drop", "keep"):
        producer.publish(text, routing_key="plain", serializer="json", declare=[queue])
    first, second = drain(connection, queue, 2)
    first.reject()
    second.requeue()
    again = drain(connection, queue, 1)
    assert [message.payload for message in again] == ["keep"]
    again[0].ack()


def test_simple_queue(connection: Connection) -> None:
    """The SimpleQueue of kombu puts, gets, counts and clears."""
    with connection.SimpleQueue("simple") as queue:
        queue.put({"a": 1})
        queue.put({"a": 2})
        assert len(queue) == 2
        message = queue.get(timeout=5)
        assert message.payload == {"a": 1}
        message.ack()
        assert queue.clear() == 1
        with pytest.raises(queue.Empty):
            queue.get(block=False)
