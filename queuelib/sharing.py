"""Sharing objects from a client: put once, known by their content, read again where they were shared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from queuelib import content, pieces
from queuelib.handle import RESULT, Shared, Stored
from queuelib.large import Store
from queuelib.opened import Opened
from queuelib.ports import Blobs
from queuelib.settings import KEEP

__all__ = ["Sharing"]

T = TypeVar("T")


class Sharing:
    """What one dispatcher shares and reads.

    Args:
        connect: Returns the keeper of blobs; called on first use, and again after `close`.
        store: Keeps values that are too large to travel otherwise; None: where what is shared is kept.
    """

    def __init__(self, connect: Callable[[], Blobs], store: Store | None = None) -> None:
        self._connect = connect
        self.store = store or Store(lambda _: connect(), KEEP)
        self._blobs: Blobs | None = None
        self._opened = Opened(self._fetch)

    def share(self, value: T) -> Shared[T]:
        """Keep an object and return its handle.

        Raises:
            EncodeError, TooLarge: It cannot travel.
            BrokerUnavailable: It is not kept, or not all of it; the same call again goes on from there.
        """
        from queuelib.schema import is_structured  # noqa: PLC0415 - msgspec, unneeded by a program that shares nothing

        data = content.encode(value)
        wanted = type(value) if is_structured(type(value)) or type(value) is tuple else Any
        return Shared(pieces.store(self._keeper(), data), len(data), self, wanted)

    def drop(self, handle: Shared[Any]) -> None:
        """Remove an object."""
        pieces.drop(self._keeper(), handle.hash, handle.size_bytes)

    def read(self, hash: bytes, size_bytes: int, wanted: Any) -> Any:  # noqa: A002 - as in `Reader`
        """Return what a handle stands for."""
        return self._opened.read(hash, size_bytes, wanted)

    def load(self, stored: Stored) -> bytes:
        """Return an encoded value."""
        return self.store.get(stored)

    def keep(self, result: bytes) -> Stored:
        """Keep an encoded result."""
        return self.store.put(RESULT, result)

    def close(self) -> None:
        """Give up connections, and what was read; a later use opens and reads again."""
        blobs, self._blobs = self._blobs, None
        if blobs is not None:
            blobs.close()
        self.store.close()
        self._opened.clear()

    def _keeper(self) -> Blobs:
        blobs = self._blobs
        if blobs is None:
            blobs = self._blobs = self._connect()
        return blobs

    def _fetch(self, content_hash: bytes, size_bytes: int) -> bytes:
        data = bytearray()
        pieces.load(self._keeper(), content_hash, size_bytes, data.extend)
        return bytes(data)
