"""Blobs of memory://: in this process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from queuelib_memory.server import MemoryServer

__all__ = ["MemoryBlobs"]


class MemoryBlobs:
    """Blobs of one namespace of a memory server."""

    def __init__(self, server: MemoryServer, namespace: str, keep: float) -> None:
        self._server = server
        self._namespace = namespace
        self._keep = keep

    def put(self, pieces: Mapping[bytes, bytes]) -> None:
        """Keep pieces, and forget those of all namespaces whose time is over."""
        now = time.time()
        with self._server.lock:
            kept = self._server.blobs
            for key in [key for key, (_, until) in kept.items() if until <= now]:
                del kept[key]
            for name, data in pieces.items():
                kept.setdefault((self._namespace, name), (bytes(data), now + self._keep))
            self.renew(list(pieces))

    def get(self, names: Sequence[bytes]) -> list[bytes | None]:
        """Return pieces."""
        with self._server.lock:
            are_there = self.renew(names)
            kept = self._server.blobs
            return [
                kept[self._namespace, name][0] if is_there else None
                for name, is_there in zip(names, are_there, strict=True)
            ]

    def renew(self, names: Sequence[bytes]) -> list[bool]:
        """Have the time of pieces begin anew."""
        now = time.time()
        are_there: list[bool] = []
        with self._server.lock:
            for name in names:
                data, until = self._server.blobs.get((self._namespace, name), (b"", 0.0))
                are_there.append(until > now)
                if until > now:
                    self._server.blobs[self._namespace, name] = (data, now + self._keep)
        return are_there

    def drop(self, names: Sequence[bytes]) -> None:
        """Remove pieces."""
        with self._server.lock:
            for name in names:
                self._server.blobs.pop((self._namespace, name), None)

    def close(self) -> None:
        """Nothing is open."""
