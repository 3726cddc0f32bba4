"""What the tests of plain kombu programs share: a connection to each of our transports and to kombu's own.

Where kombu's own transport behaves differently, a module says so in a table, `DIFFERENCES`: the case, the transport,
and the reason as kombu's documentation or source gives it. Those cases must fail there, so that a change in kombu is
noticed.
"""

from __future__ import annotations

import gc
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import redis
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.exceptions import ChannelError
from kombu.message import Message

import queuelib_memory
import queuelib_redis
import queuelib_sqlite

OURS = ("qlmemory", "qlsqlite", "qlredis")
STOCK = ("memory", "redis", "pyamqp")
KINDS = (*OURS, *STOCK)
PATIENCE = 10  # seconds until a message that must come is given up
BRIEF = 0.05  # seconds in which nothing is expected to come

Differences: TypeAlias = Mapping[str, Mapping[str, str]]  # case -> transport -> why it is different there


class Place:
    """A broker that a test has for itself, or a corner of it.

    Attributes:
        kind: The name of the transport.
        url: What `kombu.Connection` takes.
        options: The transport options that go with it.
    """

    def __init__(self, kind: str, url: str, namespace: str, options: dict[str, Any]) -> None:
        self.kind = kind
        self.url = url
        self.options = options
        self.namespace = namespace
        self._names: set[str] = set()

    def name(self, name: str) -> str:
        """Return a name of a queue or an exchange that no other test has."""
        unique = f"{self.namespace}.{name}"
        self._names.add(unique)
        return unique

    def queue(self, name: str, exchange: Exchange | None = None, **options: Any) -> Queue:
        """Return a queue of this test."""
        unique = self.name(name)
        if exchange is None:
            return Queue(unique, **options)
        return Queue(unique, exchange, **options)

    def exchange(self, name: str, kind: str) -> Exchange:
        """Return an exchange of this test."""
        return Exchange(self.name(name), type=kind)

    def connect(self, **options: Any) -> Connection:
        """Return a new connection."""
        return Connection(self.url, transport_options=self.options, **options)

    def clean(self) -> None:
        """Remove what was made on a server that others use too."""
        if self.kind == "redis":
            with warnings.catch_warnings():  # a channel that closes returns what it held over a pool that nobody closes
                warnings.simplefilter("ignore", ResourceWarning)
                gc.collect()
            gc.unfreeze()
        if self.kind in {"redis", "qlredis"}:
            with redis.Redis.from_url(self.url.removeprefix("ql")) as client:
                for key in client.scan_iter(match=f"*{self.namespace}*", count=1000):
                    client.delete(key)
        if self.kind == "pyamqp":
            with self.connect() as connection:
                for name in self._names:
                    connection.default_channel.queue_delete(name)
                    connection.default_channel.exchange_delete(name)


@contextmanager
def open_place(kind: str, request: pytest.FixtureRequest, namespace: str, folder: Path) -> Iterator[Place]:
    """Give a transport's corner of a server, and leave nothing in it."""
    for package in (queuelib_memory, queuelib_sqlite, queuelib_redis):
        assert package.BACKEND.name  # importing it registers the name of its transport
    if kind == "pyamqp":
        # Without confirms, what one channel has published another may not see yet.
        found = Place(kind, f"py{request.getfixturevalue('amqp_url')}", namespace, {"confirm_publish": True})
    elif kind == "redis":
        gc.freeze()  # so that the collection in `clean` looks at what the test made, and is quick
        keys = {key: f"{namespace}.{key}" for key in ("unacked_key", "unacked_index_key", "unacked_mutex_key")}
        found = Place(kind, request.getfixturevalue("redis_url"), namespace, keys)
    elif kind == "qlredis":
        found = Place(kind, f"ql{request.getfixturevalue('redis_url')}", namespace, {"namespace": namespace})
    elif kind == "qlsqlite":
        found = Place(kind, f"qlsqlite:///{folder / 'plain.db'}", namespace, {})
    else:
        found = Place(kind, f"{kind}://localhost/{namespace}", namespace, {})
    try:
        yield found
    finally:
        found.clean()


def publish(connection: Connection, queue: Queue, *bodies: Any, **options: Any) -> None:
    """Publish bodies to a queue, which is declared."""
    with connection.channel() as channel:
        producer = Producer(channel)
        for body in bodies:
            producer.publish(
                body,
                **{
                    "exchange": queue.exchange,
                    "routing_key": queue.routing_key or queue.name,
                    "serializer": "json",
                    "declare": [queue],
                    **options,
                },
            )


def drain(connection: Connection, queue: Queue, count: int) -> list[Message]:
    """Consume so many messages, without acknowledging them."""
    taken: list[Message] = []
    with Consumer(connection.channel(), [queue], on_message=taken.append, accept=["json"]):
        drain_into(taken, connection, count)
    return taken


def drain_into(taken: list[Any], connection: Connection, count: int) -> None:
    """Wait until a consumer has put so many into `taken`; on AMQP, anything else that is asked may have brought some."""
    while len(taken) < count:
        connection.drain_events(timeout=PATIENCE)


def drain_all(connection: Connection) -> None:
    """Handle what comes until nothing does."""
    with suppress(socket.timeout):
        while True:
            connection.drain_events(timeout=BRIEF)


def is_declared(connection: Connection, queue: Queue | str) -> bool:
    """Whether a passive declaration finds a queue. It costs a channel on AMQP if not."""
    with connection.channel() as channel:
        try:
            channel.queue_declare(getattr(queue, "name", queue), passive=True)
        except ChannelError:
            return False
        return True


def waiting(connection: Connection, queue: Queue | str) -> int:
    """Count the messages that nobody holds; none are in a queue that is not there."""
    with connection.channel() as channel:
        try:
            return int(channel.queue_declare(getattr(queue, "name", queue), passive=True).message_count)
        except ChannelError:
            return 0
