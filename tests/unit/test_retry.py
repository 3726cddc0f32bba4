"""How long a failed job waits, and what a handler may ask for."""

from __future__ import annotations

import math
import random
from datetime import timedelta
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuelib.errors import ArgumentError, ConfigurationError, Retry
from queuelib.message import Limits
from queuelib.retry import delay_before
from tests.unit.fakes import LIMITS, quick


@quick
@given(attempt=st.integers(0, 2**31), limits=LIMITS, seed=st.integers())
def test_the_wait_keeps_to_its_bounds(attempt: int, limits: Limits, seed: int) -> None:
    """It is never negative, above the cap, or above the doubled back-off, whatever the attempt."""
    wait = delay_before(attempt, limits, uniform=random.Random(seed).uniform)
    assert 0.0 <= wait <= limits.max_backoff
    assert wait <= limits.backoff * 2.0 ** min(max(attempt - 2, 0), 60)


@pytest.mark.parametrize(
    ("attempt", "longest"), [(2, 1.0), (3, 2.0), (4, 4.0), (11, 512.0), (12, 600.0), (10**9, 600.0)]
)
def test_it_doubles_up_to_the_cap(attempt: int, longest: float) -> None:
    """The longest wait before the first retry is the back-off, and doubles with each."""
    assert delay_before(attempt, Limits(), uniform=lambda _, high: high) == longest


def test_jitter_is_full() -> None:
    """The shortest wait is none at all."""
    assert delay_before(5, Limits(), uniform=lambda low, _: low) == 0.0


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [(None, None), (0, 0.0), (2.5, 2.5), (timedelta(minutes=1), 60.0), (Fraction(1, 2), 0.5), (np.int64(3), 3.0)],
)
def test_a_handler_may_say_when(delay: Any, seconds: float | None) -> None:
    """`Retry` takes seconds of any number type, or a timedelta, and turns them into what the pipe to the worker carries."""
    asked = Retry(delay).delay
    assert asked == seconds
    assert type(asked) in {float, type(None)}


@pytest.mark.parametrize("delay", ["server busy", True, [1]])
def test_a_delay_is_a_number(delay: Any) -> None:
    """A reason in the place of the delay fails where it is written, and the message says how to give one."""
    with pytest.raises(ArgumentError, match=r"not .*; for a text write Retry\(reason=\.\.\.\)"):
        Retry(delay)


@pytest.mark.parametrize("delay", [-1, math.nan, math.inf, timedelta(seconds=-1)])
def test_a_delay_can_come(delay: Any) -> None:
    """A moment that is past or never comes is refused."""
    with pytest.raises(ConfigurationError, match="zero or more, finite seconds"):
        Retry(delay)


def test_a_reason() -> None:
    """It is the error's text, for the record of the failure when no retry is left."""
    assert str(Retry(reason="the disk is full")) == "the disk is full"
