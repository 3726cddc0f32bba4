"""A kombu transport inside one process, for tests and for reading: the whole contract without a server."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from kombu.transport import virtual

from queuelib.channel import BatchChannel
from queuelib_memory.server import server_named

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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

    def close(self) -> None:
        """Release what is held."""
        if not self.closed:
            self.server.leave(self.owner)
            if self._bell is not None:
                os.close(self._bell)
                self._bell = None
        super().close()

    def die(self) -> None:
        """End as a killed process would: what is held comes back to others as redelivered."""
        self.server.leave(self.owner, died=True)


class Transport(virtual.Transport):
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
