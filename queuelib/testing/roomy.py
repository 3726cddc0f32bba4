"""A pair of sockets on which a write never waits: both ends are in one thread, and nobody could read meanwhile."""

from __future__ import annotations

import socket
import threading
from typing import Any

__all__ = ["roomy_pair"]

_PIECE = 64 * 1024  # bytes written at once


class RoomySocket(socket.socket):
    """Keeps what the kernel has no room for, and writes it when the other end reads."""

    peer: RoomySocket

    def __init__(self, fileno: int) -> None:
        super().__init__(fileno=fileno)
        self._rest = bytearray()
        self._lock = threading.Lock()

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Write all, now or later.

        Raises:
            OSError: The other end is closed.
        """
        with self._lock:
            self._rest += data
            self._flush(flags)

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Read, once what the other end kept has been written as far as there is room."""
        self.peer.flush()
        return super().recv_into(buffer, nbytes, flags)

    def flush(self) -> None:
        """Write what there is room for now."""
        with self._lock:
            try:
                self._flush()
            except OSError:
                pass  # closed: whoever reads will see that

    def _flush(self, flags: int = 0) -> None:
        while self._rest:
            try:
                count = self.send(bytes(self._rest[:_PIECE]), flags | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            del self._rest[:count]


def roomy_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets of that kind."""
    one, other = (RoomySocket(each.detach()) for each in socket.socketpair())
    one.peer, other.peer = other, one
    return one, other
