"""Exchanges, bindings and queues of a plain kombu program are on our transports what they are on kombu's own."""

from __future__ import annotations

from contextlib import suppress

import pytest
from kombu import Connection, Consumer, Exchange, Producer, Queue, binding
from kombu.exceptions import ChannelError
from kombu.message import Message
from kombu.transport.virtual.base import NotEquivalentError

from tests.contract.plain_kombu import (
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

_ANY_USE = "virtual.Channel.queue_delete takes no notice of if_unused"
_NOTHING_STORED = "_put_fanout is PUBLISH: only who listens gets it"
_NO_OWN_QUEUES = "virtual.Channel._new_queue takes no notice of auto_delete and exclusive"
_OWN_EXCHANGES = "virtual.Channel.exchange_declare knows those of its own connection"
_ONE_WORD = "TopicExchange.wildcards: '#' is one word or more there; kombu.Exchange says zero or more, as AMQP does"
_ROUTED_AGAIN = "virtual.Channel._restore routes a requeued message again, to every queue of its exchange"

DIFFERENCES: Differences = {
    "test_a_topic_may_lack_words": {"memory": _ONE_WORD, "redis": _ONE_WORD},
    "test_an_exchange_that_nobody_declared": {"redis": _OWN_EXCHANGES},
    "test_an_exchange_has_one_type": {"redis": _OWN_EXCHANGES},
    "test_an_unbound_queue_gets_no_more": {
        "redis": "virtual.Channel.queue_unbind changes a copy of what get_table read"
    },
    "test_a_deleted_exchange_routes_no_more": {"redis": "exchange_delete leaves the bindings that are on the server"},
    "test_fanout_stores_a_copy_for_every_queue": {"redis": _NOTHING_STORED},
    "test_a_requeued_copy_returns_to_its_own_queue": {"memory": _ROUTED_AGAIN, "redis": _NOTHING_STORED},
    "test_an_empty_queue_is_found": {"redis": "_has_queue asks for the key, and Redis has none of an empty list"},
    "test_a_queue_with_consumers_is_not_deleted_if_unused_is_asked": {"memory": _ANY_USE, "redis": _ANY_USE},
    "test_an_auto_delete_queue_ends_with_its_consumer": {"memory": _NO_OWN_QUEUES, "redis": _NO_OWN_QUEUES},
    "test_an_exclusive_queue_ends_with_its_connection": {"memory": _NO_OWN_QUEUES, "redis": _NO_OWN_QUEUES},
}


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


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("sport.*", ["sport.goal"]),
        ("sport.#", ["sport.goal", "sport.goal.late"]),
        ("*.a+b.*", ["chess.a+b.end"]),
        ("#.late", ["sport.goal.late"]),
    ],
)
def test_a_topic_has_words(connection: Connection, place: Place, pattern: str, matches: list[str]) -> None:
    """In a binding key `*` is one word, and `#` any number."""
    keys = ["sports", "sport.goal", "sport.goal.late", "chess.later", "chess.a+b.end", "chess.aab.end"]
    assert _matching(connection, place, pattern, keys) == matches


@pytest.mark.parametrize("pattern", ["sport.goal.#", "#.sport.goal", "sport.#.goal", "#.sport.#.goal.#"])
def test_a_topic_may_lack_words(connection: Connection, place: Place, pattern: str) -> None:
    """Where there is `#`, there may be nothing."""
    assert _matching(connection, place, pattern, ["sport.goal", "sport", "sport.goals"]) == ["sport.goal"]


def _matching(connection: Connection, place: Place, pattern: str, keys: list[str]) -> list[str]:
    """Return those routing keys with which a queue is reached."""
    queue = place.queue("mine", place.exchange("news", "topic"), routing_key=pattern)
    for key in keys:
        publish(connection, queue, key, routing_key=key)
    return [message.payload for message in drain(connection, queue, waiting(connection, queue))]


def test_a_queue_with_two_bindings_gets_one_copy(connection: Connection, place: Place) -> None:
    """However many of its bindings match."""
    exchange = place.exchange("news", "topic")
    queue = place.queue("mine", bindings=[binding(exchange, "sport.#"), binding(exchange, "*.goal")])
    queue(connection.default_channel).declare()
    for key in ("sport.goal", "chess.goal"):
        Producer(connection.default_channel, exchange).publish(key, routing_key=key, serializer="json")
    assert waiting(connection, queue) == 2


def test_an_exchange_that_nobody_declared(connection: Connection, place: Place) -> None:
    """A passive declaration tells of it, and finds what another connection declared."""
    exchange = place.exchange("looked for", "topic")
    looked_for = Exchange(exchange.name, type="topic", passive=True)
    with connection.channel() as channel, pytest.raises(ChannelError):
        looked_for(channel).declare()
    with place.connect() as other:
        exchange(other.default_channel).declare()
        looked_for(connection.default_channel).declare()


def test_an_exchange_has_one_type(connection: Connection, place: Place) -> None:
    """Whoever declares it otherwise is told."""
    exchange = place.exchange("one", "topic")
    exchange(connection.default_channel).declare()
    with place.connect() as other, pytest.raises((ChannelError, NotEquivalentError)):
        place.exchange("one", "fanout")(other.default_channel).declare()


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


def test_a_queue_gets_a_name(connection: Connection) -> None:
    """A queue without one is given one that no other has."""
    with connection.channel() as channel:
        names = [Queue("", exclusive=True)(channel).declare() for _ in range(2)]
        assert len({"", *names}) == 3
        Producer(channel).publish("x", routing_key=names[0], serializer="json")
        assert [waiting(connection, name) for name in names] == [1, 0]
        assert channel.queue_purge(names[0]) == 1


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
