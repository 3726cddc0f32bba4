"""A worker's claim on what it took: a POSIX lock on a file of its own, which the kernel drops when it dies.

The lock belongs to the process and not to the open file, so a forked child does not hold it; but closing any
descriptor of the file drops it, so the file is opened once and never touched by its own process again.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from pathlib import Path

__all__ = ["Claim", "is_orphaned"]

_PREFIX = "owner-"
_mine: dict[str, int] = {}  # files this process holds: locking them again would succeed, closing them would drop it


class Claim:
    """Held from construction until `release` or the end of the process."""

    def __init__(self, folder: Path) -> None:
        self.file = f"{_PREFIX}{uuid.uuid4().hex}"
        path = str(folder / self.file)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.fchmod(self._fd, 0o600)  # whatever the umask
        fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._path = path
        _mine[path] = os.getpid()

    def release(self) -> None:
        """Drop the claim and remove its file."""
        _mine.pop(self._path, None)
        Path(self._path).unlink(missing_ok=True)
        os.close(self._fd)

    def forget(self) -> None:
        """In a forked child: close the descriptor. The lock is the parent's, and stays."""
        _mine.pop(self._path, None)
        os.close(self._fd)


def is_orphaned(folder: Path, file: str) -> bool:
    """Return whether the owner of a claim has died, and remove its file if so."""
    if not file.startswith(_PREFIX) or "/" in file:
        return True  # not a name of ours; what it says is neither opened nor removed
    path = str(folder / file)
    if _mine.get(path) == os.getpid():
        return False
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        Path(path).unlink(missing_ok=True)
        return True
    finally:
        os.close(fd)
