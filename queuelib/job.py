"""A job at the client: its state, its result, and waiting for it."""

from __future__ import annotations

import functools
import logging
import random
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from queuelib import body as bodies
from queuelib import codec
from queuelib.clock import seconds
from queuelib.context import Progress, limit_behind, waiting
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
from queuelib.ids import Key, created_at, job_id, running_mark
from queuelib.notice import Notices
from queuelib.options import Duration
from queuelib.outcome import CANCELLED, EXPIRED, FAILED, FORGED, QUARANTINED, QUEUED, RETRYING, SUCCEEDED, Record
from queuelib.ports import Memos, ResultBackend
from queuelib.watch import Ending, Watch

__all__ = ["Job", "Outcomes"]

_log = logging.getLogger("queuelib.job")

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
        open_memos: Opens what running jobs tell, on first use.
        watch: Tells of jobs that somebody watches.
    """

    open_results: Callable[[], ResultBackend]
    load: Callable[[str, bytes], list[Any]]
    exceptions: Mapping[str, type[Exception]]
    keep: float
    how_to_serve: Callable[[str, str], str]
    events: Events
    open_memos: Callable[[], Memos]
    watch: Watch = field(init=False)
    _notices: Notices = field(init=False)

    def __post_init__(self) -> None:
        self._notices = Notices(lambda: self.open_results().workers(), self.how_to_serve)
        self.watch = Watch(self.open_results, self.endings, self._notices.give)

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
            QueuelibError: In a coroutine that shares its event loop with other jobs.
        """
        with waiting(blocks=timeout is None or timeout > 0):
            return self._wait_for(keys, timeout, about, are_open=are_open)

    def _wait_for(
        self, keys: Sequence[Key], timeout: float | None, about: tuple[str, str], *, are_open: bool
    ) -> Record:
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
                    self._notices.give(about)
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
            except BrokerUnavailable as error:
                limit = limit_behind(error)
                if limit is not None:
                    raise limit from error
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
            return CancelledError(f"job {name} was cancelled")
        if record.state == EXPIRED:
            return JobExpired(f"job {name} was not started before it expired")
        return JobQuarantined(f"job {name} was set aside: {body.message}. See: queuelib failed ls")

    def endings(self, keys: Sequence[Key]) -> list[Ending]:
        """Return the record of each job, or the error that takes its place."""
        results = self.open_results()
        endings: list[Ending] = []
        for key, record in zip(keys, results.fetch(keys), strict=True):
            try:
                endings.append(record if record is not None else self._without_trace(key, results))
            except UnknownJob as error:
                endings.append(error)
        return endings

    def _without_trace(self, key: Key, results: ResultBackend) -> Record:
        if results.capabilities.records:
            msg = f"no job has the id {job_id(*key)!r}, or its outcome was kept for {self.keep:g} s and then forgotten"
            raise UnknownJob(msg)
        # Nobody keeps a record of what was submitted: a well-formed id is believed until it would be forgotten.
        is_old = time.time() - created_at(key.bundle) > self.keep
        return Record(key, EXPIRED if is_old else QUEUED)


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
        # What waited for others is announced like a retry when it goes on, but nothing of it was tried before.
        return QUEUED if record.state == RETRYING and record.attempt == 1 else record.state

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
            CancelledError: It was cancelled.
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

    def add_done_callback(self, fn: Callable[[Job[R]], object]) -> None:
        """Have `fn` called with this job, once, when it has ended; soon if it has already.

        It is called in a thread of queuelib's, one after the other with those of other jobs, so it should be quick and
        wait for no other job. An error in it is logged and changes nothing. It is not called in a process forked later,
        nor where this one ends before the job.
        """
        self._outcomes.watch.add((self,), functools.partial(_call, fn), self._about, is_patient=True)

    def cancel(self, *, running: bool = False) -> None:
        """Ask that it is not started; it ends `cancelled` if no start came first. A running job goes on.

        Args:
            running: Ask that it stops if it runs, too: its handler sees `context.cancelled` within about half a second, and
                in a worker process `CancelledError` is raised wherever it is. Left to pass, that ends the job as
                `cancelled`; a handler that catches it, or is in a thread, ends as it likes.
        """
        self._outcomes.open_results().cancel([self.key, running_mark(self.key)] if running else [self.key])

    @property
    def progress(self) -> Progress | None:
        """What its handler told last, or None: nothing yet, or it has not told anything for ten minutes after its end.

        Raises:
            BrokerUnavailable: The result backend does not answer.
            ConfigurationError: It keeps no progress.
        """
        (data,) = self._outcomes.open_memos().read("progress", [self.key])
        return None if data is None else bodies.progress_in(data)

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
        record = self._final
        if record is None:
            from queuelib.loops import ending_of  # noqa: PLC0415 - 20 ms of import that synchronous programs do not need

            with waiting(blocks=False):
                record = self._keep(await ending_of(self, self._outcomes.watch, self._about))
        value: R = self._outcomes.value(record, self.key)
        return value

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


def _call(fn: Callable[[Job[Any]], object], job: Job[Any], ending: Ending) -> None:
    """Call a done callback: foreign code, in a thread that others need too."""
    _note(job, ending)
    try:
        fn(job)
    except BaseException:  # noqa: BLE001 - whatever it raises, even to leave, all other jobs are told of here too
        _log.exception("a done callback of job %s failed", job.id)


def _note(job: Job[Any], ending: Ending) -> None:
    if not isinstance(ending, Exception):
        job._keep(ending)  # noqa: SLF001
