"""How an executor ends: with inputs that do not, or that raise; from other threads, signal handlers and forked processes."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import threading
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any

import pytest

from queuelib import CancelledError, DecodeError, Dispatcher, Executor, QueuelibError
from tests.integration.apps import plain
from tests.integration.lab import WITHIN, Gate
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

MORE = 3000  # items; more than are submitted at once


class LabError(Exception):
    """What an input raised."""


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dispatcher]:
    """A dispatcher that allows pickle, and two processes that serve it."""
    url = f"sqlite:///{tmp_path_factory.mktemp('endings')}/jobs.db"
    dispatcher = Dispatcher(url, allow_pickle=True)
    with dispatcher.workers(processes=2):
        dispatcher.close()
        yield dispatcher
    dispatcher.close()


@pytest.fixture
def pool(standing: Dispatcher) -> Iterator[Executor]:
    """An executor without a worker of its own."""
    pool = Executor(standing)
    yield pool
    pool.shutdown(cancel_futures=True)
    standing.close()


def _in_time(act: Callable[[], Any]) -> None:
    """Do something in a thread; fail if that does not come back."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(2 * WITHIN)
    assert not thread.is_alive()


def _read(results: Iterable[Any]) -> tuple[list[Any], BaseException | None]:
    """Return what comes, and what is raised after it."""
    seen: list[Any] = []
    try:
        seen.extend(results)
    except Exception as error:  # noqa: BLE001 - it is looked at
        return seen, error
    return seen, None


def _breaking(length: int) -> Iterator[int]:
    yield from range(length)
    message = "no more"
    raise LabError(message)


class _Sized:
    """An input with a length, that raises before it is reached."""

    def __len__(self) -> int:
        return 2 * MORE

    def __iter__(self) -> Iterator[int]:
        return _breaking(MORE + 7)


class _WithoutAnswer:
    """What wraps a generator: it has the method, and no answer."""

    def __len__(self) -> int:
        raise TypeError

    def __iter__(self) -> Iterator[int]:
        return itertools.count()


# Inputs


@pytest.mark.parametrize("endless", [itertools.count(), _WithoutAnswer(), map(abs, itertools.count())])
def test_shutdown_takes_nothing_more_of_what_may_not_end(pool: Executor, endless: Iterable[int]) -> None:
    """What was submitted is run and read; then the reader is told, and not as if that had been all."""
    results = pool.map(plain.double, endless)
    assert next(results) == 0
    _in_time(pool.shutdown)
    seen, error = _read(results)
    assert seen == [2 * n for n in range(1, len(seen) + 1)]
    assert seen
    assert isinstance(error, RuntimeError)
    assert "shut down" in str(error)


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda pool: pool.map(plain.take, range(MORE), itertools.repeat(1)), MORE),
        (lambda pool: pool.map(pow, [2] * MORE, itertools.count()), MORE),
        (lambda pool: pool.starmap(plain.take, [(n,) for n in range(MORE)]), MORE),
        (lambda pool: pool.map(plain.take), 0),
    ],
)
def test_shutdown_takes_all_that_has_an_end(pool: Executor, make: Callable[[Executor], Any], count: int) -> None:
    """As the standard library does at the call."""
    results = make(pool)
    pool.shutdown()
    seen, error = _read(results)
    assert (len(seen), error) == (count, None)


def test_unread_map_without_end(pool: Executor, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody is there to be told, so the log is."""
    with caplog.at_level(logging.WARNING, "queuelib.executor"):
        pool.map(plain.double, itertools.count())
        eventually(lambda: "only its first calls" in caplog.text, within=WITHIN)
        _in_time(pool.shutdown)


def test_input_that_raises_during_shutdown(standing: Dispatcher) -> None:
    """What came before it is run and read, then it is raised; other maps and futures end well, and the worker ends."""
    dispatcher = Dispatcher(standing.broker_url, namespace="raising", allow_pickle=True)
    pool = Executor(dispatcher, processes=1)
    broken, good = pool.map(plain.double, _Sized()), pool.map(plain.double, range(MORE))
    future = pool.submit(plain.double, 21)
    _in_time(pool.shutdown)
    assert future.done()
    assert dispatcher.open_results().workers() == []
    seen, error = _read(broken)
    assert seen == [2 * n for n in range(MORE + 7)]
    assert isinstance(error, LabError)
    assert list(good) == [2 * n for n in range(MORE)]
    dispatcher.close()


# Futures


def test_result_that_exits_when_it_is_read(pool: Executor) -> None:
    """The future ends, and says why; so does the map, and callers of the job itself live on."""
    future = pool.submit(plain.Exits)
    assert isinstance(future.exception(WITHIN), DecodeError)
    with pytest.raises(DecodeError, match="SystemExit"):
        future.job.result(timeout=WITHIN)
    with pytest.raises(DecodeError, match="SystemExit"):
        list(pool.map(lambda _: plain.Exits(), [1]))
    assert pool.submit(plain.Interrupts).exception(WITHIN).__class__ is KeyboardInterrupt
    assert pool.submit(plain.double, 1).result(WITHIN) == 2


def test_shutdown_beside_a_reader(pool: Executor, tmp_path: Path) -> None:
    """It does not wait for what the reader waits for; the reader hears that calls were cancelled."""
    gate, seen = Gate(tmp_path / "gate"), []
    results = pool.map(plain.hold, itertools.repeat(gate.path), itertools.count())
    has_begun = threading.Event()

    def read() -> None:
        has_begun.set()
        seen.append(_read(results))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert has_begun.wait(WITHIN)
    last = [pool.submit(plain.double, n) for n in range(50)][-1]
    try:
        _in_time(lambda: pool.shutdown(wait=False, cancel_futures=True))
        eventually(last.cancelled, within=WITHIN)
    finally:
        gate.open()
    reader.join(WITHIN)
    [(values, error)] = seen
    assert values == list(range(len(values)))
    assert isinstance(error, CancelledError)


@pytest.mark.parametrize("cancels", [True, False])
def test_shutdown_in_a_signal_handler_of_the_reader(pool: Executor, tmp_path: Path, cancels: bool) -> None:  # noqa: FBT001 - a parameter
    """It strikes while the reader waits, and returns; the reader reads on."""
    gate = Gate(tmp_path / "gate")
    results = pool.map(plain.hold_at, itertools.repeat(gate.path), itertools.repeat(0), range(MORE))
    returned: list[bool] = []

    def strike(*_: Any) -> None:
        pool.shutdown(wait=False, cancel_futures=cancels)
        returned.append(True)
        gate.open()

    before = signal.signal(signal.SIGUSR1, strike)
    timer = threading.Timer(0.5, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1))
    timer.start()
    try:
        values, error = _read(results)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    assert returned
    assert values == list(range(len(values)))
    assert isinstance(error, CancelledError) if cancels else (error is None and len(values) == MORE)


# Forked processes


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_forked_process_has_nothing_open(standing: Dispatcher, tmp_path: Path) -> None:
    """Neither leaving nor waiting hangs there, and nothing of the parent's is cancelled or ended; jobs can be asked."""
    dispatcher = Dispatcher(standing.broker_url, namespace="forking", allow_pickle=True)
    gate = Gate(tmp_path / "gate")
    told: list[int] = []
    with Executor(dispatcher, processes=2) as pool:
        one = pool.map(plain.double, itertools.count())
        assert next(one) == 0
        future = pool.submit(plain.hold, gate.path, 1)
        future.add_done_callback(lambda _: told.append(os.getpid()))
        results = pool.map(plain.hold, itertools.repeat(gate.path), range(MORE))
        pid = os.fork()
        if pid == 0:
            signal.alarm(int(3 * WITHIN))  # ends it
            os._exit(_failures(pool, future, (results, one), gate, told))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert future.result(WITHIN) == 1
        assert list(results) == list(range(MORE))
        assert next(one) == 2
    eventually(lambda: told == [os.getpid()], within=WITHIN)
    dispatcher.close()


def _failures(pool: Executor, future: Any, maps: tuple[Any, Any], gate: Gate, told: list[int]) -> int:
    """Return which step went wrong in the child; 0 for none."""
    results, one = maps
    steps: list[Callable[[], Any]] = [
        lambda: wait([future], timeout=WITHIN).not_done == set(),
        lambda: isinstance(future.exception(WITHIN), QueuelibError) and future.job.id in str(future.exception()),
        lambda: told == [],
        lambda: next(one) == 2,
        one.close,
        gate.open,
        lambda: pool.submit(plain.double, 4).result(WITHIN) == 8,
        pool.shutdown,
        lambda: future.job.result(timeout=WITHIN) == 1,
        lambda: isinstance(_read(results)[1], RuntimeError),
    ]
    for number, step in enumerate(steps, 1):
        try:
            if step() is False:
                return number
        except BaseException:  # noqa: BLE001 - the number says where
            return 100 + number
    return 0
