"""One connection to a queuelib file: opening it, and write transactions that wait their turn fairly."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path

from queuelib.errors import BrokerFull, BrokerUnavailable, ConfigurationError, QueuelibError
from queuelib_sqlite import forks
from queuelib_sqlite.fifo import Ringer
from queuelib_sqlite.place import folder_of, prepare_file

__all__ = ["Store"]

LAYOUT = 4  # user_version of the files that this code writes
_NEW = {  # tables and indexes by the layout that has them first
    2: frozenset({"span", "exchange", "queue", "binding"}),
    3: frozenset({"blob", "blob_name", "blob_until"}),
    4: frozenset({"memo", "memo_job", "memo_until"}),
}
_BUSY_DEADLINE = 5.0
_RESERVE_BYTES = 16 * 1024**2  # of the disk; the log in which SQLite writes first grows to about 8 MB
_LOCKED_DEADLINE = 0.5  # a worker that is told to end has several things to write
_FIRST_PAUSE = 0.0002  # about one transaction of somebody else
_LONGEST_PAUSE = 0.005

_inodes: dict[Path, int] = {}  # of the files that this process has opened: under their paths there must be no other


_locked: set[Path] = set()  # files for which somebody here has just waited in vain


class Store:
    """A connection to the file, used by one thread at a time; closed at each fork, so that both sides open their own.

    Args:
        path: The file; made, with mode 0600, if it does not exist.
        synchronous: FULL for what must survive a power cut once it is confirmed, else NORMAL.

    Raises:
        ConfigurationError: The path cannot hold a queuelib file; the message says why and what to do.
    """

    def __init__(self, path: Path, *, synchronous: str = "FULL") -> None:
        self.path = path = path.absolute()  # a program may change its folder
        self.folder = folder_of(path)
        self.lock = threading.RLock()
        self.ringer = Ringer()
        self._synchronous = synchronous
        self._connection: sqlite3.Connection | None = None
        self.rung: set[str] = set()  # topics to ring once the transaction is committed
        forks.watch_store(self)

    @property
    def connection(self) -> sqlite3.Connection:
        """The open connection of this process; whoever uses it holds `lock`."""
        connection = self._connection
        if connection is None:
            with self.lock:
                connection = self._connection = self._connection or self._open()
        return connection

    def relax(self) -> None:
        """Let commits return before the disk has them: right where a power cut can only repeat work."""
        if self._synchronous != "NORMAL":
            self._synchronous = "NORMAL"
            with self.lock, self.translated():
                self.connection.execute("PRAGMA synchronous = NORMAL")

    @contextmanager
    def write(self, deadline: float | None = None) -> Generator[sqlite3.Connection]:
        """Run a write transaction, then ring for the topics in `rung`.

        Raises:
            BrokerUnavailable: The file stayed locked for `deadline` seconds (5, or half a second where it just did), or the disk is full; nothing was written.
        """
        with self.lock:
            connection = self.connection
            self.rung.clear()
            with self.translated():
                self._begin(connection, _patience(self.path) if deadline is None else deadline)
                try:
                    self._check_place()
                    yield connection
                    waiters = self._waiters(connection)
                    if self._connection is not connection:
                        msg = f"{self.path}: the process was forked amid a transaction, which is the parent's"
                        raise BrokerUnavailable(msg)  # noqa: TRY301 - it is handled as any other
                    connection.execute("COMMIT")
                except BaseException:
                    if self._connection is connection and connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            self._ring(waiters)

    @contextmanager
    def read(self) -> Generator[sqlite3.Connection]:
        """Read outside of any transaction; WAL readers never wait for writers."""
        with self.lock, self.translated():
            connection = self.connection
            self._check_place()
            yield connection

    @contextmanager
    def translated(self) -> Generator[None]:
        """Turn the driver's errors into ours."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise _ours(error, self.path) from error

    def check_room(self, size_bytes: int) -> None:
        """See that new work leaves room on the disk for the outcomes of what was accepted.

        Raises:
            BrokerUnavailable: It does not; nothing was written.
        """
        disk = os.statvfs(self.folder)
        missing = _RESERVE_BYTES + size_bytes - disk.f_bavail * disk.f_frsize
        if missing > 0 and missing > self._free_bytes():
            msg = (
                f"{self.path}: the disk is full, but for {_RESERVE_BYTES // 1024**2} MiB that are kept for outcomes; "
                "nothing was written. Make room and try again"
            )
            raise BrokerUnavailable(msg)

    def _free_bytes(self) -> int:
        """Return how much of the file itself is free: it never shrinks."""
        with self.read() as connection:
            (pages,), (size,) = (
                connection.execute(f"PRAGMA {name}").fetchone() for name in ("freelist_count", "page_size")
            )
        return int(pages * size)

    def register(self, path: str, topics: tuple[str, ...]) -> None:
        """Have a FIFO rung when something of these topics changes."""
        with self.write() as connection:
            connection.executemany("INSERT OR IGNORE INTO waiter VALUES (?, ?)", [(path, topic) for topic in topics])

    def unregister(self, path: str) -> None:
        """Stop ringing a FIFO; where that cannot be written, whoever rings in vain will see that it is gone."""
        with suppress(BrokerUnavailable), self.write() as connection:
            connection.execute("DELETE FROM waiter WHERE path = ?", (path,))

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        with self.lock:
            self.ringer.close()
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def pause(self, timeout: float) -> bool:
        """Before a fork: close the connection, and keep other threads from opening one until `resume`."""
        if _is_held_here(self.lock) or not self.lock.acquire(timeout=timeout):
            return False  # a signal handler that forks may have interrupted a use of it
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        return True

    def resume(self) -> None:
        """After a fork, in the parent."""
        self.lock.release()

    def forget_parent(self) -> None:
        """After a fork, in the child: nothing is ever done with a connection that could not be closed before."""
        self.lock = threading.RLock()  # perhaps held by a thread that does not exist here
        self.rung = set()
        self.ringer.close()
        if self._connection is not None:
            forks.keep_for_good(self._connection)
            self._connection = None

    def _begin(self, connection: sqlite3.Connection, deadline: float) -> None:
        # SQLite's own busy handler sleeps up to 100 ms and is unfair; short random pauses let writers alternate.
        end = time.monotonic() + deadline
        pause = _FIRST_PAUSE
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    raise
                if time.monotonic() >= end:
                    _locked.add(self.path)
                    raise
            else:
                _locked.discard(self.path)
                return
            time.sleep(random.uniform(0, pause))
            pause = min(_LONGEST_PAUSE, pause * 1.5)

    def _check_place(self) -> None:
        """See that the open file is the one that others find: what is written to another is lost."""
        try:
            inode = os.stat(self.path).st_ino  # noqa: PTH116 - asked before each use
        except OSError:
            inode = 0
        if inode != _inodes.get(self.path, inode):
            msg = (
                f"{self.path} was replaced or removed while it was in use; nothing was written. Put it back, or start "
                "this program anew to use the file that is there now"
            )
            raise BrokerUnavailable(msg)

    def _waiters(self, connection: sqlite3.Connection) -> set[str]:
        if not self.rung:
            return set()
        rows = connection.execute("SELECT path, topic FROM waiter").fetchall()
        # What the file says is opened and written to: nothing outside of its own folder is.
        return {path for path, topic in rows if topic in self.rung and os.path.dirname(path) == str(self.folder)}  # noqa: PTH120

    def _ring(self, waiters: set[str]) -> None:
        gone = [path for path in waiters if not self.ringer.ring(path)]
        if gone:
            try:
                with self.write() as connection:
                    connection.executemany("DELETE FROM waiter WHERE path = ?", [(path,) for path in gone])
            except QueuelibError:
                pass  # what we ring for is written: its writer must not take it for a failure

    def _open(self) -> sqlite3.Connection:
        forks.check()
        self._check_place()
        self.folder = folder_of(self.path)
        prepare_file(self.path, self.folder)
        with self.translated():
            connection = sqlite3.connect(
                self.path, timeout=_BUSY_DEADLINE, isolation_level=None, check_same_thread=False
            )
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute(f"PRAGMA synchronous = {self._synchronous}")
                connection.execute("PRAGMA temp_store = MEMORY")
                connection.execute("PRAGMA wal_autocheckpoint = 2000")  # pages; about 8 MB between checkpoints
                self._check_layout(connection)
                connection.execute("PRAGMA busy_timeout = 0")
                _inodes.setdefault(self.path, self.path.stat().st_ino)
            except BaseException:
                connection.close()
                raise
            return connection

    def _check_layout(self, connection: sqlite3.Connection) -> None:
        if _layout(connection) < LAYOUT:
            connection.execute("BEGIN IMMEDIATE")
            for statement in _missing(connection):
                connection.execute(statement)
            connection.execute("COMMIT")
        found = _layout(connection)
        if found > LAYOUT:
            msg = f"{self.path} was written by a newer queuelib (layout {found}, this one reads {LAYOUT}): upgrade queuelib"
            raise ConfigurationError(msg)
        if found == 0:
            msg = f"{self.path} is an SQLite database of another program: name another file"
            raise ConfigurationError(msg)


def _is_held_here(lock: threading.RLock) -> bool:
    """Return whether this very thread holds a lock."""
    try:
        threading.Condition(lock).notify()  # says so
    except RuntimeError:
        return False
    return True


def _patience(path: Path) -> float:
    return _LOCKED_DEADLINE if path in _locked else _BUSY_DEADLINE


def _layout(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _missing(connection: sqlite3.Connection) -> list[str]:
    """Return what brings a new file, or one of an older layout, up to date; nothing for other programs' files."""
    found = _layout(connection)
    if found >= LAYOUT or (found == 0 and connection.execute("SELECT 1 FROM sqlite_schema").fetchone()):
        return []
    statements = _statements(files("queuelib_sqlite").joinpath("schema.sql").read_text(encoding="utf-8"))
    if found:
        lacking = frozenset[str]().union(*(names for layout, names in _NEW.items() if layout > found))
        statements = [one for one in statements if _made_by(one) in lacking]
    return [*statements, f"PRAGMA user_version = {LAYOUT}"]


def _made_by(statement: str) -> str:
    """Return the name of the table or index that a statement creates."""
    return statement.removeprefix("CREATE ").removeprefix("UNIQUE ").split()[1]


def _statements(schema: str) -> list[str]:
    lines = [line.partition("--")[0].rstrip() for line in schema.splitlines()]
    return [statement.strip() for statement in "\n".join(lines).split(";") if statement.strip()]


def _ours(error: sqlite3.DatabaseError, path: Path) -> Exception:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_NOTADB:
        return ConfigurationError(f"{path} is not a queuelib file, nor any SQLite database: name another file")
    if code == sqlite3.SQLITE_FULL:
        return BrokerFull(f"{path}: the disk is full; nothing was written. Make room and try again")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return BrokerUnavailable(
            f"{path}: another program kept the file locked; nothing was written. Is somebody's transaction left open?"
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return BrokerUnavailable(f"{path}: {error}; queuelib must be able to write to the file and its folder")
    return BrokerUnavailable(f"{path}: {error}")
