"""A job that waits for others lends its slot: what its child says, and who works in its place."""

from __future__ import annotations

import logging
import mmap
import os
import resource
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from queuelib.color import DEFAULT_PALETTE
from queuelib.context import lending, waiting
from queuelib.worker import crew as crews
from queuelib.worker import slots
from queuelib.worker.crew import NoRoomError
from queuelib.worker.lending import Lender
from queuelib.worker.plan import Plan
from queuelib.worker.shared import NUMBER, SHARED_BYTES, WAITS, Slot
from queuelib.worker.slots import Slots
from queuelib.worker.staff import Pool, Staff
from tests.unit.test_worker_children import Pair, jobs

if TYPE_CHECKING:
    from collections.abc import Iterator


class Bell:
    """A child's memory, and how often it rang."""

    def __init__(self) -> None:
        self.slot = Slot(mmap.mmap(-1, SHARED_BYTES))
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.lender = Lender(self.slot, self.fd)

    def lend(self) -> AbstractContextManager[object]:
        """Return the context in which its job waits."""
        blocks = True
        return self.lender.lend(blocks)

    def rang(self) -> int:
        """Return how often it rang since."""
        try:
            return os.eventfd_read(self.fd)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Close the bell."""
        os.close(self.fd)


@pytest.fixture
def bell() -> Iterator[Bell]:
    """Give a child that runs job 7."""
    made = Bell()
    made.slot.words[NUMBER] = 7
    with closing(made):
        yield made


class TestLender:
    """What the child says."""

    def test_a_wait_begins_and_ends(self, bell: Bell) -> None:
        """It stands in the memory while it lasts, and the supervisor is told of both ends, also where it fails."""
        with bell.lend():
            assert bell.slot.waits > 0.0
            assert bell.rang() == 1
        assert (bell.slot.waits, bell.rang()) == (0.0, 1)
        with pytest.raises(ValueError, match="why"), bell.lend():
            raise ValueError("why")
        assert bell.slot.waits == 0.0

    def test_of_several_waits_the_last_one_ends_it(self, bell: Bell) -> None:
        """As where two coroutines of a handler wait for a job each."""
        with bell.lend():
            since = bell.slot.waits
            with bell.lend():
                assert bell.slot.waits == since
            assert bell.slot.waits == since
            assert bell.rang() == 1
        assert bell.slot.waits == 0.0

    def test_what_waits_on_is_not_taken_for_the_next_job(self, bell: Bell) -> None:
        """A thread that a handler left behind ends its wait while another job waits: that one waits still."""
        left = bell.lend()
        left.__enter__()
        bell.slot.words[NUMBER] = 8
        with bell.lend():
            since = bell.slot.waits
            left.__exit__(None, None, None)
            assert bell.slot.waits == since
        assert bell.slot.waits == 0.0

    def test_nobody_lends_between_two_jobs(self, bell: Bell) -> None:
        """Such a thread has no slot to lend."""
        bell.slot.words[NUMBER] = 0
        with bell.lend():
            assert (bell.slot.waits, bell.rang()) == (0.0, 0)

    def test_outside_of_a_worker_nothing_is_said(self) -> None:
        """A client that waits has no slot."""
        assert lending.get() is None
        with waiting(blocks=True):
            pass


class TestChild:
    """What the supervisor reads of it."""

    def test_since_when_it_waits(self) -> None:
        """If it is the job which it is known to run that does, and not one before it."""
        pair = Pair()
        with closing(pair.child), closing(pair.theirs):
            pair.slot.times[WAITS] = 6.0
            assert pair.child.waits_since() is None
            pair.child.hand([jobs(1)])
            pair.begin(1, 5.0)
            assert pair.child.waits_since() == 6.0
            pair.begin(1, 6.5)
            assert pair.child.waits_since() is None


@dataclass
class Memory:
    """What is read of a slot."""

    waits: float = 0.0


@dataclass(eq=False)
class Someone:
    """A child."""

    handed: list[int] = field(default_factory=list[int])
    slot: Memory = field(default_factory=Memory)
    is_retiring: bool = False
    is_lending: bool = False
    spare_since: float = 0.0
    done: int = 0
    unreported: int = 0
    mates: list[Someone] = field(default_factory=list["Someone"])

    def __post_init__(self) -> None:
        self.mates.append(self)

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do."""
        return not self.handed and not self.is_retiring

    def recall(self) -> list[Any]:
        """Take nothing back."""
        return []

    def stop(self) -> None:
        """Have it end."""
        self.is_retiring = True

    def waits_since(self) -> float | None:
        """Return since when the job that runs waits."""
        return self.slot.waits if self.handed and self.slot.waits else None


def busy(waits: float = 0.0) -> Any:
    """Return a child that runs a job, and waits since."""
    return Someone([1], Memory(waits))


def idle() -> Any:
    """Return a child that does nothing."""
    return Someone()


class TestSuspects:
    """Jobs beside which no other suspect may run."""

    @pytest.mark.parametrize("is_lending", [False, True])
    def test_one_that_waits_does_not_keep_others_from_running(self, is_lending: bool) -> None:  # noqa: FBT001
        """What it waits for may be one of them."""
        staff: Any = Staff.__new__(Staff)
        staff._children = [SimpleNamespace(handed=[SimpleNamespace(runs_alone=True)], is_lending=is_lending)]
        assert staff.has_alone is not is_lending


def staff_of(children: list[Any], crew: Any = None, **plan: Any) -> Any:
    """Return who leads these lanes of one process."""
    staff: Any = Staff.__new__(Staff)
    pool = Pool(len(children), len(children))
    pool.children = list(children)
    staff.pools, staff.pool, staff._children, staff._crew = [pool], pool, list(children), crew
    staff._plan = Plan("w", ("yellow",), DEFAULT_PALETTE, 1, **plan)
    staff._is_warm, staff._is_hiring = True, True
    staff._most, staff._was_full = float("inf"), False
    return staff


class TestShare:
    """What a process of lanes may run until it is replaced."""

    def test_a_process_that_was_given_its_share_is_to_end(self) -> None:
        """Its idle lanes get nothing more; others come for them, and what runs may wait for what those run."""
        mates: Any = []
        lanes: list[Any] = [Someone([1], mates=mates), Someone(mates=mates)]
        lanes[0].unreported, lanes[0].done, lanes[1].done = 1, 1, 0
        staff = staff_of(lanes, max_jobs=3)
        assert staff.lend(100.0) == []
        assert [lane.is_retiring for lane in lanes] == [False, False]
        lanes[1].done = 1
        assert staff.lend(100.1) == []
        assert [lane.is_retiring for lane in lanes] == [True, True]
        assert staff.pool.slots.has_vacancy(lanes)
        assert staff.pool.working == []

    def test_what_waits_behind_another_job_is_not_enclosed(self) -> None:
        """It is taken back first if that lasts, and is then no part of the share."""
        mates: Any = []
        lanes: list[Any] = [Someone([1], mates=mates), Someone(mates=mates)]
        lanes[0].unreported = 2
        staff = staff_of(lanes, max_jobs=2)
        staff.lend(100.0)
        assert [lane.is_retiring for lane in lanes] == [False, False]


class Full:
    """Makes nobody, as there is no room."""

    def __init__(self) -> None:
        self.asked = 0

    def hire_lanes(self, count: int) -> list[Any]:
        """Refuse."""
        self.asked += 1
        msg = f"no room for {count}"
        raise NoRoomError(msg)


class TestNoRoom:
    """A process of lanes takes many descriptors."""

    def test_a_worker_goes_on_with_those_that_it_has(self, caplog: pytest.LogCaptureFixture) -> None:
        """It says so once, and tries again when one has gone."""
        crew = Full()
        staff = staff_of([busy(100.0), busy(100.0)], crew)
        staff.lend(100.1)
        assert all(child.is_lending for child in staff._children)
        with caplog.at_level(logging.WARNING):
            staff.refill()
            staff.refill()
        assert (crew.asked, len(caplog.records)) == (1, 1)

    def test_a_worker_without_anybody_ends(self) -> None:
        """It could do nothing."""
        staff = staff_of([busy()], Full())
        staff._children.clear()
        staff.pool.children.clear()
        with pytest.raises(NoRoomError):
            staff.refill()

    def test_the_room_is_looked_at_before(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody is left without a descriptor half-way."""
        monkeypatch.setattr(resource, "getrlimit", lambda _: (len([*Path("/proc/self/fd").iterdir()]) + 60, 10**6))
        crews._need_fds(10)
        with pytest.raises(NoRoomError, match="one more process needs 416 file descriptors: .*ulimit -n"):
            crews._need_fds(100)


class TestSlots:
    """Who works."""

    def test_who_waits_for_a_moment_keeps_its_slot(self) -> None:
        """Hiring for a wait that is about to end would cost more than it."""
        it, child = Slots(1), busy(100.0)
        assert it.look([child], 100.01) == []
        assert it.working([child]) == [child]
        assert it.next_look == pytest.approx(100.03)

    def test_who_waits_for_longer_lends_it(self) -> None:
        """It gets nothing more, gives back what it has not started, and somebody else is needed."""
        it, children = Slots(2), [busy(100.0), busy()]
        assert it.look(children, 100.04) == [children[0]]
        assert it.able(children) == it.working(children) == [children[1]]
        assert it.next_look == float("inf")
        assert it.look(children, 100.05) == []

    def test_who_goes_on_works_again(self) -> None:
        """There is one too many then: whoever has nothing to do gets nothing more."""
        it, children = Slots(1), [busy(100.0), idle()]
        it.look(children, 100.04)
        assert it.working(children) == [children[1]]
        children[0].slot.waits = 0.0
        assert it.look(children, 100.5) == [children[1]]
        assert it.working(children) == [children[0]]
        assert it.outstayed(children, 101.0) == []
        assert it.outstayed(children, 103.0) == [children[1]]

    def test_who_is_too_many_is_the_next_to_help(self) -> None:
        """It is there and has its connections: nobody is hired anew."""
        it, children = Slots(1), [busy(100.0), idle()]
        it.look(children, 100.04)
        children[0].slot.waits = 0.0
        it.look(children, 100.5)
        children[0].slot.waits = 100.6
        it.look(children, 100.7)
        assert it.working(children) == [children[1]]
        assert it.outstayed(children, 110.0) == []

    def test_who_is_too_many_and_runs_something_is_not_ended(self) -> None:
        """It finishes that, and gets nothing more."""
        it, children = Slots(1), [busy(100.0), busy()]
        it.look(children, 100.04)
        children[0].slot.waits = 0.0
        assert it.look(children, 100.5) == [children[1]]
        assert it.outstayed(children, 110.0) == []
        children[1].handed.clear()
        assert it.outstayed(children, 110.0) == [children[1]]

    def test_what_a_job_before_left_waiting_keeps_nobody_awake(self) -> None:
        """A thread of it waits on; nothing is lent, and there is nothing to look for."""
        it, child = Slots(1), idle()
        child.slot.waits = 100.0
        assert it.look([child], 200.0) == []
        assert not child.is_lending
        assert it.next_look == float("inf")

    def test_there_is_a_bound(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        """Beyond it nobody lends, which is said once; when somebody goes on, the next one may."""
        monkeypatch.setattr(slots, "_MOST_LENT", 2)
        it, children = Slots(1), [busy(100.0) for _ in range(4)]
        with caplog.at_level(logging.WARNING):
            for now in (101.0, 102.0):
                it.look(children, now)
        assert [child.is_lending for child in children] == [True, True, False, False]
        assert [record.message.split(" wait ")[0] for record in caplog.records] == ["2 jobs of this worker"]
        children[0].slot.waits = 0.0
        it.look(children, 103.0)
        assert [child.is_lending for child in children] == [False, True, True, False]

    def test_lanes_of_a_process_come_and_go_together(self) -> None:
        """Nobody is hired for one that waits; and of those that are too many none leaves before all of its process may."""
        it, first = Slots(2, lanes=2), [busy(100.0), busy()]
        it.look(first, 100.04)
        assert not it.has_vacancy(first)
        first[1].slot.waits = 100.0
        it.look(first, 100.1)
        assert it.has_vacancy(first)
        mates: Any = []
        children: list[Any] = [*first, Someone(mates=mates), Someone(mates=mates)]
        for child in first:
            child.slot.waits = 0.0
        it.look(children, 101.0)
        mates[1].handed.append(1)
        assert it.outstayed(children, 110.0) == []
        mates[1].handed.clear()
        assert it.outstayed(children, 110.0) == mates

    def test_what_runs_on_in_who_is_to_end_keeps_its_slot(self) -> None:
        """There never run more jobs than there are slots, however often processes are replaced."""
        it, old = Slots(2, lanes=2), [busy(), idle()]
        for child in old:
            child.is_retiring = True
        assert it.has_vacancy(old)  # for one slot of the two
        assert it.look(old, 100.0) == []
        new = [idle(), idle()]
        children = old + new
        assert [child.is_retiring for child in it.look(children, 100.1)] == [False]
        assert it.working(children) == new[:1]
        new[0].handed.append(1)
        for child in new:
            child.is_retiring = True
        assert not it.has_vacancy(children)
        assert it.working(children) == []
        old[0].slot.waits = 100.2  # it lends its slot
        it.look(children, 100.3)
        assert it.has_vacancy(children)

    def test_one_process_is_replaced_when_its_last_job_has_ended(self) -> None:
        """Until then its slot is taken."""
        it, child = Slots(1), busy()
        child.is_retiring = True
        assert not it.has_vacancy([child])
        child.handed.clear()
        assert it.has_vacancy([child])

    def test_it_costs_nothing_where_nobody_waits(self) -> None:
        """Nobody is looked at more closely."""
        it, children = Slots(2), [busy(), idle()]
        assert it.look(children, 100.0) == []
        assert it.outstayed(children, 100.0) == []
        assert it.working(children) == children
