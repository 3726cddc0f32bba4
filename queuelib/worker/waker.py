"""Wakes a loop that waits in a selector, from signal handlers and from other threads."""

from __future__ import annotations

import selectors
import socket

__all__ = ["Waker"]


class Waker:
    """Two sockets that are connected: a byte into the one makes the other readable.

    Args:
        selector: What the loop waits in.
        name: What the selector gives the loop then.
    """

    def __init__(self, selector: selectors.BaseSelector, name: str) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)  # noqa: FBT003 - socket's own signature
        self._write.setblocking(False)  # noqa: FBT003 - socket's own signature
        selector.register(self._read, selectors.EVENT_READ, name)

    def wake(self) -> None:
        """Have the loop look around; safe in signal handlers and other threads."""
        try:
            self._write.send(b"\0")
        except (BlockingIOError, OSError):
            pass  # it has reasons enough to wake, or is gone

    def drain(self) -> None:
        """Take notice, so that the loop sleeps again."""
        try:
            while self._read.recv(4096):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Close both ends, once the selector is closed."""
        self._read.close()
        self._write.close()
