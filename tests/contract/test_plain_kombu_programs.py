"""What kombu builds upon a transport works on ours as on its own: simple queues, mixins, pools, serializers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kombu import Connection, Consumer, Producer
from kombu.common import Broadcast
from kombu.exceptions import ContentDisallowed
from kombu.message import Message
from kombu.mixins import ConsumerMixin, ConsumerProducerMixin
from kombu.pidbox import Mailbox
from kombu.pools import ProducerPool

from tests.contract.plain_kombu import (
    BRIEF,
    PATIENCE,
    Differences,
    Place,
    drain,
    drain_all,
    drain_into,
    publish,
    waiting,
)

DIFFERENCES: Differences = {
    "test_consumers_with_and_without_acknowledgement": {
        "memory": "do_restore is False: what a closed channel held is gone"
    },
}


def test_simple_queue(connection: Connection, place: Place) -> None:
    """SimpleQueue puts, counts, gets and clears."""
    with connection.SimpleQueue(place.name("simple")) as queue:
        queue.put({"a": 1})
        queue.put({"a": 2})
        assert len(queue) == 2
        assert queue.clear() == 2
        with pytest.raises(queue.Empty):
            queue.get(block=False)
        queue.put({"a": 3})
        message = queue.get(timeout=PATIENCE)
        assert message.payload == {"a": 3}
        message.ack()


@pytest.mark.parametrize("options", [{"timeout": BRIEF}, {"block": False}], ids=["in time", "at once"])
def test_an_empty_simple_queue(connection: Connection, place: Place, options: dict[str, Any]) -> None:
    """It raises `Empty`."""
    with connection.SimpleQueue(place.name("simple")) as queue, pytest.raises(queue.Empty):
        queue.get(**options)


def test_simple_buffer(connection: Connection, place: Place) -> None:
    """SimpleBuffer needs no acknowledgement."""
    name = place.name("buffer")
    with connection.SimpleBuffer(name) as buffer:
        buffer.put("x")
        assert buffer.get(timeout=PATIENCE).payload == "x"
    assert waiting(connection, name) == 0


def test_no_ack(connection: Connection, place: Place) -> None:
    """A consumer with `no_ack` has what it was given for good, whatever becomes of it."""
    queue = place.queue("free")
    publish(connection, queue, "x")
    taken: list[Message] = []
    with connection.channel() as channel:
        with Consumer(channel, [queue], on_message=taken.append, no_ack=True):
            drain_into(taken, connection, 1)
    assert waiting(connection, queue) == 0


def test_consumers_with_and_without_acknowledgement(connection: Connection, place: Place) -> None:
    """`no_ack` is of one consumer; another on the same channel returns what it did not acknowledge."""
    queues = [place.queue("free"), place.queue("bound")]
    for queue in queues:
        publish(connection, queue, queue.name)
    taken: list[Message] = []
    with connection.channel() as channel:
        free = Consumer(channel, [queues[0]], on_message=taken.append, no_ack=True)
        bound = Consumer(channel, [queues[1]], on_message=taken.append)
        with free, bound:
            drain_into(taken, connection, 2)
    assert [waiting(connection, queue) for queue in queues] == [0, 1]


def test_prefetch_may_change(connection: Connection, place: Place) -> None:
    """`Consumer.qos` bounds what its channel has in hand; with `apply_global` also of consumers that run."""
    queue = place.queue("bounded")
    publish(connection, queue, 0, 1, 2)
    taken: list[Message] = []
    consumer = Consumer(connection.channel(), [queue], on_message=taken.append)
    consumer.qos(prefetch_count=1, apply_global=True)
    with consumer:
        drain_into(taken, connection, 1)
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=BRIEF)
        consumer.qos(prefetch_count=2, apply_global=True)
        drain_into(taken, connection, 2)
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=BRIEF)
    assert [message.payload for message in taken] == [0, 1]


@pytest.mark.parametrize("way", ["requeue", "reject"])
def test_a_returned_message_is_whole(connection: Connection, place: Place, way: str) -> None:
    """`requeue()` and `reject(requeue=True)` bring a message back with all it had."""
    queue = place.queue("again")
    publish(connection, queue, "x", headers={"a": 1}, correlation_id="c")
    with connection.channel() as channel:
        message = queue(channel).get()
        if way == "requeue":
            message.requeue()
        else:
            message.reject(requeue=True)
    (again,) = drain(connection, queue, 1)
    assert (again.payload, again.headers["a"], again.properties["correlation_id"]) == ("x", 1, "c")
    again.ack()


def test_headers_and_properties(connection: Connection, place: Place) -> None:
    """What a producer says of a message its consumer reads."""
    queue = place.queue("told")
    said = {"correlation_id": "c", "reply_to": "r", "message_id": "m", "type": "t", "app_id": "a"}
    publish(connection, queue, "x", headers={"n": 1, "text": "ü", "list": [1, {"a": None}]}, priority=4, **said)
    (message,) = drain(connection, queue, 1)
    assert message.headers == {"n": 1, "text": "ü", "list": [1, {"a": None}]}
    assert {key: message.properties[key] for key in said} == said
    assert message.properties["priority"] == 4
    assert message.delivery_info["routing_key"] == queue.name
    message.ack()


@pytest.mark.parametrize("serializer", ["json", "msgpack", "yaml", "pickle"])
def test_serializers(connection: Connection, place: Place, serializer: str) -> None:
    """A body arrives as it was, from whatever serializer the consumer accepts."""
    queue = place.queue("coded")
    body = {"text": "ü", "list": [1, 2.5, None, True]}
    publish(connection, queue, body, serializer=serializer)
    taken: list[Any] = []
    with Consumer(connection.channel(), [queue], callbacks=[lambda *got: taken.append(got)], accept=[serializer]):
        drain_into(taken, connection, 1)
    assert taken[0][0] == body
    taken[0][1].ack()


def test_bytes(connection: Connection, place: Place) -> None:
    """A body of bytes arrives as those bytes."""
    queue = place.queue("bytes")
    body = bytes(range(256))
    publish(connection, queue, body, serializer=None, content_type="application/data", content_encoding="binary")
    with connection.channel() as channel:
        message = queue(channel).get(no_ack=True)
    assert bytes(message.body) == body


def test_empty_bodies(connection: Connection, place: Place) -> None:
    """Nothing is something too."""
    queue = place.queue("nothing")
    bodies: list[object] = [None, 0, "", [], {}, False]
    publish(connection, queue, *bodies)
    assert [message.payload for message in drain(connection, queue, len(bodies))] == bodies


def test_what_is_not_accepted(connection: Connection, place: Place) -> None:
    """A pickle is refused by who does not accept it."""
    queue = place.queue("strict")
    publish(connection, queue, "x", serializer="pickle")
    with Consumer(connection.channel(), [queue], callbacks=[], accept=["json"]) as consumer:
        refused: list[Message] = []
        consumer.on_decode_error = lambda message, _: refused.append(message)
        drain_into(refused, connection, 1)
        with pytest.raises(ContentDisallowed):
            refused[0].decode()
        refused[0].reject()
    assert waiting(connection, queue) == 0


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "zlib"])
def test_compression(connection: Connection, place: Place, compression: str) -> None:
    """A compressed body comes out as it went in."""
    queue = place.queue("small")
    publish(connection, queue, ["a" * 1000], compression=compression)
    (message,) = drain(connection, queue, 1)
    assert message.payload == ["a" * 1000]
    assert message.headers["compression"]
    message.ack()


def test_a_megabyte(connection: Connection, place: Place) -> None:
    """Bodies may be large."""
    queue = place.queue("large")
    body = "ü" * 500_000 + "e"
    publish(connection, queue, body)
    (message,) = drain(connection, queue, 1)
    assert message.payload == body
    message.ack()


def test_names_in_unicode(connection: Connection, place: Place) -> None:
    """Queues, exchanges and routing keys may have any letters."""
    queue = place.queue("käse.奶酪", place.exchange("größe", "topic"), routing_key="schlüssel.*")
    publish(connection, queue, "x", routing_key="schlüssel.鑰")
    assert waiting(connection, queue) == 1
    (message,) = drain(connection, queue, 1)
    assert message.delivery_info["routing_key"] == "schlüssel.鑰"
    message.ack()


def test_request_and_reply(connection: Connection, place: Place) -> None:
    """An answer finds its asker by `reply_to`, through an exclusive auto-delete queue."""
    asked, answers = place.queue("asked"), place.queue("answers", exclusive=True, auto_delete=True)

    class Server(ConsumerProducerMixin):
        def __init__(self, connection: Connection) -> None:
            self.connection = connection

        def get_consumers(self, Consumer: Any, channel: Any) -> list[Any]:  # noqa: N803 - kombu's name
            return [Consumer([asked], on_message=self.answer, accept=["json"])]

        def answer(self, message: Message) -> None:
            self.producer.publish(
                message.payload * 2,
                routing_key=message.properties["reply_to"],
                correlation_id=message.properties["correlation_id"],
            )
            message.ack()
            self.should_stop = True

    taken: list[Message] = []
    with Consumer(connection.channel(), [answers], on_message=taken.append, no_ack=True):
        publish(connection, asked, 21, reply_to=answers.name, correlation_id="q")
        with place.connect() as other:
            Server(other).run()
        drain_into(taken, connection, 1)
    assert [(message.payload, message.properties["correlation_id"]) for message in taken] == [(42, "q")]


def test_pools(place: Place) -> None:
    """Producers of a pool share connections, which are given back."""
    queue = place.queue("pooled")
    with place.connect() as connection:
        producers = ProducerPool(connection.Pool(limit=2), limit=2)
        for number in range(5):
            with producers.acquire(block=True) as producer:
                producer.publish(number, routing_key=queue.name, serializer="json", declare=[queue], retry=True)
        assert [message.payload for message in drain(connection, queue, 5)] == list(range(5))
        producers.force_close_all()
        producers.connections.force_close_all()


def test_broadcast(connection: Connection, place: Place) -> None:
    """Each consumer of a Broadcast has a queue of its own, and gets everything."""
    queues = [Broadcast(place.name("all")) for _ in range(2)]
    taken: dict[str, list[Message]] = {queue.name: [] for queue in queues}
    assert len(taken) == 2
    consumers = [
        Consumer(connection.channel(), [queue], on_message=taken[queue.name].append, accept=["json"], no_ack=True)
        for queue in queues
    ]
    with consumers[0], consumers[1]:
        drain_all(connection)
        Producer(connection.channel(), queues[0].exchange).publish("hello", serializer="json")
        for got in taken.values():
            drain_into(got, connection, 1)
    assert [[message.payload for message in got] for got in taken.values()] == [["hello"], ["hello"]]


def test_mailbox(connection: Connection, place: Place) -> None:
    """Nodes of a Mailbox answer commands, as Celery's remote control has it: the one that is asked, or all."""
    mailbox = Mailbox(place.name("box"), type="fanout", accept=["json"])
    with _serving(place, mailbox, "one"), _serving(place, mailbox, "two"):
        box = mailbox(connection)
        assert box.call(["one"], "_double", {"number": 21}, timeout=PATIENCE) == [{"one": 42}]
        answers = box.multi_call("_double", {"number": 2}, timeout=PATIENCE, limit=2)
        assert sorted(answers, key=str) == [{"one": 4}, {"two": 4}]
    for exchange in (mailbox.exchange, mailbox.reply_exchange):
        connection.default_channel.exchange_delete(exchange.name)


@contextmanager
def _serving(place: Place, mailbox: Mailbox, name: str) -> Iterator[None]:
    """Run a node of a mailbox in a thread."""
    listens, is_over = threading.Event(), threading.Event()

    def serve() -> None:
        with place.connect() as connection:
            node = mailbox(connection).Node(name, channel=connection.channel())
            node.handler(_double)
            with node.listen():
                while not is_over.is_set():
                    drain_all(connection)
                    listens.set()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert listens.wait(PATIENCE)
        yield
    finally:
        is_over.set()
        thread.join()


def _double(_: object, number: int) -> int:
    return 2 * number


def test_a_mixin_ends_when_it_should(place: Place) -> None:
    """A ConsumerMixin handles what comes, and returns once it `should_stop`."""
    queue = place.queue("mixed")

    class Worker(ConsumerMixin):
        def __init__(self, connection: Connection) -> None:
            self.connection = connection
            self.done: list[object] = []

        def get_consumers(self, Consumer: Any, channel: Any) -> list[Any]:  # noqa: N803 - kombu's name
            return [Consumer([queue], callbacks=[self.work], accept=["json"])]

        def work(self, body: object, message: Message) -> None:
            self.done.append(body)
            message.ack()
            self.should_stop = len(self.done) == 3

    with place.connect() as connection:
        publish(connection, queue, 1, 2, 3)
        worker = Worker(connection)
        worker.run()
        assert worker.done == [1, 2, 3]
    with place.connect() as connection:
        assert waiting(connection, queue) == 0


def test_heartbeats(place: Place) -> None:
    """Who asks for them and checks them is not harmed where there are none."""
    with place.connect(heartbeat=10) as connection:
        connection.connect()
        connection.heartbeat_check()
        assert connection.connected


def test_a_connection_tells_of_itself(connection: Connection, place: Place) -> None:
    """What it is connected to, and by which driver; the password stays out of it."""
    connection.connect()
    assert place.kind in {connection.info()["transport"], f"py{connection.info()['transport']}"}
    assert connection.transport.driver_type
    assert connection.transport.driver_version()
    assert Connection("pyamqp://me:secret@there//").as_uri() == "amqp://me:**@there:5672//"
    assert "secret" not in connection.clone(password="secret").as_uri()
