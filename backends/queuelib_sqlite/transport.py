"""The kombu transport of an SQLite file: claims that die with their owner, FIFOs that wake, no server."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from queuelib.channel import BatchChannel, BatchTransport
from queuelib_sqlite import forks, messages
from queuelib_sqlite.claim import Claim, is_orphaned
from queuelib_sqlite.fifo import Bell
from queuelib_sqlite.store import Store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from queuelib.channel import Binding
    from queuelib.message import Outgoing
    from queuelib.ports import Delivery

__all__ = ["Channel", "Transport"]


class Channel(BatchChannel):
    """A channel to the file that the connection's virtual host names.

    It becomes a taker, with a claim and a FIFO, when it first takes; until then it only writes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.store = Store(Path(self.connection.client.virtual_host))
        self._claim: Claim | None = None
        self._owner = 0
        self._bell: Bell | None = None
        self._topics: set[str] = set()
        forks.watch(self)

    @property
    def owner(self) -> int:
        """This taker's row; 0 before it first took anything."""
        return self._owner

    def publish_batch(self, frames: Sequence[Outgoing], deadline: float) -> None:
        """Write all frames, or none; on the disk when it returns."""
        if not all(frame.is_successor for frame in frames):
            _ = self.store.connection  # makes the folder
            self.store.check_room(sum(len(frame.frame) for frame in frames))
        with self.store.write(deadline) as connection:
            fresh = messages.accept(connection, [f for f in frames if f.bundle and not f.is_successor])
            known = {id(frame) for frame in fresh}
            new = [f for f in frames if not f.bundle or f.is_successor or id(f) in known]
            messages.insert(connection, new, self.store.rung)

    def take_batch(self, room: Mapping[str, int]) -> list[Delivery]:
        """Claim the oldest ready messages of each queue."""
        if self._claim is None:
            self._become_taker()
        if self._bell is not None:
            self._bell.silence()
            self._listen(room)
        if not self._is_anything_ready(room):
            return []
        with self.store.write() as connection:
            messages.promote(connection, self.store.rung)
            return messages.take(connection, self._owner, room)

    def acknowledge_batch(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Delete claimed messages."""
        with self.store.write() as connection:
            ours = messages.delete(connection, self._owner, [delivery.tag for delivery in deliveries])
        return [delivery for delivery in deliveries if delivery.tag not in ours]

    def give_back_batch(self, deliveries: Sequence[Delivery], delay: float) -> None:
        """Release claimed messages."""
        with self.store.write() as connection:
            messages.release(connection, self._owner, deliveries, delay, self.store.rung)

    def renew(self) -> None:
        """Release what the dead held; our own claim is a lock and needs no renewal."""
        with self.store.read() as connection:
            others = connection.execute("SELECT id, file FROM owner WHERE id <> ?", (self._owner,)).fetchall()
            is_due = self._due_now(connection)
        dead = [owner for owner, file in others if is_orphaned(self.store.folder, file)]
        if dead or is_due:
            with self.store.write() as connection:
                messages.promote(connection, self.store.rung)
                for owner in dead:
                    messages.release_all(connection, owner, died=True, topics=self.store.rung)

    def find_lost(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Return what others have claimed: a lock is lost only with its file."""
        with self.store.read() as connection:
            ours = messages.held(connection, self._owner, [delivery.tag for delivery in deliveries])
        return [delivery for delivery in deliveries if delivery.tag not in ours]

    def fileno(self) -> int:
        """Return the descriptor of this taker's FIFO."""
        if self._bell is None:
            _ = self.store.connection  # makes the folder
            self._bell = Bell(self.store.folder)
        return self._bell.fd

    def next_due(self) -> float | None:
        """Return when the next delayed message is due."""
        with self.store.read() as connection:
            return connection.execute("SELECT min(due) FROM message WHERE due > 0").fetchone()[0]  # type: ignore[no-any-return]

    def waiting_in(self, queues: Sequence[str]) -> dict[str, int]:
        """Count unclaimed messages, due or not."""
        count = "SELECT count(*) FROM message WHERE queue = ? AND owner IS NULL"
        with self.store.read() as connection:
            return {queue: connection.execute(count, (queue,)).fetchone()[0] for queue in queues}

    def has_waiting(self, queue: str) -> bool:
        """Look whether there is one, by an index: counting reads the whole table."""
        ready = "SELECT 1 FROM message WHERE queue = ? AND owner IS NULL AND due = 0 LIMIT 1"
        with self.store.read() as connection:
            return self._due_now(connection) or connection.execute(ready, (queue,)).fetchone() is not None

    def purge_queue(self, queue: str) -> int:
        """Delete unclaimed messages."""
        with self.store.write() as connection:
            return connection.execute("DELETE FROM message WHERE queue = ? AND owner IS NULL", (queue,)).rowcount

    def exchanges_add(self, exchange: str, kind: str) -> None:
        """Remember an exchange."""
        if self.exchange_kind(exchange) != kind:
            self._change("INSERT OR REPLACE INTO exchange VALUES (?, ?)", exchange, kind)

    def exchanges_remove(self, exchange: str) -> None:
        """Forget an exchange and its bindings."""
        with self.store.write() as connection:
            connection.execute("DELETE FROM exchange WHERE name = ?", (exchange,))
            connection.execute("DELETE FROM binding WHERE exchange = ?", (exchange,))

    def exchange_kind(self, exchange: str) -> str | None:
        """Return an exchange's type."""
        with self.store.read() as connection:
            row = connection.execute("SELECT kind FROM exchange WHERE name = ?", (exchange,)).fetchone()
        return row[0] if row else None

    def bindings_add(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        """Bind a queue."""
        if (routing_key, pattern, queue) not in self.bindings_of(exchange):
            self._change("INSERT OR REPLACE INTO binding VALUES (?, ?, ?, ?)", exchange, routing_key, queue, pattern)

    def bindings_remove(self, exchange: str, routing_key: str, queue: str) -> None:
        """Remove a binding."""
        self._change(
            "DELETE FROM binding WHERE exchange = ? AND routing_key = ? AND queue = ?", exchange, routing_key, queue
        )

    def bindings_of(self, exchange: str) -> list[Binding]:
        """Return an exchange's bindings."""
        select = "SELECT routing_key, pattern, queue FROM binding WHERE exchange = ?"
        with self.store.read() as connection:
            return connection.execute(select, (exchange,)).fetchall()

    def queues_add(self, queue: str) -> None:
        """Remember a queue."""
        if queue not in self.known_queues():
            self._change("INSERT OR IGNORE INTO queue VALUES (?)", queue)

    def queues_remove(self, queue: str) -> None:
        """Forget a queue and the bindings to it."""
        with self.store.write() as connection:
            connection.execute("DELETE FROM queue WHERE name = ?", (queue,))
            connection.execute("DELETE FROM binding WHERE queue = ?", (queue,))

    def known_queues(self) -> set[str]:
        """Return the declared queues."""
        with self.store.read() as connection:
            return {name for (name,) in connection.execute("SELECT name FROM queue")}

    def _change(self, statement: str, *values: str) -> None:
        with self.store.write() as connection:
            connection.execute(statement, values)

    def close(self) -> None:
        """Release what is held, uncounted."""
        if not self.closed:
            self.forget_own_queues()
            if self._claim is not None:
                try:
                    with self.store.write() as connection:
                        messages.release_all(connection, self._owner, died=False, topics=self.store.rung)
                finally:
                    self._claim.release()
                    self._claim = None
            if self._bell is not None:
                self.store.unregister(self._bell.path)
                self._bell.close()
                self._bell = None
            self.store.close()
        super().close()

    def abandon(self) -> None:
        """End as a killed process would: the lock goes, and everything else stays for others to find."""
        if self._claim is not None:
            self._claim.release()
            self._claim = None
        self._owner = 0
        self._in_hand.clear()

    def forget_parent(self) -> None:
        """After a fork, in the child: become another taker at the next take, and close without a change to the parent's.

        What the parent holds may still be acknowledged here: a program may hand each message to a child.
        """
        self.leave_to_parent()
        claim, self._claim = self._claim, None
        if claim is not None:
            claim.forget()
        bell, self._bell = self._bell, None
        if bell is not None:
            bell.forget()
        self._topics.clear()

    def _become_taker(self) -> None:
        self.store.relax()
        claim = Claim(self.store.folder)
        try:
            with self.store.write() as connection:
                row = connection.execute("INSERT INTO owner (file) VALUES (?)", (claim.file,)).lastrowid
        except BaseException:
            claim.release()  # what is taken without an owner's row would be nobody's, and never taken again
            raise
        self._claim, self._owner = claim, row or 0

    def _listen(self, room: Mapping[str, int]) -> None:
        new = {"queue:" + queue for queue in room} - self._topics
        if new and self._bell is not None:
            self.store.register(self._bell.path, tuple(new))
            self._topics |= new

    def _is_anything_ready(self, room: Mapping[str, int]) -> bool:
        ready = "SELECT 1 FROM message WHERE queue = ? AND owner IS NULL AND due = 0 LIMIT 1"
        with self.store.read() as connection:
            if self._due_now(connection):
                return True
            return any(count > 0 and connection.execute(ready, (queue,)).fetchone() for queue, count in room.items())

    def _due_now(self, connection: Any) -> bool:
        due = connection.execute("SELECT min(due) FROM message WHERE due > 0").fetchone()[0]
        return due is not None and due <= time.time()


class Transport(BatchTransport):
    """qlsqlite:///relative.db and qlsqlite:////absolute.db for kombu."""

    Channel = Channel
    can_parse_url = False
    polling_interval = 0.02
    driver_type = "queuelib-sqlite"
    driver_name = "sqlite3"

    def driver_version(self) -> str:
        """Return SQLite's version."""
        import sqlite3  # noqa: PLC0415 - only for this

        return sqlite3.sqlite_version
