"""Memos in the SQLite file: a row for each job and kind, all of a call in one transaction."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from queuelib_sqlite.store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from queuelib.ids import Key
    from queuelib.ports import Memo

__all__ = ["SqliteMemos"]

_REPLACED = "DELETE FROM memo WHERE namespace = ? AND kind = ? AND bundle = ? AND position = ?"
_PUT = "INSERT INTO memo (namespace, kind, bundle, position, until, data) VALUES (?, ?, ?, ?, ?, ?)"
_GET = "SELECT data FROM memo WHERE namespace = ? AND kind = ? AND bundle = ? AND position = ? AND until > ?"
_OLD = "DELETE FROM memo WHERE id IN (SELECT id FROM memo WHERE until <= ? LIMIT ?)"
_AT_ONCE = 2  # rows that go in a transaction of others, more than come in most: a state has up to 16 MiB


class SqliteMemos:
    """Memos of one namespace of a queuelib file."""

    def __init__(self, path: Path, namespace: str) -> None:
        self._store = Store(path, synchronous="NORMAL")  # a power cut may take the last ones
        self._namespace = namespace

    def write(self, memos: Sequence[Memo]) -> None:
        """Keep memos."""
        now = time.time()
        with self._store.write() as connection:
            connection.execute(_OLD, (now, _AT_ONCE + len(memos)))
            connection.executemany(_REPLACED, [(self._namespace, one.kind, *one.key) for one in memos])
            connection.executemany(
                _PUT, [(self._namespace, one.kind, *one.key, now + one.keep, one.data) for one in memos]
            )

    def read(self, kind: str, keys: Sequence[Key]) -> list[bytes | None]:
        """Return memos."""
        now = time.time()
        with self._store.read() as connection:
            rows = [connection.execute(_GET, (self._namespace, kind, *key, now)).fetchone() for key in keys]
        return [None if row is None else bytes(row[0]) for row in rows]

    def drop(self, kind: str, keys: Sequence[Key]) -> None:
        """Remove memos."""
        with self._store.write() as connection:
            connection.executemany(_REPLACED, [(self._namespace, kind, *key) for key in keys])

    def close(self) -> None:
        """Close the connection."""
        self._store.close()
