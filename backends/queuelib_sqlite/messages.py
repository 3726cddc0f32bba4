"""The statements behind the transport's verbs, each to be run inside a transaction of a store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from queuelib.ports import Delivery

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

    from queuelib.message import Outgoing

__all__ = ["accept", "delete", "held", "insert", "note", "promote", "release", "release_all", "take"]

_IDS_A_STATEMENT = 500  # below every build's limit of variables


def accept(connection: sqlite3.Connection, frames: Sequence[Outgoing]) -> list[Outgoing]:
    """Note bundle ids that are published here; return the frames whose id was not published before."""
    write = (
        "INSERT INTO bundle (id, size, due, published) VALUES (?, ?, ?, 1) "
        "ON CONFLICT (id) DO UPDATE SET published = 1 WHERE published = 0"
    )
    rows = [(f.bundle, f.size, f.due or 0.0) for f in frames]
    connection.execute("SAVEPOINT fresh")
    are_all_fresh = not rows or connection.executemany(write, rows).rowcount == len(rows)
    if not are_all_fresh:  # rare: a publish that is repeated; which ones are known is only told one by one
        connection.execute("ROLLBACK TO fresh")
    connection.execute("RELEASE fresh")
    if are_all_fresh:
        return list(frames)
    return [f for f, row in zip(frames, rows, strict=True) if connection.execute(write, row).rowcount > 0]


def note(connection: sqlite3.Connection, frames: Iterable[Outgoing]) -> None:
    """Note bundle ids that are given out, and published elsewhere or later."""
    rows = [(frame.bundle, frame.size, frame.due or 0.0) for frame in frames]
    connection.executemany("INSERT OR IGNORE INTO bundle (id, size, due) VALUES (?, ?, ?)", rows)


def insert(connection: sqlite3.Connection, frames: Iterable[Outgoing], topics: set[str]) -> None:
    """Add messages, and their queues to the topics to ring for."""
    now = time.time()
    rows = [(f.color, f.due if f.due and f.due > now else 0.0, now, f.bundle or None, f.frame) for f in frames]
    connection.executemany("INSERT INTO message (queue, due, published, bundle, frame) VALUES (?, ?, ?, ?, ?)", rows)
    topics.update("queue:" + row[0] for row in rows)


def take(connection: sqlite3.Connection, owner: int, room: Mapping[str, int]) -> list[Delivery]:
    """Claim the oldest ready messages of each queue."""
    deliveries: list[Delivery] = []
    for queue, count in room.items():
        if count <= 0:
            continue
        rows = connection.execute(
            "UPDATE message SET owner = ? WHERE id IN (SELECT id FROM message WHERE queue = ? AND owner IS NULL AND due = 0 "
            "ORDER BY id LIMIT ?) RETURNING id, frame, redelivered, published",
            (owner, queue, count),
        ).fetchall()
        rows.sort()  # RETURNING has no order
        deliveries += [
            Delivery(_as_bytes(frame), queue, row, bool(again), published if type(published) is float else 0.0)
            for row, frame, again, published in rows
        ]
    return deliveries


def _as_bytes(frame: object) -> bytes:
    # A column holds values of any type, and not everybody who can write to the file is queuelib.
    return frame if type(frame) is bytes else str(frame).encode("utf-8", "surrogateescape")


def promote(connection: sqlite3.Connection, topics: set[str]) -> None:
    """Make delayed messages ready whose time has come."""
    rows = connection.execute("UPDATE message SET due = 0 WHERE due > 0 AND due <= ? RETURNING queue", (time.time(),))
    topics.update("queue:" + queue for (queue,) in rows.fetchall())


def delete(connection: sqlite3.Connection, owner: int, rows: Sequence[int]) -> set[int]:
    """Delete claimed messages; return which of them were still ours."""
    return _with_ids(connection, "DELETE FROM message WHERE id IN (%s) AND owner = ? RETURNING id", owner, rows)


def held(connection: sqlite3.Connection, owner: int, rows: Sequence[int]) -> set[int]:
    """Return which of these messages are still ours."""
    return _with_ids(connection, "SELECT id FROM message WHERE id IN (%s) AND owner = ?", owner, rows)


def _with_ids(connection: sqlite3.Connection, statement: str, owner: int, rows: Sequence[int]) -> set[int]:
    found: set[int] = set()
    for start in range(0, len(rows), _IDS_A_STATEMENT):
        part = rows[start : start + _IDS_A_STATEMENT]
        marks = ",".join("?" * len(part))
        found.update(row for (row,) in connection.execute(statement % marks, (*part, owner)))
    return found


def release(
    connection: sqlite3.Connection, owner: int, deliveries: Sequence[Delivery], delay: float, topics: set[str]
) -> None:
    """Give claimed messages back, unchanged; they keep their places, or come last where they are held back."""
    rows = [(delivery.tag, owner) for delivery in deliveries]
    if delay > 0:
        # In their old places they would, once due, always be taken before what came while they were here.
        due = time.time() + delay
        connection.executemany(
            "INSERT INTO message (queue, due, redelivered, published, bundle, frame) "
            "SELECT queue, ?, redelivered, published, bundle, frame FROM message WHERE id = ? AND owner = ?",
            [(due, *row) for row in rows],
        )
        connection.executemany("DELETE FROM message WHERE id = ? AND owner = ?", rows)
    else:
        connection.executemany("UPDATE message SET owner = NULL WHERE id = ? AND owner = ?", rows)
    topics.update("queue:" + delivery.color for delivery in deliveries)


def release_all(connection: sqlite3.Connection, owner: int, *, died: bool, topics: set[str]) -> None:
    """Release everything that an owner holds, and forget the owner."""
    rows = connection.execute(
        "UPDATE message SET owner = NULL, redelivered = redelivered OR ? WHERE owner = ? RETURNING queue", (died, owner)
    )
    topics.update("queue:" + queue for (queue,) in rows.fetchall())
    connection.execute("DELETE FROM owner WHERE id = ?", (owner,))
