"""The loop of a child, run in a thread over a real socket and semaphore, with handlers that the test decides."""

from __future__ import annotations

import mmap
import os
import socket
import threading
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from queuelib.ids import Key, job_id
from queuelib.outcome import Again, Done, Failed, Outcome, Quarantined
from queuelib.worker.child import DROP, JOBS, SLOT_BYTES, STOP, Slot, outcome_from, serve
from queuelib.worker.frames import FrameReader, pack_frame
from tests.unit.fakes import BUNDLE_ID

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuelib.context import Running

PATIENCE = 5.0  # seconds until a child that says nothing fails the test
OUTCOMES: list[Outcome] = [Done(b"r"), Again(None, b"e"), Again(0.5, b"e"), Failed(b"e"), Quarantined("why")]


@dataclass
class FakeExecutor:
    """Runs nothing: tells the test what it was asked to run, and returns what the test wants.

    Attributes:
        gate: Closed, it keeps a job running until the test opens it.
    """

    outcomes: dict[int, Outcome] = field(default_factory=dict[int, Outcome])
    ran: list[tuple[Running, bytes, bytes, float | None]] = field(default_factory=list[Any])
    slots: list[int] = field(default_factory=list[int])
    slot: Slot | None = None
    gate: threading.Event = field(default_factory=threading.Event)
    started: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __post_init__(self) -> None:
        self.gate.set()

    def run(self, job: Running, schema: bytes, arguments: bytes, timeout: float | None) -> Outcome:
        """Note the job, wait at the gate, and return its outcome."""
        assert self.slot is not None
        self.slots.append(self.slot.running()[0])
        self.ran.append((job, schema, arguments, timeout))
        self.started.release()
        assert self.gate.wait(PATIENCE)
        return self.outcomes.get(job.key.index, Done(arguments))

    @property
    def indexes(self) -> list[int]:
        """Which jobs were run, in order."""
        return [job.key.index for job, *_ in self.ran]


class Supervisor:
    """The other end: hands over, recalls and listens as the supervisor does, step by step."""

    def __init__(self, sock: socket.socket, tokens: int, slot: Slot, executor: FakeExecutor) -> None:
        self.sock, self.tokens, self.slot, self.executor = sock, tokens, slot, executor
        self.reader = FrameReader(sock)
        self.thread: threading.Thread | None = None

    def send(self, *numbers: int) -> None:
        """Send jobs without a token."""
        entries = [(n, "lab.work", b"schema", BUNDLE_ID, n, 3, 2.5, b"arguments") for n in numbers]
        self.sock.sendall(pack_frame((JOBS, entries)))

    def hand(self, *numbers: int) -> None:
        """Send jobs and a token for each."""
        self.send(*numbers)
        os.eventfd_write(self.tokens, len(numbers))

    def recall(self, first: int, count: int, epoch: int) -> None:
        """Take tokens back, and drop the jobs from a number on."""
        for _ in range(count):
            os.eventfd_read(self.tokens)
        self.sock.sendall(pack_frame((DROP, (first, epoch))))
        self.slot.epoch = epoch

    def stop(self) -> None:
        """Have the child end after what it was handed."""
        self.sock.sendall(pack_frame((STOP, None)))
        os.eventfd_write(self.tokens, 1)

    def report(self) -> list[Any]:
        """Return the next frame from the child."""
        frame: list[Any] = self.reader.next()
        return frame

    def numbers(self, count: int) -> list[int]:
        """Return the numbers of the next reports."""
        return [self.report()[0] for _ in range(count)]

    def has_ended(self) -> bool:
        """Wait for the child's end."""
        assert self.thread is not None
        self.thread.join(PATIENCE)
        return not self.thread.is_alive()


@contextmanager
def child(executor: FakeExecutor) -> Iterator[Supervisor]:
    """Run a child in a thread; at the end it is gone, whatever the test did."""
    ours, theirs = socket.socketpair()
    tokens = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    slot = Slot(mmap.mmap(-1, SLOT_BYTES), 0)
    slot.clear()
    executor.slot = slot
    ours.settimeout(PATIENCE)
    supervisor = Supervisor(ours, tokens, slot, executor)
    arguments: tuple[Any, ...] = (theirs, tokens, slot, executor, "w1")
    supervisor.thread = threading.Thread(target=serve, args=arguments, daemon=True)
    supervisor.thread.start()
    try:
        with closing(ours):
            assert supervisor.report() == ["hello", os.getpid()]
            yield supervisor
    finally:
        executor.gate.set()
        assert supervisor.has_ended()
        theirs.close()
        os.close(tokens)


class TestRun:
    """Jobs that were handed over with their tokens."""

    def test_in_order_and_each_reported(self) -> None:
        """Every job is run once, in order, and reported with its number and the time it took."""
        with child(FakeExecutor()) as supervisor:
            supervisor.hand(1, 2)
            supervisor.hand(3)
            reports = [supervisor.report() for _ in range(3)]
            assert [report[0] for report in reports] == [1, 2, 3]
            assert all(0.0 <= report[1] < PATIENCE for report in reports)
            assert supervisor.executor.indexes == [1, 2, 3]

    @pytest.mark.parametrize("outcome", OUTCOMES)
    def test_every_outcome_crosses(self, outcome: Outcome) -> None:
        """What the handler led to is read on the other side as it was."""
        with child(FakeExecutor({1: outcome})) as supervisor:
            supervisor.hand(1)
            assert outcome_from(supervisor.report()[2:]) == outcome

    def test_what_the_handler_can_know(self) -> None:
        """The job's id, task and attempt, the worker's name, and its own limit."""
        with child(FakeExecutor()) as supervisor:
            supervisor.hand(7)
            supervisor.report()
            ((job, schema, arguments, timeout),) = supervisor.executor.ran
            assert (job.key, job.task, job.attempt, job.worker) == (Key(BUNDLE_ID, 7), "lab.work", 3, "w1")
            assert job.id == job_id(BUNDLE_ID, 7)
            assert (schema, arguments, timeout) == (b"schema", b"arguments", 2.5)

    def test_the_slot_says_what_runs(self) -> None:
        """While a job runs its number stands in the shared memory, and nothing once it is reported."""
        with child(FakeExecutor()) as supervisor:
            supervisor.hand(4, 5)
            assert supervisor.numbers(2) == [4, 5]
            assert supervisor.executor.slots == [4, 5]
            assert supervisor.slot.running()[0] == -1


class TestTokens:
    """Whoever takes the token decides."""

    def test_no_start_without_a_token(self) -> None:
        """A job without one waits, and can still be dropped; another that comes later is run instead."""
        with child(FakeExecutor()) as supervisor:
            supervisor.send(1, 2)
            os.eventfd_write(supervisor.tokens, 1)
            assert supervisor.numbers(1) == [1]
            supervisor.recall(first=2, count=0, epoch=1)
            supervisor.hand(3)
            assert supervisor.numbers(1) == [3]
            assert supervisor.executor.indexes == [1, 3]

    def test_the_unstarted_tail_is_recalled(self) -> None:
        """While a job runs, those behind it are taken back; the child goes on with what it is given next."""
        executor = FakeExecutor()
        with child(executor) as supervisor:
            executor.gate.clear()
            supervisor.hand(1, 2, 3)
            assert executor.started.acquire(timeout=PATIENCE)
            supervisor.recall(first=2, count=2, epoch=1)
            with pytest.raises(BlockingIOError):  # the first token is the child's
                os.eventfd_read(supervisor.tokens)
            supervisor.hand(4)
            executor.gate.set()
            assert supervisor.numbers(2) == [1, 4]
            assert executor.indexes == [1, 4]

    def test_a_part_of_the_tail_is_recalled(self) -> None:
        """What lies before the first number dropped stays."""
        executor = FakeExecutor()
        with child(executor) as supervisor:
            executor.gate.clear()
            supervisor.hand(1, 2, 3, 4)
            assert executor.started.acquire(timeout=PATIENCE)
            supervisor.recall(first=3, count=2, epoch=1)
            executor.gate.set()
            supervisor.stop()
            assert supervisor.numbers(2) == [1, 2]
            assert supervisor.has_ended()
            assert executor.indexes == [1, 2]

    def test_jobs_recalled_before_they_were_read(self) -> None:
        """Several recalls in a row are all obeyed, though the child reads them only when it is done."""
        executor = FakeExecutor()
        with child(executor) as supervisor:
            executor.gate.clear()
            supervisor.hand(1)
            assert executor.started.acquire(timeout=PATIENCE)
            for epoch, (first, second) in enumerate(pairwise([2, 4, 6, 8]), 1):
                supervisor.hand(first, first + 1)
                supervisor.recall(first=first, count=2, epoch=epoch)
                assert second == first + 2
            supervisor.hand(9)
            executor.gate.set()
            assert supervisor.numbers(2) == [1, 9]


class TestEnd:
    """When a child ends."""

    def test_it_stops_after_what_it_was_handed(self) -> None:
        """A stop comes after the jobs before it, and nothing is run after it."""
        with child(FakeExecutor()) as supervisor:
            supervisor.hand(1, 2)
            supervisor.stop()
            assert supervisor.numbers(2) == [1, 2]
            assert supervisor.has_ended()

    def test_an_idle_child_ends_with_its_supervisor(self) -> None:
        """It waits for a token, and sees the socket close."""
        with child(FakeExecutor()) as supervisor:
            supervisor.sock.close()
            assert supervisor.has_ended()

    def test_nothing_is_started_after_the_supervisor_is_gone(self) -> None:
        """Jobs whose tokens were taken back do not run, although their recall was never sent."""
        executor = FakeExecutor()
        with child(executor) as supervisor:
            supervisor.send(1, 2)
            supervisor.sock.close()
            assert supervisor.has_ended()
        assert executor.indexes == []
