"""When a worker that was told to stop interrupts what still runs, and when it kills what was interrupted."""

from __future__ import annotations

__all__ = ["Stopping"]

_LAST_SECONDS = 2.0  # for interrupted handlers to put things in order


class Stopping:
    """What became of the order to stop.

    Args:
        grace: Seconds for which what runs may go on after the first order; None: until the second one.

    Attributes:
        is_ordered: Whether it was told to stop.
        since: When it began to end; 0 before the first order was noticed.
    """

    def __init__(self, grace: float | None) -> None:
        self._grace = grace
        self._orders = 0
        self.is_ordered = False
        self.since = 0.0
        self._interrupt_at = 0.0  # 0 before the first order was noticed
        self._kill_at = 0.0  # 0 before it was interrupted

    def order(self) -> None:
        """Tell it to stop, or once more: not to wait for what runs. Safe in signal handlers and other threads."""
        self._orders += 1
        self.is_ordered = True

    def order_once(self) -> None:
        """Tell it to stop if nobody has."""
        self._orders = max(self._orders, 1)
        self.is_ordered = True

    def begin(self, now: float) -> None:
        """Count from now on, unless it does already."""
        if not self.since:
            self.since = now
            self._interrupt_at = float("inf") if self._grace is None else now + self._grace

    def is_out_of_time(self, now: float) -> bool:
        """Whether what runs is not waited for any more."""
        return self._orders > 1 or bool(self._interrupt_at and now >= self._interrupt_at)

    @property
    def has_interrupted(self) -> bool:
        """Whether what runs was interrupted."""
        return self._kill_at > 0

    def interrupted(self, now: float) -> None:
        """Note that it was, just now."""
        self._kill_at = now + _LAST_SECONDS

    def is_to_kill(self, now: float) -> bool:
        """Whether what was interrupted has had its time."""
        return self.has_interrupted and now >= self._kill_at

    def pause(self, now: float) -> float:
        """Return the seconds until something is to be done here."""
        end = self._kill_at or self._interrupt_at
        return end - now if end > now else float("inf")
