"""What is shared, cut into pieces of a fixed size, each small enough for every server, and put together again.

A piece is called by the hash of the whole and its number. So everybody who shares the same thing writes the same pieces,
half of them do no harm, and what was put together is known to be whole by its hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from queuelib.errors import SharedGone
from queuelib.ports import Blobs
from queuelib.settings import BLOB_BYTES

__all__ = ["digest", "drop", "load", "store"]

_AT_ONCE = 8  # pieces in memory besides the whole
_ASKED_AT_ONCE = 512


def digest(content: Any) -> bytes:
    """Return the hash by which content is known."""
    return hashlib.sha256(content).digest()


def store(blobs: Blobs, content: memoryview) -> bytes:
    """Keep content, of which only what is not kept yet is sent; return its hash.

    Raises:
        BrokerUnavailable: Not all of it is kept; the same call again goes on from there.
    """
    content_hash = digest(content)
    for some in _some(_names(content_hash, len(content)), _ASKED_AT_ONCE):
        missing = [name for name, is_there in zip(some, blobs.renew(some), strict=True) if not is_there]
        for few in _some(missing, _AT_ONCE):
            blobs.put({name: bytes(content[_start(name) : _start(name) + BLOB_BYTES]) for name in few})
    return content_hash


def load(blobs: Blobs, content_hash: bytes, size_bytes: int, write: Callable[[bytes], object]) -> None:
    """Write content, a piece after the other; if this returns, it was what was shared.

    Raises:
        SharedGone: Some of it is not there, or not what was shared.
        BrokerUnavailable: The server does not answer.
    """
    check = hashlib.sha256()
    for few in _some(_names(content_hash, size_bytes), _AT_ONCE):
        for piece in blobs.get(few):
            if piece is None:
                msg = f"what was shared as {content_hash.hex()[:12]} is not kept any more, or not all of it: share it again"
                raise SharedGone(msg)
            check.update(piece)
            write(piece)
    if check.digest() != content_hash:
        msg = f"what is kept as {content_hash.hex()[:12]} is something else than what was shared: drop it, and share it again"
        raise SharedGone(msg)


def drop(blobs: Blobs, content_hash: bytes, size_bytes: int) -> None:
    """Remove content, whoever still has a handle of it."""
    for some in _some(_names(content_hash, size_bytes), _ASKED_AT_ONCE):
        blobs.drop(some)


def _names(content_hash: bytes, size_bytes: int) -> list[bytes]:
    return [content_hash + number.to_bytes(4, "big") for number in range(-(-size_bytes // BLOB_BYTES))]


def _start(name: bytes) -> int:
    return int.from_bytes(name[-4:], "big") * BLOB_BYTES


def _some(names: Sequence[bytes], count: int) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(names), count):
        yield names[start : start + count]
