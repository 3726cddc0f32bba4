"""A program that uses kombu and nothing of ours but the alias runs on our own transports."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.exceptions import ChannelError
from kombu.message import Message
from kombu.transport import TRANSPORT_ALIASES

import queuelib_redis
from queuelib.errors import BrokerUnavailable, SubmitUnknown


@pytest.fixture(params=["memory", "sqlite", "redis"])
def connection(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connection]:
    """A kombu connection to each of our transports."""
    with _open(request.param, request, tmp_path) as connection:
        yield connection


def _open(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Connection:
    name = uuid.uuid4().hex
    if kind == "redis":
        assert queuelib_redis.BACKEND.name == "redis"  # importing it registers the alias
        return Connection("ql" + request.getfixturevalue("redis_url"), transport_options={"namespace": f"plain-{name}"})
    TRANSPORT_ALIASES[f"ql{kind}"] = f"queuelib_{kind}.transport:Transport"
    return Connection(transport=f"ql{kind}", virtual_host=str(tmp_path / "plain.db") if kind == "sqlite" else name)


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


def test_a_topic_reaches_who_asked_for_it_from_another_connection(connection: Connection) -> None:
    """Bindings made on one connection route what another publishes, once to each queue, until they are removed."""
    exchange = Exchange("news", type="topic")
    for queue, key in (("sport", "sport.*"), ("all", "#")):
        Queue(queue, exchange, routing_key=key)(connection.channel()).declare()
    with connection.clone() as other:
        producer = Producer(other.channel(), exchange)
        producer.publish("goal", routing_key="sport.goal", serializer="json")
        producer.publish("rain", routing_key="weather.rain", serializer="json")
    channel = connection.default_channel
    assert [channel.queue_declare(name, passive=True).message_count for name in ("sport", "all")] == [1, 2]
    channel.queue_unbind("sport", "news", "sport.*")
    Producer(channel, exchange).publish("again", routing_key="sport.goal", serializer="json")
    assert [channel.queue_declare(name, passive=True).message_count for name in ("sport", "all")] == [1, 3]


def test_fanout_stores_a_copy_for_every_queue(connection: Connection) -> None:
    """Each bound queue has its own copy, which is acknowledged by itself."""
    exchange = Exchange("everybody", type="fanout")
    queues = [Queue(name, exchange) for name in ("one", "two")]
    Producer(connection.channel(), exchange).publish("hello", serializer="json", declare=[*queues])
    taken = [drain(connection, queue, 1)[0] for queue in queues]
    assert [message.payload for message in taken] == ["hello", "hello"]
    taken[0].ack()
    taken[1].requeue()
    assert [connection.default_channel.queue_declare(queue.name, passive=True).message_count for queue in queues] == [
        0,
        1,
    ]


def test_a_higher_number_is_more_urgent(connection: Connection) -> None:
    """Priorities go from 9 to 0, and within one the oldest comes first."""
    queue = Queue("ranked")
    producer = Producer(connection.channel())
    for priority in (0, 3, 9, 3):
        producer.publish(priority, routing_key="ranked", serializer="json", priority=priority, declare=[queue])
    assert [message.payload for message in drain(connection, queue, 4)] == [9, 3, 3, 0]


def test_a_queue_that_nobody_declared(connection: Connection) -> None:
    """A passive declaration tells of it, also after it was deleted."""
    channel = connection.default_channel
    channel.queue_declare("here")
    assert channel.queue_declare("here", passive=True).message_count == 0
    channel.queue_delete("here")
    with pytest.raises(ChannelError):
        channel.queue_declare("here", passive=True)


def test_delete_if_empty_or_unused(connection: Connection) -> None:
    """A queue with messages or consumers stays when asked so."""
    queue = Queue("kept")
    Producer(connection.channel()).publish("x", routing_key="kept", serializer="json", declare=[queue])
    channel = connection.channel()
    channel.queue_delete("kept", if_empty=True)
    with Consumer(channel, [queue], callbacks=[]):
        channel.queue_delete("kept", if_unused=True)
        assert channel.queue_declare("kept", passive=True).message_count == 1
    assert channel.queue_purge("kept") == 1
    channel.queue_delete("kept", if_empty=True, if_unused=True)
    with pytest.raises(ChannelError):
        channel.queue_declare("kept", passive=True)


def test_nothing_comes(connection: Connection) -> None:
    """`drain_events` ends with a timeout."""
    with Consumer(connection.channel(), [Queue("silent")], callbacks=[]), pytest.raises(socket.timeout):
        connection.drain_events(timeout=0.01)


def test_prefetch_bounds_what_is_in_hand(connection: Connection) -> None:
    """The next message comes when one of the prefetched is acknowledged."""
    queue = Queue("bounded")
    producer = Producer(connection.channel())
    for number in range(2):
        producer.publish(number, routing_key="bounded", serializer="json", declare=[queue])
    channel = connection.channel()
    channel.basic_qos(prefetch_count=1)
    taken: list[Message] = []
    with Consumer(channel, [queue], on_message=taken.append, accept=["json"]):
        connection.drain_events(timeout=5)
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=0.01)
        taken[0].ack()
        connection.drain_events(timeout=5)
    assert [message.payload for message in taken] == [0, 1]


def test_recovered_comes_again(connection: Connection) -> None:
    """`basic_recover` returns everything in hand to its queue."""
    channel = connection.channel()
    queue = Queue("recovered")
    Producer(channel).publish("x", routing_key="recovered", serializer="json", declare=[queue])
    assert channel.basic_get("recovered") is not None
    assert channel.basic_get("recovered") is None
    channel.basic_recover(requeue=True)
    assert channel.basic_get("recovered", no_ack=True) is not None
    assert channel.queue_declare("recovered", passive=True).message_count == 0


def test_consumers_of_one_queue_on_two_channels(connection: Connection) -> None:
    """Each settles on its own channel what it was given, and the one goes on when the other is cancelled."""
    queue = Queue("shared")
    producer = Producer(connection.channel())
    taken: list[Message] = []
    first, second = (Consumer(connection.channel(), [queue], on_message=taken.append) for _ in range(2))
    first.consume()
    second.consume()
    second.cancel()
    producer.publish("x", routing_key="shared", serializer="json")
    connection.drain_events(timeout=5)
    taken[0].ack()
    first.cancel()
    assert connection.default_channel.queue_declare("shared", passive=True).message_count == 0


def test_own_queues_end_with_their_user(connection: Connection) -> None:
    """An auto-delete queue goes with its consumer, an exclusive one with its channel."""
    channel = connection.channel()
    with Consumer(channel, [Queue("brief", auto_delete=True)], callbacks=[]):
        channel.queue_declare("brief", passive=True)
    with pytest.raises(ChannelError):
        connection.default_channel.queue_declare("brief", passive=True)
    channel.queue_declare("mine", exclusive=True)
    channel.close()
    with pytest.raises(ChannelError):
        connection.default_channel.queue_declare("mine", passive=True)


def test_a_batch_is_published_at_its_end_or_not_at_all(connection: Connection) -> None:
    """`Producer.batch()` publishes when it ends well, and drops what it has when it does not."""
    channel = connection.default_channel
    channel.queue_declare("batched")
    producer = Producer(channel)
    with producer.batch():
        producer.publish(1, routing_key="batched", serializer="json")
        assert channel.queue_declare("batched", passive=True).message_count == 0
        producer.publish(2, routing_key="batched", serializer="json")
    assert channel.queue_declare("batched", passive=True).message_count == 2
    with pytest.raises(KeyError), producer.batch():
        producer.publish(3, routing_key="batched", serializer="json")
        raise KeyError
    assert channel.queue_declare("batched", passive=True).message_count == 2


def test_a_lost_server_is_a_connection_error(connection: Connection) -> None:
    """So `ensure` and `autoretry` connect anew; a publish in doubt is not repeated."""
    errors = connection.connection_errors
    assert issubclass(BrokerUnavailable, errors)
    assert not issubclass(SubmitUnknown, BrokerUnavailable)


def test_many_wait(connection: Connection) -> None:
    """Each of thousands is taken once, in order, by one look at a time."""
    with connection.SimpleQueue("many") as queue:
        with connection.channel() as channel:
            producer = Producer(channel)
            for number in range(300):
                producer.publish(number, routing_key="many", serializer="json")
        got = []
        for _ in range(300):
            message = queue.get(timeout=5)
            got.append(message.payload)
            message.ack()
        assert got == list(range(300))
