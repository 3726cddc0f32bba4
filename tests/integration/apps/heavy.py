"""A user's module whose arguments and results are large."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from queuelib import Dispatcher, Handlers, current_job

dispatcher = Dispatcher(
    os.environ.get("BROKER", "memory://heavy"),
    results=os.environ.get("RESULTS"),
    namespace=os.environ.get("NAMESPACE", "heavy"),
)


@dispatcher.task
def total(data: NDArray[np.float64], plus: int = 0) -> float:
    """Return a sum, and change the argument, which is nobody else's."""
    found = float(data.sum()) + plus
    data[:] = -1.0
    return found


@dispatcher.task(timeout=30.0)
def within(data: list[int], *more: bytes, **named: Any) -> int:
    """Return how much came, by every kind of parameter."""
    return len(data) + sum(map(len, more)) + sum(map(len, named.values()))


@dispatcher.task(retries=2, backoff=0.05)
def third_time(data: bytes) -> int:
    """Fail twice."""
    if current_job().attempt < 3:
        raise ValueError(current_job().attempt)
    return len(data)


@dispatcher.task
def make(number: int, size_bytes: int = 1_000_000) -> bytes:
    """Return that many bytes."""
    return bytes([number]) * size_bytes


@dispatcher.task
def note_and_make(path: str, number: int) -> bytes:
    """Write down that it ran, then do what `make` does."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{number}\n".encode())
    os.close(fd)
    return bytes([number]) * 1_000_000


@dispatcher.task
def sizes(values: list[bytes]) -> list[int]:
    """Return their lengths."""
    return [len(value) for value in values]


@dispatcher.message(name="heavy.picture")
@dataclass(frozen=True)
class Picture:
    """A message with a large field."""

    name: str
    pixels: bytes


class Viewer(Handlers):
    """Looks at it."""

    def visit_Picture(self, picture: Picture) -> str:
        """Name it."""
        return f"{picture.name} {len(picture.pixels)}"


dispatcher.register(Viewer())
