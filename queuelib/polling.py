"""Waiting for one descriptor, whatever its number: `select.select` refuses those from 1024 on."""

from __future__ import annotations

import math
import select
import socket

__all__ = ["has_hung_up", "is_readable"]


def is_readable(fd: int, timeout: float) -> bool:
    """Return whether a descriptor has something to read, or has ended, within `timeout` seconds."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(math.ceil(timeout * 1000)))


def has_hung_up(sock: socket.socket) -> bool:
    """Return whether the other end of a socket is closed."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))
