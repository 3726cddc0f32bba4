"""How long a failed job waits before it is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable

from queuelib.message import Limits
from queuelib.settings import LONGEST_DELAY

__all__ = ["delay_before"]


def delay_before(attempt: int, limits: Limits, *, uniform: Callable[[float, float], float] = random.uniform) -> float:
    """Return the wait in seconds before attempt number `attempt` (2 for the first retry).

    Exponential back-off with full jitter: uniform between 0 and `backoff * 2 ** (attempt - 2)`, capped. Full jitter
    spreads clients that failed together better than any narrower one (M. Brooker, "Exponential Backoff And Jitter",
    AWS Architecture Blog, 2015).
    """
    exponent = min(max(attempt - 2, 0), 60)  # 2 ** 60 seconds is beyond every cap
    return float(uniform(0.0, min(limits.max_backoff, limits.backoff * 2.0**exponent, LONGEST_DELAY)))
