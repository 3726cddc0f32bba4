"""Waking another process: a named FIFO for each waiter, and a byte in it when there is something new.

Nothing is lost when a byte is: whoever waits looks again by itself now and then. A FIFO without a reader is removed.
"""

from __future__ import annotations

import errno
import os
import threading
import uuid
from contextlib import suppress
from pathlib import Path

from queuelib.polling import is_readable

__all__ = ["Bell", "Ringer"]

_OWN = b"\1"  # of this process's own; others write a zero


class Bell:
    """The reading end: one FIFO, on which any number of this process's threads wait."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / f"wake-{uuid.uuid4().hex}")
        os.mkfifo(self.path, 0o600)
        os.chmod(self.path, 0o600)  # noqa: PTH101 - whatever the umask
        # Opened for writing too, so that it never reads as closed while no writer is there.
        self.fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._condition = threading.Condition()
        self._rings = 0
        self._somebody_listens = False
        self._is_closed = False

    @property
    def rings(self) -> int:
        """How often it rang; read this before looking, and give it to `wait`."""
        return self._rings

    def wait(self, since: int, timeout: float) -> bool:
        """Return when it has rung after `since`, or after `timeout` seconds; False if it surely was not rung by others."""
        with self._condition:
            if self._rings != since:
                return True
            if self._somebody_listens:
                self._condition.wait(timeout)
                return self._rings != since
            self._somebody_listens = True
        was_rung = False
        try:
            if is_readable(self.fd, timeout):
                was_rung = self.silence()
        finally:
            with self._condition:
                self._somebody_listens = False
                self._rings += 1  # even without a ring: the next listener must be found
                self._condition.notify_all()
        return was_rung

    def ring(self) -> None:
        """End a wait from this process; nothing happens once it is closed."""
        with self._condition:
            if not self._is_closed:
                with suppress(BlockingIOError):  # it is full, so it rings
                    os.write(self.fd, _OWN)

    def silence(self) -> bool:
        """Read away what is in the FIFO; return whether others have rung."""
        was_rung = False
        try:
            while True:
                read = os.read(self.fd, 4096)
                was_rung = was_rung or bool(read.strip(_OWN))
                if len(read) < 4096:  # noqa: PLR2004 - the size asked for: there is no more
                    return was_rung
        except BlockingIOError:
            return was_rung

    def close(self) -> None:
        """Remove the FIFO."""
        with self._condition:
            self._is_closed = True
            os.close(self.fd)
        Path(self.path).unlink(missing_ok=True)

    def forget(self) -> None:
        """In a forked child: close the descriptor. The FIFO is the parent's, whose rings are not to be read here."""
        os.close(self.fd)


class Ringer:
    """The writing end: keeps the FIFOs that it wrote to open."""

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}

    def ring(self, path: str) -> bool:
        """Wake the reader of a FIFO; return False if there is none any more, and remove the file.

        Whatever else keeps it from ringing (a limit of descriptors) is no error: what to ring for is written already.
        """
        try:
            fd = self._fds.get(path)
            if fd is None:
                fd = self._fds[path] = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
            os.write(fd, b"\0")
        except BlockingIOError:
            return True  # it is full: the reader has enough reasons to wake up
        except OSError as error:
            self._forget(path)
            if error.errno in (errno.ENXIO, errno.EPIPE, errno.ENOENT):
                with suppress(OSError):
                    Path(path).unlink()
                return False
        return True

    def keep_only(self, paths: set[str]) -> None:
        """Close the FIFOs of waiters that left."""
        for path in set(self._fds) - paths:
            self._forget(path)

    def close(self) -> None:
        """Close all."""
        self.keep_only(set())

    def _forget(self, path: str) -> None:
        fd = self._fds.pop(path, None)
        if fd is not None:
            os.close(fd)
