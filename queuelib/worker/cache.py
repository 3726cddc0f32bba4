"""Shared objects as files of this host: each is fetched once for all workers of a user, and mapped by their children.

A file is called by the hash of its content. It appears whole, by a rename, and whoever maps it has its hash checked
first. The folder belongs to one user and nobody else may look into it: what is encrypted on servers is plain here.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import stat
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from queuelib.errors import QueuelibError

__all__ = ["ROOM_BYTES", "Cache", "usual_folder"]

ROOM_BYTES = 8 * 1024**3  # of files; the last one is kept however large it is
_PART = ".part"  # ends the name of a file that is not whole yet; who writes it holds a lock on it


def usual_folder() -> Path:
    """Return the folder of this user, in that for temporary files."""
    return Path(tempfile.gettempdir()) / f"queuelib-shared-{os.geteuid()}"


class Cache:
    """The folder.

    Args:
        folder: Made, with mode 0700, if it does not exist.
        room_bytes: What the files may take; those that were used longest ago go first.
    """

    def __init__(self, folder: Path, room_bytes: int = ROOM_BYTES) -> None:
        self._folder = folder
        self._room = room_bytes

    def find(self, content_hash: bytes, size_bytes: int) -> mmap.mmap | None:
        """Return the content of a hash, mapped for reading, or None if it is not here, or not what it should be."""
        path = self._path(content_hash)
        try:
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            if os.fstat(file).st_size == size_bytes > 0:
                with suppress(OSError):
                    os.utime(file)  # it was used now
                mapped = mmap.mmap(file, 0, access=mmap.ACCESS_READ)
                if hashlib.sha256(mapped).digest() == content_hash:
                    return mapped
        finally:
            os.close(file)
        path.unlink(missing_ok=True)
        return None

    def fill(self, content_hash: bytes, size_bytes: int, load: Callable[[Callable[[bytes], object]], object]) -> None:
        """Have the content of a hash here; of all who want it at once, one loads it.

        Args:
            content_hash: The hash.
            size_bytes: Its length.
            load: Writes the content with the function that it is given, and raises if that is not what has this hash.

        Raises:
            QueuelibError: The folder cannot be used, or has no room; the message says why.
            Exception: What `load` raises.
        """
        path = self._path(content_hash)
        try:
            self._make_folder()
            part = path.with_name(path.name + _PART)
            with self._locked(part) as file:
                try:
                    if not path.exists():
                        self._make_room(size_bytes)
                        load(file.write)
                        file.flush()
                        part.rename(path)
                finally:
                    part.unlink(missing_ok=True)
        except OSError as error:
            if isinstance(error, QueuelibError):
                raise  # a server that does not answer is an OSError, too
            msg = f"{self._folder}: {error.strerror or error}: shared objects cannot be kept there. Make room, or set TMPDIR"
            raise QueuelibError(msg) from error

    def _path(self, content_hash: bytes) -> Path:
        return self._folder / content_hash.hex()

    @contextmanager
    def _locked(self, part: Path) -> Generator[BinaryIO]:
        """Yield an empty file that nobody else writes to; whoever finds it with a lock waits."""
        while True:
            opened = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(opened, "wb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if _is_at(opened, part):  # else whoever had it has renamed or removed it
                    file.truncate(0)  # somebody may have died over it
                    yield file
                    return

    def _make_folder(self) -> None:
        with suppress(FileExistsError):
            self._folder.mkdir(mode=0o700)
        found = self._folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            msg = f"{self._folder} is not a folder of this user alone: remove it, or set TMPDIR to a place of your own"
            raise QueuelibError(msg)

    def _make_room(self, size_bytes: int) -> None:
        """Remove the files that were used longest ago; whoever has mapped one keeps it until it is done."""
        files: list[tuple[float, int, Path]] = []
        for path in self._folder.iterdir():
            with suppress(OSError):  # somebody else has just removed it
                found = path.stat(follow_symlinks=False)
                if path.name.endswith(_PART):
                    _remove_if_left(path)
                else:
                    files.append((found.st_mtime, found.st_size, path))
        used = size_bytes + sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if used <= self._room:
                break
            path.unlink(missing_ok=True)
            used -= size


def _is_at(file: int, path: Path) -> bool:
    """Return whether an open file is still the one of this path."""
    try:
        found = path.stat(follow_symlinks=False)
    except OSError:
        return False
    return os.path.samestat(found, os.fstat(file))


def _remove_if_left(part: Path) -> None:
    """Remove a file that somebody began to write and who does not live any more: nobody has a lock on it."""
    with part.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        if _is_at(file.fileno(), part):
            part.unlink()
