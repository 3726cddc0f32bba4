"""When to look at which of many jobs, if nobody says which of them has ended."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice

from queuelib.ids import Key

__all__ = ["WINDOW", "Round"]

WINDOW = 256  # jobs looked up at once


class Round:
    """Goes round some jobs again and again: at growing intervals as long as it finds nothing, and within its share."""

    def __init__(self, jobs: Collection[Key], shortest: float, longest: float) -> None:
        self._jobs = jobs
        self._shortest, self._longest = shortest, longest
        self._pause = shortest
        self._rest: Iterator[Key] | None = None
        self._is_hastened = False
        self._earliest = 0.0
        self.due = 0.0

    def put_off(self, now: float) -> None:
        """Begin with short intervals again: all jobs were looked at, and there are new ones."""
        self._pause = self._shortest
        if self._rest is None:
            self.due = max(now + self._pause, self._earliest)

    def hasten(self, now: float) -> None:
        """Begin a round at once, or after the one that is under way."""
        self._is_hastened = self._rest is not None
        self.due = max(min(self.due, now), self._earliest)

    def window(self, now: float) -> list[Key]:
        """Return the jobs to be looked at now."""
        if now < self.due:
            return []
        if self._rest is None:
            self._rest = iter(list(self._jobs))
        window = list(islice(self._rest, WINDOW))
        if len(window) < WINDOW:
            self._rest = None
            self.due = now + self._pause
        return window

    def go_on(self, now: float, cost: float, *, has_found: bool) -> None:
        """Decide when to look next, after a look that has found something or not.

        Args:
            now: Monotonic time.
            cost: Seconds that have to pass for the share to be kept.
            has_found: Whether a job had ended.
        """
        self._earliest = now + cost
        if has_found:
            self._pause = self._shortest
        if self._rest is not None or self._is_hastened:
            self._is_hastened = self._is_hastened and self._rest is not None
            self.due = self._earliest
        else:
            self.due = max(now + self._pause, self._earliest)
            self._pause = min(2 * self._pause, self._longest)
