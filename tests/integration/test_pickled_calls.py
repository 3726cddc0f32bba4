"""Functions that are no tasks: what travels, what is shared, and who refuses to look into it."""

from __future__ import annotations

import functools
import itertools
import math
import os
import secrets
import threading
import weakref
from concurrent.futures import Future
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from queuelib import Color, Dispatcher, EncodeError, Executor, Palette, PickleRefused, UnknownTask, pieces
from queuelib.errors import DecodeError
from queuelib.naming import CALL
from queuelib.options import NO_OPTIONS
from tests.integration.apps import plain
from tests.integration.lab import WITHIN, Lab
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "k1:0123456789abcdef0123456789abcdef"
OTHER = "k2:fedcba9876543210fedcba9876543210"


@pytest.fixture
def pool(pooled: Dispatcher) -> Iterator[Executor]:
    """An executor on workers that may unpickle."""
    with Executor(pooled) as pool:
        yield pool
    pooled.close()


class Trap:
    """Leaves a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self) -> None: ...

    def __reduce__(self) -> tuple[Any, ...]:
        return self.path.touch, ()


# What travels


def test_functions_of_all_kinds(pool: Executor) -> None:
    """Lambdas, closures, partials, bound methods, callable objects and what is built in all run."""
    offset = 10

    def nested(x: int) -> int:
        return x + offset

    functions: list[Any] = [
        lambda x: x - 1, nested, functools.partial(pow, 2), plain.Scale(3).of, plain.Scale(4), math.factorial, str,
    ]  # fmt: skip
    assert [pool.submit(function, 5).result(WITHIN) for function in functions] == [4, 15, 32, 15, 20, 120, "5"]
    assert [list(pool.map(function, [5, 5])) for function in functions] == [
        [one, one] for one in (4, 15, 32, 15, 20, 120, "5")
    ]  # fmt: skip


def test_function_as_it_is_when_it_is_submitted(pool: Executor) -> None:
    """A function that is changed between two calls is not the one that was sent before."""
    factor = 2

    def scaled(x: int) -> int:
        return factor * x

    first = pool.submit(scaled, 5)
    factor = 3
    assert (first.result(WITHIN), pool.submit(scaled, 5).result(WITHIN)) == (10, 15)


def test_class_that_is_made_here(pool: Executor) -> None:
    """An object of a class that no worker can import comes back as one of that very class."""

    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

    (point,) = pool.map(lambda p: Point(p.x + 1), [Point(1)])
    assert type(point) is Point
    assert point.x == 2


def test_script(lab: Lab) -> None:
    """Functions and classes of a program that is run as a script travel, its tasks with them; no worker imports it."""
    script = lab.folder / "script.py"
    script.write_text(_SCRIPT, encoding="utf-8")
    done = lab.run(str(script))
    assert done.stdout.split() == ["[1,", "4,", "9]", "Pair(2)", "41", "beside"], done.stderr


_SCRIPT = """
from queuelib import Dispatcher, Executor

dispatcher = Dispatcher(allow_pickle=True)
print("") if __name__ == "__main__" else open("imported", "w")


class Pair:
    def __init__(self, x):
        self.x = x

    def __repr__(self):
        return f"Pair({self.x})"


def square(x):
    return x * x


def pair(x):
    return Pair(square(x) - 2)


if __name__ == "__main__":
    with Executor(dispatcher, processes=1) as pool:
        print(list(pool.map(square, [1, 2, 3])), pool.submit(pair, 2).result())

    @dispatcher.task
    def task(x: int) -> int:
        return x

    def uses(x):
        return task(x) + 1

    with Dispatcher(allow_pickle=True).workers(processes=1), Executor(dispatcher) as pool:
        print(pool.submit(uses, 40).result())
    import os
    print("imported" if os.path.exists("imported") else "beside")
"""


def test_results_of_all_kinds(pool: Executor) -> None:
    """Arrays come back bit for bit, writable; what holds a function as well."""
    array = np.random.default_rng(1).random((20, 30)).T
    back = pool.submit(plain.double, array).result(WITHIN)
    assert np.array_equal(back, 2 * array)
    assert back.flags.writeable
    assert pool.submit(lambda: lambda x: x + 1).result(WITHIN)(1) == 2


def test_tasks_go_as_themselves(lab: Lab) -> None:
    """A task, its options and its function go with typed arguments, and need no pickle."""
    deeds = lab.deeds
    with lab.dispatcher.workers(processes=1), Executor(lab.dispatcher) as pool:
        assert pool.submit(deeds.square, 3).result(WITHIN) == 9
        assert list(pool.map(deeds.add, [1, 2], [3, 4])) == [4, 6]
        assert list(pool.starmap(deeds.add.options(color="red"), [(1, 2)])) == [3]
        future = pool.submit(deeds.square.__wrapped__, 4)
        assert future.result(WITHIN) == 16
        assert "square" in repr(future.job)
        with pytest.raises(TypeError, match="expected int"):
            pool.submit(deeds.square, "x")
        with closing(Dispatcher("memory://another")) as another, pytest.raises(UnknownTask, match="another dispatcher"):
            pool.submit(another.task(lambda x: x), 1)


def test_what_cannot_be_pickled(pool: Executor) -> None:
    """A function or argument says so at submit, and a result in its future."""
    lock = threading.Lock()
    with pytest.raises(EncodeError, match="lambda.*cannot be pickled"):
        pool.submit(lambda: lock)
    with pytest.raises(EncodeError, match="argument cannot be pickled"):
        pool.submit(plain.double, lock)
    with pytest.raises(EncodeError, match="argument cannot be pickled"):
        list(pool.map(plain.double, [1, lock]))
    with pytest.raises(TypeError, match="lock.*returned.*lock.*cannot travel"):
        pool.submit(threading.Lock).result(WITHIN)


def test_result_that_cannot_be_read(pool: Executor) -> None:
    """What raises while it is unpickled here is how the call ended."""

    def awkward() -> Any:
        class Awkward:
            def __reduce__(self) -> Any:
                return int, ("no number",)

        return Awkward()

    with pytest.raises(DecodeError, match="no number"):
        pool.submit(awkward).result(WITHIN)


def test_function_that_cannot_be_read(pool: Executor) -> None:
    """What raises while it is unpickled in a worker is how the call failed."""

    class Foreign:
        def __call__(self) -> None: ...

        def __reduce__(self) -> Any:
            return int, ("no number",)

    with pytest.raises(ValueError, match="no number"):
        pool.submit(Foreign()).result(WITHIN)


# How much travels


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of what is shared from here on."""
    sizes: list[int] = []
    real = pieces.store

    def store(blobs: Any, content: memoryview) -> bytes:
        sizes.append(len(content))
        return real(blobs, content)

    monkeypatch.setattr(pieces, "store", store)
    return sizes


def test_body_is_sent_once(pool: Executor, stored: list[int]) -> None:
    """However many calls there are of a function, its body goes once; what a name stands for goes with the call."""
    table = secrets.token_bytes(100_000)

    def look(i: int) -> int:
        return table[i]

    futures = [pool.submit(look, i) for i in range(20)]
    assert [future.result(WITHIN) for future in futures] == list(table[:20])
    assert list(pool.map(look, range(3000))) == list(table[:3000])
    assert len(stored) == 1
    assert stored[0] > 100_000
    assert list(pool.map(plain.double, range(10))) == list(range(0, 20, 2))
    assert len(stored) == 1


def test_large_argument_is_sent_once(pool: Executor, stored: list[int]) -> None:
    """An argument above 256 KiB goes once by its content, wherever it stands; each call has a copy of its own."""
    array = np.random.default_rng(2).random(100_000)

    def change(number: int, values: Any, *, also: Any = None) -> float:
        values[0] += number
        return float(values[0] + (0.0 if also is None else also[0]))

    futures = [pool.submit(change, i, array) for i in range(5)] + [pool.submit(change, 7, values=array, also=array)]
    assert [future.result(WITHIN) for future in futures] == [
        *(array[0] + i for i in range(5)),
        array[0] + 7 + array[0],
    ]
    assert sum(size > 800_000 for size in stored) == 1


def test_million_items_would_not_be_held(pool: Executor) -> None:
    """A map takes from its input only what it needs, and keeps nothing that was read."""
    taken = itertools.count()

    def inputs() -> Iterator[int]:
        while True:
            yield next(taken)

    results = pool.map(lambda x: x, inputs())
    assert [next(results) for _ in range(3000)] == list(range(3000))
    results.close()
    assert next(taken) < 1_000_000


@pytest.mark.parametrize("buffersize", [1, 4, 100])
def test_buffer(pool: Executor, buffersize: int) -> None:
    """With a buffer so many items are taken at the call, and never more of them than were handed on besides."""
    taken: list[int] = []

    def inputs() -> Iterator[int]:
        for i in range(300):
            taken.append(i)
            yield i

    results = pool.map(plain.double, inputs(), buffersize=buffersize)
    assert buffersize - buffersize // 8 <= len(taken) <= buffersize
    for count, value in enumerate(results):
        assert value == 2 * count
        assert len(taken) <= count + buffersize
    assert len(taken) == 300
    with pytest.raises(ValueError, match="buffersize"):
        pool.map(plain.double, [1], buffersize=0)
    with pytest.raises(TypeError, match="buffersize"):
        pool.map(plain.double, [1], buffersize="1")  # type: ignore[arg-type]


def test_buffer_and_shutdown(pooled: Dispatcher) -> None:
    """What a buffer had no room for was not submitted before the shutdown, and is not after it."""
    pool = Executor(pooled)
    short, whole = pool.map(plain.double, range(3), buffersize=2), pool.map(plain.double, range(2), buffersize=2)
    pool.shutdown()
    assert [next(short), next(short)] == list(whole) == [0, 2]
    with pytest.raises(RuntimeError, match="shut down"):
        next(short)
    pooled.close()


def test_unordered(pool: Executor, tmp_path: Path) -> None:
    """As they come: one that takes its time keeps none of the others."""
    gate = tmp_path / "gate"
    results = pool.map(functools.partial(plain.hold_at, str(gate), 0), range(10), unordered=True)
    assert sorted(itertools.islice(results, 9)) == list(range(1, 10))
    gate.touch()
    assert list(results) == [0]


def test_what_was_handed_on_is_let_go(pool: Executor) -> None:
    """Neither map nor future keeps what its reader has dropped."""
    for value in pool.map(plain.Scale, range(3)):
        known = weakref.ref(value)
        del value
        assert known() is None
    future = pool.submit(plain.Scale, 1)
    known = weakref.ref(future.result(WITHIN))
    del future
    eventually(lambda: known() is None, within=WITHIN)


# Its size and its worker


def test_size(pool: Executor, pooled: Dispatcher) -> None:
    """It is what the live workers say, or what it started."""
    assert pool.size == 2
    with pooled.workers(processes=3, name="further"):
        eventually(lambda: pool.size == 5, within=WITHIN)
    pooled.close()


def test_worker_of_its_own(lab: Lab) -> None:
    """It lives as long as the executor, and serves a dispatcher that has no tasks."""
    with closing(Dispatcher(lab.url, namespace=lab.namespace, allow_pickle=True)) as dispatcher:
        with Executor(dispatcher, processes=2) as pool:
            assert pool.size == 2
            pids = set(pool.map(lambda _: os.getpid(), range(50)))
            assert os.getpid() not in pids
            completed: Any = pool.submit(plain.twice, 4)
            assert completed.result(WITHIN) == 8  # a coroutine is run to its end
            last = pool.submit(plain.later, 0.2, "last")
        assert last.result(0) == "last"
        assert dispatcher.open_results().workers() == []


def test_worker_of_its_own_has_the_colors(file_lab: Lab) -> None:
    """A worker that imports no module serves the palette of the program."""
    palette = Palette([Color("now", 2), Color("later", 1)], default="later")
    place: dict[str, Any] = {"namespace": file_lab.namespace, "palette": palette, "keep": 600}
    with closing(Dispatcher(file_lab.url, allow_pickle=True, **place)) as dispatcher:
        with Executor(dispatcher, processes=1) as pool:
            assert pool.submit(lambda: 5).result(WITHIN) == 5
            (worker,) = dispatcher.open_results().workers()
            assert sorted(worker.colors) == ["later", "now"]


# Who refuses


def test_client_refuses(lab: Lab) -> None:
    """Without leave nothing is pickled or submitted, and the error names the function and both remedies."""
    with Executor(lab.dispatcher) as pool:
        for submit in (pool.submit, pool.map):
            with pytest.raises(
                PickleRefused, match=r"plain\.double is no task.*@dispatcher\.task.*allow_pickle=True.*--allow-pickle"
            ):
                submit(plain.double, [1])  # type: ignore[operator]


def test_worker_refuses(lab: Lab, tmp_path: Path) -> None:
    """A worker that may not unpickle does not: the job fails and says how to allow it."""
    trap = tmp_path / "sprung"
    lab.ready_worker("--processes", "1")
    with closing(Dispatcher(lab.url, namespace=lab.namespace, allow_pickle=True)) as dispatcher:
        with Executor(dispatcher) as pool:
            futures = [pool.submit(print, Trap(trap)), pool.submit(Trap(trap)), pool.submit(abs, 1)]
            for future in futures:
                assert isinstance(future, Future)
                with pytest.raises(PickleRefused, match="queuelib worker --allow-pickle"):
                    future.result(WITHIN)
    assert not trap.exists()


def test_worker_allows(lab: Lab) -> None:
    """The switch is on the command line, with modules and without."""
    lab.ready_worker("--processes", "1", "--allow-pickle")
    with closing(Dispatcher(lab.url, namespace=lab.namespace, allow_pickle=True)) as dispatcher:
        with Executor(dispatcher) as pool:
            assert pool.submit(lambda: 5).result(WITHIN) == 5
        assert lab.deeds.square.submit(3).result(timeout=WITHIN) == 9


def test_reader_refuses(lab: Lab, tmp_path: Path) -> None:
    """Who has not allowed it reads plain results, and unpickles none."""
    trap = tmp_path / "sprung"

    def bait() -> Any:
        return Trap(trap)

    with closing(Dispatcher(lab.url, namespace=lab.namespace, allow_pickle=True)) as dispatcher:
        with Executor(dispatcher, processes=1) as pool:
            plain_one, pickled = pool.submit(abs, -1).job, pool.submit(bait).job
            eventually(pickled.done, within=WITHIN)
    trap.unlink(missing_ok=True)  # our own future has read it
    assert lab.dispatcher.job(plain_one.id).result(timeout=WITHIN) == 1
    with pytest.raises(PickleRefused, match="allow_pickle=True"):
        lab.dispatcher.job(pickled.id).result(timeout=WITHIN)
    assert not trap.exists()


def test_unsigned_pickle_is_not_read(lab: Lab, tmp_path: Path) -> None:
    """With a key, what bears no good signature is set aside before anybody unpickles it."""
    trap = tmp_path / "sprung"
    lab.ready_worker("--processes", "1", "--allow-pickle", QUEUELIB_KEY=KEY)
    place: dict[str, Any] = {"namespace": lab.namespace, "allow_pickle": True}
    jobs = []
    for key in (None, OTHER):
        with closing(Dispatcher(lab.url, key=key, **place)) as stranger:
            row = stranger.calls.field(stranger.calls.body(print)), stranger.calls.arguments((Trap(trap),), {})
            jobs.append(stranger.producer.submit_call(stranger.calls.definition, row, {}, NO_OPTIONS))
    with closing(Dispatcher(lab.url, key=KEY, **place)) as dispatcher:
        with Executor(dispatcher) as pool:
            assert pool.submit(lambda: 5).result(WITHIN) == 5
        eventually(lambda: len(dispatcher.open_results().quarantined()) == 2, within=WITHIN)
    assert not trap.exists()


def test_name_of_the_task_is_taken() -> None:
    """No task of a user's can be called as the one that runs pickled calls."""
    with pytest.raises(ValueError, match="another name"):
        Dispatcher("memory://name").task(name=CALL)(plain.double)
