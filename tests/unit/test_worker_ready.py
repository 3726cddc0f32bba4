"""The short lists of one worker: what waits, what starts next, and what is held until it is due."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from queuelib.color import DEFAULT_PALETTE, Palette
from queuelib.worker.ready import Ready
from tests.unit.fakes import make_bundle, make_hold, make_member, quick

if TYPE_CHECKING:
    from queuelib.worker.lease import Member

STRICT = Palette(DEFAULT_PALETTE, taking="strict")


def any_member(_: Member) -> bool:
    """Let every job start."""
    return True


def job(color: str = "yellow", due: float | None = None) -> Member:
    """Return a job that waits."""
    return make_member(make_bundle(color=color, due=due))


def fill(members: list[Member], now: float = 0.0, palette: Palette = DEFAULT_PALETTE) -> Ready:
    """Return lists with these jobs."""
    ready = Ready(palette, palette.names)
    for member in members:
        ready.add(member, now)
    return ready


def pop_all(ready: Ready) -> list[Member]:
    """Take everything that may start."""
    popped: list[Member] = []
    while (member := ready.pop(any_member)) is not None:
        popped.append(member)
    return popped


class TestChoice:
    """What starts next."""

    def test_first_come_first_served_within_a_color(self) -> None:
        """Jobs of one color start in the order in which they came."""
        members = [job() for _ in range(5)]
        assert pop_all(fill(members)) == members

    def test_the_most_urgent_color_first(self) -> None:
        """Between colors the palette's rule decides."""
        green, red, yellow = job("green"), job("red"), job("yellow")
        assert pop_all(fill([green, red, yellow], palette=STRICT)) == [red, yellow, green]

    def test_shares_are_remembered_between_choices(self) -> None:
        """Yellow gets its start in four while red waits: what is owed is kept from one choice to the next."""
        ready = fill([job("red") for _ in range(20)] + [job("yellow") for _ in range(20)])
        colors = [member.bundle.color for member in pop_all(ready)[:20]]
        assert colors.count("yellow") >= 4

    def test_a_color_whose_first_may_not_start_is_passed_over(self) -> None:
        """Others start meanwhile, and it keeps its place."""
        red, green = job("red"), job("green")
        ready = fill([red, green])
        assert ready.pop(lambda member: member is not red) is green
        assert ready.pop(lambda member: member is not red) is None
        assert ready.pop(any_member) is red

    def test_a_job_returned_at_once_is_as_if_never_popped(self) -> None:
        """It is first again, and its color is owed what it was owed."""
        ready = fill([job("red") for _ in range(8)] + [job("yellow") for _ in range(8)])
        plain = [member.bundle.color for member in pop_all(fill(list(ready)))]
        colors = []
        while (member := ready.pop(any_member)) is not None:
            ready.unpop(member)
            assert ready.pop(any_member) is member
            colors.append(member.bundle.color)
        assert colors == plain

    def test_recalled_jobs_go_to_the_heads_of_their_lists(self) -> None:
        """In their order, before what came later."""
        one, two, three, red = job(), job(), job(), job("red")
        ready = fill([three])
        ready.put_back([one, red, two])
        assert pop_all(ready) == [red, one, two, three]


class TestCounts:
    """What waits."""

    def test_by_color(self) -> None:
        """The lists are counted apart and together; what is held until it is due is no part of them."""
        ready = fill([job("red"), job("green"), job("green"), job("green", due=9.0)])
        assert [ready.count(name) for name in DEFAULT_PALETTE.names] == [1, 0, 2]
        assert len(ready) == len(list(ready)) == 3
        assert not ready.is_empty

    def test_empty(self) -> None:
        """Nothing waits, nothing starts, nothing is due."""
        ready = fill([])
        assert ready.is_empty
        assert len(ready) == 0
        assert ready.pop(any_member) is None
        assert ready.next_due() is None
        assert ready.most_urgent() is None

    def test_the_most_urgent_rank(self) -> None:
        """It counts in the palette, not among the colors served."""
        ready = Ready(DEFAULT_PALETTE, ["green", "yellow"])
        ready.add(job("green"), 0.0)
        assert ready.most_urgent() == 2
        ready.add(job("yellow"), 0.0)
        assert ready.most_urgent() == 1

    def test_drain(self) -> None:
        """All of it comes out, due or not, and nothing is left."""
        members = [job("red"), job("green"), job("yellow", due=9.0)]
        ready = fill(members)
        assert set(ready.drain()) == set(members)
        assert ready.is_empty


class TestDue:
    """Jobs that are held back."""

    @pytest.mark.parametrize(("due", "waits"), [(None, 1), (9.9, 1), (10.0, 1), (10.1, 0)])
    def test_only_what_is_not_due_is_held(self, due: float | None, waits: int) -> None:
        """A job without a due time, or with one that has come, waits for a child like any other."""
        ready = fill([job(due=due)], now=10.0)
        assert len(ready) == waits
        assert ready.next_due() == (None if waits else due)
        assert not ready.is_empty

    @quick
    @given(dues=st.lists(st.integers(1, 30), max_size=12), now=st.integers(0, 30))
    def test_what_became_due_starts_in_the_order_of_its_time(self, dues: list[int], now: int) -> None:
        """Everything that is due moves, the earliest first, and the next time is that of the earliest left."""
        ready = fill([job(due=float(due)) for due in dues])
        ready.promote(float(now))
        assert [member.bundle.due for member in pop_all(ready)] == sorted(due for due in dues if due <= now)
        assert ready.next_due() == min((due for due in dues if due > now), default=None)

    def test_equal_times_keep_their_order(self) -> None:
        """Jobs due at once start in the order in which they came."""
        members = [job(due=5.0) for _ in range(4)]
        ready = fill(members)
        ready.promote(5.0)
        assert pop_all(ready) == members


class TestDiscard:
    """A delivery that is not ours any more."""

    def test_its_jobs_are_gone(self) -> None:
        """Waiting or held back; those of other deliveries stay where they were."""
        lost, kept = make_hold(make_bundle(3)), make_hold(make_bundle(2))
        later = make_hold(make_bundle(2, due=9.0))
        ready = fill([lost.pending[0], kept.pending[0], lost.pending[1], kept.pending[1], *later.pending.values()])
        ready.discard(lost)
        ready.discard(later)
        assert ready.next_due() is None
        assert pop_all(ready) == [kept.pending[0], kept.pending[1]]

    @quick
    @given(dues=st.lists(st.tuples(st.integers(1, 30), st.booleans()), max_size=16))
    @example(dues=[(1, True), (10, False), (2, False), (11, False), (12, False), (3, False)])
    def test_the_others_are_still_due_in_order(self, dues: list[tuple[int, bool]]) -> None:
        """Whatever is taken out, the next due time is that of the earliest left."""
        ready = fill([])
        left: list[Member] = []
        gone: list[Member] = []
        for due, is_gone in dues:
            member = job(due=float(due))
            ready.add(member, 0.0)
            (gone if is_gone else left).append(member)
        for member in gone:
            ready.discard(member.hold)
        times = sorted(member.bundle.due or 0.0 for member in left)
        assert ready.next_due() == (times[0] if times else None)
        ready.promote(30.0)
        assert [member.bundle.due for member in pop_all(ready)] == times
