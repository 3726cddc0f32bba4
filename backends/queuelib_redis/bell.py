"""A second connection of a taker: its descriptor is readable when a marker says that there may be something to take.

It waits on the server for a marker in the wake lists of some queues. A marker is no message: one that is lost with a
killed client only delays until somebody renews.
"""

from __future__ import annotations

import selectors
from typing import TYPE_CHECKING

from queuelib_redis.wire import Wire, pack

if TYPE_CHECKING:
    from collections.abc import Iterable

    from queuelib_redis.address import Address

__all__ = ["Bell"]


class Bell:
    """Waits for markers, of the queues it was armed for; its descriptor stays the same when it connects again."""

    def __init__(self, address: Address, prefix: bytes) -> None:
        self._address = address
        self._prefix = prefix + b"wake:"
        self._selector = selectors.DefaultSelector()  # epoll or kqueue, which have a descriptor
        self._wire: Wire | None = None
        self.armed: frozenset[bytes] = frozenset()
        self.id = 0
        try:
            self.connect()
        except BaseException:
            self.close()
            raise

    @property
    def fd(self) -> int:
        """The descriptor to select on: not the socket, but what watches it."""
        return int(self._selector.fileno())

    @property
    def is_broken(self) -> bool:
        """Whether it has to connect again."""
        return self._wire is None

    def connect(self) -> None:
        """Connect anew; it waits for nothing then."""
        self.disconnect()
        wire = Wire(self._address)
        self._selector.register(wire.fileno(), selectors.EVENT_READ)
        self._wire = wire
        self.id = int(wire.call(pack((b"CLIENT", b"ID"))))

    def disconnect(self) -> None:
        """Close the connection, so that the descriptor is silent."""
        wire, self._wire, self.armed = self._wire, None, frozenset()
        if wire is not None:
            for key in list(self._selector.get_map().values()):
                self._selector.unregister(key.fileobj)
            wire.close()

    def rung(self) -> bytes | None:
        """Return the queue of a marker that came, or None; it does not wait any more then."""
        return self.answer() if self.armed and self._selector.select(0) else None

    def arm(self, queues: Iterable[bytes]) -> None:
        """Wait for markers of these queues; it must not be waiting."""
        if self._wire is not None:
            self.armed = frozenset(queues)
            self._wire.send(pack((b"BLPOP", *[self._prefix + queue for queue in self.armed], b"0")))

    def answer(self) -> bytes | None:
        """Read the answer to a wait that is over: the queue of a marker, or None if it was ended without."""
        if self._wire is None:
            return None
        try:
            found = self._wire.read()
        except BaseException:
            self.disconnect()
            raise
        self.armed = frozenset()
        return None if found is None else bytes(found[1])

    def close(self) -> None:
        """Close everything."""
        self.disconnect()
        self._selector.close()
