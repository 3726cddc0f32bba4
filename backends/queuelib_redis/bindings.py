"""What plain kombu programs declare, kept on the server, so that whoever publishes knows what others have bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgpack

from queuelib.channel import BatchChannel
from queuelib_redis.wire import pack

if TYPE_CHECKING:
    from queuelib.channel import Binding
    from queuelib_redis.wire import Wire

__all__ = ["DeclaringChannel"]


class DeclaringChannel(BatchChannel):
    """A channel with exchanges, bindings and queues in a hash and sets of the server.

    Attributes:
        prefix: What every key begins with.
    """

    prefix: bytes

    @property
    def wire(self) -> Wire:
        """The connection."""
        raise NotImplementedError

    def exchanges_add(self, exchange: str, kind: str) -> None:
        """Remember an exchange."""
        self._call(b"HSET", b"exchanges", exchange.encode(), kind.encode())

    def exchanges_remove(self, exchange: str) -> None:
        """Forget an exchange and its bindings."""
        self._call(b"HDEL", b"exchanges", exchange.encode())
        self._call(b"DEL", _bindings(exchange))

    def exchange_kind(self, exchange: str) -> str | None:
        """Return an exchange's type."""
        found = self._call(b"HGET", b"exchanges", exchange.encode())
        return None if found is None else bytes(found).decode()

    def bindings_add(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        """Bind a queue."""
        self._call(b"SADD", _bindings(exchange), _packed((routing_key, pattern, queue)))

    def bindings_remove(self, exchange: str, routing_key: str, queue: str) -> None:
        """Remove a binding."""
        self._unbind(exchange, [one for one in self.bindings_of(exchange) if (one[0], one[2]) == (routing_key, queue)])

    def bindings_of(self, exchange: str) -> list[Binding]:
        """Return the bindings of an exchange."""
        found: list[Binding] = [tuple(msgpack.unpackb(one)) for one in self._call(b"SMEMBERS", _bindings(exchange))]
        return sorted(found)

    def queues_add(self, queue: str) -> None:
        """Remember a declared queue."""
        self._call(b"SADD", b"queues", queue.encode())

    def queues_remove(self, queue: str) -> None:
        """Forget a queue and the bindings to it."""
        self._call(b"SREM", b"queues", queue.encode())
        for exchange in self._call(b"HKEYS", b"exchanges"):
            name = bytes(exchange).decode()
            self._unbind(name, [one for one in self.bindings_of(name) if one[2] == queue])

    def known_queues(self) -> set[str]:
        """Return the declared queues."""
        return {bytes(queue).decode() for queue in self._call(b"SMEMBERS", b"queues")}

    def _unbind(self, exchange: str, gone: list[Binding]) -> None:
        if gone:
            self._call(b"SREM", _bindings(exchange), *map(_packed, gone))

    def _call(self, command: bytes, key: bytes, *arguments: bytes) -> Any:
        return self.wire.call(pack((command, self.prefix + key, *arguments)))


def _bindings(exchange: str) -> bytes:
    return b"bind:" + exchange.encode()


def _packed(binding: Binding) -> bytes:
    packed: Any = msgpack.packb(binding)
    return bytes(packed)
