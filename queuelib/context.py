"""What a handler knows of the job it runs, and may tell, save and ask while it does.

A parameter annotated `Context` is filled by the worker and is no part of the message; `current_job()` is the same object.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from datetime import timedelta
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol

from queuelib.errors import ArgumentError, MissingDriver, QueuelibError, RegistrationError, Retry, SoftTimeLimit
from queuelib.ids import Key, job_id

if TYPE_CHECKING:
    from numpy.random import Generator

__all__ = [
    "Context",
    "Desk",
    "Place",
    "Progress",
    "current_job",
    "lending",
    "limit_behind",
    "place_of",
    "running",
    "waiting",
]

_MOST_TEXT = 1000  # characters of a message that travel
_NOBODY = Key(bytes(16), 0)
_UNREAD = object()


class Progress(NamedTuple):
    """How far a running job says it is.

    Attributes:
        done: What is done, in whatever unit the handler counts.
        total: What there is to do in the same unit, or None if it did not say.
        message: A line for people.
        time: Wall time in seconds since 1970 at which it was told.
    """

    done: float
    total: float | None = None
    message: str = ""
    time: float = 0.0


class Desk(Protocol):
    """Through which a job in a worker reaches whoever keeps what it tells and saves."""

    def tell(self, number: int, progress: Progress) -> None:
        """Take note of progress; the newest leaves soon."""
        ...

    def save(self, number: int, state: Any, *, wait: bool) -> None:
        """Hand a state over."""
        ...

    def load(self, key: Key) -> Any:
        """Return the newest state of a job, None if there is none."""
        ...

    def is_lost(self, number: int) -> bool:
        """Whether others may run the job by now."""
        ...

    def is_cancelled(self, number: int) -> bool:
        """Whether it was asked to stop."""
        ...


class Context:
    """The job that this handler runs. Made without arguments, it stands for one in a test of a handler as a function.

    Attributes:
        key: The job.
        task: Wire name of its task.
        attempt: 1 for the first run, one more for each retry.
        worker: Name of the worker.

    Example:
        >>> def count(n: int, context: Context) -> int:
        ...     for done in range(context.state or 0, n):
        ...         context.progress(done, n)
        ...         context.save(done + 1)
        ...     return context.state
        >>> count(3, Context())
        3
    """

    __slots__ = ("_desk", "_draws", "_generator", "_logger", "_number", "_state", "attempt", "key", "task", "worker")

    def __init__(  # noqa: PLR0917 - what a job is, and where it sits
        self,
        key: Key = _NOBODY,
        task: str = "",
        attempt: int = 1,
        worker: str = "",
        draws: tuple[int, int] | None = None,
        desk: Desk | None = None,
        number: int = 0,
    ) -> None:
        self.key = key
        self.task = task
        self.attempt = attempt
        self.worker = worker
        self._draws = draws
        self._desk = desk
        self._number = number
        self._state: Any = None if desk is None else _UNREAD
        self._generator: Generator | None = None
        self._logger: _Logger | None = None

    @property
    def id(self) -> str:
        """Public id."""
        return job_id(*self.key)

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Tell how far the job is; `job.progress` at the client shows the newest.

        It costs a few microseconds and may be called for every step: about five a second leave the process, the newest
        always within a quarter of a second, and the last before the job's end.

        Args:
            done: What is done, in any unit.
            total: What there is to do, in the same one.
            message: A line for people; of a longer one the first 1,000 characters.

        Raises:
            ArgumentError: A number is no number, or the message no text.
        """
        if self._desk is not None:
            self._desk.tell(self._number, _progress(done, total, message))

    def save(self, state: Any, *, wait: bool = False) -> None:
        """Keep a state from which another attempt can go on, in place of the one before it.

        When this returns the state has left the process: the death of this process loses nothing. It is stored within
        about 0.2 s, so the death of the whole worker may lose what was saved in that time, and with `wait=True` nothing.
        The state goes when the job ends. If others may run the job by now (`lost_lease`), it is dropped.

        Args:
            state: Anything that could be a result; it is read by `state` as a result without an annotation would be.
            wait: Whether to return only once it is stored, however long that takes.

        Raises:
            EncodeError, TooLarge: It cannot travel, or is larger than a message may be.
            QueuelibError: With `wait=True`: others may run this job by now, so it was dropped.
        """
        if self._desk is not None:
            self._desk.save(self._number, state, wait=wait)
        self._state = state

    @property
    def state(self) -> Any:
        """What was saved last, by this attempt or one before it; None if nothing was.

        Raises:
            BrokerUnavailable: The result backend has not answered for some seconds.
            ConfigurationError: It keeps no states.
        """
        if self._state is _UNREAD:
            assert self._desk is not None
            self._state = self._desk.load(self.key)
        return self._state

    @property
    def cancelled(self) -> bool:
        """Whether `job.cancel(running=True)` was called; it is told within about half a second."""
        return self._desk is not None and self._desk.is_cancelled(self._number)

    @property
    def lost_lease(self) -> bool:
        """Whether the worker has lost its claim on this job, so that another one may run it by now.

        A handler that asks from time to time can stop; of what it still brings only a success is stored, and only if no
        other was. It is told within about a second after the worker itself has learned of it.
        """
        return self._desk is not None and self._desk.is_lost(self._number)

    def retry(self, delay: float | timedelta | None = None, *, reason: str = "retry asked for") -> NoReturn:
        """End this attempt and have the job run again, after `delay` where given; it counts as one of its retries.

        Raises:
            Retry: Always.
            ArgumentError, ConfigurationError: The delay makes no sense.
        """
        raise Retry(delay, reason=reason)

    @property
    def rng(self) -> Generator:
        """A numpy generator of this job's own, always the same one.

        With `seed=` among the options of the call, that of job `i` is `SeedSequence(seed, spawn_key=(i,))`: the same bits
        as in a serial loop, on every broker and however jobs travel. Without, it is made from the job's id. Either way
        each attempt begins with the same numbers.

        Raises:
            MissingDriver: numpy is not installed.
        """
        if self._generator is None:
            try:
                from numpy.random import SeedSequence, default_rng  # noqa: PLC0415 - for those who draw
            except ImportError as error:
                msg = 'context.rng needs numpy: pip install "queuelib-kombu[science]"'
                raise MissingDriver(msg) from error
            seed, at = self._draws or (int.from_bytes(self.key.bundle, "big"), self.key.index)
            self._generator = default_rng(SeedSequence(seed, spawn_key=(at,)))
        return self._generator

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger called as the task, whose records have the attributes `job_id`, `attempt` and `worker`."""
        if self._logger is None:
            extra = {"job_id": self.id, "attempt": self.attempt, "worker": self.worker}
            self._logger = _Logger(logging.getLogger(self.task), extra)
        return self._logger

    def __repr__(self) -> str:
        return f"<Context of {self.id} of {self.task}, attempt {self.attempt}>"


class _Logger(logging.LoggerAdapter[logging.Logger]):
    """Adds what the job is to what a call gives as `extra`; that of logging itself replaces it, before Python 3.13."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(kwargs.get("extra") or {}), **(self.extra or {})}
        return msg, kwargs


running: ContextVar[Callable[[], Context] | None] = ContextVar("queuelib_running", default=None)
# What it is called with: whether the wait blocks its thread.
lending: ContextVar[Callable[[bool], AbstractContextManager[object]] | None] = ContextVar(
    "queuelib_lending", default=None
)


def waiting(*, blocks: bool) -> AbstractContextManager[object]:
    """Return the context in which somebody waits for jobs: in a handler, its worker runs others meanwhile.

    Args:
        blocks: Whether its thread can do nothing else meanwhile.

    Raises:
        QueuelibError: It would keep the coroutines of other jobs from going on.
    """
    lend = lending.get()
    return nullcontext() if lend is None else lend(blocks)


def limit_behind(error: BaseException) -> SoftTimeLimit | None:
    """Return the time limit of a handler that made a call of ours fail: drivers take it for a timeout of their own."""
    behind: BaseException | None = error
    while behind is not None and not isinstance(behind, SoftTimeLimit):
        behind = behind.__cause__ or behind.__context__
    return behind


def current_job() -> Context:
    """Return the job that is running here.

    Raises:
        QueuelibError: No worker called this code.
    """
    describe = running.get()
    if describe is None:
        msg = "current_job() was called outside of a worker: no job is running here"
        raise QueuelibError(msg)
    return describe()


class Place(NamedTuple):
    """Where a function wants its context.

    Attributes:
        name: Name of the parameter.
        at: How many arguments by position stand before it; None if it is given by name.
    """

    name: str
    at: int | None

    def fill(self, function: Callable[..., Any], describe: Callable[[], Context]) -> Callable[..., Any]:
        """Return a function of all other parameters."""
        name, at = self
        if at is None:
            return lambda *args, **kwargs: function(*args, **{name: describe()}, **kwargs)
        return lambda *args, **kwargs: function(*args[:at], describe(), *args[at:], **kwargs)


def place_of(function: Callable[..., Any]) -> Place | None:
    """Return where a function wants its context; None if nowhere.

    Raises:
        RegistrationError: In two places, or as one of any number.
    """
    import inspect  # noqa: PLC0415 - 5 ms, unneeded by a program that only submits messages of others

    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):  # some that are written in C say nothing of theirs
        return None
    found: list[Place] = []
    at = 0
    for parameter in parameters:
        is_any_number = parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}
        if _is_context(parameter.annotation, getattr(function, "__globals__", {})):
            if is_any_number:
                msg = f"{_named(function)} takes any number of contexts as {parameter.name!r}: a job has one"
                raise RegistrationError(msg)
            found.append(Place(parameter.name, None if parameter.kind is parameter.KEYWORD_ONLY else at))
        at += parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}
    if len(found) > 1:
        msg = f"{_named(function)} has two parameters for its context, {found[0].name!r} and {found[1].name!r}: a job has one"
        raise RegistrationError(msg)
    return found[0] if found else None


def _is_context(annotation: object, names: dict[str, Any]) -> bool:
    if isinstance(annotation, str):
        try:
            # As `typing.get_type_hints` does, one by one: what another parameter names may not be defined yet.
            annotation = eval(annotation, names)  # noqa: S307 - the function's own source
        except Exception:  # noqa: BLE001 - it is read again, and complained about, when it is needed
            return False
    return annotation is Context or annotation == Context | None


def _named(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))


def _progress(done: object, total: object, message: object) -> Progress:
    if not isinstance(message, str):
        msg = f"the message of progress() is a text, not {message!r:.100}"
        raise ArgumentError(msg)
    return Progress(_number(done), None if total is None else _number(total), message[:_MOST_TEXT], time.time())


def _number(value: object) -> float:
    if type(value) in {int, float}:
        return value  # type: ignore[return-value]  # one of them
    if not isinstance(value, Real):
        msg = f"progress() takes numbers, not {value!r:.100}"
        raise ArgumentError(msg)
    return float(value)
