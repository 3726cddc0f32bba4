"""What a task or a single call may ask for, checked once and in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta

from queuelib.clock import seconds
from queuelib.errors import ConfigurationError
from queuelib.message import Limits
from queuelib.settings import LONGEST_DELAY, MAX_RETRIES

__all__ = ["CallOptions", "TaskOptions"]

Duration = float | timedelta
HARD_MARGIN = 10.0  # seconds between the soft limit and the kill, for handlers that clean up


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """Options of a task, as its decorator got them.

    Attributes:
        color: Name of its color; None: by route, else the palette's default.
        limits: Time limits and retries.
        retry_for: Exceptions that may be retried.
        give_up_on: Exceptions that are not, although `retry_for` has them.
    """

    color: str | None = None
    limits: Limits = Limits()  # noqa: RUF009 - frozen
    retry_for: tuple[type[BaseException], ...] = (Exception,)
    give_up_on: tuple[type[BaseException], ...] = ()


@dataclass(frozen=True, slots=True)
class CallOptions:
    """Options of one call; None leaves what the task says.

    Attributes:
        color: Name of its color.
        delay: Seconds from now before which it does not start.
        expires: Seconds from now after which it does not start any more.
        limits: Time limits and retries, complete.
    """

    color: str | None = None
    delay: float | None = None
    expires: float | None = None
    limits: Limits | None = None


NO_OPTIONS = CallOptions()


def make_limits(
    base: Limits,
    *,
    timeout: Duration | None = None,
    hard_timeout: Duration | None = None,
    retries: int | None = None,
    backoff: Duration | None = None,
    max_backoff: Duration | None = None,
) -> Limits:
    """Return `base` with what is given put in its place.

    Raises:
        ConfigurationError: A number is negative, not finite, or of the wrong type, or the hard limit is below the soft one.
    """
    if timeout is not None:
        soft = duration("timeout", timeout, above_zero=True)
        base = base._replace(timeout=soft, hard_timeout=soft + HARD_MARGIN)
    if hard_timeout is not None:
        base = base._replace(hard_timeout=duration("hard_timeout", hard_timeout, above_zero=True))
    if retries is not None:
        if type(retries) is not int or not 0 <= retries <= MAX_RETRIES:
            msg = f"retries is a number of attempts, 0 to {MAX_RETRIES:,}, not {retries!r}"
            raise ConfigurationError(msg)
        base = base._replace(retries=retries)
    if backoff is not None:
        base = base._replace(backoff=duration("backoff", backoff))
    if max_backoff is not None:
        base = base._replace(max_backoff=duration("max_backoff", max_backoff))
    if base.timeout is not None and base.hard_timeout is not None and base.hard_timeout < base.timeout:
        msg = (
            f"hard_timeout ({base.hard_timeout:g} s) is below timeout ({base.timeout:g} s): it would always come first"
        )
        raise ConfigurationError(msg)
    return base


def duration(name: str, value: Duration, *, above_zero: bool = False) -> float:
    """Return a duration in seconds.

    Raises:
        ConfigurationError: It is no number or timedelta, negative, longer than ten years, or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | timedelta):  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"{name} is a number of seconds or a timedelta, not {value!r}"
        raise ConfigurationError(msg)
    try:
        result = seconds(value)
    except OverflowError:  # an integer that no float holds
        result = math.inf
    if not math.isfinite(result) or result < 0 or (above_zero and result == 0):
        msg = f"{name} is {'above zero' if above_zero else 'zero or more'} and finite, not {value!r}"
        raise ConfigurationError(msg)
    if result > LONGEST_DELAY:
        msg = f"{name} is at most {LONGEST_DELAY:g} s, ten years, not {value!r}"
        raise ConfigurationError(msg)
    return result
