"""What keeps a job from starting, and what the deaths of its processes make of it."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from queuelib import body
from queuelib.color import DEFAULT_PALETTE
from queuelib.errors import BrokerUnavailable
from queuelib.ids import Key
from queuelib.message import Limits
from queuelib.outcome import CANCELLED, EXPIRED, QUEUED, RUNNING, Again, Failed, NotRun, Quarantined
from queuelib.ports import Cancelled
from queuelib.worker.lease import Part
from queuelib.worker.ready import Ready
from queuelib.worker.staff import CUT_OFF, INTERRUPTED, TOO_LONG, Death
from queuelib.worker.starts import READ_EVERY, Starts, Withdrawals
from tests.unit.fakes import BUNDLE_ID, FakeLane, FakeResults, Time, make_bundle, make_hold, make_part, positions

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuelib.outcome import Outcome
    from queuelib.worker.lease import Hold


class Line:
    """A connection that fails without a word, as `Line` has it."""

    def __init__(self) -> None:
        self.results = FakeResults()
        self.link = SimpleNamespace(results=self.results, lane=FakeLane(), may_try=True)

    def attempt(self, operation: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return operation(*arguments)
        except BrokerUnavailable:
            return None

    ask = attempt


class Shelf:
    """Withdrawals of jobs in yellow, and where they leave them."""

    def __init__(self) -> None:
        self.time = Time()
        self.line = Line()
        self.marks: list[tuple[list[Key], int]] = []
        self.cursors: list[object] = []
        self.line.link.results = SimpleNamespace(cancelled=self.cancelled)
        self.ended: list[tuple[int, str]] = []
        self.ready = Ready(DEFAULT_PALETTE, DEFAULT_PALETTE.names)
        books = SimpleNamespace(end=self.end)
        line, clock = cast("Any", self.line), self.time.clock
        self.withdrawals = Withdrawals(line, cast("Any", books), self.ready, clock)

    def cancelled(self, cursor: object) -> Cancelled:
        self.cursors.append(cursor)
        if not self.marks:
            raise BrokerUnavailable("gone")
        return Cancelled(*self.marks.pop(0))

    def end(self, hold: Hold, at: int, outcome: Outcome) -> None:
        assert isinstance(outcome, NotRun)
        assert hold.end(at, at + 1)
        self.ended.append((at, outcome.state))


class TestWithdrawals:
    def test_those_that_were_cancelled_end_and_the_others_wait(self) -> None:
        """At the head of their list, in their order, each on its own."""
        it = Shelf()
        it.marks.append(([Key(BUNDLE_ID, 1), Key(bytes(16), 0)], 7))
        assert it.withdrawals.read(it.time.now) == {BUNDLE_ID, bytes(16)}
        assert it.withdrawals.has_ended(make_part(make_bundle(3)))
        assert it.ended == [(1, CANCELLED)]
        assert positions(it.ready.drain()) == [0, 2]

    def test_what_nobody_cancelled_may_start(self) -> None:
        """Also where another job of its bundle was cancelled, that is not among these."""
        it = Shelf()
        it.marks.append(([Key(BUNDLE_ID, 2)], 7))
        it.withdrawals.read(it.time.now)
        assert not it.withdrawals.has_ended(Part(make_hold(make_bundle(3)), 0, 2))
        assert not it.withdrawals.has_ended(make_part(make_bundle(id=bytes(16))))
        assert (it.ended, it.ready.count()) == ([], 0)

    def test_what_has_expired_ends(self) -> None:
        """At its time it may still start."""
        it = Shelf()
        bundle = make_bundle(2, expires=it.time.now)
        assert not it.withdrawals.has_ended(make_part(bundle))
        it.time.now += 0.1
        assert it.withdrawals.has_ended(make_part(bundle))
        assert it.ended == [(0, EXPIRED), (1, EXPIRED)]

    def test_only_new_marks_are_told_of(self) -> None:
        """From the last cursor on, not oftener than is of use, and again after a failure."""
        it = Shelf()
        it.marks.append(([Key(BUNDLE_ID, 0)], 7))
        assert it.withdrawals.read(0.0) == {BUNDLE_ID}
        assert it.withdrawals.read(READ_EVERY / 2) == set()
        assert it.withdrawals.read(1.0) == set()
        it.marks.append(([Key(BUNDLE_ID, 0)], 8))
        assert it.withdrawals.read(2.0) == set()
        it.marks.append(([Key(BUNDLE_ID, 1)], 9))
        assert it.withdrawals.read(3.0) == {BUNDLE_ID}
        assert it.cursors == [None, 7, 7, 8]


def make_starts(line: Line, once: tuple[str, ...] = (), time: Time | None = None, keep: float = 3600.0) -> Starts:
    return Starts(cast("Any", line), once, (time or Time()).clock, keep)


def make_death(hold: Hold, why: str = "", *, was_meant: bool = True) -> Death:
    return Death(hold, 0, 4711, "signal 9", why, was_meant)


class TestStarts:
    def test_the_third_death_is_the_last(self) -> None:
        """Each one counts, and its next start is marked with the number of those before it."""
        line, hold = Line(), make_hold(make_bundle(1))
        starts = make_starts(line)
        for number in (1, 2):
            assert starts.after(make_death(hold)) is None
            assert hold.starts == {0: number}
            assert starts.mark(hold.waiting()) is not None
            (record,) = line.results.records.values()
            assert (record.state, body.starts_in(record.body)) == (RUNNING, number + 1)
        assert isinstance(starts.after(make_death(hold)), Quarantined)

    @pytest.mark.parametrize(("why", "was_meant"), [(INTERRUPTED, True), (CUT_OFF, True), (TOO_LONG, False)])
    def test_a_death_that_was_not_its_own_does_not_count(self, why: str, was_meant: bool) -> None:  # noqa: FBT001
        """It was we who killed its child, and not for what it did."""
        hold = make_hold(make_bundle(1))
        assert make_starts(Line()).after(make_death(hold, why, was_meant=was_meant)) is None
        assert hold.starts == {}

    def test_the_hard_limit_is_a_failed_attempt(self) -> None:
        """Which may be repeated, unless it must not start twice."""
        hold = make_hold(make_bundle(1, limits=Limits(hard_timeout=2.0)))
        assert isinstance(make_starts(Line()).after(make_death(hold, TOO_LONG)), Again)
        assert isinstance(make_starts(Line(), ("lab.work",)).after(make_death(hold, TOO_LONG)), Failed)

    def test_what_lasts_is_shown_once(self) -> None:
        """And no longer once it comes back unstarted."""
        line, hold = Line(), make_hold(make_bundle(3))
        starts = make_starts(line)
        starts.show([(hold, 0, 0.5), (hold, 1, 1.5)])
        starts.show([(hold, 1, 1.7)])
        starts.unmark([Part(hold, 0, 3)])
        starts.unmark([Part(hold, 0, 3)])
        stored = [[(record.key.index, record.state) for record in said[0]] for _, said in line.results.log]
        assert stored == [[(1, RUNNING)], [(1, QUEUED)]]

    @pytest.mark.parametrize("once", [(), ("lab.work",)])
    def test_the_mark_of_a_job_that_runs_for_long_is_stored_again(self, once: tuple[str, ...]) -> None:
        """Long before it is forgotten, which is as long after it was stored; with the same number of starts."""
        line, hold, time = Line(), make_hold(), Time()
        starts = make_starts(line, once, time, keep=86_400.0)
        if once:
            hold.starts = {0: 0}
            starts.mark(hold.waiting())
        began = time.now
        for _ in range(100):
            time.now += 3_600.0
            starts.show([(hold, 0, time.now - began)])
        marks = [record for verb, said in line.results.log if verb == "store" for record in said[0]]
        assert {(record.state, body.starts_in(record.body)) for record in marks} == {(RUNNING, 1)}
        times = [record.at for record in marks] + [time.now]
        assert len(marks) < 20
        assert max(late - early for early, late in itertools.pairwise(times)) <= 86_400.0 / 3

    def test_a_mark_that_was_not_stored_again_is_tried_again(self) -> None:
        """At the next look."""
        line, hold, time = Line(), make_hold(), Time()
        starts = make_starts(line, time=time, keep=400.0)
        starts.show([(hold, 0, 2.0)])
        time.now += 101.0
        line.results.error = BrokerUnavailable("gone")
        starts.show([(hold, 0, 103.0)])
        line.results.error = None
        line.results.log.clear()
        starts.show([(hold, 0, 103.2)])
        starts.show([(hold, 0, 103.4)])
        assert [verb for verb, _ in line.results.log] == ["store"]

    def test_what_may_be_unmarked_is_shown_again(self) -> None:
        """That it waits may have been stored though the answer was lost; then it runs once more."""
        line, hold = Line(), make_hold()
        starts = make_starts(line)
        starts.show([(hold, 0, 2.0)])
        line.results.error = BrokerUnavailable("gone")
        starts.unmark([Part(hold, 0, 1)])
        line.results.error = None
        starts.show([(hold, 0, 2.0)])
        states = [record.state for verb, said in line.results.log if verb == "store" for record in said[0]]
        assert states == [RUNNING, QUEUED, RUNNING]

    def test_of_what_others_have_nothing_is_shown(self) -> None:
        """They say themselves that it runs."""
        line, hold = Line(), make_hold()
        hold.delivery.is_lost = True
        make_starts(line).show([(hold, 0, 1.5)])
        assert line.results.log == []

    def test_what_was_never_started_needs_no_mark(self) -> None:
        """Nothing is stored of it."""
        line = Line()
        batch = [make_part(make_bundle(3))]
        assert make_starts(line).mark(batch) == batch
        assert line.results.log == []

    @pytest.mark.parametrize("once", [(), ("lab.work",)])
    def test_starts_before_this_worker_count(self, once: tuple[str, ...]) -> None:
        """Up to the third; a job that must not start twice ends with the first."""
        starts, hold = make_starts(Line(), once), make_hold(make_bundle(1))
        expected = (Failed, Failed) if once else (type(None), Quarantined)
        assert (type(starts.before(hold, 2)), type(starts.before(hold, 3))) == expected
