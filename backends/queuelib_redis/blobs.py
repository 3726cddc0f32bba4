"""Blobs on Redis: a key a piece, which the server forgets by itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from queuelib_redis.address import parse
from queuelib_redis.client import Client
from queuelib_redis.keys import prefix

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["RedisBlobs"]


class RedisBlobs:
    """Blobs of one namespace of a server.

    Each command has one piece, so that the server, which does one thing at a time, serves others between two of them.
    """

    def __init__(self, url: str, namespace: str, keep: float) -> None:
        self._address = parse(url)
        self._prefix = prefix(namespace) + b"blob:"
        self._keep_ms = max(1, int(keep * 1000))
        self._clients: dict[int, Client] = {}  # by process: what a fork inherits belongs to the parent

    def put(self, pieces: Mapping[bytes, bytes]) -> None:
        """Keep pieces."""
        for name, data in pieces.items():
            key = self._key(name)
            self._here().send([("SET", key, data, "PX", self._keep_ms, "NX"), ("PEXPIRE", key, self._keep_ms)])

    def get(self, names: Sequence[bytes]) -> list[bytes | None]:
        """Return pieces."""
        found = [self._here().send([("GETEX", self._key(name), "PX", self._keep_ms)])[0] for name in names]
        return [None if one is None else bytes(one) for one in found]

    def renew(self, names: Sequence[bytes]) -> list[bool]:
        """Have the time of pieces begin anew."""
        return [bool(one) for one in self._here().send([("PEXPIRE", self._key(name), self._keep_ms) for name in names])]

    def drop(self, names: Sequence[bytes]) -> None:
        """Remove pieces; their memory is freed in the background."""
        self._here().send([("UNLINK", self._key(name)) for name in names])

    def close(self) -> None:
        """Close all connections; a later call opens new ones."""
        client = self._clients.pop(os.getpid(), None)
        if client is not None:
            client.close()

    def _key(self, name: bytes) -> bytes:
        return self._prefix + name.hex().encode()

    def _here(self) -> Client:
        pid = os.getpid()
        client = self._clients.get(pid)
        return client or self._clients.setdefault(pid, Client(self._address))
