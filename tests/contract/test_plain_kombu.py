"""A program that uses kombu and nothing of ours but the alias finds on our transports what it finds on kombu's own."""

from __future__ import annotations

import socket
from contextlib import suppress

import pytest
from kombu import Connection, Consumer, Producer
from kombu.exceptions import ChannelError
from kombu.message import Message

from tests.contract.plain_kombu import (
    BRIEF,
    PATIENCE,
    Differences,
    Place,
    drain,
    drain_all,
    drain_into,
    is_declared,
    publish,
    waiting,
)
from tests.waiting import eventually

_NO_BATCH = "its `implements` names no batch_publish, and without it Producer.batch publishes at once"
_ONE_CALLBACK = "virtual.Transport._callbacks has one callback a queue: cancelling one consumer takes it from all"
_NO_OWN_QUEUES = "virtual.Channel._new_queue takes no notice of auto_delete and exclusive"
_ROUTED_AGAIN = "virtual.Channel._restore routes a requeued message again, to every queue of its exchange"
_ANY_USE = "virtual.Channel.queue_delete takes no notice of if_unused"

DIFFERENCES: Differences = {
    "test_an_unbound_queue_gets_no_more": {
        "redis": "virtual.Channel.queue_unbind changes a copy of what get_table read"
    },
    "test_a_deleted_exchange_routes_no_more": {
        "redis": "exchange_delete forgets it, and leaves its bindings on the server"
    },
    "test_fanout_stores_a_copy_for_every_queue": {"redis": "_put_fanout is PUBLISH: only who listens gets it"},
    "test_a_requeued_copy_returns_to_its_own_queue": {
        "memory": _ROUTED_AGAIN,
        "redis": "nothing is stored, see fanout",
    },
    "test_a_higher_number_is_more_urgent": {
        "memory": "its module says: Supports Priority: No",
        "redis": "priority_steps are looked at from 0 upwards: a lower number is more urgent",
    },
    "test_an_empty_queue_is_found": {"redis": "_has_queue asks for the key, and Redis has none of an empty list"},
    "test_a_queue_with_consumers_is_not_deleted_if_unused_is_asked": {"memory": _ANY_USE, "redis": _ANY_USE},
    "test_consumers_of_one_queue_on_two_channels": {"memory": _ONE_CALLBACK, "redis": _ONE_CALLBACK},
    "test_an_auto_delete_queue_ends_with_its_consumer": {"memory": _NO_OWN_QUEUES, "redis": _NO_OWN_QUEUES},
    "test_an_exclusive_queue_ends_with_its_connection": {"memory": _NO_OWN_QUEUES, "redis": _NO_OWN_QUEUES},
    "test_a_batch_is_published_at_its_end_or_not_at_all": {"memory": _NO_BATCH, "pyamqp": _NO_BATCH},
}


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
    """Bindings made on one connection route what another publishes, once to each queue."""
    exchange = place.exchange("news", "topic")
    sport = place.queue("sport", exchange, routing_key="sport.*")
    everything = place.queue("all", exchange, routing_key="#")
    for queue in (sport, everything):
        queue(connection.default_channel).declare()
    with place.connect() as other:
        producer = Producer(other.channel(), exchange)
        producer.publish("goal", routing_key="sport.goal", serializer="json")
        producer.publish("rain", routing_key="weather.rain", serializer="json")
    assert [waiting(connection, queue) for queue in (sport, everything)] == [1, 2]


def test_an_unbound_queue_gets_no_more(connection: Connection, place: Place) -> None:
    """The exchange's other queues do, and what came before stays."""
    exchange = place.exchange("news", "topic")
    queues = [place.queue(name, exchange, routing_key="sport.*") for name in ("one", "two")]
    producer = Producer(connection.default_channel, exchange, routing_key="sport.goal", serializer="json")
    producer.publish("before", declare=[*queues])
    connection.default_channel.queue_unbind(queues[0].name, exchange.name, "sport.*")
    producer.publish("after")
    assert [waiting(connection, queue) for queue in queues] == [1, 2]


def test_a_deleted_exchange_routes_no_more(connection: Connection, place: Place) -> None:
    """Declared again it begins without bindings; its queues stay, with what is in them."""
    exchange = place.exchange("gone", "direct")
    queue = place.queue("kept", exchange, routing_key="kept")
    publish(connection, queue, "before")
    connection.default_channel.exchange_delete(exchange.name)
    exchange(connection.default_channel).declare()
    with connection.channel() as channel:
        Producer(channel).publish("after", exchange=exchange.name, routing_key="kept", serializer="json")
    assert waiting(connection, queue) == 1


def test_a_fanout_reaches_everybody_who_listens(connection: Connection, place: Place) -> None:
    """Each consumer has its own copy, which is settled by itself."""
    exchange = place.exchange("everybody", "fanout")
    taken: dict[str, list[Message]] = {"one": [], "two": []}
    consumers = [
        Consumer(connection.channel(), [place.queue(name, exchange)], on_message=got.append, accept=["json"])
        for name, got in taken.items()
    ]
    with consumers[0], consumers[1]:
        drain_all(connection)  # stock Redis subscribes only here
        Producer(connection.channel(), exchange).publish("hello", serializer="json")
        for got in taken.values():
            drain_into(got, connection, 1)
            got[0].ack()
    assert {name: [message.payload for message in got] for name, got in taken.items()} == {
        "one": ["hello"],
        "two": ["hello"],
    }


def test_fanout_stores_a_copy_for_every_queue(connection: Connection, place: Place) -> None:
    """Nobody needs to listen when it is published."""
    exchange = place.exchange("everybody", "fanout")
    queues = [place.queue(name, exchange) for name in ("one", "two")]
    Producer(connection.channel(), exchange).publish("hello", serializer="json", declare=[*queues])
    assert [waiting(connection, queue) for queue in queues] == [1, 1]
    drain(connection, queues[0], 1)[0].ack()
    assert [waiting(connection, queue) for queue in queues] == [0, 1]


def test_a_requeued_copy_returns_to_its_own_queue(connection: Connection, place: Place) -> None:
    """The other queues of a fanout do not get it again."""
    exchange = place.exchange("everybody", "fanout")
    queues = [place.queue(name, exchange) for name in ("one", "two")]
    Producer(connection.channel(), exchange).publish("hello", serializer="json", declare=[*queues])
    queues[0](connection.default_channel).get().requeue()
    eventually(lambda: waiting(connection, queues[0]) == 1)
    assert waiting(connection, queues[1]) == 1


def test_a_higher_number_is_more_urgent(connection: Connection, place: Place) -> None:
    """Priorities go from 9 to 0, and within one the oldest comes first."""
    queue = place.queue("ranked", max_priority=9)
    for priority in (0, 3, 9, 3):
        publish(connection, queue, priority, priority=priority)
    assert [message.payload for message in drain(connection, queue, 4)] == [9, 3, 3, 0]


def test_a_queue_that_nobody_declared(connection: Connection, place: Place) -> None:
    """A passive declaration tells of it, also after it was deleted with what was in it."""
    queue = place.queue("here", place.exchange("to", "direct"), routing_key="here")
    assert not is_declared(connection, queue)
    publish(connection, queue, "x")
    assert is_declared(connection, queue)
    connection.default_channel.queue_delete(queue.name)
    assert not is_declared(connection, queue)


def test_an_empty_queue_is_found(connection: Connection, place: Place) -> None:
    """A passive declaration finds what was declared, with nothing in it."""
    queue = place.queue("empty")
    queue(connection.default_channel).declare()
    declared = connection.default_channel.queue_declare(queue.name, passive=True)
    assert (declared.queue, declared.message_count) == (queue.name, 0)


def test_a_queue_with_messages_is_not_deleted_if_empty_is_asked(connection: Connection, place: Place) -> None:
    """It stays until it is purged; AMQP raises a channel error about it, kombu's virtual transports say nothing."""
    queue = place.queue("kept", place.exchange("to", "direct"), routing_key="kept")
    publish(connection, queue, "x")
    with connection.channel() as channel, suppress(ChannelError):
        channel.queue_delete(queue.name, if_empty=True)
    assert waiting(connection, queue) == 1
    with connection.channel() as channel:
        assert channel.queue_purge(queue.name) == 1
        channel.queue_delete(queue.name, if_empty=True)
    assert not is_declared(connection, queue)


def test_a_queue_with_consumers_is_not_deleted_if_unused_is_asked(connection: Connection, place: Place) -> None:
    """It stays until nobody consumes it."""
    queue = place.queue("kept", place.exchange("to", "direct"), routing_key="kept")
    publish(connection, queue, "x")
    with Consumer(connection.channel(), [queue], on_message=[].append):
        with connection.channel() as channel, suppress(ChannelError):
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
    taken: list[Message] = []
    with Consumer(connection.channel(), [queue], on_message=taken.append, accept=["json"], prefetch_count=1):
        drain_into(taken, connection, 1)
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=BRIEF)
        taken[0].ack()
        drain_into(taken, connection, 2)
    assert [message.payload for message in taken] == [0, 1]


def test_recovered_comes_again(connection: Connection, place: Place) -> None:
    """`Consumer.recover` returns everything in hand to its queue."""
    queue = place.queue("recovered")
    publish(connection, queue, "x", "y")
    taken: list[Message] = []
    with Consumer(connection.channel(), [queue], on_message=taken.append, accept=["json"]) as consumer:
        drain_into(taken, connection, 2)
        consumer.recover(requeue=True)
        drain_into(taken, connection, 4)
        assert sorted(message.payload for message in taken[2:]) == ["x", "y"]
        for message in taken[2:]:
            message.ack()
    taken[0].channel.close()
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
    if not taken:
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
    eventually(lambda: not is_declared(connection, queue), within=1)


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
