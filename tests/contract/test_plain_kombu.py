"""A program that uses kombu and nothing of ours but the alias finds on our transports what it finds on kombu's own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu import Connection, Consumer, Producer
from kombu.message import Message

from tests.contract.plain_kombu import BRIEF, PATIENCE, Differences, Place, drain, is_declared, parametrize, publish, waiting
from tests.contract.plain_kombu import place as opened
from tests.waiting import eventually

DIFFERENCES: Differences = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every case on our transports and on kombu's own."""
    parametrize(metafunc, DIFFERENCES)


@pytest.fixture
def place(kind: str, request: pytest.FixtureRequest, namespace: str, tmp_path: Path) -> Iterator[Place]:
    """A broker's corner for one test."""
    with opened(kind, request, namespace, tmp_path) as found:
        yield found


@pytest.fixture
def connection(place: Place) -> Iterator[Connection]:
    """A connection to it."""
    with place.connect() as connection:
        yield connection


def test_produced_is_consumed_and_acknowledged(connection: Connection, place: Place) -> None:
    """What a Producer publishes a Consumer gets, decoded, in order; acknowledged, it is gone."""
    queue = place.queue("plain", durable=True)
    publish(connection, queue, *({"number": number} for number in range(3)))
    taken = drain(connection, queue, 3)
    assert [message.payload for message in taken] == [{"number": number} for number in range(3)]
    for message in taken:
        message.ack()
    taken[0].channel.close()  # what is not acknowledged would be back now
    assert waiting(connection, queue) == 0


def test_rejected_is_dropped_and_requeued_comes_back(connection: Connection, place: Place) -> None:
    """`reject` drops a message, `requeue` returns it."""
    queue = place.queue("plain")
    publish(connection, queue, "drop", "keep")
    first, second = drain(connection, queue, 2)
    first.reject()
    second.requeue()
    again = drain(connection, queue, 1)
    assert [message.payload for message in again] == ["keep"]
    again[0].ack()


def test_a_topic_reaches_who_asked_for_it_from_another_connection(connection: Connection, place: Place) -> None:
    """Bindings made on one connection route what another publishes, once to each queue, until they are removed."""
    exchange = place.exchange("news", "topic")
    sport, everything = place.queue("sport", exchange, routing_key="sport.*"), place.queue("all", exchange, routing_key="#")
    for queue in (sport, everything):
        queue(connection.default_channel).declare()
    with place.connect() as other:
        producer = Producer(other.channel(), exchange)
        producer.publish("goal", routing_key="sport.goal", serializer="json")
        producer.publish("rain", routing_key="weather.rain", serializer="json")
    assert [waiting(connection, queue) for queue in (sport, everything)] == [1, 2]
    channel = connection.default_channel
    channel.queue_unbind(sport.name, exchange.name, "sport.*")
    Producer(channel, exchange).publish("again", routing_key="sport.goal", serializer="json")
    assert [waiting(connection, queue) for queue in (sport, everything)] == [1, 3]


def test_fanout_stores_a_copy_for_every_queue(connection: Connection, place: Place) -> None:
    """Each bound queue has its own copy, which is acknowledged by itself."""
    exchange = place.exchange("everybody", "fanout")
    queues = [place.queue(name, exchange) for name in ("one", "two")]
    Producer(connection.channel(), exchange).publish("hello", serializer="json", declare=[*queues])
    taken = [drain(connection, queue, 1)[0] for queue in queues]
    assert [message.payload for message in taken] == ["hello", "hello"]
    taken[0].ack()
    taken[1].requeue()
    eventually(lambda: [waiting(connection, queue) for queue in queues] == [0, 1])


def test_a_higher_number_is_more_urgent(connection: Connection, place: Place) -> None:
    """Priorities go from 9 to 0, and within one the oldest comes first."""
    queue = place.queue("ranked", max_priority=9)
    for priority in (0, 3, 9, 3):
        publish(connection, queue, priority, priority=priority)
    assert [message.payload for message in drain(connection, queue, 4)] == [9, 3, 3, 0]


def test_a_queue_that_nobody_declared(connection: Connection, place: Place) -> None:
    """A passive declaration tells of it, also after it was deleted."""
    queue = place.queue("here")
    assert not is_declared(connection, queue)
    queue(connection.default_channel).declare()
    assert is_declared(connection, queue)
    assert waiting(connection, queue) == 0
    connection.default_channel.queue_delete(queue.name)
    assert not is_declared(connection, queue)


def test_a_queue_with_messages_is_not_deleted_if_empty_is_asked(connection: Connection, place: Place) -> None:
    """It stays when asked so."""
    queue = place.queue("kept")
    publish(connection, queue, "x")
    with connection.channel() as channel:
        channel.queue_delete(queue.name, if_empty=True)
    assert waiting(connection, queue) == 1
    with connection.channel() as channel:
        assert channel.queue_purge(queue.name) == 1
        channel.queue_delete(queue.name, if_empty=True, if_unused=True)
    assert not is_declared(connection, queue)


def test_a_queue_with_consumers_is_not_deleted_if_unused_is_asked(connection: Connection, place: Place) -> None:
    """It stays when asked so."""
    queue = place.queue("kept")
    with connection.channel() as channel, Consumer(channel, [queue], callbacks=[]):
        channel.queue_delete(queue.name, if_unused=True)
        assert is_declared(connection, queue)
    connection.default_channel.queue_delete(queue.name, if_unused=True)
    assert not is_declared(connection, queue)


def test_nothing_comes(connection: Connection, place: Place) -> None:
    """`drain_events` ends with a timeout."""
    with Consumer(connection.channel(), [place.queue("silent")], callbacks=[]), pytest.raises(socket.timeout):
        connection.drain_events(timeout=BRIEF)


def test_prefetch_bounds_what_is_in_hand(connection: Connection, place: Place) -> None:
    """The next message comes when one of the prefetched is acknowledged."""
    queue = place.queue("bounded")
    publish(connection, queue, 0, 1)
    channel = connection.channel()
    channel.basic_qos(0, 1, False)
    taken: list[Message] = []
    with Consumer(channel, [queue], on_message=taken.append, accept=["json"]):
        connection.drain_events(timeout=PATIENCE)
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=BRIEF)
        taken[0].ack()
        connection.drain_events(timeout=PATIENCE)
    assert [message.payload for message in taken] == [0, 1]


def test_recovered_comes_again(connection: Connection, place: Place) -> None:
    """`basic_recover` returns everything in hand to its queue."""
    channel = connection.channel()
    queue = place.queue("recovered")
    publish(connection, queue, "x")
    assert channel.basic_get(queue.name) is not None
    assert channel.basic_get(queue.name) is None
    channel.basic_recover(requeue=True)
    assert channel.basic_get(queue.name, no_ack=True) is not None
    assert waiting(connection, queue) == 0


def test_consumers_of_one_queue_on_two_channels(connection: Connection, place: Place) -> None:
    """Each settles on its own channel what it was given, and the one goes on when the other is cancelled."""
    queue = place.queue("shared")
    taken: list[Message] = []
    first, second = (Consumer(connection.channel(), [queue], on_message=taken.append) for _ in range(2))
    first.consume()
    second.consume()
    second.cancel()
    publish(connection, queue, "x")
    connection.drain_events(timeout=PATIENCE)
    taken[0].ack()
    first.cancel()
    first.channel.close()
    assert waiting(connection, queue) == 0


def test_an_auto_delete_queue_ends_with_its_consumer(connection: Connection, place: Place) -> None:
    """It is there as long as somebody consumes."""
    queue = place.queue("brief", auto_delete=True)
    with Consumer(connection.channel(), [queue], callbacks=[]):
        assert is_declared(connection, queue)
    assert not is_declared(connection, queue)


def test_an_exclusive_queue_ends_with_its_connection(connection: Connection, place: Place) -> None:
    """Whoever looks for it afterwards does not find it."""
    queue = place.queue("mine", exclusive=True)
    with place.connect() as other:
        queue(other.default_channel).declare()
        assert is_declared(other, queue)
    eventually(lambda: not is_declared(connection, queue))


def test_a_batch_is_published_at_its_end_or_not_at_all(connection: Connection, place: Place) -> None:
    """`Producer.batch()` publishes when it ends well, and drops what it has when it does not."""
    queue = place.queue("batched")
    queue(connection.default_channel).declare()
    producer = Producer(connection.default_channel, routing_key=queue.name, serializer="json")
    with producer.batch():
        producer.publish(1)
        assert waiting(connection, queue) == 0
        producer.publish(2)
    assert waiting(connection, queue) == 2
    with pytest.raises(KeyError), producer.batch():
        producer.publish(3)
        raise KeyError
    assert waiting(connection, queue) == 2


def test_many_wait(connection: Connection, place: Place) -> None:
    """Each of hundreds is taken once, in order, by one look at a time."""
    queue = place.queue("many")
    publish(connection, queue, *range(300))
    got = []
    with connection.SimpleQueue(queue) as simple:
        for _ in range(300):
            message = simple.get(timeout=PATIENCE)
            got.append(message.payload)
            message.ack()
    assert got == list(range(300))
