"""Jobs that do nothing or next to nothing, to measure everything else."""

from __future__ import annotations

from queuelib import Dispatcher

__all__ = ["dispatcher", "fib", "noop"]

dispatcher = Dispatcher(namespace="bench")


@dispatcher.task(name="bench.noop")
def noop(x: int) -> int:
    """Return `x`."""
    return x


@dispatcher.task(name="bench.fib")
def fib(n: int) -> int:
    """Return the Fibonacci number F(n), the slow way.

    Example:
        >>> fib(12)
        144
    """
    return _fib(n)


def _fib(n: int) -> int:
    return n if n < 2 else _fib(n - 1) + _fib(n - 2)  # noqa: PLR2004 - F(0) = 0 and F(1) = 1
