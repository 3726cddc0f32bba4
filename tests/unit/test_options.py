"""Options of tasks and calls: checked once, with the option's name in the error."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest

from queuelib.errors import ConfigurationError
from queuelib.message import Limits
from queuelib.options import HARD_MARGIN, duration, make_limits, make_options, time_to_keep

DURATIONS = ["timeout", "hard_timeout", "backoff", "max_backoff"]


@pytest.mark.parametrize("value", [-1, -0.001, math.nan, math.inf, -math.inf, 10**400, timedelta(seconds=-1)])
def test_a_duration_that_cannot_be(value: Any) -> None:
    """Negative, infinite and not a number are refused, each by its name."""
    for name in DURATIONS:
        options: dict[str, Any] = {name: value}
        with pytest.raises(ConfigurationError, match=f"^{name} is .* and finite, not "):
            make_limits(Limits(), **options)


@pytest.mark.parametrize("value", ["5", True, [5], 5j])
def test_a_duration_of_another_type(value: Any) -> None:
    """Text, truth values and the like are refused, each by its name."""
    for name in DURATIONS:
        options: dict[str, Any] = {name: value}
        with pytest.raises(ConfigurationError, match=f"^{name} is a number of seconds or a timedelta, not "):
            make_limits(Limits(), **options)


@pytest.mark.parametrize("name", ["timeout", "hard_timeout"])
def test_no_time_at_all(name: str) -> None:
    """A limit of zero would end every job at its start."""
    options: dict[str, Any] = {name: 0}
    with pytest.raises(ConfigurationError, match=f"{name} is above zero"):
        make_limits(Limits(), **options)


@pytest.mark.parametrize("value", [-1, 1.0, True, "3", math.inf, 10**6 + 1, 2**70])
def test_retries_are_counted(value: Any) -> None:
    """Anything but a number of attempts that fits on the wire is refused."""
    with pytest.raises(ConfigurationError, match=r"retries is a number of attempts, 0 to 1,000,000, not"):
        make_limits(Limits(), retries=value)


def test_what_is_given_takes_the_place_of_the_base() -> None:
    """All else stays; numbers and timedeltas mean the same."""
    base = Limits(timeout=1.0, hard_timeout=2.0, retries=3, backoff=4.0, max_backoff=5.0)
    assert make_limits(base) == base
    assert make_limits(base, retries=0).retries == 0
    assert make_limits(base, backoff=timedelta(milliseconds=500)) == Limits(1.0, 2.0, 3, 0.5, 5.0)
    assert make_limits(base, max_backoff=0, backoff=0) == Limits(1.0, 2.0, 3, 0.0, 0.0)


def test_the_hard_limit_follows_the_soft_one() -> None:
    """Whoever sets a soft limit gets the kill 10 s later, unless he says otherwise."""
    assert make_limits(Limits(), timeout=60) == Limits(timeout=60.0, hard_timeout=60.0 + HARD_MARGIN)
    assert make_limits(Limits(), timeout=60, hard_timeout=61).hard_timeout == 61.0
    assert make_limits(Limits(hard_timeout=5.0), timeout=60).hard_timeout == 70.0


def test_the_hard_limit_alone() -> None:
    """There may be a kill without a warning."""
    assert make_limits(Limits(), hard_timeout=5) == Limits(hard_timeout=5.0)


@pytest.mark.parametrize("base", [Limits(), Limits(timeout=60.0, hard_timeout=70.0)])
def test_the_hard_limit_below_the_soft_one(base: Limits) -> None:
    """It would always come first, and is refused, be the soft one the call's or the task's."""
    with pytest.raises(ConfigurationError, match=r"hard_timeout \(5 s\) is below timeout \(60 s\)"):
        make_limits(base, timeout=None if base.timeout else 60, hard_timeout=5)


@pytest.mark.parametrize(("value", "result"), [(0, 0.0), (2, 2.0), (0.5, 0.5), (timedelta(hours=1), 3600.0)])
def test_durations(value: Any, result: float) -> None:
    """They are floats of seconds from then on."""
    got = duration("delay", value)
    assert got == result
    assert type(got) is float


@pytest.mark.parametrize("name", ["retry_for", "give_up_on"])
@pytest.mark.parametrize(
    "value", [["ValueError"], ValueError, "ValueError", [ValueError, int], [ValueError()], 5, None]
)
def test_what_is_no_list_of_exceptions(name: str, value: Any) -> None:
    """A child would find it out at the first failure of a job, and could not say what became of it."""
    wishes: Any = {name: value}
    with pytest.raises(ConfigurationError, match=f"^{name} is a list of exception classes, like .ValueError., not "):
        make_options(wishes)


def test_lists_of_exceptions() -> None:
    """In any form that can be gone through, and empty ones."""
    options = make_options({"retry_for": [ValueError, KeyError], "give_up_on": ()})
    assert (options.retry_for, options.give_up_on) == ((ValueError, KeyError), ())


@pytest.mark.parametrize("value", [-1, 0, 0.999, math.nan, math.inf, 10**400, "1h", True, None, timedelta(0)])
def test_a_time_that_keeps_nothing(value: Any) -> None:
    """Outcomes would be forgotten before they are read, or never."""
    with pytest.raises(ConfigurationError, match="^keep is "):
        time_to_keep(value)


@pytest.mark.parametrize(("value", "result"), [(1, 1.0), (timedelta(days=2), 172_800.0), (0.5e6, 500_000.0)])
def test_a_time_to_keep(value: Any, result: float) -> None:
    """A second is the least."""
    assert time_to_keep(value) == result
