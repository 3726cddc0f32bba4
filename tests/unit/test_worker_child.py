"""The loop of a child, run in a thread over a real socket and semaphore, with handlers that the test decides."""

from __future__ import annotations

import itertools
import mmap
import os
import select
import socket
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from queuelib import codec
from queuelib.context import current_job
from queuelib.ids import Key, job_id
from queuelib.outcome import Again, Failed, Outcome, Quarantined
from queuelib.worker.child import DROP, JOBS, STOP, Lot, outcome_from, serve
from queuelib.worker.frames import FrameReader, pack_frame
from queuelib.worker.shared import SHARED_BYTES, Ring, Slot
from tests.unit.fakes import BUNDLE_ID

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuelib.context import Context
    from queuelib.worker.desk import Desk

PATIENCE = 5.0  # seconds until a child that says nothing fails the test
OUTCOMES: list[Outcome] = [b"\x07", Again(None, b"e"), Again(0.5, b"e"), Failed(b"e"), Quarantined("why")]


@dataclass
class FakeExecutor:
    """Runs nothing: tells the test what it was asked to run, and returns what the test wants.

    Attributes:
        gate: Closed, it keeps a job running until the test opens it.
    """

    answers: dict[int, Outcome] = field(default_factory=dict[int, Outcome])
    ran: list[tuple[Context, Lot]] = field(default_factory=list[Any])
    slots: list[int] = field(default_factory=list[int])
    slot: Slot | None = None
    gate: threading.Event = field(default_factory=threading.Event)
    started: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    desk: Desk | None = None
    may_wait: bool = True
    states: dict[Key, bytes] = field(default_factory=dict[Key, bytes])

    def __post_init__(self) -> None:
        self.gate.set()

    def read_state(self, key: Key) -> bytes | None:
        """Return what a test has saved."""
        return self.states.get(key)

    def moved(self, result: bytes) -> bytes:
        """Have what stands for a large result begin as it does."""
        return b"stands for " + result[:4]

    def outcomes(self, lot: Lot, at: int) -> Iterator[Outcome]:
        """Yield the outcomes of a lot, one for each that is asked for."""
        for lot.position in itertools.count(at):
            yield self._run(lot)

    def _run(self, lot: Lot) -> Outcome:
        """Note the job, wait at the gate, and return its outcome."""
        assert self.slot is not None
        self.slots.append(self.slot.running()[0])
        job = current_job()
        lot.leave()
        self.ran.append((job, lot))
        self.started.release()
        assert self.gate.wait(PATIENCE)
        return self.answers.get(job.key.index, codec.encode(job.key.index))

    @property
    def indexes(self) -> list[int]:
        """Which jobs were run, in order."""
        return [job.key.index for job, _ in self.ran]


class Supervisor:
    """The other end: hands over, recalls and listens as the supervisor does, step by step."""

    def __init__(self, sock: socket.socket, fds: tuple[int, int], slot: Slot, executor: FakeExecutor) -> None:
        self.sock, self.slot, self.executor = sock, slot, executor
        self.tokens, self.bell = fds
        self.reader = FrameReader(sock)
        self.ring = Ring(slot)
        self.results: list[int] = []
        self.others: list[list[Any]] = []
        self.thread: threading.Thread | None = None

    def send(self, *numbers: int, indexes: list[int] | None = None) -> None:
        """Send jobs without a token: in one lot, where the number is the position; each number is a run of its own."""
        lot = ("lab.work", b"schema", 2.5, BUNDLE_ID, indexes, 3, b"column", None)
        runs = [(number, 0, number, number + 1) for number in numbers]
        self.sock.sendall(pack_frame((JOBS, ([lot], runs))))

    def send_run(self, number: int, at: int, end: int) -> None:
        """Send jobs that follow each other as one run, without tokens."""
        lot = ("lab.work", b"schema", None, BUNDLE_ID, None, 1, b"column", None)
        self.sock.sendall(pack_frame((JOBS, ([lot], [(number, 0, at, end)]))))

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

    def report(self, number: int) -> Outcome:
        """Wait for the next outcome, which has to be that of a job."""
        end = time.monotonic() + PATIENCE
        while not self.results and not self.others:
            fds = [self.bell, self.sock.fileno()]
            ready = select.select(fds, [], [], max(0.0, end - time.monotonic()))[0]
            assert ready, "it did not ring"
            if self.bell in ready:
                os.eventfd_read(self.bell)
                # It rings at most every 2 ms while it has more to run: what it wrote since is there without a ring.
                if not self.ring.has_more:
                    time.sleep(0.002)
            batch = self.ring.read()
            self.results += codec.decode(codec.joined_list(batch.count, batch.data))
            if self.sock.fileno() in ready or select.select([self.sock], [], [], 0)[0]:
                self.others += self.reader.ready()[0]
        if self.others and (not self.results or self.others[0][0] == number):
            first, seconds, *fields = self.others.pop(0)
            assert first == number
            assert 0.0 <= seconds < PATIENCE
            return outcome_from(fields)
        return codec.encode(self.results.pop(0))

    def are_reported(self, *numbers: int) -> bool:
        """Wait until jobs were reported, in this order."""
        return all(self.report(number) == codec.encode(number) for number in numbers)

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
    bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    slot = executor.slot = Slot(mmap.mmap(-1, SHARED_BYTES))
    ours.settimeout(PATIENCE)
    supervisor = Supervisor(ours, (tokens, bell), slot, executor)
    arguments: tuple[Any, ...] = (theirs, (tokens, bell), slot, executor, "w1")
    supervisor.thread = threading.Thread(target=serve, args=arguments, daemon=True)
    supervisor.thread.start()
    try:
        with closing(ours):
            assert supervisor.reader.next() == ["hello", os.getpid()]
            yield supervisor
    finally:
        executor.gate.set()
        assert supervisor.has_ended()
        theirs.close()
        os.close(tokens)
        os.close(bell)


class TestRun:
    """Jobs that were handed over with their tokens."""

    def test_in_order_and_each_reported(self) -> None:
        """Every job is run once, in order, and reported with its number."""
        with child(FakeExecutor()) as supervisor:
            supervisor.hand(1, 2)
            supervisor.hand(3)
            assert supervisor.are_reported(1, 2, 3)
            assert supervisor.executor.indexes == [1, 2, 3]

    def test_a_run_is_one_job_after_the_other(self) -> None:
        """Jobs that follow each other in a bundle come as one run, with one number after the other."""
        with child(FakeExecutor()) as supervisor:
            supervisor.send_run(5, 5, 9)
            os.eventfd_write(supervisor.tokens, 4)
            assert supervisor.are_reported(5, 6, 7, 8)
            assert supervisor.executor.indexes == [5, 6, 7, 8]
            assert len({id(lot) for _, lot in supervisor.executor.ran}) == 1

    def test_the_jobs_of_a_part_have_their_own_indexes(self) -> None:
        """In a part of a bundle the first job is not number 0."""
        with child(FakeExecutor()) as supervisor:
            supervisor.send(1, 2, indexes=[40, 41, 49])
            os.eventfd_write(supervisor.tokens, 2)
            assert [supervisor.report(number) for number in (1, 2)] == [codec.encode(41), codec.encode(49)]

    @pytest.mark.parametrize("outcome", OUTCOMES)
    def test_every_outcome_crosses(self, outcome: Outcome) -> None:
        """What the handler led to is read on the other side as it was."""
        with child(FakeExecutor({1: outcome})) as supervisor:
            supervisor.hand(1)
            assert supervisor.report(1) == outcome

    def test_what_has_no_room_in_the_ring_comes_by_the_socket(self) -> None:
        """In its turn, and it is what stands for the result: that is kept apart first."""
        large = bytes(1_000_000)
        with child(FakeExecutor({2: large})) as supervisor:
            supervisor.hand(1, 2, 3)
            assert supervisor.are_reported(1)
            assert supervisor.report(2) == b"stands for " + bytes(4)
            assert supervisor.are_reported(3)

    def test_what_the_handler_can_know(self) -> None:
        """The job's id, task and attempt, the worker's name, and its own limit."""
        with child(FakeExecutor()) as supervisor:
            supervisor.hand(7)
            supervisor.report(7)
            ((job, lot),) = supervisor.executor.ran
            assert (job.key, job.task, job.attempt, job.worker) == (Key(BUNDLE_ID, 7), "lab.work", 3, "w1")
            assert job.id == job_id(BUNDLE_ID, 7)
            assert (lot.schema, lot.column, lot.timeout) == (b"schema", b"column", 2.5)

    def test_the_slot_says_what_runs(self) -> None:
        """While a job runs its number stands in the shared memory, and nothing once it is reported."""
        with child(FakeExecutor()) as supervisor:
            supervisor.hand(4, 5)
            assert supervisor.are_reported(4, 5)
            assert supervisor.executor.slots == [4, 5]
            assert supervisor.slot.running()[0] == 0


class TestTokens:
    """Whoever takes the token decides."""

    def test_no_start_without_a_token(self) -> None:
        """A job without one waits, and can still be dropped; another that comes later is run instead."""
        with child(FakeExecutor()) as supervisor:
            supervisor.send(1, 2)
            os.eventfd_write(supervisor.tokens, 1)
            assert supervisor.are_reported(1)
            supervisor.recall(first=2, count=0, epoch=1)
            supervisor.hand(3)
            assert supervisor.are_reported(3)
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
            assert supervisor.are_reported(1, 4)
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
            assert supervisor.are_reported(1, 2)
            assert supervisor.has_ended()
            assert executor.indexes == [1, 2]

    def test_a_part_of_a_run_is_recalled(self) -> None:
        """A run that lies on both sides of the number is cut there."""
        executor = FakeExecutor()
        with child(executor) as supervisor:
            executor.gate.clear()
            supervisor.send_run(1, 1, 9)
            os.eventfd_write(supervisor.tokens, 8)
            assert executor.started.acquire(timeout=PATIENCE)
            supervisor.recall(first=4, count=5, epoch=1)
            supervisor.hand(20)
            executor.gate.set()
            assert supervisor.are_reported(1, 2, 3, 20)
            assert executor.indexes == [1, 2, 3, 20]

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
            assert supervisor.are_reported(1, 9)


class TestEnd:
    """When a child ends."""

    def test_it_stops_after_what_it_was_handed(self) -> None:
        """A stop comes after the jobs before it, and nothing is run after it."""
        with child(FakeExecutor()) as supervisor:
            supervisor.hand(1, 2)
            supervisor.stop()
            assert supervisor.are_reported(1, 2)
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


@pytest.mark.parametrize(
    "fields", [[], [0], [0, "text"], [4, b""], [1, b""], [1, "soon", b""], [3, b"why"], [2, b"", 0]]
)
def test_shapes_that_are_no_report(fields: list[Any]) -> None:
    """A field too few, too many or of another type: user code wrote to the socket."""
    with pytest.raises(ValueError, match="not a report of a child"):
        outcome_from(fields)
