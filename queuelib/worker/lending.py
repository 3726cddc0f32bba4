"""A child says when its handler waits for other jobs: its worker then has another child do what this one would."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

from queuelib.worker.shared import NUMBER, WAITS, Slot

__all__ = ["COLD", "MOST_FDS", "WARM", "Lender"]

COLD, WARM = b"+", b"*"  # orders for one more child; a warm one has imported what it needs to submit jobs
MOST_FDS = 200  # file descriptors in one message; the kernel takes 253


class Lender:
    """Notes, in the memory shared with the supervisor, since when a handler waits for other jobs.

    Several of its threads, or of its coroutines, may wait at the same time.

    Args:
        slot: That memory.
        bell: What the supervisor hears.
    """

    def __init__(self, slot: Slot, bell: int) -> None:
        self._slot = slot
        self._bell = bell
        self._lock = threading.Lock()
        self._number = 0  # the job that waits
        self._count = 0  # how often

    @contextmanager
    def lend(self, blocks: bool) -> Generator[None]:  # noqa: ARG002, FBT001 - as `lending` calls it; it does not matter here
        """Return the context in which the running job waits for others."""
        number = self._slot.words[NUMBER]
        if not number:  # a thread that a handler left behind
            yield
            return
        self._begin(number)
        try:
            yield
        finally:
            self._end(number)

    def _begin(self, number: int) -> None:
        with self._lock:
            if number != self._number:
                self._number, self._count = number, 0
            self._count += 1
            if self._count > 1:
                return
            self._slot.times[WAITS] = time.monotonic()
        os.eventfd_write(self._bell, 1)

    def _end(self, number: int) -> None:
        with self._lock:
            if number != self._number:
                return  # its job has ended without it
            self._count -= 1
            if self._count:
                return
            self._slot.times[WAITS] = 0.0
        os.eventfd_write(self._bell, 1)
