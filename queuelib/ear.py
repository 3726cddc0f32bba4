"""What was told of jobs that have ended, until a thread comes to hear it: the `Listening` of backends that are told."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from queuelib.ids import Key
    from queuelib.outcome import Record

__all__ = ["Ear"]

_MOST = 100_000  # runs of jobs that are remembered; of more only that there were some


class Ear:
    """Remembers the ends that one thread is told of by others.

    Args:
        tells_of: Says whether the end of a job will be told here.
        on_close: Called when nobody listens any more.
    """

    def __init__(self, tells_of: Callable[[Key], bool], on_close: Callable[[Ear], object]) -> None:
        self.tells_of = tells_of
        self._on_close = on_close
        self._changed = threading.Condition(threading.Lock())
        self._told: list[tuple[bytes, int, int]] = []
        self._is_woken = False

    def tell(self, records: Iterable[Record]) -> None:
        """Take in records, of which those that are final count."""
        told = [(record.key.bundle, record.key.index, record.count) for record in records if record.is_final]
        if told:
            with self._changed:
                if len(self._told) <= _MOST:
                    self._told += told
                self._changed.notify()

    def wait(self, timeout: float) -> Sequence[tuple[bytes, int, int]] | None:
        """Return what was told, once there is anything or after `timeout` seconds; None if it was too much to keep."""
        with self._changed:
            self._changed.wait_for(lambda: self._told or self._is_woken, timeout)
            told, self._told = self._told, []
            self._is_woken = False
        return told if len(told) <= _MOST else None

    def wake(self) -> None:
        """End the wait, or the next one."""
        with self._changed:
            self._is_woken = True
            self._changed.notify()

    def close(self) -> None:
        """Listen no more."""
        self._on_close(self)
