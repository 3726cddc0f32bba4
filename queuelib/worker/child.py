"""The loop of a child: take a token, take the job it stands for, run it, report it. It owns no connection.

Jobs arrive in order on a socket, a token for each in an eventfd that both ends can take from. Whoever takes the
token decides: the child starts the job, or the supervisor has recalled it.
"""

from __future__ import annotations

import math
import os
import reprlib
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from queuelib import faults
from queuelib.bundle import QUICK
from queuelib.context import Context, lending, running
from queuelib.ids import Key
from queuelib.outcome import CANCELLED, Again, Failed, Inherited, NotRun, Outcome, Quarantined, Released
from queuelib.settings import LARGE_BYTES, LONGEST_DELAY
from queuelib.worker.desk import Desk
from queuelib.worker.frames import FrameReader, pack_frame, send_frame
from queuelib.worker.lending import Lender
from queuelib.worker.shared import EPOCH, NUMBER, STARTED, UNTIL, Slot, outbox

if TYPE_CHECKING:
    from queuelib.task import Definition
    from queuelib.worker.execute import Executor

__all__ = ["DROP", "HELLO", "JOBS", "STOP", "Lane", "Lot", "outcome_from", "serve", "steps"]

JOBS, DROP, STOP = 0, 1, 2  # kinds of frames to a child
_DONE, _AGAIN, _FAILED, _QUARANTINED, _STOPPED = range(5)
HELLO = "hello"  # its first frame back, with its pid
_LOOK_AGAIN = 20  # milliseconds between two looks for a renewed claim
_RING_EVERY = 0.020  # seconds; one who has more to run says at most so often that there is something to read


class Lane(NamedTuple):
    """What a child has of its own; the fields are those of `steps`."""

    sock: socket.socket
    fds: tuple[int, int]
    slot: Slot


class Lot:
    """What a child was handed of one bundle, or of several bundles of one job that have all else in common.

    Attributes:
        task: Wire name of the task.
        schema: Digest of the argument types at the submitter.
        timeout: Soft time limit in seconds, or None.
        bundle: Id of the bundle; or of each job's, where they came alone.
        indexes: Which job of its bundle each position is; None where they are the same.
        attempt: 1 for the first run.
        column: The encoded list of argument lists; of each job a list of one, where they came alone.
        calls: What each job is called with, once the executor has read the column; each is used once.
        definition: The task, once the executor has looked it up.
        function: The handler, once the executor has found it.
        position: The job that runs, or ran last.
        draws: Seed of the call and place of the bundle's first job in it, or None.
        shift: What the position of a job lacks to its number, of those that run now.
        context: What the handler of a job knows of it, with its position, if it has asked.
    """

    __slots__ = (
        "_desk",
        "attempt",
        "bundle",
        "calls",
        "column",
        "context",
        "definition",
        "draws",
        "function",
        "indexes",
        "position",
        "schema",
        "shift",
        "task",
        "timeout",
        "worker",
    )  # fmt: skip

    def __init__(self, fields: Sequence[Any], worker: str, desk: Desk | None = None) -> None:
        self.task: str
        self.schema: bytes
        self.timeout: float | None
        self.bundle: bytes | list[bytes]
        self.indexes: list[int] | None
        self.attempt: int
        self.column: bytes | list[bytes]
        self.draws: Sequence[int] | None
        self.task, self.schema, self.timeout, self.bundle, self.indexes, self.attempt, self.column, self.draws = fields
        self.worker = worker
        self._desk = desk
        self.shift = 0
        self.context: tuple[int, Context] | None = None
        self.calls: list[Any] | None = None
        self.definition: Definition | None = None
        self.function: Callable[..., Any] | None = None
        self.position = 0

    def running(self) -> Context:
        """Return what a handler can know about the job that runs, the same object for all who ask."""
        at, asked = self.position, self.context
        if asked is not None and asked[0] == at:  # else a thread has asked that an earlier job has left behind
            return asked[1]
        index = at if self.indexes is None else self.indexes[at]
        bundle = self.bundle if isinstance(self.bundle, bytes) else self.bundle[at]
        draws = None if self.draws is None else (self.draws[0], self.draws[1] + index)
        context = Context(Key(bundle, index), self.task, self.attempt, self.worker, draws, self._desk, self.shift + at)
        self.context = at, context
        return context

    def leave(self) -> None:
        """Note that the job whose context was asked for has ended."""
        self.context = None
        if self._desk is not None:
            self._desk.leave(self.shift + self.position)


class _Run:
    """Jobs of a lot that come one after the other; the number of each is its position and `shift`."""

    __slots__ = ("at", "end", "lot", "shift")

    def __init__(self, number: int, lot: Lot, at: int, end: int) -> None:
        self.lot = lot
        self.at = at
        self.end = end
        self.shift = number - at


def serve(sock: socket.socket, fds: tuple[int, int], slot: Slot, executor: Executor, worker: str) -> None:
    """Run jobs until told to stop, or until the supervisor is gone; the arguments are those of `steps`."""
    lending.set(Lender(slot, fds[1]).lend)
    for _ in steps(sock, fds, slot, executor, worker):
        if not _wait_for_token(fds[0], sock):
            return


def steps(sock: socket.socket, fds: tuple[int, int], slot: Slot, executor: Executor, worker: str) -> Generator[None]:
    """Run all jobs that may start, each time until there is none; end when told to stop.

    Args:
        sock: Jobs come in here, and outcomes that the ring is not for go out.
        fds: The semaphore of tokens, and the bell that the supervisor hears.
        slot: The memory shared with the supervisor.
        executor: Runs the jobs.
        worker: Name of the worker.

    Yields:
        When there is nothing to start: the caller may wait for a token.
    """
    tokens, bell = fds
    write = _send_in_halves if faults.ACTIVE else send_frame  # once, so that the loop pays nothing
    desk = Desk(sock, slot, executor.read_state, write=write, may_wait=executor.may_wait)
    executor.desk = desk
    inbox = _Inbox(FrameReader(sock), slot, worker, desk)
    send_frame(sock, (HELLO, os.getpid()))
    clock, take_token, put, send = time.monotonic, os.eventfd_read, outbox(slot), desk.send
    words, times = slot.words, slot.times
    run: _Run | None = None
    outcomes: Iterator[Outcome] = iter(())
    has_news, rang_at, ended = False, 0.0, clock()
    while True:
        if 0.0 < times[UNTIL] < ended and not _wait_for_claim(slot, sock):
            return
        try:
            take_token(tokens)
        except BlockingIOError:  # nothing more to start, as far as is known here
            if has_news:
                os.eventfd_write(bell, 1)
                has_news = False
            yield
            ended = clock()
            continue
        if run is None or run.at == run.end or words[EPOCH] != inbox.epoch:
            before, run = run, inbox.first()
            if run is None:
                os.eventfd_write(bell, 1)
                return
            if run is not before:
                outcomes = _outcomes(executor, run)
        at = run.at
        run.at = at + 1
        number = run.shift + at
        times[STARTED] = started = clock()
        words[NUMBER] = number
        outcome = next(outcomes)
        ended = clock()
        seconds = ended - started
        # The outcome leaves before the next token is taken, so at most one job was started and not reported.
        if not (seconds < QUICK and type(outcome) is bytes and put(outcome, seconds)):
            send((number, seconds, *_as_fields(outcome, executor)))
        words[NUMBER] = 0
        has_news = ended - rang_at < _RING_EVERY
        if not has_news:
            rang_at = ended
            os.eventfd_write(bell, 1)


def _outcomes(executor: Executor, run: _Run) -> Iterator[Outcome]:
    """Return what runs the jobs of a run, one for each item that is asked for."""
    outcomes = executor.outcomes(run.lot, run.at)
    return _with_points(outcomes) if faults.ACTIVE else outcomes


def _with_points(outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    """Pass fault points around each job."""
    while True:
        faults.point("before_start")
        outcome = next(outcomes, None)
        if outcome is None:
            return
        faults.point("after_run")
        yield outcome


def _send_in_halves(sock: socket.socket, value: Any) -> None:
    """Write a frame with a fault point in its middle."""
    frame = pack_frame(value)
    sock.sendall(frame[: len(frame) // 2])
    faults.point("mid_frame")
    sock.sendall(frame[len(frame) // 2 :])


def _as_fields(outcome: Outcome, executor: Executor) -> tuple[Any, ...]:
    match outcome:
        case bytes():
            return (_DONE, outcome if len(outcome) <= LARGE_BYTES else executor.moved(outcome))
        case Again(delay, body):
            return (_AGAIN, delay, body)
        case Failed(body):
            return (_FAILED, body)
        case Quarantined(reason):
            return (_QUARANTINED, reason)
        case NotRun(state) if state == CANCELLED:
            return (_STOPPED,)
        case NotRun() | Released() | Inherited():
            msg = "a child only reports what it ran"
            raise AssertionError(msg)


def outcome_from(fields: list[Any]) -> Outcome:
    """Return the outcome in a child's frame, after its number and seconds.

    Raises:
        ValueError: It is none: user code wrote to the socket.
    """
    match fields:
        case [0, bytes(body)]:
            return body
        case [1, None, bytes(body)]:
            return Again(None, body)
        case [1, (float() | int()) as delay, bytes(body)] if 0 <= delay < math.inf:
            return Again(min(float(delay), LONGEST_DELAY), body)
        case [2, bytes(body)]:
            return Failed(body)
        case [3, str(reason)]:
            return Quarantined(reason)
        case [4]:
            return NotRun(CANCELLED)
        case _:
            msg = f"not a report of a child: {reprlib.repr(fields)}"
            raise ValueError(msg)


def _wait_for_token(tokens: int, sock: socket.socket) -> bool:
    """Wait until there may be a token; return False if the supervisor is gone, who alone could say what was recalled."""
    poll = select.poll()
    poll.register(tokens, select.POLLIN)
    poll.register(sock, select.POLLRDHUP)
    return all(fd != sock.fileno() for fd, _ in poll.poll())


def _wait_for_claim(slot: Slot, sock: socket.socket) -> bool:
    """Wait until the supervisor has renewed its claims, or has recalled all; return False if it is gone.

    This process or the worker's connection was stopped for long: what it was handed may run elsewhere by now.
    """
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    while time.monotonic() > slot.times[UNTIL]:
        if poll.poll(_LOOK_AGAIN):
            return False
    return True


class _Inbox:
    """What was handed over and not started yet."""

    def __init__(self, reader: FrameReader, slot: Slot, worker: str, desk: Desk) -> None:
        self._reader = reader
        self._slot = slot
        self._worker = worker
        self._desk = desk
        self.epoch = 0  # how many recalls were read
        self._runs: deque[_Run] = deque()
        self._is_over = False
        self._lot: Lot | None = None

    def first(self) -> _Run | None:
        """Return the run whose first job is the one that the token just taken stands for, or None to stop."""
        runs = self._runs
        while True:
            if runs and runs[0].at == runs[0].end:
                runs.popleft()
            elif self.epoch != self._slot.epoch or not runs:
                if self._is_over:
                    return None
                self._read()
            else:
                break
        run = runs[0]
        run.lot.shift = run.shift
        if run.lot is not self._lot:
            self._lot = run.lot
            running.set(run.lot.running)
        return run

    def _read(self) -> None:
        try:
            kind, value = self._reader.next()
        except EOFError:
            self._stop()
            return
        if kind == JOBS:
            lots = [Lot(fields, self._worker, self._desk) for fields in value[0]]
            self._runs.extend(_Run(number, lots[which], at, end) for number, which, at, end in value[1])
        elif kind == DROP:
            first, self.epoch = value
            while self._runs and self._runs[-1].shift + self._runs[-1].at >= first:
                self._runs.pop()
            if self._runs:
                last = self._runs[-1]
                last.end = min(last.end, first - last.shift)
        else:
            self._stop()

    def _stop(self) -> None:
        self._is_over = True
        self.epoch = self._slot.epoch
