"""The statements behind the results' verbs, each to be run inside a transaction of a store.

A record of several successes is one row of `span`, unless something is stored for one of its jobs already; then it is
decided job by job. Batches go in whole, and only where fewer rows came in than were sent is each of them looked at.
"""

from __future__ import annotations

import time
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from queuelib.body import singles
from queuelib.ids import Key
from queuelib.outcome import QUEUED, SCHEDULED, SUCCEEDED, TERMINAL, Record, supersedes

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

__all__ = ["expire", "fetch", "forget", "write"]

# Values that a statement needs twice are `given` to it once. (Numbered parameters, ?1, warn on Python 3.12.0 to 3.12.3.)
# The spans of a bundle do not overlap: of those that begin before a position, the last one reaches the farthest.
_END = (
    "coalesce((SELECT s.first + s.count FROM span s WHERE s.bundle = given.bundle AND s.first < {} "
    "ORDER BY s.first DESC LIMIT 1), 0)"
)
_ADD_SINGLE = (  # both of constants only
    "INSERT OR IGNORE INTO outcome WITH given(bundle, position, state, attempt, at, body) AS (SELECT ?, ?, ?, ?, ?, ?) "  # noqa: S608
    f"SELECT * FROM given WHERE {_END.format('position + 1')} <= position"
)
_ADD_SPAN = (
    "INSERT INTO span WITH given(bundle, start, size, attempt, at, body) AS (SELECT ?, ?, ?, ?, ?, ?) "  # noqa: S608
    "SELECT * FROM given WHERE NOT EXISTS (SELECT 1 FROM outcome o WHERE o.bundle = given.bundle "
    f"AND o.position >= start AND o.position < start + size) AND {_END.format('start + size')} <= start"
)
_REPLACE = "INSERT OR REPLACE INTO outcome VALUES (?, ?, ?, ?, ?, ?)"
_CLEAR = f"DELETE FROM outcome WHERE bundle = ? AND position >= ? AND position < ? AND state <> '{SUCCEEDED}'"  # noqa: S608
_SINGLES = "SELECT position, state, attempt, body, at FROM outcome WHERE bundle = ? AND position >= ? AND position <= ?"
_SPANS = (
    "WITH given(bundle, start, last) AS (SELECT ?, ?, ?) "
    "SELECT s.first, s.attempt, s.body, s.at, s.count FROM given CROSS JOIN span s WHERE s.bundle = given.bundle "
    "AND s.first <= given.last AND s.first + s.count > start AND s.first >= coalesce((SELECT b.first FROM span b "
    "WHERE b.bundle = given.bundle AND b.first <= start ORDER BY b.first DESC LIMIT 1), 0)"
)
_SPARSE = 4  # positions a job asked for; in a wider range each job is looked up by itself
_ENDINGS = ", ".join(f"'{state}'" for state in sorted(TERMINAL))
_OLD = "WHERE o.bundle < ? AND o.at < ? AND NOT EXISTS (SELECT 1 FROM message m WHERE m.bundle = o.bundle)"
_OLD_SINGLES = (  # of a bundle that was published here and has no message any more, nothing can end
    f"SELECT o.bundle, o.position FROM outcome o {_OLD} AND (o.state IN ({_ENDINGS}) OR o.at < ? "  # noqa: S608
    "OR EXISTS (SELECT 1 FROM bundle b WHERE b.id = o.bundle AND b.published = 1)) LIMIT ?"
)
_OLD_SPANS = f"SELECT o.bundle, o.first FROM span o {_OLD} LIMIT ?"  # noqa: S608
_KEEP_UNENDED = 30 * 86400.0  # seconds; for what travels over another broker, as long as on Redis
_AT_ONCE = 5000  # rows that one sweep deletes of each table


def write(connection: sqlite3.Connection, records: Sequence[Record]) -> list[bool]:
    """Write the records that supersede what is there; return which did, for all of their jobs."""
    if all(record.count == 1 for record in records):
        return _write_singles(connection, records)
    spans = [record for record in records if record.count > 1]
    in_spans = iter([_write_span(connection, record) for record in spans])
    in_singles = iter(_write_singles(connection, [record for record in records if record.count == 1]))
    return [next(in_spans if record.count > 1 else in_singles) for record in records]


def fetch(connection: sqlite3.Connection, keys: Sequence[Key]) -> list[Record | None]:
    """Return what is known of each job."""
    found: list[Record | None] = []
    for bundle, some in groupby(keys, itemgetter(0)):
        positions = [position for _, position in some]
        known = _known(connection, bundle, positions)
        records = list(map(known.get, positions))
        found += records if None not in records else _with_waiting(connection, bundle, positions, records)
    return found


def forget(connection: sqlite3.Connection, keys: Sequence[Key]) -> None:
    """Drop the endings of jobs; what is left of a span goes on as single rows."""
    connection.executemany("DELETE FROM outcome WHERE bundle = ? AND position = ?", keys)
    gone = set(keys)
    for bundle, position in keys:
        for record in _spans(connection, bundle, position, position):
            connection.execute("DELETE FROM span WHERE bundle = ? AND first = ?", record.key)
            _write_singles(connection, [one for one in singles(record) if one.key not in gone])


def expire(connection: sqlite3.Connection, now: float, keep: float) -> bool:
    """Delete some of what was kept for `keep` seconds, with its bundles; return whether there may be more.

    As long as a message of a bundle is here, all that is known of it stays: should its worker die, that says which of its
    jobs have ended, and which have started.
    """
    before = now - keep
    oldest_id = int(max(0.0, before) * 1000).to_bytes(6, "big")  # ids begin with their time of birth
    rows = connection.execute(_OLD_SINGLES, (oldest_id, before, now - max(keep, _KEEP_UNENDED), _AT_ONCE)).fetchall()
    connection.executemany("DELETE FROM outcome WHERE bundle = ? AND position = ?", rows)
    spans = connection.execute(_OLD_SPANS, (oldest_id, before, _AT_ONCE)).fetchall()
    connection.executemany("DELETE FROM span WHERE bundle = ? AND first = ?", spans)
    connection.executemany(
        "DELETE FROM bundle WHERE id = ? AND NOT EXISTS (SELECT 1 FROM outcome WHERE bundle = bundle.id) "
        "AND NOT EXISTS (SELECT 1 FROM span WHERE bundle = bundle.id) "
        "AND NOT EXISTS (SELECT 1 FROM message WHERE bundle = bundle.id)",
        {(bundle,) for bundle, _ in (*rows, *spans)},
    )
    return max(len(rows), len(spans)) == _AT_ONCE


def _write_singles(connection: sqlite3.Connection, records: Sequence[Record]) -> list[bool]:
    rows = [(*key, state, attempt, at, body) for key, state, attempt, body, at, _ in records]
    if connection.executemany(_ADD_SINGLE, rows).rowcount == len(rows):
        return [True] * len(rows)
    return [_write_single(connection, record) for record in records]


def _write_single(connection: sqlite3.Connection, record: Record) -> bool:
    bundle, position = record.key
    found = _known(connection, bundle, [position]).get(position)
    if found == record:
        return True  # it has just been written
    if not supersedes(record, found):
        return False
    connection.execute(_REPLACE, (bundle, position, record.state, record.attempt, record.at, record.body))
    return True


def _write_span(connection: sqlite3.Connection, record: Record) -> bool:
    (bundle, first), _, attempt, body, at, count = record
    row = (bundle, first, count, attempt, at, body)
    if connection.execute(_ADD_SPAN, row).rowcount > 0:
        return True
    connection.execute(_CLEAR, (bundle, first, first + count))  # a success takes the place of all but a success
    return connection.execute(_ADD_SPAN, row).rowcount > 0 or all(_write_singles(connection, singles(record)))


def _known(connection: sqlite3.Connection, bundle: bytes, positions: Sequence[int]) -> dict[int, Record]:
    """Return what is stored, by position; perhaps of other jobs, too."""
    first, last = min(positions), max(positions)
    if last - first >= len(positions) * _SPARSE:
        return {p: record for p in positions for record in _known(connection, bundle, [p]).values()}
    known: dict[int, Record] = {}
    if first == last and (row := connection.execute(_SINGLES, (bundle, first, first)).fetchone()):
        return {first: Record(Key(bundle, first), *row[1:])}
    for record in _spans(connection, bundle, first, last):
        start = record.key.index
        known.update(dict.fromkeys(range(max(start, first), min(start + record.count, last + 1)), record))
    if len(known) <= last - first:
        for row in connection.execute(_SINGLES, (bundle, first, last)):
            known[row[0]] = Record(Key(bundle, row[0]), *row[1:])
    return known


def _spans(connection: sqlite3.Connection, bundle: bytes, first: int, last: int) -> list[Record]:
    rows = connection.execute(_SPANS, (bundle, first, last)).fetchall()
    return [Record(Key(bundle, row[0]), SUCCEEDED, *row[1:]) for row in rows]


def _with_waiting(
    connection: sqlite3.Connection, bundle: bytes, positions: Sequence[int], records: Sequence[Record | None]
) -> list[Record | None]:
    row = connection.execute("SELECT size, due FROM bundle WHERE id = ?", (bundle,)).fetchone()
    if row is None:
        return list(records)
    state = SCHEDULED if row[1] > time.time() else QUEUED
    return [
        Record(Key(bundle, position), state) if record is None and position < row[0] else record
        for position, record in zip(positions, records, strict=True)
    ]
