"""Functions that are no tasks, for executors of any kind."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from tests.waiting import eventually


def double(x: Any) -> Any:
    """Return twice as much."""
    return x * 2


def take(*args: Any, **kwargs: Any) -> Any:
    """Return what it was called with."""
    return args, kwargs


def invert(x: int) -> float:
    """Return one over x."""
    return 1 / x


def fail_from(text: str) -> None:
    """Raise an error that has a cause."""
    try:
        os.environ[f"no {text}"]
    except KeyError as error:
        raise ValueError(text) from error


def stop(x: int) -> int:
    """Raise what ends an iteration, for one number."""
    if x == 2:
        raise StopIteration(x)
    return x


def touch(folder: str, name: Any) -> int:
    """Leave a file."""
    Path(folder, str(name)).touch()
    return os.getpid()


def hold(gate: str, value: Any = None) -> Any:
    """Return a value once a file is there."""
    eventually(Path(gate).exists, within=60.0)
    return value


def hold_at(gate: str, x: int, y: int) -> int:
    """Return the second number, once a file is there if both are equal."""
    return hold(gate, y) if x == y else y


def later(seconds: float, value: Any) -> Any:
    """Return a value a little later than others."""
    time.sleep(seconds)  # the caller is to be waiting by then, and nobody can open a gate for it: it blocks
    return value


async def twice(x: int) -> int:
    """Return twice as much, as a coroutine."""
    return 2 * x


class Scale:
    """Multiplies."""

    def __init__(self, by: int) -> None:
        self.by = by

    def of(self, x: int) -> int:
        """Return so many times as much."""
        return self.by * x

    def __call__(self, x: int) -> int:
        """Do the same."""
        return self.of(x)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scale) and other.by == self.by

    __hash__ = None  # type: ignore[assignment]


class Exits:
    """Raises what ends programs when its pickle is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, (3,)


class Interrupts:
    """Raises what the keyboard does when its pickle is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _interrupt, ()


def _interrupt() -> None:
    raise KeyboardInterrupt
