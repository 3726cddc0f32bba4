"""Objects that handles stand for, as long as there is room: read once, then the same for every job of a process."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Hashable
from typing import Any

from queuelib import content

__all__ = ["Opened"]

ROOM_BYTES = 1024**3  # of contents; objects may take several times as much
# A mapped array takes no memory of this process, but keeps its file: as many as a host has room for.
_MAPPED_FOR_ONE = 8


class Opened:
    """Objects in memory, those that were used last.

    Args:
        fetch: Returns the content of a hash and length, or raises why there is none.
        room_bytes: Of contents, mapped arrays counted for little; the last object is kept however large it is.
    """

    def __init__(self, fetch: Callable[[bytes, int], bytes | mmap.mmap], room_bytes: int = ROOM_BYTES) -> None:
        self._fetch = fetch
        self._room = room_bytes
        # Without a lock, which a fork could leave locked: each step is one of the dictionary's own, and threads that want
        # the same at the same moment fetch it twice.
        self._objects: dict[tuple[bytes, Hashable], tuple[Any, int]] = {}

    def read(self, hash: bytes, size_bytes: int, wanted: Any) -> Any:  # noqa: A002 - as in `Reader`
        """Return an object, fetched and converted if it is not here.

        Raises:
            SharedGone, BrokerUnavailable: As whatever fetches says.
            DecodeError, ArgumentError: What is there cannot be read, or not as this type.
        """
        from queuelib.schema import converted  # noqa: PLC0415 - msgspec, unneeded by a program that reads nothing

        key = (hash, wanted if isinstance(wanted, Hashable) else repr(wanted))
        found = self._objects.pop(key, None)
        if found is None:
            data = self._fetch(hash, size_bytes)
            is_mapped = isinstance(data, mmap.mmap) and content.is_array(data)
            cost = size_bytes // _MAPPED_FOR_ONE if is_mapped else size_bytes
            found = converted(content.decode(data), wanted), cost
        self._objects[key] = found  # behind all others
        self._make_room()
        return found[0]

    def clear(self) -> None:
        """Forget all."""
        self._objects.clear()

    def _make_room(self) -> None:
        kept = list(self._objects.items())
        used = sum(size for _, (_, size) in kept)
        for key, (_, size) in kept[:-1]:
            if used <= self._room:
                break
            self._objects.pop(key, None)
            used -= size
