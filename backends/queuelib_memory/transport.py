"""A kombu transport inside one process, for tests and for reading: the whole contract without a server."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from queuelib.channel import BatchChannel, BatchTransport
from queuelib_memory.server import server_named

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from queuelib.channel import Binding
    from queuelib.message import Outgoing
    from queuelib.ports import Delivery

__all__ = ["Channel", "Transport"]


class Channel(BatchChannel):
    """A channel to the memory server that the connection's virtual host names."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.server = server_named(self.connection.client.virtual_host or "")
        self.owner = object()
        self._bell: int | None = None

    def publish_batch(self, frames: Sequence[Outgoing], deadline: float) -> None:  # noqa: ARG002 - never waits
        """Accept every frame."""
        self.server.publish(frames)

    def take_batch(self, room: Mapping[str, int]) -> list[Delivery]:
        """Claim frames."""
        if self._bell is not None:
            _silence(self._bell)
        return self.server.take(self.owner, room)

    def acknowledge_batch(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Delete claimed frames."""
        return self.server.acknowledge(self.owner, deliveries)

    def give_back_batch(self, deliveries: Sequence[Delivery], delay: float) -> None:
        """Release claimed frames."""
        self.server.give_back(self.owner, deliveries, delay)

    def renew(self) -> None:
        """Nothing to renew: an owner in this process cannot die apart from it."""

    def find_lost(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Return what was acknowledged or given back."""
        return self.server.find_lost(self.owner, deliveries)

    def fileno(self) -> int:
        """Return an eventfd that publishers write to."""
        if self._bell is None:
            bell = self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            with self.server.lock:
                self.server.takers[self.owner] = (bell, lambda: os.eventfd_write(bell, 1))
        return self._bell

    def next_due(self) -> float | None:
        """Return when the next delayed frame is due."""
        return self.server.next_due()

    def waiting_in(self, queues: Sequence[str]) -> dict[str, int]:
        """Count unclaimed frames."""
        return {queue: self.server.size(queue) for queue in queues}

    def purge_queue(self, queue: str) -> int:
        """Delete unclaimed frames."""
        return self.server.purge(queue)

    def exchanges_add(self, exchange: str, kind: str) -> None:
        """Remember an exchange."""
        self.server.exchanges[exchange] = kind

    def exchanges_remove(self, exchange: str) -> None:
        """Forget an exchange and its bindings."""
        with self.server.lock:
            self.server.exchanges.pop(exchange, None)
            self.server.bindings.pop(exchange, None)

    def exchange_kind(self, exchange: str) -> str | None:
        """Return an exchange's type."""
        return self.server.exchanges.get(exchange)

    def bindings_add(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        """Bind a queue."""
        with self.server.lock:
            self.server.bindings.setdefault(exchange, {})[routing_key, queue] = pattern

    def bindings_remove(self, exchange: str, routing_key: str, queue: str) -> None:
        """Remove a binding."""
        with self.server.lock:
            self.server.bindings.get(exchange, {}).pop((routing_key, queue), None)

    def bindings_of(self, exchange: str) -> list[Binding]:
        """Return an exchange's bindings."""
        with self.server.lock:
            bound = self.server.bindings.get(exchange, {})
            return [(key, pattern, queue) for (key, queue), pattern in bound.items()]

    def queues_add(self, queue: str) -> None:
        """Remember a queue."""
        with self.server.lock:
            self.server.declared.add(queue)

    def queues_remove(self, queue: str) -> None:
        """Forget a queue and the bindings to it."""
        with self.server.lock:
            self.server.declared.discard(queue)
            for bound in self.server.bindings.values():
                for pair in [pair for pair in bound if pair[1] == queue]:
                    del bound[pair]

    def known_queues(self) -> set[str]:
        """Return the declared queues."""
        with self.server.lock:
            return set(self.server.declared)

    def close(self) -> None:
        """Release what is held."""
        if not self.closed:
            self.forget_own_queues()
            self.server.leave(self.owner)
            if self._bell is not None:
                os.close(self._bell)
                self._bell = None
        super().close()

    def die(self) -> None:
        """End as a killed process would: what is held comes back to others as redelivered."""
        self.server.leave(self.owner, died=True)


class Transport(BatchTransport):
    """memory:// for kombu."""

    Channel = Channel
    polling_interval = 0.01
    driver_type = "queuelib-memory"
    driver_name = "memory"

    def driver_version(self) -> str:
        """Return a version, as kombu asks for one."""
        return "1"


def _silence(bell: int) -> None:
    try:
        os.eventfd_read(bell)
    except BlockingIOError:
        pass  # nobody rang
