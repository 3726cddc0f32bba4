"""Several jobs at once: their results in order, the jobs as they end, and waiting for some of them."""

# ruff: noqa: SLF001 - a job's own parts: one by one they are its methods' business, and many at once this module's

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, NamedTuple, TypeVar, cast

from queuelib.context import waiting
from queuelib.errors import JobTimeout, QueuelibError
from queuelib.ids import Key
from queuelib.job import Job
from queuelib.outcome import CANCELLED, SUCCEEDED, Record
from queuelib.watch import Ending, Watch, is_watcher

if TYPE_CHECKING:
    from queuelib.bars import Open
    from queuelib.job import Outcomes
    from queuelib.loops import Mailbox

__all__ = ["Completed", "DoneAndNotDone", "ReturnWhen", "agather", "gather", "wait"]

R = TypeVar("R")
ReturnWhen = Literal["ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"]
"""The constants of `concurrent.futures`, which are these strings."""
_RETURN_WHEN = ("ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION")
_WINDOW = 256  # jobs looked up at once
_LOOK: Final = "look"  # in the place of an ending: nothing may be open any more
_Told = tuple[Job[Any], Ending] | Literal["look"]


class DoneAndNotDone(NamedTuple):
    """What `wait` returns, as that of `concurrent.futures` does."""

    done: set[Job[Any]]
    not_done: set[Job[Any]]


class Completed(Generic[R]):
    """An iterator over jobs as they end, for `for` and `async for`, to which jobs can be added while it runs.

    It ends when all that was added has been yielded; when more is added then, it goes on. A job that is added twice
    before it was yielded is yielded once. Closed, or forgotten, it watches nothing any more. Several threads or coroutines
    may read it, each job goes to one of them, and any may close it: then the loops of all end.

    Args:
        jobs: The first jobs, of any dispatchers.
        timeout: Seconds from now after which it raises; None for no limit.
        bar: Whether a bar is shown, and Ctrl-C cancels: see `bars`.
    """

    def __init__(self, jobs: Iterable[Job[R]], timeout: float | None, *, bar: bool = False) -> None:
        self._shown: _Shown | None = None
        if bar:
            self._shown = _Shown(self)
        self._timeout = timeout
        self._end = None if timeout is None else time.monotonic() + timeout
        self._open: dict[Key, Job[R]] = {}
        self._begin()
        self.update(jobs)

    def add(self, job: Job[R]) -> None:
        """Yield this job too, when it has ended."""
        self.update((job,))

    def update(self, jobs: Iterable[Job[R]]) -> None:
        """Yield these jobs too, when they have ended."""
        self._follow_fork()
        by_watch: dict[Watch, list[Job[R]]] = {}
        for job in _jobs_of(jobs):  # before any is entered: what reads them may raise
            if job.key in self._open:
                continue
            self._open[job.key] = job
            if job._final is not None:
                self._inbox.put(job, job._final)
            else:
                by_watch.setdefault(job._outcomes.watch, []).append(job)
        for watch, some in by_watch.items():
            self._watches.add(watch)
            watch.add(some, self._inbox.put, some[0]._about)
        if self._shown is not None:
            self._shown.bar.total = self._shown.bar.done + len(self._open)

    def close(self) -> None:
        """Watch nothing any more; what has not been yielded is not."""
        if self._shown is not None:
            self._shown.close()
        rest = list(self._open.values())
        self._open.clear()
        if os.getpid() == self._pid:
            for watch in tuple(self._watches):
                watch.drop(rest, self._inbox.put)
            self._inbox.wake()

    def __iter__(self) -> Completed[R]:
        return self

    def __next__(self) -> Job[R]:
        """Return the next job that has ended.

        Raises:
            JobTimeout: None has within the time given for all.
            UnknownJob: The id of one of them was never given out.
            BrokerUnavailable: The server has not answered for some seconds.
        """
        taken = self.take()
        if taken is None:
            raise StopIteration
        return taken[0]

    def __aiter__(self) -> Completed[R]:
        return self

    async def __anext__(self) -> Job[R]:
        """Return the next job that has ended; the errors are those of `__next__`."""
        taken = await self.atake()
        if taken is None:
            raise StopAsyncIteration
        return taken[0]

    def take(self) -> tuple[Job[R], Record] | None:
        """Return the next job that has ended, and its record; None if all have been returned."""
        if self._shown is None:
            return self._take()
        taken = None
        try:
            with self._shown.interrupt.waiting():
                taken = self._take()
            if taken is None:
                self._shown.interrupt.end()
        finally:
            if taken is None:
                self._shown.close()
        return taken

    def _take(self) -> tuple[Job[R], Record] | None:
        self._follow_fork()
        while self._open:
            item = self._inbox.get(0.0)
            if item is None:
                if is_watcher():
                    msg = "a done callback cannot wait for other jobs: all that end are told of in its thread"
                    raise QueuelibError(msg)
                left = self._left()
                with waiting(blocks=left is None or left > 0):
                    item = self._inbox.get(left)
            if item is None:
                self._look_once_more()
                item = self._inbox.get(0.0)
            taken = self._taken(item)
            if taken is not None:
                return taken
        return None

    async def atake(self) -> tuple[Job[R], Record] | None:
        """Do what `take` does without blocking the event loop."""
        import asyncio  # noqa: PLC0415 - 20 ms of import that synchronous programs do not need

        self._follow_fork()
        while self._open:
            item = await self._inbox.aget(self._left())
            if item is None and self._open:
                await asyncio.to_thread(self._look_once_more)
                item = self._inbox.get(0.0)
            taken = self._taken(item)
            if taken is not None:
                return taken
        return None

    def __del__(self) -> None:
        if getattr(self, "_open", None) and os.getpid() == self._pid:
            for watch in self._watches:
                watch.drop_soon(list(self._open.values()), self._inbox.put)

    def _begin(self) -> None:
        self._inbox = _Inbox()
        self._watches: set[Watch] = set()
        self._pid = os.getpid()

    def _follow_fork(self) -> None:
        """In a forked child, watch anew: what the parent watches is told to the parent."""
        if os.getpid() != self._pid:
            rest, self._open = self._open, {}
            self._begin()
            self.update(rest.values())

    def _left(self) -> float | None:
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def open_jobs(self) -> Open:
        """Return the jobs that have not been yielded, by what tells of them."""
        found: dict[int, tuple[Outcomes, list[Key]]] = {}
        for key, job in list(self._open.items()):
            found.setdefault(id(job._outcomes), (job._outcomes, []))[1].append(key)
        return list(found.values())

    @property
    def is_interrupted(self) -> bool:
        """Whether there was a Ctrl-C while somebody waited and a bar was shown."""
        return self._shown is not None and self._shown.interrupt.has_struck

    def told(self) -> Iterator[Job[R]]:
        """Yield the jobs of which it is known already that they have ended."""
        while self._open and (item := self._inbox.get(0.0)) is not None:
            taken = self._taken(item)
            if taken is not None:
                yield taken[0]

    def _taken(self, item: _Told | None) -> tuple[Job[R], Record] | None:
        """Return what came, or None if it came before, or nothing is open any more."""
        if item == _LOOK:
            if not self._open:
                self._inbox.wake()  # whoever else reads it is to see that, too
            return None
        if item is None:
            first = next(iter(list(self._open.values())), None)
            if first is None:
                return None  # it was closed
            what = f"job {first.id}" if len(self._open) == 1 else f"none of {len(self._open)} jobs"
            msg = f"{what} has not ended within {self._timeout:g} s; it goes on, and its result can be asked for again"
            raise JobTimeout(msg)
        job, ending = item
        if isinstance(ending, Exception):
            if job.key in self._open:
                self.close()
                raise ending
            return None
        mine = self._open.pop(job.key, None)
        if mine is None:
            return None
        if not self._open:
            self._inbox.wake()
        if self._shown is not None:
            self._shown.bar.count(failed=ending.state not in {SUCCEEDED, CANCELLED})
        return mine, mine._keep(ending)

    def _look_once_more(self) -> None:
        """Look at all that is open: what has just ended may not have been told yet, and no time is left to wait for that."""
        for watch in tuple(self._watches):  # others may add jobs meanwhile
            rest = [job for job in list(self._open.values()) if job._outcomes.watch is watch]
            for start in range(0, len(rest), _WINDOW):
                window = rest[start : start + _WINDOW]
                endings = window[0]._outcomes.endings([job.key for job in window])
                for job, ending in zip(window, endings, strict=True):
                    if isinstance(ending, Exception) or ending.is_final:
                        self._inbox.put(job, ending)


class _Shown:
    """The bar of a stream, and what Ctrl-C means while somebody waits for it."""

    def __init__(self, stream: Completed[Any]) -> None:
        from queuelib.bars import Bar, Interrupt  # noqa: PLC0415 - for those who look

        self.bar = Bar("jobs", None)
        self.interrupt = Interrupt(stream.open_jobs)
        self._is_closed = False

    def close(self) -> None:
        """Leave the bar as it is."""
        if not self._is_closed:
            self._is_closed = True
            self.interrupt.close()
            self.bar.close()


class _Inbox:
    """What the watching thread has told, until somebody takes it."""

    def __init__(self) -> None:
        self._told: SimpleQueue[_Told] = SimpleQueue()
        self._sleepers: list[tuple[Mailbox, Any]] = []

    def put(self, job: Job[Any], ending: Ending) -> None:
        """Take in the ending of a job."""
        self._put((job, ending))

    def wake(self) -> None:
        """Have one of those who wait look whether anything is open still."""
        self._put(_LOOK)

    def _put(self, told: _Told) -> None:
        self._told.put(told)
        for box, future in tuple(self._sleepers):
            box.post(future, None)

    def get(self, timeout: float | None) -> _Told | None:
        """Return the next one; None if none comes within `timeout` seconds."""
        try:
            return self._told.get(timeout != 0.0, timeout or None)
        except Empty:
            return None

    async def aget(self, timeout: float | None) -> _Told | None:  # noqa: ASYNC109 - that of `gather`
        """Return the next one without blocking the event loop."""
        import asyncio  # noqa: PLC0415 - 20 ms of import that synchronous programs do not need

        from queuelib.loops import mailbox  # noqa: PLC0415

        end = None if timeout is None else time.monotonic() + timeout
        while True:
            sleeper = mailbox(), asyncio.get_running_loop().create_future()
            self._sleepers.append(sleeper)  # before the look: what comes after it wakes this one
            try:
                item = self.get(0.0)
                left = None if end is None else end - time.monotonic()
                if item is not None or (left is not None and left <= 0):
                    return item
                with waiting(blocks=False):
                    await asyncio.wait((sleeper[1],), timeout=left)
            finally:
                self._sleepers.remove(sleeper)


def gather(jobs: Iterable[Job[R]], timeout: float | None, *, bar: bool = False) -> list[R]:
    """Return the results in the order of the jobs; the first that did not end well raises."""
    end = None if timeout is None else time.monotonic() + timeout
    waiting = _jobs_of(jobs)
    if bar:
        _look_on(waiting, timeout)
    columns = _Columns()
    values: list[R] = []
    for start in range(0, len(waiting), _WINDOW):
        window = waiting[start : start + _WINDOW]
        for job, record in zip(window, _final_records(window, end), strict=True):
            values.append(columns.value(job, record))
    return values


def _jobs_of(given: Iterable[Job[R]]) -> list[Job[R]]:
    """Return jobs as a list.

    Raises:
        TypeError: Something else is among them.
    """
    jobs = list(given)
    wrong = next((one for one in cast("list[object]", jobs) if not isinstance(one, Job)), None)
    if wrong is not None:
        msg = f"waiting is for jobs, as submit() returns them, and not for a {type(wrong).__name__}"
        raise TypeError(msg)
    return jobs


def _look_on(jobs: Sequence[Job[Any]], timeout: float | None) -> None:
    """Show a bar until all jobs have ended, or it is known that the first of them to end otherwise than well has."""
    stream = Completed(jobs, timeout, bar=True)
    at = 0
    try:
        while stream.take() is not None:
            while at < len(jobs) and (record := jobs[at]._final) is not None:
                if record.state != SUCCEEDED and not stream.is_interrupted:
                    return
                at += 1
    finally:
        stream.close()


async def agather(jobs: Iterable[Job[R]], timeout: float | None) -> list[R]:  # noqa: ASYNC109 - that of `gather`
    """Return the results in the order of the jobs; the first that did not end well raises."""
    waiting = list(jobs)
    stream = Completed(waiting, timeout)
    ended: dict[Key, Record] = {}
    columns = _Columns()
    values: list[R] = []
    try:
        for job in waiting:
            while job.key not in ended:
                taken = await stream.atake()
                assert taken is not None  # every job is taken once
                ended[taken[0].key] = taken[1]
            values.append(columns.value(job, ended[job.key]))
    finally:
        stream.close()
    return values


def wait(jobs: Iterable[Job[Any]], timeout: float | None, return_when: ReturnWhen) -> DoneAndNotDone:
    """Wait for some of the jobs, or all; return which have ended and which have not."""
    if return_when not in _RETURN_WHEN:
        msg = f"return_when is one of {', '.join(_RETURN_WHEN)}, not {return_when!r}"
        raise ValueError(msg)
    given = dict.fromkeys(jobs)
    done: set[Job[Any]] = set()
    stream = Completed(given, timeout)
    try:
        while (taken := stream.take()) is not None:
            done.add(taken[0])
            has_failed = taken[1].state not in {SUCCEEDED, CANCELLED}  # which concurrent.futures sets apart, too
            if return_when == "FIRST_COMPLETED" or (return_when == "FIRST_EXCEPTION" and has_failed):
                done.update(stream.told())
                break
    except JobTimeout:
        pass
    finally:
        stream.close()
    return DoneAndNotDone(done, given.keys() - done)


class _Columns:
    """Results of jobs in a row, of which one record may tell: it is read once."""

    def __init__(self) -> None:
        self._last: Record | None = None
        self._column: list[Any] = []

    def value(self, job: Job[R], record: Record) -> R:
        """Return the result of a job; if it did not end well, raise."""
        if record is not self._last:
            try:
                self._column = job._outcomes.values(record)[0]
            except Exception:
                if record.count == 1:
                    raise
                its_own: R = job._outcomes.value(record, job.key)  # a neighbor's cannot be read here
                return its_own
            self._last = record
        value: R = self._column[job.key.index - record.key.index]
        return value


def _final_records(jobs: Sequence[Job[R]], end: float | None) -> Iterator[Record]:
    """Yield the final record of each job in order, looking up many at once and waiting only for the next."""
    known: dict[Key, Record] = {}
    for position, job in enumerate(jobs):
        if job._final is not None:
            yield job._final
            continue
        outcomes = job._outcomes
        if job.key not in known:
            unknown = [other.key for other in jobs[position:] if other.key not in known and other._outcomes is outcomes]
            known.update({k: r for k, r in zip(unknown, outcomes.records(unknown), strict=True) if r.is_final})
        if job.key not in known:
            left = None if end is None else max(0.0, end - time.monotonic())
            known[job.key] = outcomes.wait_for([job.key], left, job._about)
        yield job._keep(known[job.key])
