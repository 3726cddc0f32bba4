"""Blobs in the SQLite file: a row a piece, and a transaction a piece, so that no writer waits for all of an object."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from queuelib_sqlite.store import Store

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["SqliteBlobs", "expire"]

_PUT = "INSERT OR IGNORE INTO blob (namespace, name, until, data) VALUES (?, ?, ?, ?)"
_RENEW = "UPDATE blob SET until = ? WHERE namespace = ? AND name = ? AND until > ?"
_REPLACED = "DELETE FROM blob WHERE namespace = ? AND name = ? AND until <= ?"
_GET = "SELECT data FROM blob WHERE namespace = ? AND name = ? AND until > ?"
_DROP = "DELETE FROM blob WHERE namespace = ? AND name = ?"
_OLD = "DELETE FROM blob WHERE id IN (SELECT id FROM blob WHERE until <= ? LIMIT ?)"
# Rows that go in a transaction of others: each page of a piece is looked at, which takes some milliseconds.
_AT_ONCE = 2


class SqliteBlobs:
    """Blobs of one namespace of a queuelib file."""

    def __init__(self, path: Path, namespace: str, keep: float) -> None:
        self._store = Store(path, synchronous="NORMAL")  # what a power cut takes is shared again
        self._namespace = namespace
        self._keep = keep

    def put(self, pieces: Mapping[bytes, bytes]) -> None:
        """Keep pieces, each in a transaction of its own, in which at least as much goes as comes."""
        _ = self._store.connection  # opened first: it makes the folder that is looked at
        self._store.check_room(sum(map(len, pieces.values())))
        for name, data in pieces.items():
            now = time.time()
            with self._store.write() as connection:
                expire(connection, now)
                connection.execute(_REPLACED, (self._namespace, name, now))
                connection.execute(_PUT, (self._namespace, name, now + self._keep, data))
                connection.execute(_RENEW, (now + self._keep, self._namespace, name, now))

    def get(self, names: Sequence[bytes]) -> list[bytes | None]:
        """Return pieces; first their time begins anew, so that no sweep takes them meanwhile."""
        self.renew(names)
        with self._store.read() as connection:
            rows = [connection.execute(_GET, (self._namespace, name, time.time())).fetchone() for name in names]
        return [None if row is None else row[0] for row in rows]

    def renew(self, names: Sequence[bytes]) -> list[bool]:
        """Have the time of pieces begin anew."""
        now = time.time()
        with self._store.write() as connection:
            return [
                connection.execute(_RENEW, (now + self._keep, self._namespace, name, now)).rowcount > 0
                for name in names
            ]

    def drop(self, names: Sequence[bytes]) -> None:
        """Remove pieces, each in a transaction of its own."""
        for name in names:
            with self._store.write() as connection:
                connection.execute(_DROP, (self._namespace, name))

    def close(self) -> None:
        """Close the connection."""
        self._store.close()


def expire(connection: sqlite3.Connection, now: float) -> bool:
    """Delete some of the pieces whose time is over, inside the caller's transaction; return whether there may be more."""
    return connection.execute(_OLD, (now, _AT_ONCE)).rowcount == _AT_ONCE
