"""Threads that run jobs for whoever waits without a thread: a coroutine's `await job`, and whatever else watches jobs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from queuelib.ids import Key

__all__ = ["Background"]


class Background:
    """Runs jobs that are wanted, in order, in as few threads as do not wait for each other.

    Args:
        run: Runs jobs until one of these has ended, or nothing is left to run.
        count_busy: Returns in how many handlers somebody is: each may be one of these threads, which waits.
    """

    def __init__(self, run: Callable[[Sequence[Key]], object], count_busy: Callable[[], int]) -> None:
        self._run = run
        self._count_busy = count_busy
        self._lock = threading.Lock()
        self._wanted: deque[Key] = deque()
        self._threads: set[threading.Thread] = set()
        self._is_over = False

    def want(self, keys: Iterable[Key]) -> None:
        """Have these jobs run soon."""
        busy = self._count_busy()
        with self._lock:
            if self._is_over:
                return
            self._wanted.extend(keys)
            if self._wanted and len(self._threads) <= busy:
                thread = threading.Thread(target=self._serve, name="queuelib-handlers", daemon=True)
                self._threads.add(thread)
                thread.start()

    def watching(self, add: Callable[..., None]) -> Callable[..., None]:
        """Return what watches jobs as `add` does, and has them run where somebody waits for their ends."""

        def add_and_want(jobs: Iterable[Any], *args: Any, is_patient: bool = False, **kwargs: Any) -> None:
            some = list(jobs)
            add(some, *args, is_patient=is_patient, **kwargs)
            # A callback for whenever it ends waits for nothing; a pool's future is to run whether anybody waits or not.
            self.want(job.key for job in some if not is_patient or _is_future(job))

        return add_and_want

    def close(self) -> None:
        """End the threads: what is wanted from here on does not run."""
        with self._lock:
            self._is_over = True
            self._wanted.clear()
            threads = list(self._threads)
        for thread in threads:
            thread.join(_LEAVE_WITHIN)

    def _serve(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    self._threads.discard(threading.current_thread())
                    return
                key = self._wanted.popleft()
            self._run([key])


_LEAVE_WITHIN = 1.0  # seconds for a thread to see that nothing runs any more; what its handler gets is over by then


def _is_future(job: object) -> bool:
    return isinstance(job, Future)
