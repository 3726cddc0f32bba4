"""Entries of the server's queues: a frame behind a header of fixed layout."""

from __future__ import annotations

import struct
from functools import lru_cache

from queuelib.errors import ConfigurationError
from queuelib.ports import Delivery

BEFORE_NAME = 10  # bytes of a header before the queue's name
__all__ = ["BEFORE_NAME", "delivery", "header", "queue_bytes"]

_HEADER = struct.Struct(">Bd")  # deliveries so far, wall time of publication
_LONGEST_NAME = 255  # bytes; its length is one byte


def header(queue: str, published: float) -> bytes:
    """Return what stands before a frame that has not been delivered yet."""
    name = queue_bytes(queue)
    return b"%b%c%b" % (_HEADER.pack(0, published), len(name), name)


def delivery(queue: str, skipped: int, tag: int, entry: bytes) -> Delivery:
    """Return an entry as a delivery.

    Args:
        queue: Its queue.
        skipped: Length of the header, which is one for all entries of a queue.
        tag: The taker's number for it.
        entry: The entry.
    """
    deliveries, published = _HEADER.unpack_from(entry)
    return Delivery(entry[skipped:], queue, tag, deliveries > 0, published)


@lru_cache(maxsize=1024)
def queue_bytes(queue: str) -> bytes:
    """Return a queue's name as bytes.

    Raises:
        ConfigurationError: It is too long.
    """
    name = queue.encode()
    if len(name) > _LONGEST_NAME:
        msg = f"the queue name {queue[:64]!r}... has {len(name)} bytes, and Redis queues have at most {_LONGEST_NAME}"
        raise ConfigurationError(msg)
    return name
