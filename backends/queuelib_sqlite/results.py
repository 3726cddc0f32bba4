"""Outcomes in the SQLite file, and the one transaction that settles messages and outcomes together."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgpack

from queuelib import faults
from queuelib.ids import Key
from queuelib.outcome import CANCELLED, SUCCEEDED, Record
from queuelib.ports import Cancelled, QuarantineItem, ResultCapabilities, Settled, Span, WorkerInfo
from queuelib_sqlite import blobs, forks, messages, outcomes
from queuelib_sqlite.fifo import Bell
from queuelib_sqlite.store import Store

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from pathlib import Path

    from queuelib.message import Outgoing
    from queuelib_sqlite.transport import Channel

__all__ = ["SqliteResults", "SqliteSettlement"]

_OUTCOME = "outcome"  # the topic of clients that wait
_LONGEST_NAP = 1.0  # seconds; a lost ring only delays
_SWEEP_EVERY = 60.0  # seconds between two deletions of what was kept long enough
_SWEEP_AGAIN = 1.0  # seconds until the next one where one was not enough: far more can go than come
_OLD_MARKS = "DELETE FROM cancel WHERE at < ? AND NOT EXISTS (SELECT 1 FROM message WHERE bundle = cancel.bundle)"
_FREE = "SELECT 1 FROM message WHERE bundle = ? AND owner IS NOT NULL"


class SqliteResults:
    """The result backend of a queuelib file."""

    capabilities = ResultCapabilities(records=True, survives_restart=True, cancels_at_once=True)

    def __init__(self, path: Path, namespace: str, keep: float) -> None:
        self.namespace = namespace
        self.path = path
        self.keep = keep
        self._store = Store(path, synchronous="NORMAL")  # a power cut can only repeat a job
        self._bell: Bell | None = None
        self._sweep_at = 0.0
        forks.watch(self)

    def accept(self, frames: Sequence[Outgoing]) -> None:
        """Remember bundles, whichever transport they travel over."""
        with self._store.write() as connection:
            messages.note(connection, frames)

    def expect(self, frames: Sequence[Outgoing]) -> None:
        """Do nothing: everybody hears the ring."""

    def store(self, records: Sequence[Record], reply: str = "") -> list[bool]:  # noqa: ARG002 - FIFOs are registered
        """Store what supersedes what is there."""
        with self._store.write() as connection:
            stands = outcomes.write(connection, records)
            self._store.rung.add(_OUTCOME)
            self.sweep(connection)
        return stands

    def fetch(self, keys: Sequence[Key]) -> list[Record | None]:
        """Return what is known of each job."""
        with self._store.read() as connection:
            return outcomes.fetch(connection, keys)

    def wait(self, keys: Sequence[Key], timeout: float) -> Sequence[Record | None]:
        """Wait for a ring, then for one of these jobs to have ended."""
        bell = self._own_bell()
        end = time.monotonic() + timeout
        while True:
            rings = bell.rings
            found = self.fetch(keys)
            left = end - time.monotonic()
            if left <= 0 or any(record is not None and record.is_final for record in found):
                return found
            bell.wait(rings, min(left, _LONGEST_NAP))

    def listen(self) -> SqliteListening:
        """Hear that something has ended."""
        return SqliteListening(self._own_bell())

    def forget(self, keys: Sequence[Key]) -> None:
        """Drop endings."""
        with self._store.write() as connection:
            outcomes.forget(connection, keys)

    def inbox(self) -> str:
        """Return no address: waiting clients register a FIFO."""
        return ""

    def cancel(self, keys: Sequence[Key]) -> None:
        """Mark jobs, and end those at once that no worker holds."""
        now = time.time()
        with self._store.write() as connection:
            connection.executemany(
                "INSERT INTO cancel (bundle, position, at) VALUES (?, ?, ?)", [(*key, now) for key in keys]
            )
            waiting = [key for key in keys if _is_waiting(connection, key)]
            outcomes.write(connection, [Record(key, CANCELLED, at=now) for key in waiting])
            self._store.rung.add(_OUTCOME)

    def cancelled(self, cursor: Any) -> Cancelled:
        """Return new marks; the cursor is the last row seen."""
        with self._store.read() as connection:
            rows = connection.execute(
                "SELECT id, bundle, position FROM cancel WHERE id > ? ORDER BY id", (cursor or 0,)
            ).fetchall()
        return Cancelled([Key(bundle, position) for _, bundle, position in rows], rows[-1][0] if rows else cursor)

    def quarantine(self, items: Sequence[QuarantineItem]) -> None:
        """Set messages aside."""
        with self._store.write() as connection:
            write_quarantine(connection, self.namespace, items)

    def quarantined(self) -> list[QuarantineItem]:
        """Return what is set aside, oldest first."""
        with self._store.read() as connection:
            rows = connection.execute(
                "SELECT id, color, reason, frame, at FROM quarantine WHERE namespace = ? ORDER BY number",
                (self.namespace,),
            ).fetchall()
        return [QuarantineItem(*row) for row in rows]

    def release(self, ids: Sequence[str]) -> None:
        """Remove from the quarantine."""
        with self._store.write() as connection:
            connection.executemany("DELETE FROM quarantine WHERE id = ?", [(item,) for item in ids])

    def announce(self, worker: WorkerInfo, lifetime: float) -> None:
        """List a worker until it is heard of no more."""
        info = msgpack.packb(
            (worker.name, worker.host, worker.pid, worker.colors, worker.tasks, worker.at, worker.processes)
        )
        with self._store.write() as connection:
            if lifetime <= 0:
                key = (self.namespace, worker.name)
                connection.execute("DELETE FROM worker WHERE namespace = ? AND name = ?", key)
            else:
                row = (self.namespace, worker.name, info, time.time() + lifetime)
                connection.execute("INSERT OR REPLACE INTO worker VALUES (?, ?, ?, ?)", row)

    def workers(self) -> list[WorkerInfo]:
        """Return live workers."""
        with self._store.read() as connection:
            rows = connection.execute(
                "SELECT info FROM worker WHERE namespace = ? AND until > ?", (self.namespace, time.time())
            ).fetchall()
        return [_worker(msgpack.unpackb(info)) for (info,) in rows]

    def close(self) -> None:
        """Close the connection and remove the FIFO."""
        bell, self._bell = self._bell, None
        if bell is not None:
            self._store.unregister(bell.path)
            bell.close()
        self._store.close()

    def forget_parent(self) -> None:
        """After a fork, in the child: wait on a FIFO of one's own."""
        bell, self._bell = self._bell, None
        if bell is not None:
            bell.forget()

    def sweep(self, connection: sqlite3.Connection) -> None:
        """Now and then, delete what was kept long enough; inside the caller's transaction."""
        now = time.time()
        if now < self._sweep_at:
            return
        has_more = outcomes.expire(connection, now, self.keep) | blobs.expire(connection, now)
        self._sweep_at = now + (_SWEEP_AGAIN if has_more else _SWEEP_EVERY)
        connection.execute(_OLD_MARKS, (now - self.keep,))
        connection.execute("DELETE FROM worker WHERE until < ?", (now,))

    def _own_bell(self) -> Bell:
        with self._store.lock:
            if self._bell is None:
                _ = self._store.connection
                self._bell = Bell(self._store.folder)
                self._store.register(self._bell.path, (_OUTCOME,))
            return self._bell


class SqliteListening:
    """Rings when any job has ended, of whichever client; the file does not say which."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._heard = bell.rings

    def wait(self, timeout: float) -> Sequence[Span] | None:
        """Wait for a ring; each may mean any job."""
        since = self._heard
        has_rung = self._bell.wait(since, timeout)
        self._heard = self._bell.rings
        return None if has_rung or self._heard > since + 1 else ()  # one more for this very wait

    def wake(self) -> None:
        """Ring."""
        self._bell.ring()

    def tells_of(self, key: Key) -> bool:  # noqa: ARG002 - whoever writes an end to the file rings
        """Return True."""
        return True

    def close(self) -> None:
        """Leave the bell to whoever else waits on it."""


class SqliteSettlement:
    """Records, quarantine, successors and acknowledgements of a batch in one transaction."""

    def __init__(self, channel: Channel, results: SqliteResults) -> None:
        self._channel = channel
        self._results = results

    def settle(self, batch: Sequence[Settled]) -> list[bool]:
        """Write a batch; of a delivery that is not ours any more, only the successes."""
        store = self._channel.store
        with store.write() as connection:
            held = _held(connection, self._channel.owner, batch)
            ours = [settled for settled, is_ours in zip(batch, held, strict=True) if is_ours]
            records = [record for settled in ours for record in settled.records]
            if len(ours) < len(batch):
                lost = [settled for settled, is_ours in zip(batch, held, strict=True) if not is_ours]
                records += [record for settled in lost for record in settled.records if record.state == SUCCEEDED]
            outcomes.write(connection, records)
            if faults.ACTIVE:  # in the transaction: whoever dies here has written nothing
                faults.point("after_result")
            items = [item for settled in ours for item in settled.quarantined]
            write_quarantine(connection, self._results.namespace, items)
            successors = [frame for settled in ours for frame in settled.successors]
            messages.insert(connection, self._channel.to_queues(successors), store.rung)
            if faults.ACTIVE and successors:
                faults.point("after_successor")
            if records:
                store.rung.add(_OUTCOME)
            self._results.sweep(connection)
            if faults.ACTIVE:  # the commit is the acknowledgement
                faults.point("before_ack")
        return held


def write_quarantine(connection: sqlite3.Connection, namespace: str, items: Sequence[QuarantineItem]) -> None:
    """Write items to the quarantine."""
    connection.executemany(
        "INSERT OR REPLACE INTO quarantine (namespace, id, color, reason, frame, at) VALUES (?, ?, ?, ?, ?, ?)",
        [(namespace, item.id, item.color, item.reason, item.frame, item.at) for item in items],
    )


def _held(connection: sqlite3.Connection, owner: int, batch: Sequence[Settled]) -> list[bool]:
    """Delete the messages of complete deliveries; return for each delivery whether it was still ours."""
    complete = [settled.delivery.tag for settled in batch if settled.is_complete]
    partial = [settled.delivery.tag for settled in batch if not settled.is_complete]
    ours = messages.delete(connection, owner, complete) | messages.held(connection, owner, partial)
    return [settled.delivery.tag in ours for settled in batch]


def _is_waiting(connection: sqlite3.Connection, key: Key) -> bool:
    record = outcomes.fetch(connection, [key])[0]
    is_known = record is not None and not record.is_final
    return is_known and connection.execute(_FREE, (key.bundle,)).fetchone() is None


def _worker(values: list[Any]) -> WorkerInfo:
    name, host, pid, colors, tasks, at, processes = values
    return WorkerInfo(name, host, pid, tuple(colors), tuple(tasks), at, processes)
