"""The work itself, the same plain functions for every contestant."""

from __future__ import annotations

import os
import time

__all__ = ["fib", "fib_all", "nap", "noop"]


def noop(x: int) -> int:
    """Return `x`."""
    return x


def nap(seconds: float) -> int:
    """Sleep, and tell which process did."""
    time.sleep(seconds)
    return os.getpid()


def fib(n: int) -> int:
    """Return the Fibonacci number F(n), the slow way."""
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def fib_all(numbers: list[int]) -> list[int]:
    """Return F(n) of each: the batch of who needs jobs to be large."""
    return [fib(n) for n in numbers]
