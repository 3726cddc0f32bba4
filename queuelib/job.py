"""A job at the client: its state, its result, and waiting for it."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from queuelib import body as bodies
from queuelib import codec
from queuelib.clock import seconds
from queuelib.errors import (
    BrokerUnavailable,
    CancelledError,
    ForgedOutcome,
    JobExpired,
    JobQuarantined,
    JobTimeout,
    UnknownJob,
)
from queuelib.events import Events
from queuelib.ids import Key, created_at, job_id
from queuelib.options import Duration
from queuelib.outcome import CANCELLED, EXPIRED, FAILED, FORGED, QUARANTINED, QUEUED, SUCCEEDED, Record
from queuelib.ports import ResultBackend, WorkerInfo

__all__ = ["Job", "Outcomes"]

R = TypeVar("R")
_FOREVER = 3600.0  # one wait of many
_NOTICE_AFTER = 5.0  # seconds of waiting after which a client asks itself whether anybody serves it
_PATIENCE = 10.0  # seconds for which a server that does not answer is asked again
_PAUSE = (0.02, 0.2)  # seconds before that, drawn
_WINDOW = 256  # jobs looked up at once


@dataclass
class Outcomes:
    """What the jobs of one dispatcher share: where outcomes come from and how they become values again.

    Attributes:
        open_results: Opens the result backend on first use.
        load: Turns an encoded list of results of a task into values.
        exceptions: Exception classes that are raised as themselves besides the builtins.
        keep: Seconds for which outcomes are kept.
        how_to_serve: Text that tells how to start a worker.
        events: Told `result` with task, state, ran_by and the count of jobs whenever results are read.
    """

    open_results: Callable[[], ResultBackend]
    load: Callable[[str, bytes], list[Any]]
    exceptions: Mapping[str, type[Exception]]
    keep: float
    how_to_serve: Callable[[str, str], str]
    events: Events
    _notice_lock: threading.Lock = field(default_factory=threading.Lock)
    _noticed: set[tuple[str, str]] = field(default_factory=set["tuple[str, str]"])

    def records(self, keys: Sequence[Key]) -> list[Record]:
        """Return the record of each job, in order.

        Raises:
            UnknownJob: One of them was never given out, or was forgotten.
        """
        results = self.open_results()
        found = results.fetch(keys)
        return [
            record if record is not None else self._without_trace(key, results)
            for key, record in zip(keys, found, strict=True)
        ]

    def wait_for(
        self,
        keys: Sequence[Key],
        timeout: float | None,
        about: tuple[str, str] = ("", ""),
        *,
        are_open: bool = False,
    ) -> Record:
        """Wait until one of these jobs has ended and return its record.

        Args:
            keys: The jobs.
            timeout: Seconds; None for no limit.
            about: Task and color, for the notice that nobody serves it.
            are_open: Whether the caller has just seen that none has ended.

        Raises:
            JobTimeout: None ended within `timeout` seconds.
            BrokerUnavailable: The server has not answered for some seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout
        notice_at = time.monotonic() + _NOTICE_AFTER
        broken_at: float | None = None
        known: Iterable[Record | None] = () if are_open else self._each(keys)
        while True:
            try:
                for record in known:
                    if record is not None and record.is_final:
                        return record
                now = time.monotonic()
                if now >= notice_at:
                    self._say_if_nobody_serves(about)
                    notice_at = float("inf")
                if end is not None and now >= end:
                    first = job_id(*keys[0])
                    what = f"job {first}" if len(keys) == 1 else f"none of {len(keys)} jobs"
                    msg = (
                        f"{what} has not ended within {timeout:g} s; it goes on, and its result can be asked for again"
                    )
                    raise JobTimeout(msg)
                until = min(notice_at, end if end is not None else now + _FOREVER)
                news = self.open_results().wait(keys, max(0.0, min(until, now + _FOREVER) - now))
                known = self._each(keys) if news is None or None in news else news
                broken_at = None
            except BrokerUnavailable:
                now = time.monotonic()
                broken_at = now if broken_at is None else broken_at
                if now - broken_at > _PATIENCE or (end is not None and now >= end):
                    raise
                time.sleep(random.uniform(*_PAUSE))  # a connection was cut while nothing was asked but to wait
                known = self._each(keys)

    def _each(self, keys: Sequence[Key]) -> Iterator[Record]:
        for start in range(0, len(keys), _WINDOW):
            yield from self.records(keys[start : start + _WINDOW])

    def value(self, record: Record, key: Key) -> Any:
        """Return the value of a job that ended well.

        Raises:
            Exception: What the handler raised, or one of ours for another ending.
        """
        place = key.index - record.key.index
        try:
            return self.values(record)[0][place]
        except Exception:
            if record.count == 1:
                raise
        return self.values(bodies.singles(record)[place])[0][0]  # its neighbor's, perhaps, which cannot be read here

    def values(self, record: Record) -> tuple[list[Any], float]:
        """Return the values of all jobs that a record tells of, and the mean of the seconds that they ran.

        Raises:
            Exception: What the handler raised, or one of ours for another ending.
        """
        if record.state == FORGED:
            raise self.error(record)
        body = bodies.read(record.body)
        self.events.tell("result", task=body.task, state=record.state, ran_by=body.ran_by, count=record.count)
        if record.state != SUCCEEDED:
            raise self.error(record)
        data = body.result if record.count > 1 else codec.encoded_list([body.result])
        return self.load(body.task, data), body.seconds

    def error(self, record: Record) -> Exception:
        """Return the exception that stands for an ending other than success."""
        name = job_id(*record.key)
        if record.state == FORGED:
            reason = record.body.decode(errors="replace")
            return ForgedOutcome(f"what is stored as the outcome of job {name} is not to be trusted: {reason}")
        body = bodies.read(record.body)
        if record.state == FAILED:
            return bodies.rebuild(body, self.exceptions)
        if record.state == CANCELLED:
            return CancelledError(f"job {name} was cancelled before it started")
        if record.state == EXPIRED:
            return JobExpired(f"job {name} was not started before it expired")
        return JobQuarantined(f"job {name} was set aside: {body.message}. See: queuelib failed ls")

    def _without_trace(self, key: Key, results: ResultBackend) -> Record:
        if results.capabilities.records:
            msg = f"no job has the id {job_id(*key)!r}, or its outcome was kept for {self.keep:g} s and then forgotten"
            raise UnknownJob(msg)
        # Nobody keeps a record of what was submitted: a well-formed id is believed until it would be forgotten.
        is_old = time.time() - created_at(key.bundle) > self.keep
        return Record(key, EXPIRED if is_old else QUEUED)

    def _say_if_nobody_serves(self, about: tuple[str, str]) -> None:
        task, color = about
        with self._notice_lock:
            if not task or about in self._noticed:
                return
            self._noticed.add(about)
        if any(_serves(worker, task, color) for worker in self.open_results().workers()):
            self._noticed.discard(about)
        else:
            print(self.how_to_serve(task, color), file=sys.stderr, flush=True)  # noqa: T201 - for the person waiting


class Job(Generic[R]):
    """One submitted message: an id, a state, a result. Cheap to make; nothing is looked up before it is asked for.

    Example:
        >>> from queuelib import Dispatcher
        >>> dispatcher = Dispatcher("memory://job-example")
        >>> @dispatcher.task
        ... def double(x: int) -> int:
        ...     return 2 * x
        >>> job = double.submit(21)
        >>> job.state
        'queued'
        >>> with dispatcher.workers(processes=1):
        ...     job.result(timeout=10)
        42
    """

    __slots__ = ("_about", "_final", "_outcomes", "key")

    def __init__(self, outcomes: Outcomes, key: Key, about: tuple[str, str] = ("", "")) -> None:
        self._outcomes = outcomes
        self.key = key
        self._about = about
        self._final: Record | None = None

    @property
    def id(self) -> str:
        """Public id: text that names this job in any process, as `dispatcher.job(id)`."""
        return job_id(*self.key)

    @property
    def state(self) -> str:
        """queued, scheduled, running, retrying, succeeded, failed, cancelled, expired or quarantined.

        Raises:
            UnknownJob: The id was never given out.
            ForgedOutcome: What is stored was signed by no key that is known here.
        """
        record = self._record()
        if record.state == FORGED:
            raise self._outcomes.error(record)
        return record.state

    @property
    def attempt(self) -> int:
        """1 for the first run, one more for each retry; as far as its record tells by now.

        Raises:
            UnknownJob: The id was never given out.
        """
        return self._record().attempt

    def done(self) -> bool:
        """Return whether it has ended, in whichever way."""
        return self._record().is_final

    def wait(self, timeout: Duration | None = None) -> bool:
        """Wait until it has ended; return False if it has not within `timeout` seconds.

        Raises:
            UnknownJob: The id was never given out.
        """
        try:
            self._wait(timeout)
        except JobTimeout:
            return False
        return True

    def result(self, timeout: Duration | None = None) -> R:
        """Return what the handler returned; wait for it up to `timeout` seconds, or for ever.

        Raises:
            JobTimeout: It has not ended within `timeout` seconds; it goes on.
            UnknownJob: The id was never given out.
            CancelledError: It was cancelled before it started.
            JobExpired: It was not started before it expired.
            JobQuarantined: It was set aside.
            ForgedOutcome: What is stored was signed by no key of QUEUELIB_KEY.
            RemoteError: The handler raised something that is not one of the builtin exceptions or registered types.
            Exception: The builtin or registered exception that the handler raised.
        """
        value: R = self._outcomes.value(self._wait(timeout), self.key)
        return value

    def exception(self, timeout: Duration | None = None) -> Exception | None:
        """Return what `result` would raise, or None after a success; wait like `result`.

        Raises:
            JobTimeout: It has not ended within `timeout` seconds.
            UnknownJob: The id was never given out.
        """
        record = self._wait(timeout)
        return None if record.state == SUCCEEDED else self._outcomes.error(record)

    def cancel(self) -> None:
        """Ask that it is not started; it ends `cancelled` if no start came first. A running job goes on."""
        self._outcomes.open_results().cancel([self.key])

    @property
    def progress(self) -> None:
        """Reserved for progress that handlers report; nothing reports any yet."""
        return

    def __await__(self) -> Generator[Any, None, R]:
        return self._aresult().__await__()

    def __repr__(self) -> str:
        task = self._about[0]
        return f"<Job {self.id}{' of ' + task if task else ''}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)

    async def _aresult(self) -> R:
        import asyncio  # noqa: PLC0415 - 20 ms of import that synchronous programs do not need

        while not await asyncio.to_thread(self.wait, _ASYNC_SLICE):
            pass
        return self.result()

    def _record(self) -> Record:
        if self._final is not None:
            return self._final
        return self._keep(self._outcomes.records([self.key])[0])

    def _wait(self, timeout: Duration | None) -> Record:
        if self._final is not None:
            return self._final
        limit = None if timeout is None else seconds(timeout)
        return self._keep(self._outcomes.wait_for([self.key], limit, self._about))

    def _keep(self, record: Record) -> Record:
        # What was set aside may be tried again by request, and a forgery give way to the truth.
        if record.is_final and record.state not in {QUARANTINED, FORGED}:
            self._final = record
        return record


_ASYNC_SLICE = 1.0  # seconds; a cancelled awaiter leaves its thread behind for no longer


def gather(jobs: Iterable[Job[R]], timeout: float | None) -> list[R]:
    """Return the results in the order of the jobs; the first that did not end well raises."""
    end = None if timeout is None else time.monotonic() + timeout
    waiting = list(jobs)
    values: list[R] = []
    for start in range(0, len(waiting), _WINDOW):
        window = waiting[start : start + _WINDOW]
        last: Record | None = None
        column: list[Any] = []
        for job, record in zip(window, _final_records(window, end), strict=True):
            if record is not last:  # one record may tell of many jobs in a row
                last, column = record, window[0]._outcomes.values(record)[0]  # noqa: SLF001
            values.append(column[job.key.index - record.key.index])
    return values


def as_completed(jobs: Iterable[Job[R]], timeout: float | None) -> Iterator[Job[R]]:
    """Yield the jobs as they end."""
    end = None if timeout is None else time.monotonic() + timeout
    pending = {job.key: job for job in jobs}
    while pending:
        first = next(iter(pending.values()))
        keys = list(pending)
        left = None if end is None else max(0.0, end - time.monotonic())
        first._outcomes.wait_for(keys, left, first._about)  # noqa: SLF001
        for start in range(0, len(keys), _WINDOW):
            window = keys[start : start + _WINDOW]
            for key, record in zip(window, first._outcomes.records(window), strict=True):  # noqa: SLF001
                if record.is_final:
                    job = pending.pop(key)
                    job._keep(record)  # noqa: SLF001
                    yield job


def _final_records(jobs: Sequence[Job[R]], end: float | None) -> Iterator[Record]:
    """Yield the final record of each job in order, looking up many at once and waiting only for the next."""
    if not jobs:
        return
    outcomes = jobs[0]._outcomes  # noqa: SLF001
    known: dict[Key, Record] = {}
    for position, job in enumerate(jobs):
        if job._final is not None:  # noqa: SLF001
            yield job._final  # noqa: SLF001
            continue
        if job.key not in known:
            unknown = [other.key for other in jobs[position:] if other.key not in known]
            known.update({k: r for k, r in zip(unknown, outcomes.records(unknown), strict=True) if r.is_final})
        if job.key not in known:
            left = None if end is None else max(0.0, end - time.monotonic())
            known[job.key] = outcomes.wait_for([job.key], left, job._about)  # noqa: SLF001
        yield job._keep(known[job.key])  # noqa: SLF001


def _serves(worker: WorkerInfo, task: str, color: str) -> bool:
    return color in worker.colors and task in worker.tasks


def plain_values(encoded: bytes) -> list[Any]:
    """Return results of a task that this process does not know, as plain values."""
    return codec.decode_list(encoded)
