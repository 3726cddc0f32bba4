"""A child's end of what handlers tell and save: checked, held back where it comes too often, and sent to the supervisor."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from queuelib import body, codec
from queuelib.context import Progress
from queuelib.errors import CancelledError, QueuelibError, Shutdown, SoftTimeLimit
from queuelib.ids import Key
from queuelib.worker.frames import send_frame
from queuelib.worker.shared import NUMBER, REFUSED, SAVED, Slot

__all__ = ["PROGRESS", "STATE", "Desk", "Interruption"]

PROGRESS, STATE = "progress", "state"  # kinds of memos, and of frames to the supervisor
Interruption = SoftTimeLimit | Shutdown | CancelledError
_EVERY = 0.2  # seconds between two frames of progress of one job
_LOOK_AGAIN = 5  # milliseconds between two looks whether a state was stored
_MOST_TOLD = 1000  # jobs whose last frame is remembered


class Desk:
    """Where the handlers of one child tell and save.

    A frame is written whole or not at all, whatever thread writes it: a signal that is to interrupt the handler meanwhile
    strikes when it is written.

    Args:
        sock: The child's socket, on which outcomes go out as well.
        slot: The memory shared with the supervisor.
        read: Returns the stored state of a job.
        write: Writes a frame.
        may_wait: Whether the supervisor works while a handler waits for it.
    """

    def __init__(
        self,
        sock: socket.socket,
        slot: Slot,
        read: Callable[[Key], bytes | None],
        *,
        write: Callable[[socket.socket, Any], None] = send_frame,
        may_wait: bool = True,
    ) -> None:
        self._sock = sock
        self._slot = slot
        self._read = read
        self._write = write
        self._may_wait = may_wait
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._saves = 0
        self._told: dict[int, Progress] = {}  # that has not left
        self._left_at: dict[int, float] = {}  # when the last one did, by job
        self._timer: threading.Timer | None = None
        self._is_writing = False  # the main thread is
        self._struck: Interruption | None = None

    # For the child's loop

    def send(self, value: Any) -> None:
        """Write a frame."""
        self._send(value)

    def leave(self, number: int) -> None:
        """Send what the job that has just ended told last, if it has not left."""
        self._left_at.pop(number, None)
        if number in self._told:
            self._flush(number)

    def holds(self, error: Interruption) -> bool:
        """Return whether a frame is just being written, from the signal handler that would raise: it is raised behind it."""
        if self._is_writing:
            self._struck = error
        return self._is_writing

    def cancelled(self) -> int:
        """Return the number of the running job if it was asked to stop, else 0."""
        return self._slot.words[NUMBER] if self._slot.is_cancelled() else 0

    # For handlers

    def tell(self, number: int, progress: Progress) -> None:
        """Take note of progress; it leaves now, or when the time since the last one is over."""
        if number != self._slot.words[NUMBER]:
            return  # a thread that its job has left behind
        self._told[number] = progress
        if time.monotonic() - self._left_at.get(number, 0.0) >= _EVERY:
            self._flush(number)
        elif self._timer is None and os.getpid() == self._pid:
            self._timer = timer = threading.Timer(_EVERY, self._flush_all)
            timer.daemon = True
            timer.start()

    def save(self, number: int, state: Any, *, wait: bool) -> None:
        """Hand a state over; with `wait`, return once it is stored."""
        data = codec.encode(state)
        if number != self._slot.words[NUMBER]:
            msg = "a state was saved after its job had ended"
            raise QueuelibError(msg)
        if os.getpid() != self._pid:
            msg = "a state was saved in a process that the handler has forked: only the handler's own may"
            raise QueuelibError(msg)
        count = self._send((STATE, number, data, wait), is_save=True)
        if wait and self._may_wait:
            self._await(count)

    def load(self, key: Key) -> Any:
        """Return the newest state of a job, None if there is none."""
        data = self._read(key)
        return None if data is None else codec.decode(data)

    def is_lost(self, number: int) -> bool:
        """Whether others may run the job by now."""
        return number == self._slot.words[NUMBER] and self._slot.has_lost()

    def is_cancelled(self, number: int) -> bool:
        """Whether it was asked to stop."""
        return number == self._slot.words[NUMBER] and self._slot.is_cancelled()

    # How

    def _flush_all(self) -> None:
        self._timer = None
        for number in list(self._told):
            self._flush(number)

    def _flush(self, number: int) -> None:
        progress = self._told.pop(number, None)
        if progress is None or os.getpid() != self._pid:
            return  # another thread was faster, or this is a process that the handler has forked
        if len(self._left_at) > _MOST_TOLD:
            self._left_at.clear()
        self._left_at[number] = time.monotonic()
        try:
            self._send((PROGRESS, number, body.of_progress(progress), False))
        except SoftTimeLimit:
            raise  # which is an OSError, too
        except OSError:
            pass  # the supervisor is gone, and this process with it

    def _send(self, value: Any, *, is_save: bool = False) -> int:
        """Write a frame; return how many states were handed over so far."""
        is_main = threading.current_thread() is threading.main_thread()
        if is_main:
            self._is_writing = True
        try:
            with self._lock:
                self._write(self._sock, value)
                self._saves += is_save
                count = self._saves
        finally:
            if is_main:
                self._is_writing = False
        if is_main and self._struck is not None:
            error, self._struck = self._struck, None
            raise error
        return count

    def _await(self, count: int) -> None:
        """Wait until the supervisor has stored so many states of this child.

        Raises:
            QueuelibError: It has dropped the last of them, or is gone.
        """
        poll = select.poll()
        poll.register(self._sock, select.POLLRDHUP)
        words = self._slot.words
        while words[SAVED] < count:
            if poll.poll(_LOOK_AGAIN):
                msg = "the worker has ended before a state was stored"
                raise QueuelibError(msg)
        if words[REFUSED] >= count:
            msg = (
                "the state was dropped: the worker has lost its claim on this job, and another one may run it by now, or "
                "the result backend keeps no states"
            )
            raise QueuelibError(msg)
