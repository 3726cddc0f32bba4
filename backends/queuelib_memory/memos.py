"""Memos of memory://: in this process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuelib.ids import Key
    from queuelib.ports import Memo
    from queuelib_memory.server import MemoryServer

__all__ = ["MemoryMemos"]


class MemoryMemos:
    """Memos of one namespace of a memory server."""

    def __init__(self, server: MemoryServer, namespace: str) -> None:
        self._server = server
        self._namespace = namespace

    def write(self, memos: Sequence[Memo]) -> None:
        """Keep memos, and forget those of all namespaces whose time is over."""
        now = time.time()
        with self._server.lock:
            kept = self._server.memos
            for old in [name for name, (_, until) in kept.items() if until <= now]:
                del kept[old]
            kept.update({(self._namespace, one.kind, one.key): (bytes(one.data), now + one.keep) for one in memos})

    def read(self, kind: str, keys: Sequence[Key]) -> list[bytes | None]:
        """Return memos."""
        now = time.time()
        with self._server.lock:
            found = [self._server.memos.get((self._namespace, kind, key), (b"", 0.0)) for key in keys]
        return [data if until > now else None for data, until in found]

    def drop(self, kind: str, keys: Sequence[Key]) -> None:
        """Remove memos."""
        with self._server.lock:
            for key in keys:
                self._server.memos.pop((self._namespace, kind, key), None)

    def close(self) -> None:
        """Nothing is open."""
