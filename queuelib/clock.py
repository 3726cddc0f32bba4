"""Time as an argument: wall time for what is stored and compared between machines, monotonic time for waits."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SYSTEM", "Clock", "seconds"]


@dataclass(frozen=True, slots=True)
class Clock:
    """The two clocks of a process, both in seconds; tests bring their own."""

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


SYSTEM = Clock()


def seconds(value: float | timedelta) -> float:
    """Return a duration in seconds, whichever way the caller wrote it."""
    return value.total_seconds() if isinstance(value, timedelta) else float(value)
