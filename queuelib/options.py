"""What a task or a single call may ask for, checked once and in one place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypedDict

from queuelib.clock import seconds
from queuelib.errors import ConfigurationError
from queuelib.message import Limits
from queuelib.settings import LONGEST_DELAY, MAX_RETRIES, MAX_SEED

__all__ = [
    "CallOptions",
    "TaskOptions",
    "Wishes",
    "check_once",
    "checked_seed",
    "duration",
    "make_limits",
    "make_options",
    "time_to_keep",
]

Duration = float | timedelta
_LEAST_KEPT = 1.0  # seconds; an outcome that is forgotten before anybody can read it would be none
HARD_MARGIN = 10.0  # seconds between the soft limit and the kill, for handlers that clean up


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """Options of a task, as its decorator got them.

    Attributes:
        color: Name of its color; None: by route, else the palette's default.
        limits: Time limits and retries.
        retry_for: Exceptions that may be retried.
        give_up_on: Exceptions that are not, although `retry_for` has them.
        exclusive: Whether it is killed before the worker's claim on it ends.
        at_most_once: Whether it must not start a second time, whatever happened to the first.
    """

    color: str | None = None
    limits: Limits = Limits()  # noqa: RUF009 - frozen
    retry_for: tuple[type[BaseException], ...] = (Exception,)
    give_up_on: tuple[type[BaseException], ...] = ()
    exclusive: bool = False
    at_most_once: bool = False


class Wishes(TypedDict, total=False):
    """What a task or message class may be registered with; all of it may be left out.

    name: Wire name; else its module and qualified name.
    color: Name of its color.
    retries: Attempts after a failure.
    timeout: Soft time limit in seconds: `SoftTimeLimit` is raised in the handler.
    hard_timeout: Seconds after which the child is killed; the soft limit + 10 s unless given.
    backoff: Longest wait in seconds before the first retry; it doubles each time, with full jitter.
    max_backoff: Cap of that wait, in seconds.
    retry_for: Exceptions that are retried.
    give_up_on: Exceptions that are not, although `retry_for` has them.
    exclusive: Kill it, and let it run again, before its worker's claim on it ends: a worker that is cut off from the
        broker does not go on with it while another one starts it.
    at_most_once: Never start it a second time. If its process dies while it runs, the job ends with `JobLost`.
    """

    name: str | None
    color: str | None
    retries: int
    timeout: Duration | None
    hard_timeout: Duration | None
    backoff: Duration | None
    max_backoff: Duration | None
    retry_for: Sequence[type[BaseException]]
    give_up_on: Sequence[type[BaseException]]
    exclusive: bool
    at_most_once: bool


@dataclass(frozen=True, slots=True)
class CallOptions:
    """Options of one call; None leaves what the task says.

    Attributes:
        color: Name of its color.
        delay: Seconds from now before which it does not start.
        expires: Seconds from now after which it does not start any more.
        limits: Time limits and retries, complete.
        seed: Root of the random numbers of all jobs of the call.
    """

    color: str | None = None
    delay: float | None = None
    expires: float | None = None
    limits: Limits | None = None
    seed: int | None = None


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


def make_options(wishes: Wishes) -> TaskOptions:
    """Return the options of a task.

    Raises:
        ConfigurationError: One is unknown or makes no sense, or two contradict each other.
    """
    if unknown := sorted(set(wishes) - set(Wishes.__annotations__)):
        msg = f"a task has no option {unknown[0]!r}; it has {', '.join(Wishes.__annotations__)}"
        raise ConfigurationError(msg)
    limits = make_limits(
        Limits(),
        retries=wishes.get("retries"),
        timeout=wishes.get("timeout"),
        hard_timeout=wishes.get("hard_timeout"),
        backoff=wishes.get("backoff"),
        max_backoff=wishes.get("max_backoff"),
    )
    options = TaskOptions(
        wishes.get("color"),
        limits,
        _exceptions("retry_for", wishes.get("retry_for", (Exception,))),
        _exceptions("give_up_on", wishes.get("give_up_on", ())),
        exclusive=bool(wishes.get("exclusive", False)),
        at_most_once=bool(wishes.get("at_most_once", False)),
    )
    check_once(options, limits)
    return options


def check_once(options: TaskOptions, limits: Limits) -> None:
    """Refuse retries of what must not start twice.

    Raises:
        ConfigurationError: Both were asked for.
    """
    if options.at_most_once and limits.retries:
        msg = f"at_most_once and retries={limits.retries} contradict each other: a retry is a second start"
        raise ConfigurationError(msg)


def _exceptions(name: str, classes: object) -> tuple[type[BaseException], ...]:
    """Return classes of exceptions as a tuple; in a child anything else would be found out at the first failure."""
    if isinstance(classes, Iterable) and not isinstance(classes, str):
        found: list[object] = list(classes)
        exceptions = tuple(one for one in found if isinstance(one, type) and issubclass(one, BaseException))
        if len(exceptions) == len(found):
            return exceptions
    msg = f"{name} is a list of exception classes, like [ValueError], not {classes!r}"
    raise ConfigurationError(msg)


def checked_seed(seed: object) -> int:
    """Return a root for random numbers.

    Raises:
        ConfigurationError: It is no integer from 0 to 2**64 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < MAX_SEED:
        msg = f"seed is an integer from 0 to 2**64 - 1, not {seed!r:.100}"
        raise ConfigurationError(msg)
    return seed


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


def time_to_keep(value: Duration) -> float:
    """Return for how many seconds outcomes are kept.

    Raises:
        ConfigurationError: It is less than a second, or makes no sense as a duration.
    """
    result = duration("keep", value, above_zero=True)
    if result < _LEAST_KEPT:
        msg = f"keep is at least {_LEAST_KEPT:g} s, not {value!r}: an outcome must live until it is read"
        raise ConfigurationError(msg)
    return result
