"""Calls that wait for each other: groups, chains, chords, and any graph of jobs that are arguments of others.

All of them are one thing: a call that has the results of other jobs among its arguments. It is submitted with the others,
waits in a queue of its own, and goes on once all of them are there; see queuelib/worker/waits.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import groupby
from operator import itemgetter
from typing import Any, Generic, Literal, NamedTuple, TypeVar, cast, get_args, overload

from queuelib.builtin import REDUCE, definition_of
from queuelib.bundle import Chunk, Chunks
from queuelib.codec import encode, encoded_list
from queuelib.errors import ArgumentError, EncodeError
from queuelib.ids import Key
from queuelib.inputs import cut, runs_of, stand_in
from queuelib.job import Job
from queuelib.message import Bundle, Input
from queuelib.options import CallOptions
from queuelib.reductions import Name, TopK
from queuelib.task import Definition, Signature, Submitter, Task

__all__ = ["Group", "Plan", "Settled", "chain", "chord", "group", "settled", "waits"]

R = TypeVar("R")
T = TypeVar("T")
FAN = 256  # results that one step of a reduction joins


class Group(Generic[R]):
    """Calls whose results belong together, in order."""

    __slots__ = ("signatures",)

    def __init__(self, signatures: Iterable[Signature[R]]) -> None:
        self.signatures = list(signatures)
        given: list[object] = [*self.signatures]  # by whoever has no type checker
        for one in given:
            if not isinstance(one, Signature):
                msg = f"a group is made of signatures, as task.s(...) returns them, and not of {_shown(one)}"
                raise TypeError(msg)

    def after(self, first: object) -> Group[R]:
        """Return the same calls, each with one more argument, before all others."""
        return Group(one.after(first) for one in self.signatures)

    def submit(self) -> list[Job[R]]:
        """Submit all of them, many to a message; return their jobs, in order.

        Raises:
            ArgumentError, EncodeError, BrokerUnavailable, SubmitUnknown: As for `Signature.submit`.
        """
        return self.signatures[0].submitter.submit_signatures(self.signatures) if self.signatures else []


def group(*signatures: Signature[R] | Iterable[Signature[R]]) -> Group[R]:
    """Return calls whose results belong together: `group(f.s(1), f.s(2))`, or of an iterable of signatures.

    Raises:
        TypeError: Something else is among them.
    """
    first = cast("object", signatures[0]) if len(signatures) == 1 else None
    if isinstance(first, Iterable):
        return Group(first)
    return Group(cast("Iterable[Signature[R]]", signatures))


def chain(*steps: Signature[Any] | Group[Any]) -> Signature[Any]:
    """Return calls one after the other: each gets the result of the one before it as its first argument.

    After a group comes the list of its results. If a step fails, the following ones are not run, and their jobs fail with
    the same error.

    Args:
        steps: Signatures and groups; the last one is a signature.

    Raises:
        TypeError: There is no step, or one is something else.
    """
    wrong = [step for step in cast("tuple[object, ...]", steps) if not isinstance(step, Signature | Group)]
    if wrong:
        msg = f"a chain is made of signatures, as task.s(...) returns them, and of groups, and not of {wrong[0]!r}"
        raise TypeError(msg)
    last: Signature[Any] | Group[Any] | None = None
    for step in steps:
        last = step if last is None else step.after(last)
    if not isinstance(last, Signature):
        msg = "a chain ends with one call; use a group alone, or let a chord collect it"
        raise TypeError(msg)
    return last


class Settled(Generic[R]):
    """What stands for how jobs ended, well or not; `settled` makes one."""

    __slots__ = ("what",)

    def __init__(self, what: Job[R] | Signature[R] | Group[R] | Sequence[Job[R] | Signature[R]]) -> None:
        self.what = what


def settled(what: Job[R] | Signature[R] | Group[R] | Sequence[Job[R] | Signature[R]]) -> Settled[R]:
    """Return what stands, as an argument, for results among which failures are values.

    The call that has it as an argument runs when all of these have ended in whichever way. In the place of the result of one
    that failed, expired, was cancelled or set aside it gets a `Failure`.

    Args:
        what: A job, a signature, a group, or a list of jobs and signatures.

    Raises:
        TypeError: It is something else.
    """
    if not waits(what) and not (isinstance(what, list | tuple) and not what):
        msg = f"settled takes a job, a signature, a group or a list of jobs and signatures, and not {what!r}"
        raise TypeError(msg)
    return Settled(what)


@overload
def chord(
    header: Group[R] | Iterable[Signature[R]],
    callback: Signature[T],
    *,
    reduce: Task[..., Any, Any] | Name | TopK | None = None,
    errors: Literal["raise", "pass"] = "raise",
) -> Signature[T]: ...


@overload
def chord(
    header: Group[R] | Iterable[Signature[R]],
    callback: None = None,
    *,
    reduce: Task[..., T, Any],
    errors: Literal["raise", "pass"] = "raise",
) -> Signature[T]: ...


@overload
def chord(
    header: Group[R] | Iterable[Signature[R]], callback: None = None, *, reduce: Name | TopK
) -> Signature[Any]: ...


def chord(
    header: Group[R] | Iterable[Signature[R]],
    callback: Signature[Any] | None = None,
    *,
    reduce: Task[..., Any, Any] | Name | TopK | None = None,
    errors: Literal["raise", "pass"] = "raise",
) -> Signature[Any]:
    """Return a call that gets the results of others, as a list, as its first argument.

    If one of them fails, the callback is not run and its job fails with the same error.

    Args:
        header: The calls.
        callback: What gets their results, in their order. With `reduce` it may be left out: then the result is what the
            reduction leaves.
        reduce: Joins results 256 at a time, by workers, always in the same way; the callback gets the one that is left.
            `"sum"`, `"min"`, `"max"`, `"mean"`, `"variance"` or `topk(k)`, element by element of arrays; or a task that takes
            a list of results and returns one, as `sum` does.
        errors: `"pass"`: the callback, or the first steps of a task that reduces, run also where some of the calls end
            otherwise than well, and get a `Failure` in their places.

    Raises:
        TypeError: The header has something else than signatures; there is neither a callback nor a reduction, or nothing
            to reduce; a named reduction is to pass errors, which have no place in it.
    """
    members = header if isinstance(header, Group) else Group(header)
    passes = errors == "pass"
    if errors not in {"raise", "pass"}:
        msg = f"errors is 'raise' or 'pass', not {errors!r}"
        raise TypeError(msg)
    if reduce is None:
        if callback is None:
            msg = "a chord needs a callback, or a reduction"
            raise TypeError(msg)
        return callback.after(settled(members) if passes else members)
    if not isinstance(reduce, Task):
        if passes:
            msg = "a named reduction has no place for failures: reduce by a task of your own, or leave errors='raise'"
            raise TypeError(msg)
        left = _named(members, reduce, callback)
    else:
        task = reduce  # for the function below it is no other any more
        left = _in_steps(members, lambda some, is_first, _: task.s(settled(some) if passes and is_first else some))
    return left if callback is None else callback.after(left)


def _in_steps(members: Group[Any], step: Callable[[Group[Any], bool, bool], Signature[Any]]) -> Signature[Any]:
    """Return the last of the steps that join members: each is given some of them, and whether it is a first and the last."""
    level, is_first = members, True
    while len(level.signatures) > FAN:
        some = (Group(level.signatures[at : at + FAN]) for at in range(0, len(level.signatures), FAN))
        level, is_first = Group(step(one, is_first, False) for one in some), False  # noqa: FBT003
    return step(level, is_first, True)  # noqa: FBT003


def _named(members: Group[Any], reduce: str | TopK, callback: Signature[Any] | None) -> Signature[Any]:
    how, count = (("bottom" if reduce.smallest else "top"), reduce.k) if isinstance(reduce, TopK) else (reduce, 0)
    if not isinstance(reduce, TopK) and reduce not in get_args(Name):
        msg = f"no reduction is called {how!r}: sum, min, max, mean, variance, topk(k), or a task"
        raise TypeError(msg)
    whose = members.signatures[0] if members.signatures else callback
    definition = definition_of(REDUCE)
    if whose is None or definition is None:
        msg = "there is nothing to reduce"
        raise TypeError(msg)
    # Whoever serves the members' color serves the steps, too.
    options = CallOptions(color=whose.options.color or whose.definition.options.color)

    def step(some: Group[Any], is_first: bool, is_last: bool) -> Signature[Any]:  # noqa: FBT001
        return Signature(whose.submitter, definition, options, (some, how, count, is_first, is_last), {})

    return _in_steps(members, step)


def _shown(value: object) -> str:
    if isinstance(value, Group):
        return "groups: let a chord collect each, or put their signatures into one"
    return f"{value!r}"


def waits(value: object) -> bool:
    """Return whether an argument stands for results that are to come."""
    if isinstance(value, list | tuple):
        return bool(value) and isinstance(value[0], Job | Signature)
    return isinstance(value, Job | Signature | Group | Settled)


def refuse_hidden(name: str, values: Iterable[object]) -> None:
    """Say what is wrong where an argument could not be encoded because a job or a signature lies too deep in it, or a future.

    Raises:
        ArgumentError: One does.
    """
    left, seen = list(values), set[int]()  # one that contains itself is refused too: it must not be walked for ever
    while left:
        value = left.pop()
        if isinstance(value, Job | Signature | Group | Settled):
            msg = (
                f"{name}: a {type(value).__name__} lies within an argument: a job or a signature stands for its result "
                "as an argument itself, or in a list of nothing but jobs and signatures"
            )
            raise ArgumentError(msg)
        if isinstance(value, Future):
            msg = f"{name}: a future is among the arguments: its `job` stands for the result of an executor's, else pass the result"
            raise ArgumentError(msg)
        if isinstance(value, list | tuple | set | frozenset | dict) and id(value) not in seen:
            seen.add(id(value))
            left += value.values() if isinstance(value, dict) else value


def packed_rows(definition: Definition) -> Callable[[Sequence[tuple[Any, ...]]], bytes]:
    """Return what encodes calls of one task that travel many to a message, and so wait for nothing.

    It raises `ArgumentError`, saying what to do instead, where an argument is to stand for the result of a job.
    """

    def pack(rows: Sequence[tuple[Any, ...]]) -> bytes:
        try:
            return definition.schema.pack_rows(rows)
        except EncodeError as error:
            given = next((value for row in rows for value in row if waits(value)), None)
            if given is None:
                raise
            msg = (
                f"{definition.name}: a {type(given).__name__} is among the arguments, and calls of map and submit_many wait "
                "for no others: submit group(task.s(job) for job in jobs)"
            )
            raise ArgumentError(msg) from error

    return pack


class _Placed(NamedTuple):
    key: Key
    task: str
    color: str


class Plan:
    """The bundles of some calls and of all that they wait for.

    Args:
        submitter: Whose tasks they are.
        bundle: Makes a bundle of a chunk: task, calls, options, inputs.

    Attributes:
        plain: Bundles that wait for nothing.
        waiting: Those that do, each behind all that it waits for.
    """

    def __init__(
        self, submitter: Submitter, bundle: Callable[[Definition, Chunk, CallOptions, Sequence[Input]], Bundle]
    ) -> None:
        self._submitter = submitter
        self.plain: list[Bundle] = []
        self.waiting: list[Bundle] = []
        self._bundle = bundle
        self._placed: dict[int, _Placed] = {}

    def place(self, signatures: Sequence[Signature[Any]]) -> list[_Placed]:
        """Place calls, and what they wait for; return where each of them is.

        Raises:
            ArgumentError, EncodeError: An argument does not fit, or a task is another dispatcher's.
        """
        ordered = [(one, _kind(one)) for one in _in_order(signatures)]
        for one, _ in ordered:
            if one.submitter is not self._submitter:
                msg = (
                    f"{one.definition.name} is a task of another dispatcher, which other workers may serve: submit it there, "
                    "and give the job's result to this one"
                )
                raise ArgumentError(msg)
        # What waits for nothing comes first, so that as many as possible travel in one message.
        for _, same in groupby((pair for pair in ordered if pair[1] is not None), itemgetter(1)):
            self._place_plain([one for one, _ in same])
        for one, kind in ordered:
            if kind is None:
                self._place_waiting(one)
        return [self._placed[id(one)] for one in signatures]

    def _place_plain(self, same: Sequence[Signature[Any]]) -> None:
        definition, options = same[0].definition, same[0].options
        rest = iter(same)
        for chunk in Chunks([one.args for one in same], definition.schema.pack_rows, definition.sizes):
            bundle = self._bundle(definition, chunk, options, ())
            self.plain.append(bundle)
            for index in bundle.indexes:
                self._placed[id(next(rest))] = _Placed(Key(bundle.id, index), bundle.task, bundle.color)

    def _place_waiting(self, one: Signature[Any]) -> None:
        inputs: list[Input] = []
        marks: list[bytes] = []

        def replace(value: object) -> bytes | None:
            if not waits(value):
                return None
            if _is_empty(value):
                return encode([])
            inputs.append(self._input(value))
            marks.append(stand_in())
            return marks[-1]

        try:
            arguments = one.definition.schema.pack_around(one.args, one.kwargs, replace)
        except EncodeError:
            values = (*one.args, *one.kwargs.values())
            refuse_hidden(one.definition.name, [value for value in values if not waits(value)])
            raise
        if inputs:
            bundle = self._bundle(one.definition, Chunk(cut(arguments, marks), 1), one.options, inputs)
            self.waiting.append(bundle)
        else:
            bundle = self._bundle(one.definition, Chunk(encoded_list([arguments]), 1), one.options, ())
            self.plain.append(bundle)
        self._placed[id(one)] = _Placed(Key(bundle.id, 0), bundle.task, bundle.color)

    def _input(self, value: object) -> Input:
        what = value.what if isinstance(value, Settled) else value
        passes = what is not value
        if isinstance(what, Job | Signature):
            return Input(runs_of([self._key(what)]), passes=passes)
        items = what.signatures if isinstance(what, Group) else cast("Sequence[object]", what)
        return Input(runs_of(map(self._key, items)), is_list=True, passes=passes)

    def _key(self, value: object) -> Key:
        if isinstance(value, Job):
            return value.key
        if isinstance(value, Signature):
            return self._placed[id(value)].key
        msg = f"a list that stands for results has only jobs and signatures in it, and not {value!r}"
        raise ArgumentError(msg)


def _kind(one: Signature[Any]) -> tuple[Definition, CallOptions] | None:
    """Return what calls have in common that travel together; None for one that travels alone."""
    if one.kwargs or any(map(waits, one.args)):
        return None
    return one.definition, one.options


def _in_order(signatures: Iterable[Signature[Any]]) -> Iterator[Signature[Any]]:
    """Yield signatures once, each behind those among its arguments; a chain may be longer than Python's stack is deep."""
    seen: set[int] = set()
    for root in signatures:
        stack = [(root, False)]
        while stack:
            one, is_over = stack.pop()
            if is_over:
                yield one
            elif id(one) not in seen:
                seen.add(id(one))
                stack.append((one, True))
                stack += [(before, False) for before in reversed(list(_before(one)))]


def _is_empty(value: object) -> bool:
    what = value.what if isinstance(value, Settled) else value
    return not (what.signatures if isinstance(what, Group) else what)


def _before(one: Signature[Any]) -> Iterator[Signature[Any]]:
    for given in (*one.args, *one.kwargs.values()):
        value = given.what if isinstance(given, Settled) else given
        items = value.signatures if isinstance(value, Group) else value if isinstance(value, list | tuple) else (value,)
        if waits(value):
            yield from (item for item in items if isinstance(item, Signature))
