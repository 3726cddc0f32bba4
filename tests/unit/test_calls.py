"""Pickled calls without a broker: what a call carries, and what is done with what somebody else wrote."""

from __future__ import annotations

import functools
import json
import pickle
import sys
from typing import TYPE_CHECKING, Any

import pytest

from queuelib import (
    DecodeError,
    Dispatcher,
    EncodeError,
    Executor,
    MissingDriver,
    PickleRefused,
    QueuelibError,
    codec,
    pickling,
)
from queuelib.calls import Calls
from queuelib.handle import Shared

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

dispatcher = Dispatcher("memory://calls")


@dispatcher.task
def registered(x: int) -> int:
    return x


class Kept:
    """Counts what is shared."""

    def __init__(self) -> None:
        self.shared: list[bytes] = []

    def share(self, value: bytes) -> Shared[bytes]:
        """Keep it."""
        self.shared.append(value)
        return Shared(len(self.shared).to_bytes(32, "big"), len(value))


@pytest.fixture
def kept() -> Kept:
    """Where bodies go."""
    return Kept()


@pytest.fixture
def calls(kept: Kept) -> Calls:
    """Calls that are allowed here, and served."""
    calls = Calls(lambda: kept, is_allowed=True, keep=3600.0)
    calls.serve()
    return calls


class Trap:
    """Leaves a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return self.path.touch, ()


def test_what_refers_to_no_code_is_plain_pickle() -> None:
    """The fast way is taken where it makes no difference, and only there."""
    for value in ((1, "a", [2.5], {"k": (None,)}), b"\x93" * 10, {1, 2}):
        assert pickling.loads(pickling.dumps(value)) == value
    assert pickling.dumps((1, "a")) == pickle.dumps((1, "a"), 5)
    assert pickling.loads(pickling.dumps(lambda: 5))() == 5
    assert pickling.loads(pickling.dumps(json.dumps)) is json.dumps


def test_importable_functions_go_as_their_names(calls: Calls, kept: Kept) -> None:
    """A name is no longer than a handle: nothing is shared, and the call runs."""
    field = calls.field(calls.body(json.dumps))
    assert len(field) < 128
    assert calls.run(field, calls.arguments(([1],), {"indent": None})) == "[1]"
    assert kept.shared == []


def test_bodies_are_shared_once_for_a_while(kept: Kept) -> None:
    """The same body goes again only when it may have been forgotten."""
    text = "x" * 1000
    for keep, times in ((3600.0, 1), (0.0, 3)):
        kept.shared.clear()
        calls = Calls(lambda: kept, is_allowed=True, keep=keep)
        fields = {calls.field(calls.body(lambda: text)) for _ in range(3)}
        assert len(kept.shared) == times
        assert len(fields) == times
        calls.forget()
        calls.field(calls.body(lambda: text))
        assert len(kept.shared) == times + 1


def test_large_arguments_are_shared_each_by_itself(calls: Calls, kept: Kept) -> None:
    """By position and by name; small ones beside them stay in the call."""
    large = "x" * 300_000
    data = calls.arguments((large, 1), {"small": 2, "large": large})
    assert len(data) < 1000
    assert len(kept.shared) == 1
    many = ["x" * 1000] * 100
    assert len(calls.arguments(tuple(many), {})) < 1024 * 256
    assert len(kept.shared) == 1


def test_jobs_stand_for_results_among_arguments_of_tasks_only() -> None:
    """A function that is pickled gets values, and whoever gives it a job is told so."""
    for given in (registered.submit(1), registered.s(1)):
        for args, kwargs in (((given,), {}), ((), {"x": given})):
            with pytest.raises(EncodeError, match=f"a {type(given).__name__} stands for its result.*of a task only"):
                dispatcher.calls.arguments(args, kwargs)


def test_function_of_another_python(calls: Calls) -> None:
    """Its code is not looked at: it means something else there."""
    field = calls.field(calls.body(json.dumps))
    foreign = bytes((3, 250)) + field[2:]
    with pytest.raises(QueuelibError, match=rf"Python 3\.250, and this worker runs 3\.{sys.version_info[1]}"):
        calls.run(foreign, calls.arguments((), {}))


def test_refusing_worker_reads_nothing(kept: Kept, tmp_path: Path) -> None:
    """Neither function nor arguments are unpickled before it was told that they may be."""
    trap = tmp_path / "sprung"
    data = pickling.dumps(Trap(trap))
    field, arguments = bytes(sys.version_info[:2]) + b"=" + data, data
    worker = Calls(lambda: kept, is_allowed=True, keep=3600.0)
    with pytest.raises(PickleRefused, match="--allow-pickle"):
        worker.run(field, arguments)
    assert not trap.exists()
    worker.serve()
    with pytest.raises(TypeError):
        worker.run(field, arguments)
    assert trap.exists()


def test_refusing_client_names_the_function() -> None:
    """Whatever kind it is."""
    calls = Calls(Kept, is_allowed=False, keep=3600.0)
    for function, name in (
        (json.dumps, r"json\.dumps"),
        (functools.partial(json.dumps, 1), r"json\.dumps"),
        (lambda: 1, r"test_calls.*<lambda>"),
        (Calls, r"queuelib\.calls\.Calls"),
        (Trap.__new__(Trap), "an object of type Trap"),
    ):  # fmt: skip
        with pytest.raises(PickleRefused, match=rf"^{name} is no task|{name} is no task"):
            calls.body(function)  # type: ignore[arg-type]


def test_without_cloudpickle(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra, on either side."""
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    for act in (calls.serve, functools.partial(calls.body, json.dumps)):
        with pytest.raises(MissingDriver, match=r"queuelib-kombu\[pickle\]"):
            act()


def test_run_times_are_remembered_by_function(calls: Calls) -> None:
    """Of each for itself, however many share a name, and of those that were used last."""

    def make(by: int) -> Callable[[int], int]:
        return lambda x: x * by

    def sizes(by: int) -> Any:
        return calls.timed(calls.body(make(by))).sizes

    first = sizes(1)
    assert sizes(1) is first
    assert sizes(2) is not first
    for by in range(300):
        sizes(by + 3)
    assert sizes(1) is not first


def test_functions_are_read_once(calls: Calls) -> None:
    """A process keeps those that it used last."""
    seen: list[int] = []

    class Counted:
        def __reduce__(self) -> tuple[Any, ...]:
            return _counted, (len(seen),)

    field = calls.field(calls.body(Counted()))  # type: ignore[arg-type]
    before = len(_made)
    for _ in range(3):
        assert calls.run(field, calls.arguments((), {})) == "called"
    assert len(_made) == before + 1


def test_function_that_calls_itself_false(calls: Calls) -> None:
    """It is read once all the same."""
    field = calls.field(calls.body(_False()))
    before = len(_made)
    assert [calls.run(field, calls.arguments((), {})) for _ in range(3)] == ["called"] * 3
    assert len(_made) == before + 1


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, BaseException, ValueError])
def test_pickle_that_raises_when_it_is_read(calls: Calls, kind: type[BaseException]) -> None:
    """A result that raises what ends programs is one that cannot be read, and so are arguments; Ctrl-C stays what it is."""
    data = pickling.dumps(_Raises(kind))
    with pytest.raises(DecodeError, match=rf"cannot be read here.*{kind.__name__}.*no more"):
        calls.results(codec.encode([data]))
    with pytest.raises(ValueError if kind is ValueError else DecodeError, match="no more"):
        calls.run(calls.field(calls.body(json.dumps)), data)
    with pytest.raises(KeyboardInterrupt):
        calls.results(codec.encode([pickling.dumps(_Raises(KeyboardInterrupt))]))


def test_result_that_raises_when_it_is_pickled(calls: Calls) -> None:
    """It cannot travel, and its worker lives on."""
    with pytest.raises(TypeError, match=r"of type _Exits, cannot travel: SystemExit"):
        calls.run(calls.field(calls.body(_Exits)), calls.arguments((), {}))


class _Raises:
    """Raises when its pickle is read."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        return _raise, (self.kind,)


def _raise(kind: type[BaseException]) -> None:
    raise kind("no more")


class _Exits:
    """Raises when it is pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise SystemExit(3)


class _False:
    """Calls itself false, and counts how often it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _counted_false, ()

    def __bool__(self) -> bool:
        return False

    def __call__(self) -> str:
        return "called"


def _counted_false() -> _False:
    _made.append(0)
    return _False()


_made: list[Any] = []


def _counted(number: int) -> Callable[[], str]:
    _made.append(number)
    return lambda: "called"


def test_what_cannot_be_pickled(calls: Calls) -> None:
    """The error names the function."""
    generator = (i for i in range(3))
    with pytest.raises(EncodeError, match="lambda.*generator"):
        calls.body(lambda: generator)
    with pytest.raises(EncodeError, match="argument.*generator"):
        calls.arguments((generator,), {})


def test_tasks_are_pickled_by_name_or_as_functions() -> None:
    """By name where another process can import them, else as the plain function that they are."""
    assert pickling.loads(pickle.dumps(registered)) is registered
    local = dispatcher.task(name="calls.local")(lambda x: x + 1)
    try:
        again = pickling.loads(pickling.dumps(local))
        assert again(1) == 2
        assert not isinstance(again, type(local))
    finally:
        del dispatcher.definitions["calls.local"]


def test_executor_knows_its_tasks() -> None:
    """A task, and its function, need no pickle; those of another dispatcher are not taken for ours."""
    assert dispatcher.definition_of(registered.__wrapped__) is dispatcher.definitions[registered.name]  # type: ignore[attr-defined]
    assert dispatcher.definition_of(json.dumps) is None
    assert dispatcher.definition_of([]) is None
    with Executor(dispatcher) as pool, pytest.raises(PickleRefused):
        pool.submit(json.dumps, 1)
