"""Waits for a condition instead of sleeping for a guessed time."""

from __future__ import annotations

import time
from threading import Event
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
PAUSE = 0.005  # seconds between two looks: below what any test measures, above a busy loop
_never = Event()


def eventually(condition: Callable[[], T], *, within: float = 5.0, message: str = "") -> T:
    """Return the first true value of `condition`, looked at until `within` seconds have passed.

    Raises:
        AssertionError: it never became true; the message names the condition, the time and its last value.

    """
    end = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= end:
            what = message or getattr(condition, "__qualname__", repr(condition))
            msg = f"not within {within:g} s: {what} (last value: {value!r})"
            raise AssertionError(msg)
        _never.wait(PAUSE)
