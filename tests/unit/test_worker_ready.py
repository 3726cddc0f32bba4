"""The short lists of one worker: what waits, what starts next, and what is held until it is due."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuelib.color import DEFAULT_PALETTE, Palette
from queuelib.worker.lease import Part
from queuelib.worker.ready import Ready
from tests.unit.fakes import make_bundle, make_hold, make_part, positions, quick

STRICT = Palette(DEFAULT_PALETTE, taking="strict")


def all_of_it(part: Part, is_contested: bool) -> int:  # noqa: FBT001 - as Ready calls it
    """Want as many as the rule between colors allows."""
    return 1 if is_contested else part.count


def job(color: str = "yellow", due: float | None = None, count: int = 1) -> Part:
    """Return a job that waits, or some of one bundle."""
    return make_part(make_bundle(count, color=color, due=due))


def fill(parts: list[Part], now: float = 0.0, palette: Palette = DEFAULT_PALETTE) -> Ready:
    """Return lists with these jobs."""
    ready = Ready(palette, palette.names)
    for part in parts:
        ready.add(part, now)
    return ready


def pop_all(ready: Ready) -> list[Part]:
    """Take everything that may start."""
    popped: list[Part] = []
    while (part := ready.pop(all_of_it)) is not None:
        popped.append(part)
    return popped


def color_of(part: Part) -> str:
    """Return a job's color."""
    return part.hold.bundle.color


class TestChoice:
    """What starts next."""

    def test_first_come_first_served_within_a_color(self) -> None:
        """Jobs of one color start in the order in which they came."""
        parts = [job() for _ in range(5)]
        assert pop_all(fill(parts)) == parts

    def test_the_most_urgent_color_first(self) -> None:
        """Between colors the palette's rule decides."""
        green, red, yellow = job("green"), job("red"), job("yellow")
        assert pop_all(fill([green, red, yellow], palette=STRICT)) == [red, yellow, green]

    def test_shares_are_remembered_between_choices(self) -> None:
        """Yellow gets its start in four while red waits: what is owed is kept from one choice to the next."""
        ready = fill([job("red", count=20), job("yellow", count=20)])
        colors = [color_of(part) for part in pop_all(ready)[:20]]
        assert colors.count("yellow") >= 4

    def test_a_bundle_is_cut_where_others_wait(self) -> None:
        """One start after the other while colors compete; what is left alone goes at once."""
        ready = fill([job("red", count=3), job("green", count=50)], palette=STRICT)
        assert [(color_of(part), part.at, part.count) for part in pop_all(ready)] == [
            ("red", 0, 1),
            ("red", 1, 1),
            ("red", 2, 1),
            ("green", 0, 50),
        ]

    @pytest.mark.parametrize("wanted", [1, 3, 7])
    def test_as_many_as_are_wanted(self, wanted: int) -> None:
        """The first ones of the part at the head; the others stay there."""
        ready = fill([job(count=7), job()])
        part = ready.pop(lambda *_: wanted)
        assert part is not None
        assert (part.at, part.count, ready.count()) == (0, wanted, 8 - wanted)
        assert positions(pop_all(ready)) == [*range(wanted, 7), 0]

    def test_none_wanted_changes_nothing(self) -> None:
        """What was asked about is first again, and its color is owed what it was owed."""
        parts = [job("red", count=8), job("yellow", count=8)]
        plain = [color_of(part) for part in pop_all(fill([job("red", count=8), job("yellow", count=8)]))]
        ready, colors = fill(parts), []
        while ready.count():
            assert ready.pop(lambda *_: 0) is None
            part = ready.pop(all_of_it)
            assert part is not None
            colors.append(color_of(part))
        assert colors == plain

    def test_a_suspect_that_may_not_start_is_passed(self) -> None:
        """Others start meanwhile, in their order, those behind it too; it is first as soon as it may be."""
        first, second, third, red, green = job(), job(), job(), job("red"), job("green")
        for suspect in (first, red):
            suspect.hold.suspect(0, 2)
        ready = fill([first, second, red, third, green])
        assert [ready.pop(all_of_it, has_alone=True) for _ in range(4)] == [second, third, green, None]
        assert (ready.count(has_alone=True), ready.count(), ready.is_empty) == (0, 2, False)
        ready.put_back([second])
        assert pop_all(ready) == [red, first, second]

    def test_many_suspects_are_not_hoarded(self) -> None:
        """They wait here beside what others may start, but not without an end."""
        ready = fill([])
        part = job(count=2)
        part.hold.suspect(0, 2)
        for _ in range(8192 + 5):
            ready.add(Part(part.hold, 0, 1), 0.0)
        assert ready.count_of("yellow") == 5

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
        ready = fill([job("red"), job("green", count=5), job("green"), job("green", due=9.0)])
        assert [ready.count_of(name) for name in DEFAULT_PALETTE.names] == [1, 0, 6]
        assert ready.count() == 7
        assert not ready.is_empty

    def test_empty(self) -> None:
        """Nothing waits, nothing starts, nothing is due."""
        ready = fill([])
        assert ready.is_empty
        assert ready.count() == 0
        assert ready.pop(all_of_it) is None
        assert ready.next_due() is None

    def test_drain(self) -> None:
        """All of it comes out, due or not, and nothing is left."""
        parts = [job("red"), job("green"), job("yellow", due=9.0)]
        ready = fill(parts)
        assert set(ready.drain()) == set(parts)
        assert ready.is_empty


class TestDue:
    """Jobs that are held back."""

    @pytest.mark.parametrize(("due", "waits"), [(None, 1), (9.9, 1), (10.0, 1), (10.1, 0)])
    def test_only_what_is_not_due_is_held(self, due: float | None, waits: int) -> None:
        """A job without a due time, or with one that has come, waits for a child like any other."""
        ready = fill([job(due=due)], now=10.0)
        assert ready.count() == waits
        assert ready.next_due() == (None if waits else due)
        assert not ready.is_empty

    @quick
    @given(dues=st.lists(st.integers(1, 30), max_size=12), now=st.integers(0, 30))
    def test_what_became_due_starts_in_the_order_of_its_time(self, dues: list[int], now: int) -> None:
        """Everything that is due moves, the earliest first, and the next time is that of the earliest left."""
        ready = fill([job(due=float(due)) for due in dues])
        ready.promote(float(now))
        assert [part.hold.bundle.due for part in pop_all(ready)] == sorted(due for due in dues if due <= now)
        assert ready.next_due() == min((due for due in dues if due > now), default=None)

    def test_equal_times_keep_their_order(self) -> None:
        """Jobs due at once start in the order in which they came."""
        parts = [job(due=5.0) for _ in range(4)]
        ready = fill(parts)
        ready.promote(5.0)
        assert pop_all(ready) == parts


class TestDiscard:
    """Deliveries that are not ours any more."""

    def test_their_jobs_are_gone(self) -> None:
        """Waiting or held back; those of other deliveries stay where they were."""
        lost, kept, later = make_hold(make_bundle(3)), make_hold(make_bundle(2)), make_hold(make_bundle(2, due=9.0))
        ready = fill([Part(lost, 0, 1), Part(kept, 0, 1), Part(lost, 1, 2), Part(kept, 1, 2), Part(later, 0, 2)])
        lost.delivery.is_lost = later.delivery.is_lost = True
        ready.discard_lost(0.0)
        assert ready.next_due() is None
        assert ready.count() == 2
        assert [(part.hold, part.at) for part in pop_all(ready)] == [(kept, 0), (kept, 1)]

    @quick
    @given(dues=st.lists(st.tuples(st.integers(1, 30), st.booleans()), max_size=16))
    def test_the_others_are_still_due_in_order(self, dues: list[tuple[int, bool]]) -> None:
        """Whatever is taken out, the next due time is that of the earliest left."""
        ready = fill([])
        for due, is_gone in dues:
            part = job(due=float(due))
            ready.add(part, 0.0)
            part.hold.delivery.is_lost = is_gone
        ready.discard_lost(0.0)
        times = sorted(float(due) for due, is_gone in dues if not is_gone)
        assert ready.next_due() == (times[0] if times else None)
        ready.promote(30.0)
        assert [part.hold.bundle.due for part in pop_all(ready)] == times
