"""Memos on Redis: a key for each job and kind, which the server forgets by itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from queuelib_redis.address import parse
from queuelib_redis.client import Client
from queuelib_redis.keys import prefix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuelib.ids import Key
    from queuelib.ports import Memo

__all__ = ["RedisMemos"]


class RedisMemos:
    """Memos of one namespace of a server."""

    def __init__(self, url: str, namespace: str) -> None:
        self._address = parse(url)
        self._prefix = prefix(namespace) + b"memo:"
        self._clients: dict[int, Client] = {}  # by process: what a fork inherits belongs to the parent

    def write(self, memos: Sequence[Memo]) -> None:
        """Keep memos."""
        self._here().send(
            [("SET", self._key(one.kind, one.key), one.data, "PX", max(1, int(one.keep * 1000))) for one in memos]
        )

    def read(self, kind: str, keys: Sequence[Key]) -> list[bytes | None]:
        """Return memos."""
        found = self._here().send([("GET", self._key(kind, key)) for key in keys])
        return [None if one is None else bytes(one) for one in found]

    def drop(self, kind: str, keys: Sequence[Key]) -> None:
        """Remove memos; their memory is freed in the background."""
        self._here().send([("UNLINK", self._key(kind, key)) for key in keys])

    def close(self) -> None:
        """Close all connections; a later call opens new ones."""
        client = self._clients.pop(os.getpid(), None)
        if client is not None:
            client.close()

    def _key(self, kind: str, key: Key) -> bytes:
        return b"%b%b:%b:%d" % (self._prefix, kind.encode(), key.bundle.hex().encode(), key.index)

    def _here(self) -> Client:
        pid = os.getpid()
        client = self._clients.get(pid)
        return client or self._clients.setdefault(pid, Client(self._address))
