"""A clock that stands still until a test moves it: what is delayed, or waits for a retry, is due without sleeping."""

from __future__ import annotations

import time
from datetime import timedelta

from queuelib.clock import Clock, seconds

__all__ = ["FakeClock"]


class FakeClock:
    """Wall time for one test. Waits go on in real time: only what is due, and when, is on this clock.

    Args:
        start: Seconds since the epoch at which it stands; None: now.

    Example:
        >>> clock = FakeClock(1_000.0)
        >>> clock.advance(60)
        1060.0
        >>> clock.now
        1060.0
    """

    def __init__(self, start: float | None = None) -> None:
        self._now = time.time() if start is None else float(start)
        self.clock = Clock(wall=lambda: self._now)  # what a dispatcher takes as its `clock`

    @property
    def now(self) -> float:
        """Seconds since the epoch."""
        return self._now

    def advance(self, by: float | timedelta) -> float:
        """Move forward, in seconds or as a timedelta, and return the new time. It runs nothing by itself.

        Raises:
            ValueError: Time does not go back.
        """
        step = seconds(by)
        if not step >= 0:
            msg = f"time does not go back: advance({by!r})"
            raise ValueError(msg)
        self._now += step
        return self._now

    def __repr__(self) -> str:
        return f"<FakeClock at {self._now:.3f}>"
