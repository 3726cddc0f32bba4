"""Which child gets which jobs, and how many at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from queuelib.color import DEFAULT_PALETTE
from queuelib.worker.assign import Assigner
from queuelib.worker.lease import Part
from queuelib.worker.pace import HAND_AHEAD, MOST_BYTES_AHEAD, MOST_HANDED, Pace
from queuelib.worker.plan import Plan
from queuelib.worker.ready import Ready
from tests.unit.fakes import make_bundle, make_hold, make_part

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class FakeChild:
    """What an assigner looks at in a child."""

    handed: list[Part] = field(default_factory=list[Part])
    unreported: int = 0
    ahead: float = 0.0
    bytes_ahead: int = 0
    done: int = 0
    mates: list[FakeChild] = field(default_factory=list["FakeChild"])

    def __post_init__(self) -> None:
        self.mates.append(self)


class Desk:
    """An assigner with its short lists."""

    def __init__(self, *parts: Part, quick: float | None = 0.001, **plan: Any) -> None:
        self.ready = Ready(DEFAULT_PALETTE, DEFAULT_PALETTE.names)
        self.pace = Pace()
        if quick is not None:
            self.pace.ran("lab.work", "yellow", quick)
        self.assigner = Assigner(Plan("w1", ("yellow",), DEFAULT_PALETTE, 2, **plan), self.ready, self.pace)
        for part in parts:
            self.ready.add(part, 0.0)

    def choose(
        self,
        child: FakeChild | None = None,
        share: int = 10_000,
        has_ended: Callable[[Part], bool] = lambda _: False,
        *,
        has_alone: bool = False,
    ) -> list[tuple[int, int]]:
        """Return what a child gets, as ranges of positions."""
        chosen: Any = child or FakeChild()
        return [(part.at, part.end) for part in self.assigner.choose(chosen, share, has_ended, has_alone=has_alone)]


def jobs(count: int = 1, *, starts: int = 0, **changes: Any) -> Part:
    """Return jobs of one delivery, each with starts behind it if wanted."""
    part = make_part(make_bundle(count, **changes))
    for at in range(count if starts else 0):
        part.hold.suspect(at, starts)
    return part


def busy(*, quick: bool = True, ahead: float = 0.0) -> FakeChild:
    """Return a child that has a job."""
    part = jobs()
    part.cost = 0.001 if quick else 0.0
    return FakeChild([part], 1, ahead, 10)


class TestHowMany:
    """Quick jobs go by the handful."""

    def test_a_tenth_of_a_second_of_work(self) -> None:
        """And no more."""
        desk = Desk(*(jobs() for _ in range(500)))
        assert len(desk.choose()) == pytest.approx(HAND_AHEAD / 0.001, abs=1)

    def test_a_bundle_goes_whole(self) -> None:
        """Also if it is somewhat more: a cut has its column sent twice."""
        assert Desk(jobs(150)).choose() == [(0, 150)]

    def test_a_large_one_is_cut(self) -> None:
        """The rest waits for another child."""
        desk = Desk(jobs(1000))
        ((at, end),) = desk.choose()
        assert at == 0
        assert end == pytest.approx(100, abs=1)
        assert desk.ready.count() == 1000 - end

    def test_others_get_their_share(self) -> None:
        """However much would fit."""
        desk = Desk(jobs(80))
        assert desk.choose(share=40) == [(0, 40)]
        assert desk.choose(share=40) == [(40, 80)]

    def test_what_a_child_has_counts(self) -> None:
        """It is filled up, not given as much again."""
        desk = Desk(*(jobs() for _ in range(500)))
        assert len(desk.choose(busy(ahead=HAND_AHEAD - 0.005))) == pytest.approx(5, abs=1)

    def test_not_more_than_it_can_report(self) -> None:
        """The ring of outcomes has room for so many."""
        desk = Desk(*(jobs() for _ in range(20)), quick=1e-9)
        child = busy()
        child.unreported = MOST_HANDED - 3
        assert len(desk.choose(child)) == 3

    def test_not_more_than_its_socket_takes(self) -> None:
        """A busy child does not read; the first job of an idle one may be of any size."""
        large = [b"\x91\xc5\xff\xff" + bytes(0xFFFF)]
        assert len(large[0]) > MOST_BYTES_AHEAD // 2
        desk = Desk(*(jobs(1, arguments=large) for _ in range(4)))
        assert len(desk.choose()) == 1
        assert desk.choose(busy()) == []

    def test_until_it_is_replaced(self) -> None:
        """With `max_jobs` no child is handed more than it may still run."""
        child = FakeChild(done=6)
        assert Desk(jobs(50), max_jobs=10).choose(child) == [(0, 4)]
        other = FakeChild(done=1, unreported=2, mates=child.mates)  # another lane of its process
        assert Desk(jobs(50), max_jobs=10).choose(other) == [(0, 1)]

    def test_one_start_after_the_other_while_colors_compete(self) -> None:
        """Which follow each other in one bundle are handed over as one run."""
        desk = Desk(jobs(4, color="red"), jobs(4, color="green"), quick=0.001)
        chosen = desk.choose()
        assert sum(end - at for at, end in chosen) == 8
        assert len(chosen) < 8


class TestAlone:
    """Slow, unknown and suspect jobs go one by one."""

    @pytest.mark.parametrize("desk", [Desk(jobs(9), quick=None), Desk(jobs(9), quick=1.0), Desk(jobs(9), isolate=True)])
    def test_to_an_idle_child(self, desk: Desk) -> None:
        """One job, and nothing behind it."""
        assert desk.choose() == [(0, 1)]

    def test_not_behind_others(self) -> None:
        """A child that has something gets no slow job."""
        assert Desk(jobs(9), quick=None).choose(busy()) == []

    def test_nothing_behind_one(self) -> None:
        """A child that runs a slow job gets nothing; one with quick ones does until it has enough."""
        desk = Desk()
        children: list[Any] = [busy(quick=False), busy(ahead=0.09), busy(ahead=0.02), FakeChild()]
        assert desk.assigner.hungry(children) == [children[3], children[2]]

    def test_a_suspect_runs_alone(self) -> None:
        """What was started twice without an outcome waits while another such runs; what was started once does not."""
        assert [jobs(starts=starts).runs_alone for starts in (0, 1, 2, 3)] == [False, False, True, True]
        assert Desk(jobs(starts=2)).choose(has_alone=True) == []
        assert Desk(jobs(starts=2)).choose() == [(0, 1)]
        assert Desk(jobs(starts=1)).choose(has_alone=True) == [(0, 1)]

    def test_others_pass_a_suspect(self) -> None:
        """Those of another color, and those behind it, in their order; and it goes first as soon as it may."""
        desk = Desk(jobs(starts=2), *(jobs(number) for number in (1, 2, 3)), jobs(starts=2, color="red"), quick=None)
        assert desk.choose(has_alone=True) == [(0, 1)]
        assert desk.choose(has_alone=True) == [(0, 1)]
        assert desk.choose() == [(0, 1)]
        assert desk.ready.count() == 5
        assert desk.ready.count(has_alone=True) == 4
        assert not desk.ready.is_empty


class TestRoom:
    """How much to take."""

    def test_nothing_is_hoarded_behind_slow_jobs(self) -> None:
        """As much as there are idle children."""
        desk = Desk(quick=None)
        children: list[Any] = [busy(), FakeChild(), FakeChild()]
        assert desk.assigner.room(children) == {"yellow": 2}

    def test_a_suspect_that_must_wait_takes_no_room(self) -> None:
        """Others of its color are taken, and run meanwhile."""
        desk = Desk(jobs(starts=2), quick=None)
        children: list[Any] = [FakeChild(), FakeChild()]
        assert desk.assigner.room(children) == {"yellow": 2}

    def test_what_waits_here_is_taken_off(self) -> None:
        """Jobs, not deliveries."""
        desk = Desk(jobs(2), quick=None)
        children: list[Any] = [FakeChild(), FakeChild()]
        assert desk.assigner.room(children) == {"yellow": 0}


def test_what_has_ended_is_passed_over() -> None:
    """Cancelled or expired, it takes nothing from the share."""
    first, second = make_hold(make_bundle(3)), make_hold(make_bundle(2))
    desk = Desk(Part(first, 0, 3), Part(second, 0, 2))
    assert desk.choose(share=2, has_ended=lambda part: part.hold is first) == [(0, 2)]
    assert desk.ready.is_empty
