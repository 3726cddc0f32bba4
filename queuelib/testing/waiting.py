"""Waiting for a condition in a test, without guessing how long it takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["eventually"]

_PAUSE = threading.Event()  # never set: waiting on it is a pause


def eventually(condition: Callable[[], object], *, within: float, what: str = "") -> None:
    """Return as soon as `condition()` is true.

    Raises:
        AssertionError: It was not within `within` seconds.
    """
    end = time.monotonic() + within
    while not condition():
        if time.monotonic() >= end:
            msg = f"not within {within:g} s: {what or condition!r}"
            raise AssertionError(msg)
        _PAUSE.wait(0.005)
