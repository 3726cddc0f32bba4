"""What was submitted in a test, by task and arguments, and assertions about it that say what was submitted instead."""

from __future__ import annotations

import difflib
import inspect
import pprint
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from queuelib.codec import encode, resolving, split_list
from queuelib.envelope import decode
from queuelib.errors import DecodeError, QueuelibError
from queuelib.ids import Key, job_id
from queuelib.message import Message, Outgoing
from queuelib.schema import Call
from queuelib.task import Bound, Definition

if TYPE_CHECKING:
    from queuelib.dispatcher import Dispatcher
    from queuelib.job import Job

__all__ = ["AssertSubmitted", "Submission", "recorded"]

P = ParamSpec("P")
R = TypeVar("R")
_MOST_SHOWN = 5
_WIDE = 60  # characters from which on a value is compared line by line
_LONG = 100  # characters of a value that are shown in a call
_MISSING: Any = type("_Missing", (), {"__repr__": lambda _: "nothing"})()


@dataclass(frozen=True)
class Submission:
    """One job, as it was submitted.

    Attributes:
        task: Wire name of its task.
        job: The job.
        arguments: The arguments by parameter, or the message's fields, as its handler receives them: defaults are
            filled in.
        color: Its queue.
        delay: Seconds before which it is not to start.
    """

    task: str
    job: Job[Any]
    arguments: Mapping[str, Any]
    color: str
    delay: float
    encoded: bytes

    def __str__(self) -> str:
        return _shown(self.task, self.arguments)


class AssertSubmitted:
    """Asserts what was submitted since the test began, by this program: not what handlers in other processes submit.

    Arguments are compared as a handler receives them: both sides are serialized, and checked against the annotations.
    A task without arguments stands for whatever arguments. What cannot be serialized is compared as it is, so that
    `unittest.mock.ANY` and `pytest.approx` work.
    """

    def __init__(self) -> None:
        self._frames: list[tuple[Dispatcher, Outgoing]] = []
        self._dispatchers: list[Dispatcher] = []

    @overload
    def __call__(self, task: Bound[P, R], /) -> list[Job[R]]: ...
    @overload
    def __call__(self, task: Bound[P, R], /, *args: P.args, **kwargs: P.kwargs) -> list[Job[R]]: ...
    @overload
    def __call__(self, task: Message[R], /) -> list[Job[R]]: ...
    @overload
    def __call__(self, task: object, /, *args: Any, **kwargs: Any) -> list[Job[Any]]: ...

    def __call__(self, task: Any, /, *args: Any, **kwargs: Any) -> list[Job[Any]]:
        """Assert that a task was submitted, once or more, and return its jobs.

        Args:
            task: A task; or a message, or its class.
            args: Its arguments; none for whatever arguments.
            kwargs: The same by name.

        Raises:
            AssertionError: It was not; the message says what was submitted instead.
        """
        __tracebackhide__ = True
        wanted = self._wanted(task, args, kwargs)
        found = self._matching(wanted)
        if not found:
            raise AssertionError(self._explain(wanted, "was not submitted"))
        return [one.job for one in found]

    @overload
    def times(self, count: int, task: Bound[P, R], /) -> list[Job[R]]: ...

    @overload
    def times(self, count: int, task: Bound[P, R], /, *args: P.args, **kwargs: P.kwargs) -> list[Job[R]]: ...

    @overload
    def times(self, count: int, task: Message[R], /) -> list[Job[R]]: ...

    @overload
    def times(self, count: int, task: object, /, *args: Any, **kwargs: Any) -> list[Job[Any]]: ...

    def times(self, count: int, task: Any, /, *args: Any, **kwargs: Any) -> list[Job[Any]]:
        """Assert that it was submitted exactly so often, and return its jobs; the arguments are those of a call.

        Raises:
            AssertionError: It was submitted more or less often.
        """
        __tracebackhide__ = True
        wanted = self._wanted(task, args, kwargs)
        found = self._matching(wanted)
        if len(found) != count:
            what = f"should have been submitted {_times(count)}, and was {_times(len(found))}"
            raise AssertionError(self._explain(wanted, what))
        return [one.job for one in found]

    def never(self, task: Any, /, *args: Any, **kwargs: Any) -> None:
        """Assert that it was not submitted; the arguments are those of a call.

        Raises:
            AssertionError: It was.
        """
        __tracebackhide__ = True
        wanted = self._wanted(task, args, kwargs)
        found = self._matching(wanted)
        if found:
            msg = f"{wanted} was submitted {_times(len(found))}, and should not have been:"
            raise AssertionError("\n".join([msg, *_listed(found)]))

    def nothing(self) -> None:
        """Assert that nothing was submitted at all.

        Raises:
            AssertionError: Something was.
        """
        __tracebackhide__ = True
        found = self.submissions
        if found:
            raise AssertionError(
                "\n".join([f"submitted {_times(len(found))}, and nothing should have been:", *_listed(found)])
            )

    @property
    def submissions(self) -> list[Submission]:
        """All that was submitted, in order."""
        seen: set[Key] = set()
        found: list[Submission] = []
        for dispatcher, frame in self._frames:
            for key, one in _read(dispatcher, frame):
                if key not in seen:  # `resubmit` sends again what may have been lost
                    seen.add(key)
                    found.append(one)
        return found

    def clear(self) -> None:
        """Forget what was submitted so far, as after the setting up of a test."""
        self._frames.clear()

    # How

    def note(self, dispatcher: Dispatcher, frames: Sequence[Outgoing]) -> None:
        """Note what was submitted."""
        self._frames += [(dispatcher, frame) for frame in frames]

    def watch(self, dispatcher: Dispatcher) -> None:
        """Know the tasks of a dispatcher."""
        self._dispatchers.append(dispatcher)

    def _wanted(self, task: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Wanted:
        is_message = not isinstance(task, type | Bound)
        definition = self._definition_of(task if not is_message else type(task))
        if is_message:
            if args or kwargs:
                msg = f"a message has its fields already: assert_submitted({reprlib.repr(task)}) takes no arguments beside it"
                raise TypeError(msg)
            return _Wanted.of_message(definition, task)
        if not args and not kwargs:
            return _Wanted(definition, None)
        if isinstance(task, type):
            return _Wanted.of_message(definition, task(*args, **kwargs))
        return _Wanted.of_call(definition, args, kwargs)

    def _definition_of(self, task: Any) -> Definition:
        for dispatcher in self._dispatchers:
            for definition in dispatcher.definitions.values():
                if definition.message_class is task or (isinstance(task, Bound) and definition.name == task.name):
                    return definition
        msg = f"{task!r} is no task of {'this dispatcher' if len(self._dispatchers) == 1 else 'these dispatchers'}: "
        raise TypeError(msg + "pass the decorated function, a message, or the class of one")

    def _matching(self, wanted: _Wanted) -> list[Submission]:
        return [one for one in self.submissions if wanted.is_met_by(one)]

    def _explain(self, wanted: _Wanted, what: str) -> str:
        all_of_them = self.submissions
        same = sorted((one for one in all_of_them if one.task == wanted.task), key=wanted.distance)
        lines = [f"{wanted} {what}."]
        if wanted.misfit:
            lines.append(f"  (It could not have been: {wanted.misfit})")
        if same and wanted.arguments is not None:
            lines.append(
                f"  {wanted.task} was submitted {_times(len(same))}{':' if wanted.is_met_by(same[0]) else ', otherwise:'}"
            )
            for one in same[:_MOST_SHOWN]:
                lines += [f"    {one}", *("      " + line for line in wanted.difference(one))]
            lines += _and_more(len(same))
        others = Counter(one.task for one in all_of_them if one.task != wanted.task)
        if others:
            lines.append("  Submitted besides:")
            lines += [f"    {name}, {_times(count)}" for name, count in others.most_common(_MOST_SHOWN)]
        elif not same:
            lines.append("  Nothing was submitted in this test.")
        return "\n".join(lines)


class _Wanted:
    """What an assertion is about.

    Attributes:
        task: Wire name.
        arguments: By parameter, as a handler would receive them; None for whatever arguments.
        misfit: Why they could not be submitted, if they could not.
    """

    def __init__(
        self, definition: Definition, arguments: Mapping[str, Any] | None, encoded: bytes = b"", misfit: str = ""
    ) -> None:
        self.task = definition.name
        self.arguments = arguments
        self.misfit = misfit
        self._encoded = encoded

    @classmethod
    def of_message(cls, definition: Definition, message: object) -> _Wanted:
        try:
            encoded = definition.schema.pack_message(message)
        except QueuelibError as error:
            return cls(definition, _fields(message), misfit=str(error))
        return cls(definition, _arguments(definition, encoded), encoded)

    @classmethod
    def of_call(cls, definition: Definition, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Wanted:
        assert definition.function is not None
        given = _bound(definition.function, args, kwargs)  # a TypeError here is one of the test's
        try:
            encoded = definition.schema.pack(args, kwargs)
        except QueuelibError as error:
            return cls(definition, given, misfit=str(error))
        return cls(definition, _arguments(definition, encoded), encoded)

    def is_met_by(self, one: Submission) -> bool:
        if one.task != self.task:
            return False
        return (
            self.arguments is None or (bool(self._encoded) and one.encoded == self._encoded) or not self.distance(one)
        )

    def distance(self, one: Submission) -> int:
        """Return how many arguments differ."""
        return len(list(self._differing(one)))

    def difference(self, one: Submission) -> Iterator[str]:
        """Yield lines that say which arguments differ, and how."""
        if self._encoded and one.encoded == self._encoded:
            return
        for name, wanted, got in self._differing(one):
            long = [pprint.pformat(value, width=_WIDE) for value in (wanted, got)]
            if max(map(len, long)) < _WIDE:
                yield f"{name}: {long[1]}, and not {long[0]}"
                continue
            yield f"{name}: - wanted, + submitted"
            for line in difflib.unified_diff(long[0].splitlines(), long[1].splitlines(), n=1, lineterm=""):
                if not line.startswith(("---", "+++", "@@")):
                    yield "  " + line

    def _differing(self, one: Submission) -> Iterator[tuple[str, Any, Any]]:
        wanted = self.arguments or {}
        for name in [*wanted, *(name for name in one.arguments if name not in wanted)]:
            mine, other = wanted.get(name, _MISSING), one.arguments.get(name, _MISSING)
            if not _is_same(mine, other):
                yield name, mine, other

    def __str__(self) -> str:
        return self.task if self.arguments is None else _shown(self.task, self.arguments)


@contextmanager
def recorded(dispatchers: Sequence[Dispatcher], keep: AssertSubmitted) -> Generator[None]:
    """Note what dispatchers submit while the block lasts."""
    for dispatcher in dispatchers:
        keep.watch(dispatcher)
        vars(dispatcher.producer)["publish"] = _noting(dispatcher, keep)  # all that is submitted ends in it
    try:
        yield
    finally:
        for dispatcher in dispatchers:
            vars(dispatcher.producer).pop("publish", None)


def _noting(dispatcher: Dispatcher, keep: AssertSubmitted) -> Callable[[Sequence[Outgoing]], None]:
    publish = dispatcher.producer.publish

    def publish_and_note(frames: Sequence[Outgoing]) -> None:
        publish(frames)
        keep.note(dispatcher, frames)

    return publish_and_note


def _read(dispatcher: Dispatcher, frame: Outgoing) -> Iterator[tuple[Key, Submission]]:
    """Yield the jobs of a frame."""
    bundle = decode(frame.frame, dispatcher.keys)
    definition = dispatcher.definition(bundle.task)
    assert definition is not None, bundle.task
    try:
        column = split_list(bundle.column, len(bundle.indexes))
    except DecodeError:  # what waits for results of others has no arguments yet
        column = [b""] * len(bundle.indexes)
    delay = 0.0 if bundle.due is None else bundle.due - bundle.submitted
    for index, encoded in zip(bundle.indexes, column, strict=True):
        key = Key(bundle.id, index)
        job = dispatcher.job(job_id(*key))
        with resolving(dispatcher.sharing.load):
            arguments = _arguments(definition, encoded) if encoded else {}
        yield key, Submission(bundle.task, job, arguments, bundle.color, delay, encoded)


def _arguments(definition: Definition, encoded: bytes) -> Mapping[str, Any]:
    """Return arguments by parameter as a handler receives them."""
    loaded = definition.schema.load(encoded)
    if definition.function is None:
        return _fields(loaded)
    assert isinstance(loaded, Call)
    return _bound(definition.function, loaded.args, loaded.kwargs)


def _bound(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def _fields(message: object) -> Mapping[str, Any]:
    names = getattr(type(message), "__struct_fields__", None) or getattr(type(message), "_fields", None)
    names = names or [field.name for field in getattr(type(message), "__attrs_attrs__", ())]
    return {name: getattr(message, name) for name in names or type(message).__dataclass_fields__}  # type: ignore[attr-defined]


def _is_same(mine: Any, other: Any) -> bool:
    try:
        return bool(mine == other)
    except Exception:  # noqa: BLE001, S110 - whatever a foreign class makes of it; arrays compare element by element
        pass
    try:
        return encode(mine) == encode(other)
    except QueuelibError:
        return False


def _shown(task: str, arguments: Mapping[str, Any]) -> str:
    values = ", ".join(f"{name}={_short(value)}" for name, value in arguments.items())
    return f"{task}({values})"


def _listed(found: Sequence[Submission]) -> list[str]:
    return [*(f"    {one}" for one in found[:_MOST_SHOWN]), *_and_more(len(found))]


def _and_more(count: int) -> list[str]:
    return [f"    and {count - _MOST_SHOWN} more"] if count > _MOST_SHOWN else []


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")


def _short(value: Any) -> str:
    text = re.sub(r"\n\s*", " ", repr(value))
    return text if len(text) <= _LONG else f"{text[: _LONG - 20]}...{text[-10:]}"
