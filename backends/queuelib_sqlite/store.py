"""One connection to a queuelib file: opening it with care, and write transactions that wait their turn fairly."""

from __future__ import annotations

import errno
import os
import random
import sqlite3
import stat
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path

from queuelib.errors import BrokerFull, BrokerUnavailable, ConfigurationError, QueuelibError
from queuelib_sqlite import forks
from queuelib_sqlite.fifo import Ringer

__all__ = ["Store", "refuse_network_file_system"]

LAYOUT = 2  # user_version of the files that this code writes
_NEW_TABLES = frozenset({"span", "exchange", "queue", "binding"})  # all that layout 1 lacks
_BUSY_DEADLINE = 5.0
_RESERVE_BYTES = 16 * 1024**2  # of the disk; the log in which SQLite writes first grows to about 8 MB
_LOCKED_DEADLINE = 0.5  # a worker that is told to end has several things to write
_FIRST_PAUSE = 0.0002  # about one transaction of somebody else
_LONGEST_PAUSE = 0.005
_NETWORK_TYPES = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "9p", "pvfs2",
     "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "orangefs", "panfs", "acfs", "ocfs2", "gfs2"}
)  # fmt: skip


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
        self.folder = _folder(path)
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
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
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
        self.folder = _folder(self.path)
        _prepare_file(self.path, self.folder)
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


def _folder(path: Path) -> Path:
    """Return the folder beside the file itself: whoever names it by a link must find the same claims and bells there."""
    real = Path(os.path.realpath(path))
    return real.with_name(real.name + ".d")


def _is_held_here(lock: threading.RLock) -> bool:
    """Return whether this very thread holds a lock."""
    try:
        threading.Condition(lock).notify()  # says so
    except RuntimeError:
        return False
    return True


def _patience(path: Path) -> float:
    return _LOCKED_DEADLINE if path in _locked else _BUSY_DEADLINE


def refuse_network_file_system(path: Path, mounts: Path = Path("/proc/self/mounts")) -> None:
    """Refuse a file whose locks other machines would not see.

    Raises:
        ConfigurationError: The file would lie on a network file system, according to the table `mounts`.
    """
    try:
        table = mounts.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return  # no such table on this system
    target = Path(os.path.realpath(path)).parent
    best = ("", "")
    for line in table.splitlines():
        fields = line.split()
        if len(fields) < 3:  # noqa: PLR2004 - device, mount point, type
            continue
        point = fields[1].replace("\\040", " ")
        if target.is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, fields[2])
    if best[1] in _NETWORK_TYPES:
        msg = (
            f"{path} lies on a network file system ({best[1]} at {best[0]}), where file locks do not protect a database. "
            "Use a file on a local disk for one machine, or redis:// or amqp:// for several"
        )
        raise ConfigurationError(msg)


def _prepare_file(path: Path, folder: Path) -> None:
    refuse_network_file_system(path)
    if not path.parent.is_dir():
        msg = f"the folder {path.parent} of {path.name} does not exist: make it, or name another file"
        raise ConfigurationError(msg)
    _refuse_foreign_hands(path.parent, "folder")
    for place in (path, folder):
        _refuse_foreign_link(place)
    if path.is_symlink():
        _refuse_foreign_hands(path, "file")  # nothing is made at the end of a link
        _refuse_foreign_hands(folder.parent, "folder")
    try:
        _make_folder(folder)
        # Only ever created here: closing a descriptor of an existing database would drop SQLite's own locks on it.
        if not path.exists():
            made = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            os.fchmod(made, 0o600)  # whatever the umask
            os.close(made)
    except FileExistsError:
        pass
    except OSError as error:
        msg = f"{path} cannot be made ({error.strerror}): its folder must be writable by this user and have room"
        raise ConfigurationError(msg) from error
    _refuse_foreign_hands(path, "file")
    _refuse_foreign_hands(folder, "folder")
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        msg = f"{path} is not writable by this user: queuelib writes to the file and beside it"
        raise ConfigurationError(msg)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return
    folder.chmod(0o700)  # whatever the umask


def _refuse_foreign_link(place: Path) -> None:
    """Refuse a symbolic link that somebody else has laid; one's own, or root's, leads where its owner wants."""
    try:
        found = place.lstat()
    except OSError:
        return  # nothing is there yet
    if stat.S_ISLNK(found.st_mode) and found.st_uid not in {0, os.geteuid()}:
        msg = f"{place} is a symbolic link that belongs to user {found.st_uid}: name the file itself, or a folder of your own"
        raise ConfigurationError(msg)


def _refuse_foreign_hands(place: Path, what: str) -> None:
    """Refuse what everybody may write to: a folder is safe with the sticky bit, as /tmp has it."""
    try:
        mode = place.stat().st_mode
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ELOOP}:
            raise
        msg = f"{place} is a link that leads nowhere: name the file itself"
        raise ConfigurationError(msg) from error
    if mode & stat.S_IWOTH and not (what == "folder" and mode & stat.S_ISVTX):
        remedy = f"chmod o-w {place}" + (f", or chmod +t {place} where it is to be shared" if what == "folder" else "")
        msg = f"the {what} {place} is writable by everybody, who could replace your jobs by theirs: {remedy}"
        raise ConfigurationError(msg)


def _layout(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _missing(connection: sqlite3.Connection) -> list[str]:
    """Return what brings a new file, or one of an older layout, up to date; nothing for other programs' files."""
    found = _layout(connection)
    if found >= LAYOUT or (found == 0 and connection.execute("SELECT 1 FROM sqlite_schema").fetchone()):
        return []
    statements = _statements(files("queuelib_sqlite").joinpath("schema.sql").read_text(encoding="utf-8"))
    if found:
        statements = [one for one in statements if one.split()[2] in _NEW_TABLES]
    return [*statements, f"PRAGMA user_version = {LAYOUT}"]


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
