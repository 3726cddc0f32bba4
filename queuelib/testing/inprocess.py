"""Dispatchers on private memory:// servers, and workers for them that run jobs in the thread that asks, when it asks.

The worker is the real one: supervisor, intake, short lists, the child's loop, settlement. Only its processes are not
there, and its time is counted in rounds, so that nothing depends on how fast a machine is. A job whose result somebody
waits for runs in the thread that waits; a handler that waits for another job has it run while it waits.
"""

from __future__ import annotations

import math
import secrets
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast

from queuelib.clock import Clock
from queuelib.errors import JobTimeout
from queuelib.ids import job_id
from queuelib.job import Job
from queuelib.outcome import CANCELLED, EXPIRED, SUCCEEDED
from queuelib.ports import Teller
from queuelib.testing.background import Background
from queuelib.testing.clock import FakeClock

if TYPE_CHECKING:
    from queuelib.dispatcher import Dispatcher
    from queuelib.ids import Key
    from queuelib.outcome import Record
    from queuelib.ports import Listening, ResultBackend
    from queuelib.testing.inline import InlineChild, InlineCrew
    from queuelib.worker.supervisor import Supervisor

__all__ = ["InProcess", "in_process"]

_ROUND = 0.25  # seconds that a worker believes to pass in a round: all that it does from time to time, it does in each
_FRUITLESS = 20  # rounds in a row without a job, five seconds for the worker, after which nothing more is to come
_OVER = 3  # rounds in a row in which a worker says that nothing is left
_MOST_NAMED = 10  # jobs, by their ids
_LIMIT = 10_000  # jobs in one run
_WAIT_LIMIT = 100_000  # jobs that run while one is waited for
_LEAVE_WITHIN = 5.0  # seconds that a handler in another thread gets which runs when its test ends


class InProcess:
    """Runs what is queued on some dispatchers, in the calling thread: what the fixture `queuelib_run` gives.

    Args:
        dispatchers: They are on servers of this process already; see `in_process`.
        clock: What they take for the time.
        passes: Exceptions that leave a handler as themselves, in place of becoming the outcome of its job.
    """

    def __init__(
        self,
        dispatchers: Sequence[Dispatcher],
        clock: FakeClock,
        passes: tuple[type[BaseException], ...] = (KeyboardInterrupt,),
    ) -> None:
        self.clock = clock
        self.dispatchers = tuple(dispatchers)
        self._passes = passes
        self._workers: dict[Dispatcher, _Worker] = {}
        self._lock = threading.RLock()
        self._has_left = threading.Condition(self._lock)  # somebody has left a handler
        self._asleep: list[Listening] = []  # what threads wait on for what others run
        self._is_over = False
        self._thread = threading.get_ident()
        self._ran: list[tuple[Dispatcher, Key]] = []
        self._awaited: set[Key] = set()

    def __call__(self, *, check: bool = True, skip_delays: bool = False, limit: int = _LIMIT) -> list[Job[Any]]:
        """Run all that is due, and what it submits, until nothing is left; return the jobs that ended, in that order.

        Args:
            check: Whether to raise what the first job raised that failed, unless its result was asked for anyway.
            skip_delays: Move the clock to whatever is due next, again and again, until nothing is left: delays and
                retries too.
            limit: The most jobs to run, for tasks that submit themselves.

        Raises:
            RuntimeError: More than `limit` jobs ran, or the block has ended in which dispatchers were on such servers.
            Exception: What `job.result()` raises of the first one that did not end well.
        """
        __tracebackhide__ = True
        if self._is_over:
            msg = "nothing runs here any more: the block of in_process, or the test, has ended"
            raise RuntimeError(msg)
        first = seen = len(self._ran)
        jobs: list[Job[Any]] = []
        errors: list[tuple[Job[Any], Exception]] = []
        while True:
            self._drive(lambda: self._has_passed(first, limit))
            ended = self._ended(seen)  # before the clock moves: what is stored is forgotten after a day
            seen = len(self._ran)
            jobs += ended
            bad = [job for job in ended if job.state not in {SUCCEEDED, CANCELLED, EXPIRED}]
            errors += [(job, error) for job in bad if (error := job.exception()) is not None]
            if not skip_delays or (due := self._next_due()) is None:
                break
            self.clock.advance(max(0.0, due - self.clock.now))
        if check:
            _raise_first([(job, error) for job, error in errors if job.key not in self._awaited])
        return jobs

    def wait_for(self, results: ResultBackend, keys: Sequence[Key], timeout: float) -> None:
        """Run jobs until one of these has ended; where nothing is left to run, wait for what other threads do.

        Args:
            results: Where their ends are stored.
            keys: The jobs.
            timeout: Seconds to wait.

        Raises:
            JobTimeout: None has ended and nothing is left, in the thread of the test, where nobody else could change that;
                in any thread once the block has ended.
            RuntimeError: Very many others ran.
        """
        if self.run_until(results, keys):
            return
        is_tests = threading.get_ident() == self._thread
        if not is_tests:
            self._sleep(results, keys, timeout)
        if (self._is_over or is_tests) and not _has_one(results, keys):
            raise JobTimeout(self._why_not(keys[0], results.fetch(keys[:1])[0]))

    def run_until(self, results: ResultBackend, keys: Sequence[Key]) -> bool:
        """Run jobs until one of these has ended; return False if none has and there is nothing more to run.

        Raises:
            RuntimeError: Very many others ran.
        """
        self._awaited.update(keys)
        first = len(self._ran)
        return self._drive(lambda: _has_one(results, keys) or self._has_passed(first, _WAIT_LIMIT), keys)

    def count_busy(self) -> int:
        """Return how many handlers run at the moment, in whichever threads."""
        with self._lock:
            return sum(child.is_busy for worker in self._workers.values() for child in worker.crew.children())

    def close(self) -> None:
        """End the workers; what is left goes back to where nobody will take it.

        Threads that wait for jobs are told that these do not end. Handlers that run in them have some seconds to leave, as
        what they submit later would go to the servers of before.
        """
        with self._lock:
            self._is_over = True
            for listening in self._asleep:
                listening.wake()
            self._has_left.wait_for(lambda: not self.count_busy(), _LEAVE_WITHIN)
            for worker in self._workers.values():
                worker.close()
            self._workers.clear()

    # How

    def _drive(self, is_done: Callable[[], bool], keys: Sequence[Key] = ()) -> bool:
        """Go rounds until something is so; return False if nothing is left to do before it is, or the block has ended.

        Args:
            is_done: Whether it is.
            keys: Jobs that are waited for: those first. Another one may itself wait for a job whose handler called us,
                and that cannot go on before we return.
        """
        fruitless = over = 0
        while True:
            over = over + 1 if self._round() else 0
            if self._is_over:
                return False
            if is_done():
                return True
            before = len(self._ran)
            for child in self._next_children(keys):
                self._step(child)
            if len(self._ran) > before:
                fruitless = over = 0
            fruitless += 1
            # Over once may be so between two steps: what a worker writes at the end of a round it takes in the next one.
            if over >= _OVER or fruitless > _FRUITLESS:
                return False

    def _round(self) -> bool:
        """Have each worker go a round; return whether all is done."""
        with self._lock:
            if self._is_over:  # a worker made now would be on the servers of before
                return True
            workers = [self._worker_of(dispatcher) for dispatcher in self.dispatchers if dispatcher.definitions]
            for worker in workers:
                worker.turn()
            return all(worker.supervisor.is_over() for worker in workers)

    def _next_children(self, keys: Sequence[Key]) -> list[InlineChild]:
        """Return who is to run what it was handed: all; but in a handler those with these jobs, or one."""
        with self._lock:
            children = [child for worker in self._workers.values() for child in worker.crew.children()]
            ready = [child for child in children if not child.is_busy and child.has_jobs]
            if len(ready) < 2 or not any(child.is_busy for child in children):
                return ready
            wanted = frozenset(keys)
            return [child for child in ready if child.has_one_of(wanted)] or ready[:1]

    def _step(self, child: InlineChild) -> None:
        """Run what a child was handed; not under the lock, so that a handler may wait for other jobs in any thread."""
        with self._lock:
            if child.is_busy or self._is_over:
                return
            child.is_busy = True
        try:
            if _has_loop():  # asynchronous handlers need one of their own, and a thread has one at a time
                _in_thread(child.step)
            else:
                child.step()
        finally:
            with self._lock:
                child.is_busy = False
                self._has_left.notify_all()

    def _sleep(self, results: ResultBackend, keys: Sequence[Key], timeout: float) -> None:
        """Wait until one of these jobs has ended, by what other threads do, or the block has."""
        end = time.monotonic() + timeout
        assert isinstance(results, Teller)
        listening = results.listen()
        assert listening is not None
        with self._lock:
            self._asleep.append(listening)
        try:
            while not self._is_over and not _has_one(results, keys) and (left := end - time.monotonic()) > 0:
                listening.wait(left)
        finally:
            with self._lock:
                self._asleep.remove(listening)
            listening.close()

    def _worker_of(self, dispatcher: Dispatcher) -> _Worker:
        worker = self._workers.get(dispatcher)
        if worker is not None and worker.tasks != dispatcher.definitions.keys() and not worker.is_busy:
            worker.close()  # a test has defined further tasks, and a worker learns of them when it starts
            worker = None
        if worker is None:
            worker = _Worker(dispatcher, self.clock, lambda key: self._ran.append((dispatcher, key)), self._passes)
            self._workers[dispatcher] = worker
        return worker

    def _has_passed(self, first: int, limit: int) -> bool:
        if len(self._ran) - first <= limit:
            return False
        msg = f"more than {limit} jobs ran: does a task submit itself? limit= says how many are right"
        raise RuntimeError(msg)

    def _next_due(self) -> float | None:
        dues = [worker.next_due() for worker in self._workers.values()]
        return min((due for due in dues if due is not None), default=None)

    def _ended(self, first: int) -> list[Job[Any]]:
        """Return the jobs that ran since, and have ended, in the order in which they did."""
        last = {key: (dispatcher, at) for at, (dispatcher, key) in enumerate(self._ran[first:])}
        jobs = [dispatcher.job(job_id(*key)) for key, (dispatcher, _) in sorted(last.items(), key=lambda kv: kv[1][1])]
        return [job for job in jobs if job.done()]

    def _why_not(self, key: Key, record: Record | None) -> str:
        state = "unknown" if record is None else record.state
        if self._is_over:
            return f"job {job_id(*key)} is {state}, and the block or the test in which jobs ran has ended"
        what = f"job {job_id(*key)} is {state}, and nothing is left to run"
        due = self._next_due()
        if due is not None and due > self.clock.now:
            wait = math.ceil((due - self.clock.now) * 1000) / 1000
            return f"{what} before the clock has moved: queuelib_clock.advance({wait:g}) makes the next job due"
        return f"{what} here"


@contextmanager
def in_process(
    dispatchers: Sequence[Dispatcher],
    *,
    clock: FakeClock | None = None,
    passes: tuple[type[BaseException], ...] = (KeyboardInterrupt,),
) -> Generator[InProcess]:
    """Have dispatchers talk to private memory:// servers while the block lasts, each to one of its own.

    Args:
        dispatchers: They connect again as before when the block ends.
        clock: What they take for the time; None: one that stands at the present time.
        passes: Exceptions that leave a handler as themselves, in place of becoming the outcome of its job.

    Yields:
        What runs their jobs.

    Example:
        >>> from queuelib import Dispatcher
        >>> dispatcher = Dispatcher("redis://production/0")
        >>> @dispatcher.task
        ... def double(x: int) -> int:
        ...     return 2 * x
        >>> with in_process([dispatcher]) as run:
        ...     job = double.options(delay=3600).submit(21)
        ...     assert run() == []
        ...     _ = run.clock.advance(3600)
        ...     assert run() == [job]
        ...     job.result()
        42
    """
    from queuelib import plugins  # noqa: PLC0415 - the plugin is loaded in every test run
    from queuelib.ports import InProcess as LocalBackend  # noqa: PLC0415

    time_here = clock or FakeClock()
    with ExitStack() as stack:
        run = InProcess(dispatchers, time_here, passes)
        for dispatcher in run.dispatchers:
            url = f"memory://test-{secrets.token_hex(8)}"
            backend = plugins.backend_for(url)
            assert isinstance(backend, LocalBackend)
            stack.callback(backend.drop, url)
            backend.set_clock(url, time_here.clock)
            stack.enter_context(dispatcher.redirected(url, clock=time_here.clock))
            stack.enter_context(_driven(dispatcher, run))
        stack.callback(run.close)
        yield run


class _Worker:
    """The worker of one dispatcher, in steps."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        clock: FakeClock,
        on_run: Callable[[Key], None],
        passes: tuple[type[BaseException], ...],
    ) -> None:
        from queuelib.testing.inline import InlineCrew  # noqa: PLC0415 - kombu and the worker, once a job is to run
        from queuelib.worker.daemon import Wishes, plan_for  # noqa: PLC0415
        from queuelib.worker.link import Link  # noqa: PLC0415
        from queuelib.worker.supervisor import Supervisor  # noqa: PLC0415
        from queuelib.worker.template import manifest_of  # noqa: PLC0415

        name = "in-process"
        if dispatcher.allows_pickle:
            dispatcher.calls.serve()
        manifest = manifest_of(dispatcher)
        self.tasks = set(dispatcher.definitions)
        self._passed = 0.0
        own = Clock(clock.clock.wall, lambda: time.monotonic() + self._passed)
        place = manifest["broker"], manifest["results"], manifest["namespace"], manifest["keep"]
        self._link = Link(*place, own, dispatcher.keys)
        self.crew: InlineCrew = InlineCrew(dispatcher, manifest, name, on_run, passes)
        plan = plan_for(Wishes(targets=(), processes=_DEEPEST, burst=True), manifest, name)
        self.supervisor: Supervisor = Supervisor(self.crew, self._link, plan, own)
        self.supervisor.begin()

    @property
    def is_busy(self) -> bool:
        """Whether a handler of it runs, which waits for other jobs."""
        return any(child.is_busy for child in self.crew.children())

    def turn(self) -> None:
        """Go a round, without waiting for anything."""
        self._passed += _ROUND
        self.supervisor.wake()
        self.supervisor.turn()

    def next_due(self) -> float | None:
        """Return when the next delayed message is due."""
        return None if self._link.lane is None else self._link.lane.next_due()

    def close(self) -> None:
        """End it."""
        self.supervisor.close()


_DEEPEST = 8  # jobs that may wait for each other in a row, each in a handler


class _Driven:
    """The result backend of a dispatcher: whoever waits for a job has it run."""

    def __init__(self, inner: ResultBackend, run: InProcess) -> None:
        self._inner = inner
        self._run = run

    def wait(self, keys: Sequence[Key], timeout: float) -> Sequence[Record | None] | None:
        """Run jobs; where that helps nobody and others may do it, wait."""
        if timeout <= 0:
            return self._inner.wait(keys, timeout)
        self._run.wait_for(self._inner, keys, timeout)
        return None

    def listen(self) -> Listening | None:
        """Listen as the backend does. Said here, for from Python 3.12 on `isinstance` looks for it in the class."""
        return self._inner.listen() if isinstance(self._inner, Teller) else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@contextmanager
def _driven(dispatcher: Dispatcher, run: InProcess) -> Generator[None]:
    """Have jobs run that somebody waits for, in the thread that does, or in one for those who wait without."""
    outcomes = dispatcher.outcomes
    before = outcomes.open_results
    outcomes.open_results = lambda: cast("ResultBackend", _Driven(before(), run))
    background = Background(lambda keys: run.run_until(before(), keys), run.count_busy)
    watch = getattr(outcomes, "watch", None)
    if watch is not None:
        vars(watch)["add"] = background.watching(watch.add)
    try:
        yield
    finally:
        background.close()
        outcomes.open_results = before
        if watch is not None:
            vars(watch).pop("add", None)


def _has_one(results: ResultBackend, keys: Sequence[Key]) -> bool:
    """Whether one of these jobs has ended."""
    return any(record is not None and record.is_final for record in results.fetch(keys))


def _raise_first(errors: Sequence[tuple[Job[Any], Exception]]) -> None:
    """Raise what the first job raised; the others are named beside it."""
    __tracebackhide__ = True
    if not errors:
        return
    error = errors[0][1]
    ids = ", ".join(job.id for job, _ in errors[:_MOST_NAMED])
    error.add_note(f"Jobs that did not end well in this run: {len(errors)}, of which the first raised this: {ids}")
    raise error


def _has_loop() -> bool:
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None  # noqa: SLF001 - public, in spite of its name


def _in_thread(function: Callable[[], None]) -> None:
    """Call a function in a thread of its own and wait for it."""
    raised: list[BaseException] = []

    def call() -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised in the thread that waits
            raised.append(error)

    thread = threading.Thread(target=call, name="queuelib-handlers")
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
