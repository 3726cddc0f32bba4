"""A `concurrent.futures.Executor` whose pool are the workers of a dispatcher."""

# ruff: noqa: SLF001 - the parts of a job and of a future are the business of whoever tells how they ended

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor as _StandardExecutor
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any, Generic, Literal, ParamSpec, TypeVar, cast, overload
from weakref import WeakSet, finalize

from queuelib.context import waiting
from queuelib.dispatcher import Dispatcher
from queuelib.errors import CancelledError, QueuelibError, UnknownTask
from queuelib.job import Job
from queuelib.mapping import Limits, Stream
from queuelib.options import NO_OPTIONS, CallOptions
from queuelib.outcome import CANCELLED, RUNNING, Record
from queuelib.task import Bound, Definition
from queuelib.watch import Ending, is_watcher

__all__ = ["Executor", "JobFuture"]

P = ParamSpec("P")
T = TypeVar("T")
_LOOKED_AT = 256  # jobs looked up at once
_SHARED_EVERY = 1.0  # seconds, during a map; most times that is found to be done
_NEVER_WAITING = (itertools.repeat, itertools.count)  # inputs without a length that are as good as theirs who have one
_log = logging.getLogger("queuelib.executor")


class Executor(_StandardExecutor):
    """Runs functions on a dispatcher's workers, for programs that know `concurrent.futures`.

    A task of the dispatcher, or the function of one, goes as that task. Any other function travels by cloudpickle, where
    the dispatcher was made with `allow_pickle=True` and the workers were started with `--allow-pickle`.

    Args:
        dispatcher: Whose workers run the calls.
        processes: Children of a worker that runs beside this program for as long as the executor is open; None: it
            starts none, and others serve it.

    Raises:
        WorkerError: The worker did not start.

    Example:
        >>> from queuelib import Dispatcher, Executor
        >>> dispatcher = Dispatcher("memory://executor-example", allow_pickle=True)
        >>> with Executor(dispatcher, processes=2) as pool:
        ...     list(pool.map(lambda x: x * x, range(5)))
        [0, 1, 4, 9, 16]
    """

    def __init__(self, dispatcher: Dispatcher, *, processes: int | None = None) -> None:
        self._dispatcher = dispatcher
        self._processes = processes
        self._is_shut = False
        self._worker: AbstractContextManager[None] | None
        self._begin()
        _executors.add(self)
        if processes is not None:
            worker = dispatcher.workers(processes)
            worker.__enter__()
            self._worker = worker

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._open: set[JobFuture[Any]] = set()  # whoever takes one out says how it ended
        self._taken: set[JobFuture[Any]] = set()  # of these it is being said
        self._unfinished = 0
        self._maps: set[_Map] = set()
        self._ending = threading.RLock()  # a signal handler may shut it down while it is
        self._worker = None  # it is the parent's, after a fork

    @property
    def dispatcher(self) -> Dispatcher:
        """Whose workers run the calls."""
        return self._dispatcher

    @property
    def size(self) -> int:
        """How many processes serve it: those it started, else those that live workers tell of; 0 if there are none."""
        if self._processes is not None:
            return self._processes
        return sum(worker.processes for worker in self._dispatcher.open_results().workers())

    @overload
    def submit(self, fn: Bound[P, T], /, *args: P.args, **kwargs: P.kwargs) -> JobFuture[T]: ...

    @overload
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> JobFuture[T]: ...

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> JobFuture[Any]:
        """Submit a call and return its future, once the broker has accepted it.

        Raises:
            RuntimeError: The executor was shut down.
            PickleRefused: The function is no task, and pickle is not allowed.
            ArgumentError, EncodeError, BrokerUnavailable, SubmitUnknown: As for `task.submit`.
            Exception: Function or arguments cannot be pickled.
        """
        with self._changed:
            self._refuse_if_shut()
            self._unfinished += 1  # so that a shutdown meanwhile waits for it
        try:
            job = self._submit(fn, args, kwargs)
        except BaseException:
            self._finished()
            raise
        future = JobFuture(job, self)
        with self._changed:
            self._open.add(future)
        self._dispatcher.outcomes.watch.add((future,), self._tell, job._about, is_patient=True)
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | Literal["auto"] = "auto",
        buffersize: int | None = None,
        unordered: bool = False,
    ) -> Generator[T]:
        """Run a function on each row of the iterables and return a generator of the results, in order.

        It starts to submit at once, many calls to a broker message, and takes from the iterables only as much as keeps the
        workers busy, so that any number of items takes the same memory. It raises where a call failed; then, or when the
        generator is closed, what has not started is cancelled. When the executor is shut down, or the generator is dropped
        unread, the rest of iterables with a length is submitted all the same, and of others nothing more is taken.

        Args:
            fn: The function.
            iterables: As for the builtin `map`; the shortest ends it.
            timeout: Seconds from now, after which waiting for a result raises; None for no limit.
            chunksize: Calls in a broker message; `auto`: by how long they run.
            buffersize: Most items taken from the iterables whose results were not handed out; None: by their pace.
            unordered: Whether to yield results as they come.

        Raises:
            RuntimeError: The executor was shut down.
            ValueError, TypeError: `chunksize` or `buffersize` makes no sense.
            PickleRefused, ArgumentError, EncodeError, BrokerUnavailable, SubmitUnknown: As for `submit`.
        """
        rows = zip(*iterables)  # noqa: B905 - as the builtin map does
        limits = _limits(timeout, chunksize, buffersize)
        return self._map(fn, rows, limits, unordered=unordered, has_end=_has_end(iterables))

    def starmap(
        self,
        fn: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        *,
        timeout: float | None = None,
        chunksize: int | Literal["auto"] = "auto",
        buffersize: int | None = None,
        unordered: bool = False,
    ) -> Generator[T]:
        """Do what `map` does with arguments that come in tuples already, as `itertools.starmap` takes them."""
        rows = map(tuple, iterable)
        limits = _limits(timeout, chunksize, buffersize)
        return self._map(fn, rows, limits, unordered=unordered, has_end=_has_end((iterable,)))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - the standard library's
        """Take no more calls; those that were submitted go on, and a worker of its own ends after them.

        Maps submit what is left of iterables with a length; of others, such as generators, nothing more is taken. Whoever
        reads such a map on gets what was submitted, then a `RuntimeError`; one that nobody reads is logged.

        Args:
            wait: Whether to return only when all of them have ended. A callback cannot wait for that.
            cancel_futures: Whether to cancel those that have not started. With `wait=False` a thread does it, soon.

        Raises:
            BrokerUnavailable: The server does not answer. A worker of its own has ended.
        """
        if wait and is_watcher():
            msg = "shutdown(wait=True) in a callback would wait for itself: use wait=False"
            raise QueuelibError(msg)
        with self._changed:
            self._is_shut = True
            maps = list(self._maps)
            is_in_use = bool(maps or self._unfinished or self._worker is not None)
        if cancel_futures:
            for one in maps:
                one.cut_off()
        if wait:
            with waiting(blocks=True):
                self._end(maps, is_cancelled=cancel_futures)
        elif is_in_use:  # all that takes time is the thread's: this may be a signal handler, in the middle of anything
            end = partial(self._end, maps, is_cancelled=cancel_futures)
            threading.Thread(target=end, name="queuelib-executor").start()

    # How

    def _submit(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Job[Any]:
        definition, options = self._task(fn)
        if definition is not None:
            return self._dispatcher.producer.submit_call(definition, args, kwargs, options)
        calls = self._dispatcher.calls
        row = calls.field(calls.body(fn)), calls.arguments(args, kwargs)
        return self._dispatcher.producer.submit_call(calls.definition, row, {}, NO_OPTIONS)

    def _map(
        self, fn: Callable[..., T], rows: Iterator[tuple[Any, ...]], limits: Limits, *, unordered: bool, has_end: bool
    ) -> Generator[T]:
        definition, options = self._task(fn)
        body = None
        if definition is None:
            body = self._dispatcher.calls.body(fn)
            rows, definition = self._pickled(body, rows), self._dispatcher.calls.timed(body)
        stream = self._dispatcher.producer.open_stream(definition, rows, options, limits=limits)
        running = _Map(stream, definition.name if body is None else "pickled calls", has_end=has_end)
        with self._changed:
            self._refuse_if_shut()
            self._maps.add(running)
        try:
            running.start()
        except BaseException:
            self._forget(running)
            raise
        results = running.results(self._forget, is_ordered=not unordered)
        # As with the standard library, what nobody asks for is run all the same; without end it is not.
        finalize(results, self._let_run, running).atexit = False
        return results

    def _forget(self, running: _Map) -> None:
        with self._changed:
            self._maps.discard(running)

    def _let_run(self, running: _Map) -> None:
        """Have a map go on whose reader is gone; called wherever the interpreter collects garbage."""
        if not running.is_read and not running.is_submitted and running in self._maps:
            with suppress(RuntimeError):  # the interpreter ends, and runs nothing more
                threading.Thread(target=running.finish, name="queuelib-executor").start()

    def _pickled(self, body: bytes, rows: Iterator[tuple[Any, ...]]) -> Iterator[tuple[bytes, bytes]]:
        """Yield what calls of a pickled function carry, each when it is asked for."""
        calls = self._dispatcher.calls
        field, shared_at = b"", float("-inf")
        for args in rows:
            if time.monotonic() - shared_at > _SHARED_EVERY:
                field, shared_at = calls.field(body), time.monotonic()
            yield field, calls.arguments(args, {})

    def _task(self, fn: Any) -> tuple[Definition | None, CallOptions]:
        """Return the task that a function is, and the options it came with; None for a function that is none."""
        if not isinstance(fn, Bound):
            return self._dispatcher.definition_of(fn), NO_OPTIONS
        submitter, definition, options = fn.bound
        if submitter is not self._dispatcher.producer:
            msg = f"{fn.name} is a task of another dispatcher: submit it to an executor of that one"
            raise UnknownTask(msg)
        return definition, options

    def _refuse_if_shut(self) -> None:
        if self._is_shut:
            msg = "cannot schedule new futures after shutdown"
            raise RuntimeError(msg)

    def _tell(self, future: JobFuture[Any], ending: Ending) -> None:
        """Say how a job has ended; called by the thread that watches."""
        if self._take(future):
            self._say(future, lambda: future._end(ending))

    def _take(self, future: JobFuture[Any]) -> bool:
        """Return whether it is the caller who says how a future ends."""
        with self._changed:
            is_open = future in self._open
            if is_open:
                self._open.discard(future)
                self._taken.add(future)
            return is_open

    def _say(self, future: JobFuture[Any], end: Callable[[], None]) -> None:
        try:
            end()
        except BaseException:  # noqa: BLE001 - a callback that raises even to leave; all other jobs are told of here too
            _log.exception("a callback of %r failed", future.job)
        finally:
            self._finished(future)

    def _finished(self, future: JobFuture[Any] | None = None) -> None:
        with self._changed:
            if future is not None:
                self._taken.discard(future)
            self._unfinished -= 1
            if not self._unfinished:
                self._changed.notify_all()

    def _cancel(self, futures: Sequence[JobFuture[Any]]) -> None:
        """Cancel those that are not known to have started."""
        results = self._dispatcher.open_results()
        results.cancel([future.key for future in futures])
        for start in range(0, len(futures), _LOOKED_AT):
            some = futures[start : start + _LOOKED_AT]
            self._drop(some, results.fetch([future.key for future in some]))

    def _drop(self, futures: Sequence[JobFuture[Any]], records: Sequence[Record | None]) -> None:
        """Have those be cancelled that these records know no start of."""
        for future, record in zip(futures, records, strict=True):
            is_late = record is not None and record.state != CANCELLED and (record.is_final or record.state == RUNNING)
            if not is_late and self._take(future):
                self._dispatcher.outcomes.watch.drop_soon((future,), self._tell)
                self._say(future, future._end_cancelled)

    def _cancel_all(self, maps: Sequence[_Map]) -> None:
        with self._changed:
            waiting = list(self._open)
        if waiting:
            self._cancel(waiting)
        for one in maps:
            one.cancel()

    def _end(self, maps: Sequence[_Map], *, is_cancelled: bool) -> None:
        """Wait for all that was submitted, and end the worker, whatever happens meanwhile."""
        try:
            if is_cancelled:
                self._cancel_all(maps)
        finally:
            with self._ending:
                try:
                    self._wait(maps)
                finally:
                    worker, self._worker = self._worker, None
                    if worker is not None:
                        worker.__exit__(None, None, None)

    def _wait(self, maps: Sequence[_Map]) -> None:
        for one in maps:
            one.finish()
        with self._changed:
            self._changed.wait_for(lambda: not self._unfinished)
        for one in maps:
            one.wait()

    def _leave(self) -> None:
        """In a process that was forked off: leave all that is open, and the worker, to the parent."""
        futures, maps = [*self._open, *self._taken], self._maps
        self._begin()
        for future in futures:
            future._leave()
        for one in maps:
            one.leave()


class JobFuture(Future[T], Generic[T]):
    """The future of a job.

    Attributes:
        job: The job; its id finds it from any process.
    """

    def __init__(self, job: Job[T], executor: Executor) -> None:
        super().__init__()
        self.job = job
        self._executor = executor

    @property
    def key(self) -> Any:
        """What names the job."""
        return self.job.key

    def cancel(self) -> bool:
        """Cancel the job if it has not started, and return whether it is cancelled.

        A job that started within the last second may not be known to run yet: then this returns True, the job goes on,
        and what it returns is dropped.
        """
        if not self.done():
            self._executor._cancel([self])
        return self.cancelled()

    def running(self) -> bool:
        """Return whether the job is known to run, which it is once it has run for a second."""
        return not self.done() and self.job.state == RUNNING

    def result(self, timeout: float | None = None) -> T:
        """Return what the call returned, as `job.result()` does; wait for it up to `timeout` seconds, or for ever.

        Raises:
            TimeoutError: It has not ended within `timeout` seconds.
            CancelledError: It was cancelled.
            Exception: What the function raised, or why it did not run.
        """
        with self._waiting():
            return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what `result` would raise, or None.

        Raises:
            TimeoutError: It has not ended within `timeout` seconds.
            CancelledError: It was cancelled.
        """
        with self._waiting():
            return super().exception(timeout)

    def _end(self, ending: Ending) -> None:
        """Take over how the job has ended, and call the callbacks."""
        if isinstance(ending, Record) and ending.state == CANCELLED:
            self._end_cancelled()
            return
        self.set_running_or_notify_cancel()
        try:
            if isinstance(ending, Exception):
                raise ending  # noqa: TRY301
            value = self.job._outcomes.value(self.job._keep(ending), self.job.key)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is how the call ended, and whoever waits hears of it
            self.set_exception(error)
        else:
            self.set_result(value)

    def _end_cancelled(self) -> None:
        """Become a cancelled future, and tell who waits."""
        super().cancel()
        self.set_running_or_notify_cancel()

    def _leave(self) -> None:
        """In a process that was forked off, where nobody tells of it: end, without a word to those who wait in the parent."""
        super().__init__()  # with a lock that is free, whoever had it
        msg = f"this future is told of in the process that made it: here, ask its job, {self.job.id}"
        self.set_exception(QueuelibError(msg))

    def _waiting(self) -> AbstractContextManager[object]:
        if self.done():
            return nullcontext()
        if is_watcher():
            msg = "a callback cannot wait for another future: the news of it would come from its own thread"
            raise QueuelibError(msg)
        return waiting(blocks=True)


class _Map:
    """One running `map`: its reader, and a shutdown that comes meanwhile, in any thread.

    Args:
        stream: Its calls.
        name: What they call, for the log.
        has_end: Whether the input is known to end, and so to be taken whole when nobody reads.

    Attributes:
        is_read: Whether anybody has asked for a result.
    """

    def __init__(self, stream: Stream, name: str, *, has_end: bool) -> None:
        self._stream = stream
        self._name = name
        self._has_end = has_end
        self._is_cancelled = False
        self.is_read = False

    @property
    def is_submitted(self) -> bool:
        """Whether all calls are."""
        return self._stream.is_exhausted

    def start(self) -> None:
        """Submit the first calls."""
        self._stream.refill()

    def results(self, on_end: Callable[[_Map], None], *, is_ordered: bool) -> Generator[Any]:
        """Yield the results."""
        self.is_read = True
        results = self._stream.results(ordered=is_ordered)
        try:
            with suppress(StopIteration):
                while True:
                    yield next(results) if is_ordered else next(results)[1]  # which nothing here keeps
            if self._stream.is_short:
                msg = "the executor was shut down before the next call was submitted"
                raise CancelledError(msg) if self._is_cancelled else RuntimeError(msg)
        finally:
            results.close()
            on_end(self)

    def finish(self) -> None:
        """Submit what is left, or what there is room for, if the input has an end; then nothing more."""
        if self._has_end and not self._is_cancelled:
            try:
                self._stream.submit_rest()
            except Exception:  # noqa: BLE001 - somebody's input
                _log.exception("the rest of a map of %s was not submitted; its reader gets this error", self._name)
                return
        self._stream.cut()
        if not (self.is_read or self.is_submitted or self._is_cancelled):
            text = "nobody has read a map of %s, and nobody knows where its input ends: only its first calls were submitted"
            _log.warning(text, self._name)

    def cut_off(self) -> None:
        """Submit nothing more; returns at once, anywhere."""
        self._is_cancelled = True
        self._stream.cut_off()

    def cancel(self) -> None:
        """Submit nothing more, and cancel what has not started."""
        self.cut_off()
        self._stream.cancel()

    def wait(self) -> None:
        """Wait until all that was submitted has ended."""
        self._stream.wait()

    def leave(self) -> None:
        """Leave it to the parent, in a process that was forked off."""
        self._stream.leave()


_executors: WeakSet[Executor] = WeakSet()


def _begin_anew() -> None:
    for executor in _executors:
        executor._leave()


os.register_at_fork(after_in_child=_begin_anew)


def _has_end(iterables: Sequence[Iterable[Any]]) -> bool:
    """Return whether rows of these are known to come to an end, and to be there when they are asked for."""
    lengths = [_length(one) for one in iterables if not isinstance(one, _NEVER_WAITING)]
    return None not in lengths and (bool(lengths) or not iterables)


def _length(iterable: Any) -> int | None:
    try:
        return len(iterable)
    except Exception:  # noqa: BLE001 - it is somebody's; one around a generator has the method, and no answer
        return None


def _limits(timeout: float | None, chunksize: int | Literal["auto"], buffersize: int | None) -> Limits:
    given = cast("object", buffersize)
    if chunksize != "auto" and chunksize < 1:
        msg = "chunksize must be >= 1, or 'auto'."
        raise ValueError(msg)
    if given is not None and not isinstance(given, int):
        msg = "buffersize must be an integer or None"
        raise TypeError(msg)
    if buffersize is not None and buffersize < 1:
        msg = "buffersize must be None or > 0"
        raise ValueError(msg)
    until = None if timeout is None else time.monotonic() + timeout
    return Limits(until, timeout, buffersize, None if chunksize == "auto" else chunksize)
