"""The executor behaves as those of the standard library do: each behavior is observed on theirs and on ours, and compared."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import threading
from concurrent.futures import (
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
    wait,
)
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest

from queuelib import Executor
from queuelib.executor import JobFuture
from tests.integration.apps import plain
from tests.integration.lab import WITHIN, Gate
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from queuelib import Dispatcher

Pool = concurrent.futures.Executor


@pytest.fixture
def ours(pooled: Dispatcher) -> Iterator[Executor]:
    """An executor of ours."""
    with Executor(pooled) as pool:
        yield pool
    pooled.close()


def _outcome(act: Callable[[], Any]) -> Any:
    """Return what something returned, or what it raised."""
    try:
        return "returned", act()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
        kind = next(
            cls for cls in (TimeoutError, concurrent.futures.CancelledError, type(error)) if isinstance(error, cls)
        )
        return "raised", kind.__name__, error.args if kind is type(error) else ()


def _read(iterator: Iterator[Any]) -> list[Any]:
    """Return what an iterator yields, and how it ends."""
    seen: list[Any] = []
    seen.append(_outcome(lambda: seen.extend(iterator)))
    return seen


# What is observed. Each gets a pool, a gate that is closed, and a folder.


def _arguments(pool: Pool, _gate: Gate, _folder: Path) -> Any:
    calls = (
        pool.submit(plain.take, 1, fn=2, self=3),
        pool.submit(plain.take),
        pool.submit(plain.take, (1,), [2], {3: {4}}),
    )
    return [call.result(WITHIN) for call in calls]


def _no_function(pool: Pool, _gate: Gate, _folder: Path) -> Any:
    return _outcome(pool.submit)[:2], _outcome(lambda: pool.submit(fn=plain.double))[:2]  # type: ignore[call-arg]


def _not_callable(pool: Pool, _gate: Gate, _folder: Path) -> Any:
    return _outcome(pool.submit(7, 1).result)  # type: ignore[arg-type]


def _values(pool: Pool, _gate: Gate, _folder: Path) -> Any:
    values: list[Any] = [
        None,
        True,
        2**70,
        float("inf"),
        "a\udc80",
        b"bytes",
        (1, (2,)),
        {1: 2},
        {1, 2},
        plain.Scale(3),
        1j,
    ]
    return [(type(value), value) for value in pool.map(plain.take, values)]


def _errors(pool: Pool, _gate: Gate, _folder: Path) -> Any:
    future = pool.submit(plain.invert, 0)
    error = future.exception(WITHIN)
    return type(error), error and error.args, _outcome(future.result), pool.submit(plain.invert, 1).exception(WITHIN)


def _error_with_cause(pool: Pool, _gate: Gate, _folder: Path) -> Any:
    error = pool.submit(plain.fail_from, "text").exception(WITHIN)
    assert error is not None
    said = str(error.__cause__)
    return type(error), error.args, "KeyError: 'no text'" in said, "direct cause" in said, "plain.py" in said


def _timeout_of_result(pool: Pool, gate: Gate, _folder: Path) -> Any:
    future = pool.submit(plain.hold, gate.path, 5)
    late = _outcome(lambda: future.result(timeout=0.05)), _outcome(lambda: future.exception(timeout=0)), future.done()
    gate.open()
    return late, future.result(WITHIN), future.done()


def _map_in_order(pool: Pool, _gate: Gate, _folder: Path) -> Any:
    return list(pool.map(plain.double, range(300)))


def _map_shortest(pool: Pool, _gate: Gate, _folder: Path) -> Any:
    return (
        list(pool.map(pow, [1, 2, 3], itertools.cycle([2]), range(3, 5))),
        list(pool.map(plain.take)),
        list(pool.map(abs, [])),
    )


def _map_as_iterator(pool: Pool, _gate: Gate, _folder: Path) -> Any:
    results = pool.map(plain.double, "abc")
    return (
        iter(results) is results,
        next(results),
        next(results),
        list(results),
        list(results),
        _outcome(lambda: next(results)),
    )


def _map_error(pool: Pool, _gate: Gate, _folder: Path) -> Any:
    results = pool.map(plain.invert, [4, 2, 0, 1])
    return _read(results), _read(results)


def _map_stop_iteration(pool: Pool, _gate: Gate, _folder: Path) -> Any:
    return _read(pool.map(plain.stop, range(4)))


def _map_bad_input(pool: Pool, _gate: Gate, _folder: Path) -> Any:
    return _outcome(lambda: pool.map(plain.invert, (1 / x for x in (1, 0)))), _outcome(
        lambda: pool.map(plain.invert, cast("Any", 5))
    )


def _map_timeout(pool: Pool, gate: Gate, _folder: Path) -> Any:
    held = _read(pool.map(partial(plain.hold_at, gate.path, 3), range(5), timeout=1.5))
    gate.open()
    return held, _read(pool.map(plain.double, range(5), timeout=WITHIN))


def _map_no_time(pool: Pool, gate: Gate, _folder: Path) -> Any:
    held = _read(pool.map(plain.hold, [gate.path], timeout=0))
    gate.open()
    return held


def _map_closed(pool: Pool, _gate: Gate, _folder: Path) -> Any:
    results = pool.map(plain.double, range(50))
    first = next(results)
    results.close()  # type: ignore[attr-defined]
    return first, list(results), pool.submit(plain.double, 4).result(WITHIN)


def _map_not_read(pool: Pool, _gate: Gate, folder: Path) -> Any:
    pool.map(partial(plain.touch, str(folder)), range(20))
    pool.shutdown()
    return sorted(path.name for path in folder.iterdir())


def _map_read_late(pool: Pool, _gate: Gate, _folder: Path) -> Any:
    results = pool.map(plain.double, range(3000))
    first = next(results)
    pool.shutdown()
    return first, list(results)


def _chunks(pool: Pool, _gate: Gate, _folder: Path) -> Any:
    bad = [_outcome(lambda n=n: pool.map(plain.double, [1], chunksize=n))[:2] for n in (0, -1)]  # type: ignore[misc]
    return (
        bad,
        list(pool.map(plain.double, range(10), chunksize=3)),
        list(pool.map(plain.double, range(10), chunksize=99)),
    )


def _after_shutdown(pool: Pool, _gate: Gate, _folder: Path) -> Any:
    future = pool.submit(plain.double, 2)
    pool.shutdown()
    late = _outcome(lambda: pool.submit(plain.double, 1)), _outcome(lambda: pool.map(plain.double, [1]))
    pool.shutdown()
    return future.done(), future.result(), late


def _context(pool: Pool, _gate: Gate, _folder: Path) -> Any:
    with pool as same:
        futures = [pool.submit(plain.later, 0.05, i) for i in range(6)]
    return same is pool, [future.done() for future in futures], _outcome(lambda: pool.submit(abs, 1))[:2]


def _shutdown_without_waiting(pool: Pool, gate: Gate, _folder: Path) -> Any:
    future = pool.submit(plain.hold, gate.path, 1)
    pool.shutdown(wait=False)
    was_done = future.done()
    gate.open()
    return was_done, future.result(WITHIN)


def _running(pool: Pool, gate: Gate) -> list[Future[Any]]:
    futures = [pool.submit(plain.hold, gate.path, i) for i in range(2)]
    eventually(lambda: all(future.running() for future in futures), within=WITHIN)
    return futures


def _shutdown_cancels(pool: Pool, gate: Gate, _folder: Path) -> Any:
    first, rest = _running(pool, gate), [pool.submit(plain.double, i) for i in range(20)]
    opening = threading.Timer(0.3, gate.open)
    opening.start()
    pool.shutdown(cancel_futures=True)
    opening.join()
    return [f.result() for f in first], [(f.cancelled(), f.done(), _outcome(f.result)) for f in rest]


def _shutdown_cancels_map(pool: Pool, gate: Gate, _folder: Path) -> Any:
    first, results = _running(pool, gate), pool.map(plain.double, range(20))
    opening = threading.Timer(0.3, gate.open)
    opening.start()
    pool.shutdown(cancel_futures=True)
    opening.join()
    return [f.result() for f in first], _read(results)


def _cancel(pool: Pool, gate: Gate, _folder: Path) -> Any:
    first, last = _running(pool, gate), [pool.submit(plain.double, i) for i in range(10)][-1]
    told: list[Any] = []
    last.add_done_callback(lambda future: told.append(future is last))
    answers = last.cancel(), last.cancel(), last.cancelled(), last.done(), last.running(), _outcome(last.result)
    refused = first[0].cancel(), first[0].cancelled(), first[0].running()
    gate.open()
    done = first[0].result(WITHIN), first[0].cancel(), first[0].running()
    return (
        answers,
        told,
        refused,
        done,
        _outcome(lambda: last.exception(WITHIN)),
        len(wait([last], timeout=WITHIN).done),
    )


def _callbacks(pool: Pool, gate: Gate, _folder: Path) -> Any:
    told: list[Any] = []
    future = pool.submit(plain.hold, gate.path, 3)
    called = threading.Event()

    def fail(_: Future[Any]) -> None:
        told.append("fail")
        raise RuntimeError

    for act in (lambda f: told.append(f.result()), fail, lambda f: told.append(f is future), lambda _: called.set()):
        future.add_done_callback(act)
    gate.open()
    assert called.wait(WITHIN)
    future.add_done_callback(lambda _: told.append(threading.current_thread() is threading.main_thread()))
    return told


def _as_completed(pool: Pool, gate: Gate, _folder: Path) -> Any:
    held = pool.submit(plain.hold, gate.path, "last")
    futures = [pool.submit(plain.double, i) for i in range(10)]
    seen = [future.result() for future in itertools.islice(as_completed([held, *futures, *futures], WITHIN), 10)]
    late = _outcome(lambda: list(as_completed([held], timeout=0.05)))[:2]
    gate.open()
    return sorted(seen), late, [future.result() for future in as_completed([held], WITHIN)]


def _wait(pool: Pool, gate: Gate, _folder: Path) -> Any:
    held, quick = pool.submit(plain.hold, gate.path, 1), pool.submit(plain.double, 1)
    one = wait([held, quick], timeout=WITHIN, return_when=FIRST_COMPLETED)
    failed = pool.submit(plain.invert, 0)
    two = wait([held, failed], timeout=WITHIN, return_when=FIRST_EXCEPTION)
    three = wait([held], timeout=0.05)
    gate.open()
    four = wait([held, quick, failed], timeout=WITHIN)
    return [(len(pair.done), len(pair.not_done), held in pair.done) for pair in (one, two, three, four)]


def _asyncio(pool: Pool, _gate: Gate, _folder: Path) -> Any:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(pool, plain.double, i) for i in range(10)]
        wrapped = asyncio.wrap_future(pool.submit(plain.invert, 0))
        return await asyncio.gather(*calls, wrapped, return_exceptions=True)

    *values, error = asyncio.run(main())
    return values, type(error)


def _asyncio_cancel(pool: Pool, gate: Gate, _folder: Path) -> Any:
    _running(pool, gate)
    future = [pool.submit(plain.double, i) for i in range(10)][-1]

    async def main() -> Any:
        return await asyncio.wait_for(asyncio.wrap_future(future), 0.05)

    late = _outcome(lambda: asyncio.run(main()))[:2]
    is_cancelled = future.cancelled()
    gate.open()
    return late, is_cancelled


def _kinds(pool: Pool, _gate: Gate, _folder: Path) -> Any:
    future = cast("object", pool.submit(plain.double, 1))
    return isinstance(cast("object", pool), Pool), isinstance(future, concurrent.futures.Future)


THREADS, PROCESSES = "threads", "processes"
BEHAVIORS: list[tuple[Callable[[Pool, Gate, Path], Any], tuple[str, ...]]] = [
    (_arguments, (THREADS, PROCESSES)),
    (_no_function, (THREADS, PROCESSES)),
    (_not_callable, (THREADS, PROCESSES)),
    (_values, (THREADS, PROCESSES)),
    (_errors, (THREADS, PROCESSES)),
    (_error_with_cause, (PROCESSES,)),  # in threads the error itself comes back
    (_timeout_of_result, (THREADS, PROCESSES)),
    (_map_in_order, (THREADS, PROCESSES)),
    (_map_shortest, (THREADS,)),  # processes take all of an input without end
    (_map_as_iterator, (THREADS, PROCESSES)),
    (_map_error, (THREADS, PROCESSES)),
    (_map_stop_iteration, (THREADS,)),
    (_map_bad_input, (THREADS, PROCESSES)),
    (_map_timeout, (THREADS, PROCESSES)),
    (_map_no_time, (THREADS, PROCESSES)),
    (_map_closed, (THREADS, PROCESSES)),
    (_map_not_read, (THREADS, PROCESSES)),
    (_map_read_late, (THREADS,)),
    (_chunks, (PROCESSES,)),  # threads ignore it
    (_after_shutdown, (THREADS, PROCESSES)),
    (_context, (THREADS, PROCESSES)),
    (_shutdown_without_waiting, (THREADS, PROCESSES)),
    (_shutdown_cancels, (THREADS,)),  # processes have taken some of the rest already
    (_shutdown_cancels_map, (THREADS,)),
    (_cancel, (THREADS, PROCESSES)),
    (_callbacks, (THREADS,)),  # the log keeps the frame, and that the processes' pipes
    (_as_completed, (THREADS, PROCESSES)),
    (_wait, (THREADS, PROCESSES)),
    (_asyncio, (THREADS, PROCESSES)),
    (_asyncio_cancel, (THREADS, PROCESSES)),
    (_kinds, (THREADS, PROCESSES)),
]


@pytest.mark.parametrize(("behavior", "others"), BEHAVIORS, ids=[b.__name__.strip("_") for b, _ in BEHAVIORS])
def test_behaves_as_the_standard_library(
    ours: Executor, behavior: Callable[[Pool, Gate, Path], Any], others: tuple[str, ...], tmp_path: Path
) -> None:
    """What is seen on an executor of the standard library is seen on ours."""
    seen = {}
    for name in (*others, "ours"):
        folder = tmp_path / name
        folder.mkdir()
        gate = Gate(tmp_path / f"{name}.gate")
        made = {THREADS: ThreadPoolExecutor, PROCESSES: ProcessPoolExecutor}.get(name)
        try:
            if made is None:
                seen[name] = behavior(ours, gate, folder)
            else:
                with made(2) as pool:
                    try:
                        seen[name] = behavior(pool, gate, folder)
                    finally:
                        gate.open()
        finally:
            gate.open()
    expected = seen[others[0]]
    assert all(one == expected for one in seen.values()), "\n".join(f"{name}: {one}" for name, one in seen.items())


def test_future_has_its_job(ours: Executor, pooled: Dispatcher) -> None:
    """The id of the job finds its result from anywhere."""
    future = ours.submit(plain.double, 4)
    assert isinstance(future, JobFuture)
    assert pooled.job(future.job.id).result(timeout=WITHIN) == future.result(WITHIN) == 8
