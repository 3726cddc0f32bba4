"""The supervisor's side of a child: what it was handed, what is taken back, and what its death leaves."""

from __future__ import annotations

import mmap
import os
import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from queuelib.outcome import Done
from queuelib.worker.child import DROP, JOBS, SLOT_BYTES, STOP, Slot
from queuelib.worker.children import Child
from queuelib.worker.frames import FrameReader, send_frame
from tests.unit.fakes import BUNDLE_ID, make_bundle, make_hold

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuelib.worker.lease import Member


class Pair:
    """A child as the supervisor has it, and the child's own end, played by the test."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        tokens = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.child = Child(0, ours, tokens, Slot(mmap.mmap(-1, SLOT_BYTES), 0))
        self.reader = FrameReader(self.theirs)

    def start(self) -> None:
        """Take a token, as a child does before each start."""
        os.eventfd_read(self.child.tokens)

    def report(self, number: int) -> None:
        """Report a job as done."""
        send_frame(self.theirs, (number, 0.25, 0, b"r"))

    def frames(self) -> list[int]:
        """Return the kinds of frames that have come."""
        return [kind for kind, _ in self.reader.ready()[0]]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Give a child and its end."""
    made = Pair()
    with closing(made.child), closing(made.theirs):
        yield made


def jobs(count: int) -> list[Member]:
    """Return jobs of one delivery."""
    return list(make_hold(make_bundle(count, schema=b"schema", attempt=2)).pending.values())


def test_what_a_child_gets(pair: Pair) -> None:
    """A number, the task, the types, the job's id, its attempt, limit and arguments; and a token each."""
    members = jobs(2)
    pair.child.hand(members)
    values, _ = pair.reader.ready()
    assert values == [
        [JOBS, [[n + 1, "lab.work", b"schema", BUNDLE_ID, n, 2, None, b"%d" % n] for n in range(2)]],
    ]
    pair.start()
    pair.start()
    with pytest.raises(BlockingIOError):
        pair.start()


def test_the_unstarted_tail_is_recalled(pair: Pair) -> None:
    """In its order; the job whose token the child has taken stays, and the child is told what to drop."""
    members = jobs(4)
    pair.child.hand(members)
    pair.start()
    assert pair.child.recall() == members[1:]
    assert list(pair.child.handed) == members[:1]
    assert [member.number for member in members] == [1, 0, 0, 0]
    assert pair.reader.ready()[0][1] == [DROP, [2, 1]]
    assert pair.child.slot.epoch == 1
    assert pair.child.recall() == []
    assert pair.frames() == []


def test_numbers_are_never_used_again(pair: Pair) -> None:
    """A job handed over after a recall has a new one, so that no report is taken for another's."""
    members = jobs(2)
    pair.child.hand(members)
    assert pair.child.recall() == members
    pair.child.hand(members)
    assert [member.number for member in members] == [3, 4]


def test_a_retiring_child_keeps_what_it_runs(pair: Pair) -> None:
    """The token of its stop is not that of its last job, which must not be started elsewhere while it runs."""
    members = jobs(1)
    pair.child.hand(members)
    pair.start()
    pair.child.stop()
    assert pair.child.recall() == []
    assert list(pair.child.handed) == members
    assert pair.frames() == [JOBS, STOP]


def test_reports_come_in_order(pair: Pair) -> None:
    """Each ends the first job that was handed over, with its time and outcome."""
    members = jobs(2)
    pair.child.hand(members)
    send_frame(pair.theirs, ("hello", 4711))
    pair.report(1)
    pair.report(2)
    reports, is_closed = pair.child.reports()
    assert [(r.member, r.elapsed, r.outcome) for r in reports] == [(m, 0.25, Done(b"r")) for m in members]
    assert not is_closed
    assert pair.child.done == 2


def test_a_child_is_idle_when_it_has_nothing_to_do(pair: Pair) -> None:
    """With a job in hand it is not, and neither while it is to end."""
    states = [pair.child.is_idle]
    pair.child.hand(jobs(1))
    states.append(pair.child.is_idle)
    pair.report(1)
    pair.child.reports()
    states.append(pair.child.is_idle)
    pair.child.stop()
    states.append(pair.child.is_idle)
    assert states == [True, False, True, False]


@pytest.mark.parametrize("number", [0, 2, 99])
def test_a_child_names_only_what_it_was_handed(pair: Pair, number: int) -> None:
    """A report of another job, or out of turn, is refused: user code wrote to the pipe."""
    pair.child.hand(jobs(2))
    pair.report(number)
    with pytest.raises(ValueError, match="reported a job that it does not run"):
        pair.child.reports()


def test_what_a_dead_child_was_running(pair: Pair) -> None:
    """The job whose token is gone and whose outcome is not here; none if it had reported all that it started."""
    members = jobs(3)
    pair.child.hand(members)
    pair.start()
    pair.report(1)
    pair.child.reports()
    pair.start()
    assert pair.child.started_but_unreported() is members[1]


def test_a_dead_child_that_ran_nothing(pair: Pair) -> None:
    """A death between jobs counts against none of them."""
    pair.child.hand(jobs(3))
    pair.start()
    pair.report(1)
    pair.child.reports()
    assert pair.child.started_but_unreported() is None


def test_the_end_of_a_child_is_seen(pair: Pair) -> None:
    """What it had reported before is not lost, and handing it more does not raise."""
    pair.child.hand(jobs(1))
    pair.report(1)
    pair.theirs.close()
    reports, _ = pair.child.reports()
    assert len(reports) == 1
    pair.child.hand(jobs(1))
    assert pair.child.reports() == ([], True)
