"""A program that uses kombu and nothing of ours but the alias finds on our transports what it finds on kombu's own."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue

import pytest
from kombu import Connection, Consumer, Producer
from kombu.message import Message

from queuelib import channel as channels
from tests.contract.plain_kombu import (
    BRIEF,
    OURS,
    PATIENCE,
    Differences,
    Place,
    drain,
    drain_all,
    drain_into,
    publish,
    waiting,
)
from tests.waiting import eventually

_LAST = "what is requeued is put in again, behind all others"
_NO_BATCH = "its `implements` names no batch_publish, and without it Producer.batch publishes at once"
_NO_MULTIPLE = "virtual.Channel.basic_ack takes no notice of multiple"
_ONE_CALLBACK = "virtual.Transport._callbacks has one callback a queue: cancelling one consumer takes it from all"
_ONLY_DEATHS = "redelivered tells of a death, not of a return: docs/plain-kombu.md"

# Where a case must fail: ours where docs/plain-kombu.md calls them weaker, and kombu's own.
DIFFERENCES: Differences = {
    "test_a_higher_number_is_more_urgent": {
        "memory": "its module says: Supports Priority: No",
        "redis": "priority_steps are looked at from 0 upwards: a lower number is more urgent",
    },
    "test_consumers_of_one_queue_on_two_channels": {"memory": _ONE_CALLBACK, "redis": _ONE_CALLBACK},
    "test_two_consumers_on_one_channel": {"memory": _ONE_CALLBACK, "redis": _ONE_CALLBACK},
    "test_many_are_acknowledged_at_once": {"memory": _NO_MULTIPLE, "redis": _NO_MULTIPLE},
    "test_a_late_settlement_changes_nothing": {"memory": "do_restore is False"},
    "test_a_requeued_message_is_the_next": {"memory": _LAST, "redis": _LAST},
    "test_a_closed_channel_returns_what_it_held": {"memory": "do_restore is False"},
    "test_a_returned_message_is_marked": {
        **dict.fromkeys(OURS, _ONLY_DEATHS),
        "memory": "virtual.Channel._restore marks the raw message, not its delivery_info",
    },
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


def test_a_higher_number_is_more_urgent(connection: Connection, place: Place) -> None:
    """Priorities go from 9 to 0, and within one the oldest comes first."""
    queue = place.queue("ranked", max_priority=9)
    for priority in (0, 3, 9, 3):
        publish(connection, queue, priority, priority=priority)
    assert [message.payload for message in drain(connection, queue, 4)] == [9, 3, 3, 0]


def test_nothing_comes(connection: Connection, place: Place) -> None:
    """`drain_events` ends with a timeout."""
    with Consumer(connection.channel(), [place.queue("silent")], callbacks=[]), pytest.raises(socket.timeout):
        connection.drain_events(timeout=BRIEF)


@pytest.mark.timeout(PATIENCE)  # who does not hear waits ten times as long
@pytest.mark.parametrize("kind", OURS)
def test_a_waiting_consumer_hears_of_a_message(
    connection: Connection, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """White-box: what comes between a look and the wait after it ends the wait, the first one too."""
    monkeypatch.setattr(channels, "_LOOK_AGAIN", 10 * PATIENCE)
    queue = place.queue("heard")
    taken: list[Message] = []
    with place.connect() as other, Consumer(connection.channel(), [queue], on_message=taken.append, accept=["json"]):
        wait = connection.transport._wait

        def wait_late(*arguments: object) -> None:
            if len(sent) == len(taken):
                sent.append(len(sent))
                publish(other, queue, sent[-1])
            wait(*arguments)

        sent: list[int] = []
        monkeypatch.setattr(connection.transport, "_wait", wait_late)
        while len(taken) < 3:
            connection.drain_events()
    assert [message.payload for message in taken] == sent


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


def test_two_consumers_on_one_channel(connection: Connection, place: Place) -> None:
    """When one is cancelled, the other gets what comes."""
    queue = place.queue("shared")
    taken: dict[str, list[Message]] = {"first": [], "second": []}
    channel = connection.channel()
    first, second = (Consumer(channel, [queue], on_message=got.append) for got in taken.values())
    first.consume()
    second.consume()
    second.cancel()
    publish(connection, queue, "x")
    if not taken["first"]:
        connection.drain_events(timeout=PATIENCE)
    assert {name: len(got) for name, got in taken.items()} == {"first": 1, "second": 0}


def test_a_consumer_may_cancel_itself(connection: Connection, place: Place) -> None:
    """After what it was handed it gets nothing more; another on its channel does."""
    queues = [place.queue(name) for name in ("once", "on")]
    taken: list[str] = []

    def cancel(message: Message) -> None:
        taken.append(message.payload)
        message.ack()
        once.cancel()

    def go_on(message: Message) -> None:
        taken.append(message.payload)
        message.ack()

    channel = connection.channel()
    once = Consumer(channel, [queues[0]], on_message=cancel, prefetch_count=1, accept=["json"])
    with once, Consumer(channel, [queues[1]], on_message=go_on, accept=["json"]):
        publish(connection, queues[0], "once", "never")
        drain_into(taken, connection, 1)
        publish(connection, queues[1], "on")
        drain_into(taken, connection, 2)
        drain_all(connection)
    assert taken == ["once", "on"]


def test_queues_come_and_go_while_a_consumer_runs(connection: Connection, place: Place) -> None:
    """`add_queue` and `cancel_by_queue` change what is consumed."""
    queues = [place.queue(name) for name in ("first", "second")]
    taken: list[Message] = []
    with Consumer(connection.channel(), [queues[0]], on_message=taken.append, accept=["json"], no_ack=True) as consumer:
        consumer.add_queue(queues[1])
        consumer.consume()
        consumer.cancel_by_queue(queues[0].name)
        assert not consumer.consuming_from(queues[0])
        publish(connection, queues[0], "first")
        publish(connection, queues[1], "second")
        drain_into(taken, connection, 1)
        drain_all(connection)
    assert [message.payload for message in taken] == ["second"]
    assert waiting(connection, queues[0]) == 1


def test_many_are_acknowledged_at_once(connection: Connection, place: Place) -> None:
    """`ack(multiple=True)` acknowledges what was delivered before as well, and nothing that came later."""
    queue = place.queue("many")
    publish(connection, queue, 0, 1, 2)
    channel = connection.channel()
    messages = [queue(channel).get() for _ in range(3)]
    messages[1].ack(multiple=True)
    channel.basic_recover(requeue=True)
    assert waiting(connection, queue) == 1
    assert queue(channel).get(no_ack=True).payload == 2


def test_a_closed_channel_returns_what_it_held(connection: Connection, place: Place) -> None:
    """All of it, but for what was settled."""
    queue = place.queue("held")
    publish(connection, queue, 0, 1, 2)
    with connection.channel() as channel:
        messages = [queue(channel).get() for _ in range(3)]
        messages[1].ack()
    assert waiting(connection, queue) == 2
    assert sorted(message.payload for message in drain(connection, queue, 2)) == [0, 2]


@pytest.mark.parametrize("way", ["ack", "requeue"])
def test_a_late_settlement_changes_nothing(connection: Connection, place: Place, way: str) -> None:
    """What a closed channel returned waits for others; who settles it then may be told of a connection error."""
    queue = place.queue("late")
    publish(connection, queue, "x")
    with connection.channel() as channel:
        message = queue(channel).get()
    with suppress(*connection.connection_errors):
        getattr(message, way)()
    assert waiting(connection, queue) == 1


def test_a_requeued_message_is_the_next(connection: Connection, place: Place) -> None:
    """It returns to where it was."""
    queue = place.queue("first")
    publish(connection, queue, 0, 1)
    with connection.channel() as channel:
        queue(channel).get().requeue()
        eventually(lambda: waiting(connection, queue) == 2)
        assert [queue(channel).get(no_ack=True).payload for _ in range(2)] == [0, 1]


def test_a_returned_message_is_marked(connection: Connection, place: Place) -> None:
    """Whoever gets it can see that somebody has had it."""
    queue = place.queue("again")
    publish(connection, queue, "x")
    with connection.channel() as channel:
        queue(channel).get().requeue()
    (again,) = drain(connection, queue, 1)
    assert again.delivery_info.get("redelivered") is True


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


@pytest.mark.parametrize("kind", OURS)
def test_another_thread_acknowledges(connection: Connection, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """White-box: as in Celery; the thread that consumes goes on once there is room under its prefetch count."""
    monkeypatch.setattr(channels, "_LOOK_AGAIN", 10 * PATIENCE)
    queue = place.queue("many")
    publish(connection, queue, *range(200))
    taken: list[Message] = []
    handed: SimpleQueue[Message | None] = SimpleQueue()

    def take(message: Message) -> None:
        taken.append(message)
        handed.put(message)

    def acknowledge() -> None:
        while (message := handed.get()) is not None:
            message.ack()

    with ThreadPoolExecutor(1) as pool, connection.channel() as channel:
        done = pool.submit(acknowledge)
        try:
            with Consumer(channel, [queue], on_message=take, accept=["json"], prefetch_count=10):
                drain_into(taken, connection, 200)
        finally:
            handed.put(None)
        done.result()
    assert [message.payload for message in taken] == list(range(200))
    assert waiting(connection, queue) == 0
