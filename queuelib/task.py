"""A task as its user holds it: still the plain function, with `submit` beside it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, Protocol, TypeVar, overload

from queuelib.bundle import Sizes
from queuelib.job import Job
from queuelib.options import CallOptions, Duration, TaskOptions, check_once, checked_seed, duration, make_limits

if TYPE_CHECKING:
    from queuelib.schema import Schema

__all__ = ["Definition", "Signature", "Submitter", "Task", "TaskDecorator"]

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")


@dataclass(frozen=True, slots=True, eq=False)
class Definition:
    """What is registered under a wire name: the types, the options, and the function or message class.

    Attributes:
        name: Wire name.
        schema: Types of arguments and result.
        options: Options of the task.
        function: The decorated function; None for a message class, whose handler a visitor is.
        message_class: The message class; None for a function.
        sizes: How many calls travel together, by their measured run times.
    """

    name: str
    schema: Schema
    options: TaskOptions = field(default_factory=TaskOptions)
    function: Callable[..., Any] | None = None
    message_class: type | None = None
    sizes: Sizes = field(default_factory=Sizes)


class Submitter(Protocol):
    """What a task is submitted by; the decorator binds that of its dispatcher."""

    def submit_call(
        self, definition: Definition, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: CallOptions
    ) -> Job[Any]:
        """Submit one call."""
        ...

    def submit_rows(
        self, definition: Definition, rows: Iterable[tuple[Any, ...]], options: CallOptions
    ) -> list[Job[Any]]:
        """Submit calls, in order."""
        ...

    def submit_signatures(self, signatures: Sequence[Signature[Any]]) -> list[Job[Any]]:
        """Submit calls, and those that they wait for."""
        ...

    def map_rows(
        self,
        definition: Definition,
        rows: Iterable[tuple[Any, ...]],
        options: CallOptions,
        *,
        ordered: bool,
        total: int | None = None,
        bar: bool = False,
    ) -> Generator[Any]:
        """Submit calls lazily and yield their results."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Signature(Generic[R]):
    """A call that is not submitted yet, to be composed with others; `task.s(...)` makes one.

    Attributes:
        submitter: What submits for the dispatcher of its task.
        definition: Its task.
        options: Options of the call.
        args: Arguments by position. A job, a signature, a group, or a list of jobs and signatures stands for its result.
        kwargs: Arguments by name, likewise.
    """

    submitter: Submitter
    definition: Definition
    options: CallOptions
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def after(self, first: object) -> Signature[R]:
        """Return the same call with one more argument, before all others."""
        return Signature(self.submitter, self.definition, self.options, (first, *self.args), self.kwargs)

    def submit(self) -> Job[R]:
        """Submit this call, and before it the signatures among its arguments; return its job.

        A signature that stands in several places is submitted once.

        Raises:
            ArgumentError, EncodeError: An argument of one of them does not fit; nothing was submitted.
            BrokerUnavailable, SubmitUnknown: As for `task.submit`; what waits for others is sent after all of these.
        """
        return self.submitter.submit_signatures([self])[0]


class Bound(Generic[P, R]):
    """A task with options of one call, ready to be submitted."""

    def __init__(self, submitter: Submitter, definition: Definition, options: CallOptions) -> None:
        self._submitter = submitter
        self._definition = definition
        self._options = options

    @property
    def name(self) -> str:
        """Wire name."""
        return self._definition.name

    @property
    def bound(self) -> tuple[Submitter, Definition, CallOptions]:
        """What submits for the dispatcher that it is a task of, what is registered there, and the options of its calls."""
        return self._submitter, self._definition, self._options

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Submit one call and return its job, once the broker has accepted it.

        At least once: a job runs again if its worker dies between running and storing it.

        Raises:
            ArgumentError: An argument does not fit its annotation; the message has its path.
            EncodeError: An argument cannot travel, or is too large.
            BrokerUnavailable: The broker did not answer in time; nothing was accepted.
            SubmitUnknown: The confirmation was lost; `dispatcher.resubmit(error)` settles it.
        """
        return self._submitter.submit_call(self._definition, args, kwargs, self._options)

    async def asubmit(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Do what `submit` does without blocking the event loop."""
        import asyncio  # noqa: PLC0415 - 15 ms of import that synchronous programs do not need

        return await asyncio.to_thread(self.submit, *args, **kwargs)

    def s(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """Return this call, to be composed with others: a job or another signature among the arguments means its result.

        Nothing is checked before it is submitted.
        """
        return Signature(self._submitter, self._definition, self._options, args, kwargs)

    def submit_many(self, rows: Iterable[tuple[Any, ...]]) -> list[Job[R]]:
        """Submit one call for each tuple of arguments, many to a broker message, and return their jobs in order.

        Raises:
            BrokerUnavailable: It failed; `error.accepted` has the ids of those that were accepted before.
            SubmitUnknown: A confirmation was lost; `error.ids` are all that were not confirmed, and
                `dispatcher.resubmit(error)` settles it.
            ArgumentError: A row does not fit; nothing of this call was submitted.
        """
        return self._submitter.submit_rows(self._definition, map(_as_row, rows), self._options)

    @overload
    def map(self, *iterables: Iterable[Any], ordered: Literal[True] = True, progress: bool = False) -> Generator[R]: ...

    @overload
    def map(
        self, *iterables: Iterable[Any], ordered: Literal[False], progress: bool = False
    ) -> Generator[tuple[int, R]]: ...

    def map(self, *iterables: Iterable[Any], ordered: bool = True, progress: bool = False) -> Generator[Any]:
        """Run the task on each row of the iterables, like the builtin `map`, and yield results in order.

        It starts to submit at once and stays a bounded number of items ahead of the consumer, so that a generator of
        any length runs in constant memory. It raises where a job failed; then, or when the generator is closed, what
        has not started is cancelled.

        Args:
            iterables: As for the builtin `map`; the shortest ends it.
            ordered: False yields `(index, result)` as jobs end.
            progress: Show a bar, and cancel at Ctrl-C while it waits: see `Dispatcher.gather`.
        """
        total = min((len(given) if isinstance(given, Sized) else _UNKNOWN for given in iterables), default=_UNKNOWN)
        return self._submitter.map_rows(
            self._definition,
            zip(*iterables),  # noqa: B905 - as the builtin map does
            self._options,
            ordered=ordered,
            total=None if total == _UNKNOWN else total,
            bar=progress,
        )


class Task(Bound[P, R], Generic[P, R, C]):
    """A decorated function: called, it runs here and now; submitted, a worker runs it.

    For type checkers it has the parameters of the function, the type of a job's result, and what a plain call
    returns, which is a coroutine of the result where the function is one.
    """

    def __init__(self, submitter: Submitter, definition: Definition, function: Callable[P, C]) -> None:
        super().__init__(submitter, definition, CallOptions())
        self._function = function
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> C:
        """Run the function here."""
        return self._function(*args, **kwargs)

    def options(
        self,
        *,
        color: str | None = None,
        delay: Duration | None = None,
        expires: Duration | None = None,
        retries: int | None = None,
        timeout: Duration | None = None,
        hard_timeout: Duration | None = None,
        backoff: Duration | None = None,
        max_backoff: Duration | None = None,
        seed: int | None = None,
    ) -> Bound[P, R]:
        """Return this task with options for the calls that follow; durations in seconds or as timedelta.

        Args:
            color: Queue to use instead of the task's.
            delay: Do not start before this much time has passed.
            expires: Do not start any more after this much time.
            retries: Attempts after a failure.
            timeout: Soft time limit.
            hard_timeout: Time after which the child is killed.
            backoff: Longest wait before the first retry; it doubles each time.
            max_backoff: Cap of that wait.
            seed: Root of the random numbers that `context.rng` of each job draws: job `i` of the call has
                `SeedSequence(seed, spawn_key=(i,))`. From 0 to 2**64 - 1.
        """
        options = call_options(
            self._definition,
            color=color,
            delay=delay,
            expires=expires,
            retries=retries,
            timeout=timeout,
            hard_timeout=hard_timeout,
            backoff=backoff,
            max_backoff=max_backoff,
            seed=seed,
        )
        return Bound(self._submitter, self._definition, options)

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Be pickled by name where another process can import it, else as the plain function."""
        name = str(getattr(self, "__qualname__", ""))
        if self.__module__ != "__main__" and getattr(sys.modules.get(self.__module__), name, None) is self:
            return name
        return _itself, (self._function,)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"


class TaskDecorator(Protocol):
    """`@dispatcher.task(...)` with options, for type checkers."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R, Coroutine[Any, Any, R]]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R, R]: ...


def call_options(
    definition: Definition,
    *,
    color: str | None = None,
    delay: Duration | None = None,
    expires: Duration | None = None,
    retries: int | None = None,
    timeout: Duration | None = None,
    hard_timeout: Duration | None = None,
    backoff: Duration | None = None,
    max_backoff: Duration | None = None,
    seed: int | None = None,
) -> CallOptions:
    """Return the options of a call, checked.

    Raises:
        ConfigurationError: One of them cannot work.
    """
    limits = make_limits(
        definition.options.limits,
        retries=retries,
        timeout=timeout,
        hard_timeout=hard_timeout,
        backoff=backoff,
        max_backoff=max_backoff,
    )
    check_once(definition.options, limits)
    return CallOptions(
        color=color,
        delay=None if delay is None else duration("delay", delay),
        expires=None if expires is None else duration("expires", expires, above_zero=True),
        limits=limits,
        seed=None if seed is None else checked_seed(seed),
    )


_UNKNOWN = 1 << 62  # the length of a generator


def _itself(function: C) -> C:
    return function


def _as_row(row: Any) -> tuple[Any, ...]:
    if isinstance(row, tuple):
        return row
    msg = f"submit_many takes tuples of arguments, one for each call, not {row!r}; for one argument write ({row!r},)"
    raise TypeError(msg)
