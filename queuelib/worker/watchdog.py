"""A thread that looks after the supervisor: it kills exclusive jobs in time, and ends a worker whose loop stands still."""

from __future__ import annotations

import faulthandler
import logging
import os
import threading
import time
from typing import Protocol, Self

__all__ = ["STUCK", "Guarded", "Watchdog"]

_log = logging.getLogger("queuelib.worker")
STUCK = 70  # exit status: EX_SOFTWARE of sysexits.h; whoever starts workers starts another one
STILL_FOR = 60.0  # seconds; every call to a server has a limit of time that is far below
_LOOK_EVERY = 0.1  # seconds
_WAS_STOPPED = 5.0  # seconds that a look came late: the whole process was stopped, not only the loop


class Guarded(Protocol):
    """What a watchdog looks at: a supervisor.

    Attributes:
        ticked_at: When its loop last came round, on the monotonic clock.
    """

    ticked_at: float

    def kill_exclusive(self, now: float) -> None:
        """Kill exclusive jobs if the claim on them is about to end; called from another thread."""
        ...


class Watchdog:
    """Looks after one supervisor while the block lasts.

    Args:
        supervisor: Whom.
        still_for: Seconds without a round of its loop after which the process ends.
    """

    def __init__(self, supervisor: Guarded, still_for: float = STILL_FOR) -> None:
        self._supervisor = supervisor
        self._still_for = still_for
        self._looked_at = self._since = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="queuelib-watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(min(_LOOK_EVERY, self._still_for / 5)):
            if self.is_stuck(time.monotonic()):
                _log.critical(
                    "the worker's loop has stood still for %g s; it ends with status %d", self._still_for, STUCK
                )
                faulthandler.dump_traceback(all_threads=True)
                os._exit(STUCK)

    def is_stuck(self, now: float) -> bool:
        """Look once; return whether the loop has stood still for too long although this process ran."""
        self._supervisor.kill_exclusive(now)
        if now - self._looked_at > _WAS_STOPPED:
            self._since = now
        self._looked_at = now
        return now - max(self._supervisor.ticked_at, self._since) > self._still_for
