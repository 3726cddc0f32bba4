"""From outcomes to what the broker and the result backend are told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuelib import body, codec
from queuelib.envelope import decode, encode
from queuelib.errors import BrokerUnavailable, SubmitUnknown
from queuelib.ids import Key, job_id
from queuelib.message import Limits
from queuelib.outcome import (
    CANCELLED,
    EXPIRED,
    FAILED,
    QUARANTINED,
    RETRYING,
    SUCCEEDED,
    Again,
    Failed,
    NotRun,
    Outcome,
    Quarantined,
    Record,
)
from queuelib.ports import QuarantineItem, Settled
from queuelib.settings import MAX_MESSAGE_BYTES
from queuelib.worker.lease import Hold
from queuelib.worker.settle import Ledger, write
from tests.unit.fakes import (
    BUNDLE_ID,
    FakeDoor,
    FakeLane,
    FakeResults,
    Time,
    make_bundle,
    make_delivery,
    make_hold,
    quick,
    verbs,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

OUTCOMES = [b"r", Again(None, b"e"), Failed(b"e"), Quarantined("why"), NotRun(CANCELLED), NotRun(EXPIRED)]


def test_a_retry_that_became_too_large_is_a_failure() -> None:
    """When it is due is said in a few bytes more, and the first message may have had room for none."""
    changes: dict[str, Any] = {"limits": Limits(retries=1), "arguments": [codec.encode([b"x" * 2**20])]}
    around = len(encode(make_bundle(**changes))) - 9 - 2**20  # nine bytes around the payload are not counted
    changes["arguments"] = [codec.encode([b"x" * (MAX_MESSAGE_BYTES - around)])]
    assert len(encode(make_bundle(**changes))) - 9 == MAX_MESSAGE_BYTES
    _, entry = settle(Again(1.0, b"e"), **changes)
    assert [record.state for record in entry.records] == [FAILED]
    assert entry.successors == ()


def test_a_retry_in_doubt_is_written_again() -> None:
    """Where its confirmation was lost, the batch is not written: what waits for the caller is a server, not its end."""
    log: list[tuple[str, Any]] = []
    lane: Any = FakeLane(log, error=SubmitUnknown("no confirmation"))
    results: Any = FakeResults(log)
    _, entry = settle(Again(1.0, b"e"), limits=Limits(retries=1))
    with pytest.raises(BrokerUnavailable, match="no confirmation"):
        write([entry], lane, results, None)
    assert verbs(log) == ["publish"]


def settle(outcome: Outcome, time: Time | None = None, **changes: Any) -> tuple[str, Settled]:
    """Return the state and the entry that one outcome of one job leads to."""
    ledger = Ledger((time or Time()).clock)
    state = ledger.add(make_hold(make_bundle(**changes)), 0, outcome)
    (entry,) = ledger.take_all()
    return state, entry


class TestOutcomes:
    """What each outcome leads to."""

    @pytest.mark.parametrize(
        ("outcome", "state", "data"),
        [
            (b"result", SUCCEEDED, body.of_result("lab.work", b"result")),
            (Failed(b"error"), FAILED, b"error"),
            (Again(None, b"error"), FAILED, b"error"),
            (NotRun(CANCELLED), CANCELLED, b""),
            (NotRun(EXPIRED), EXPIRED, b""),
        ],
    )
    def test_an_ending(self, outcome: Outcome, state: str, data: bytes) -> None:
        """One record with the state, the attempt, the body and the time; a failure without retries is final."""
        told, entry = settle(outcome, Time(77.0), attempt=3)
        assert told == state
        assert entry.records == [Record(Key(BUNDLE_ID, 0), state, 3, data, 77.0)]
        assert (entry.successors, entry.quarantined, entry.is_complete) == ((), (), True)

    def test_quarantine(self) -> None:
        """The job is set aside with its reason, as a message of its own that can be published again at once."""
        bundle = make_bundle(3, due=5.0, deaths=2, color="red")
        hold = make_hold(bundle)
        ledger = Ledger(Time(77.0).clock)
        assert ledger.add(hold, 1, Quarantined("three deaths")) == QUARANTINED
        (entry,) = ledger.take_all()
        (item,) = entry.quarantined
        assert (item.id, item.color, item.reason, item.at) == (job_id(BUNDLE_ID, 1), "red", "three deaths", 77.0)
        again = decode(item.frame)
        assert (again.indexes, codec.decode(again.column), again.due, again.deaths) == ([1], [[1]], None, 0)
        (record,) = entry.records
        assert (record.key, record.state) == (Key(BUNDLE_ID, 1), QUARANTINED)
        assert body.read(record.body).message == "three deaths"


class TestRetry:
    """A failure with retries left."""

    @pytest.mark.parametrize(("attempt", "retries"), [(1, 1), (1, 5), (5, 5)])
    def test_within_the_retries(self, attempt: int, retries: int) -> None:
        """A successor travels alone under its own id and index, one attempt later, and the record announces it."""
        hold = make_hold(make_bundle(3, attempt=attempt, limits=Limits(retries=retries), deaths=1, reply="inbox"))
        ledger = Ledger(Time(1000.0).clock)
        assert ledger.add(hold, 2, Again(2.5, b"error")) == RETRYING
        (entry,) = ledger.take_all()
        assert entry.records == [Record(Key(BUNDLE_ID, 2), RETRYING, attempt + 1, b"error", 1000.0)]
        (frame,) = entry.successors
        successor = decode(frame.frame)
        assert (successor.id, successor.indexes, codec.decode(successor.column)) == (BUNDLE_ID, [2], [[2]])
        assert (successor.attempt, successor.deaths, successor.size) == (attempt + 1, 0, 3)
        assert (successor.limits, successor.reply) == (hold.bundle.limits, "inbox")
        assert successor.due == frame.due == 1002.5
        assert (frame.is_successor, frame.bundle, frame.color) == (True, BUNDLE_ID, "yellow")

    @pytest.mark.parametrize(("attempt", "retries"), [(1, 0), (2, 1), (6, 5), (7, 5)])
    def test_beyond_the_retries(self, attempt: int, retries: int) -> None:
        """The job has failed with its last error, even if the handler asked for another run."""
        state, entry = settle(Again(0.0, b"error"), attempt=attempt, limits=Limits(retries=retries))
        assert state == FAILED
        assert entry.successors == ()
        assert [(r.state, r.attempt, r.body) for r in entry.records] == [(FAILED, attempt, b"error")]

    @quick
    @given(attempt=st.integers(1, 100))
    def test_without_a_delay_of_its_own_it_backs_off(self, attempt: int) -> None:
        """The wait grows with the attempt and keeps to the task's cap."""
        limits = Limits(retries=100, backoff=2.0, max_backoff=30.0)
        _, entry = settle(Again(None, b""), Time(1000.0), attempt=attempt, limits=limits)
        due = entry.successors[0].due
        assert due is not None
        assert 1000.0 <= due <= 1000.0 + min(30.0, 2.0 * 2.0 ** (attempt - 1))

    def test_a_delay_of_zero_is_a_delay(self) -> None:
        """`Retry(0)` means at once, and not the back-off."""
        _, entry = settle(Again(0.0, b""), Time(1000.0), limits=Limits(retries=1, backoff=600.0))
        assert entry.successors[0].due == 1000.0


class TestLedger:
    """One entry for each delivery."""

    @quick
    @given(
        outcomes=st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=6), order=st.randoms(use_true_random=False)
    )
    def test_complete_when_no_job_is_pending(self, outcomes: list[Outcome], order: Any) -> None:
        """Whatever the outcomes and their order, a delivery is complete with its last job and not before."""
        hold = make_hold(make_bundle(len(outcomes)))
        places = list(range(len(outcomes)))
        order.shuffle(places)
        ledger = Ledger(Time().clock)
        for left, at in zip(reversed(range(len(places))), places, strict=True):
            ledger.add(hold, at, outcomes[at])
            (entry,) = ledger.take_all()
            assert entry.is_complete == (left == 0)
            assert len(entry.records) == 1

    def test_a_round_is_one_entry_a_delivery(self) -> None:
        """Outcomes of one delivery are gathered; those of another stand beside them."""
        one, other = make_hold(make_bundle(2, reply="here")), make_hold(make_bundle(2, id=b"o" * 16))
        ledger = Ledger(Time().clock)
        assert not ledger
        for hold, at in ((one, 0), (other, 1), (one, 1)):
            ledger.add(hold, at, b"")
        assert ledger
        first, second = ledger.take_all()
        assert (first.delivery, first.is_complete, first.reply) == (one.delivery, True, "here")
        assert [record.key.index for record in first.records] == [0, 1]
        assert (second.delivery, second.is_complete) == (other.delivery, False)
        assert not ledger
        assert ledger.take_all() == []

    def test_a_second_outcome_of_a_job_is_dropped(self) -> None:
        """It has ended already; nothing is written."""
        hold = make_hold()
        ledger = Ledger(Time().clock)
        assert ledger.add(hold, 0, b"first") == SUCCEEDED
        ledger.take_all()
        assert ledger.add(hold, 0, Failed(b"second")) == ""
        assert not ledger

    def test_a_column_that_cannot_be_cut_fails_its_job(self) -> None:
        """What came over the wire cannot make the worker stumble, and whoever waits is told."""
        bundle = make_bundle(2, limits=Limits(retries=3))._replace(column=b"\x92\xc1\xc1")
        ledger = Ledger(Time().clock)
        assert ledger.add(make_hold(bundle), 0, Again(None, b"error")) == FAILED
        (entry,) = ledger.take_all()
        assert body.read(entry.records[0].body).type_name.endswith("DecodeError")

    @pytest.mark.parametrize("outcome", [Again(None, b"error"), Quarantined("why")])
    def test_what_cannot_be_entered_changes_nothing(self, outcome: Outcome) -> None:
        """Its delivery is not said to be complete, so that the message stays where it is."""
        hold = Hold(make_delivery(), make_bundle(reply="\ud800", limits=Limits(retries=3)))
        ledger = Ledger(Time().clock)
        with pytest.raises(UnicodeEncodeError):
            ledger.add(hold, 0, outcome)
        assert hold.left == 1
        assert not ledger


class TestSuccesses:
    """Jobs that returned, one after the other."""

    def records(self, hold: Hold, *runs: tuple[int, int], by: str = "w/1") -> Sequence[Record]:
        """Return the records of runs, each a position and a count."""
        ledger = Ledger(Time(9.0).clock)
        for at, count in runs:
            data = b"".join(codec.encode(n) for n in range(at, at + count))
            assert ledger.succeed(hold, at, count, data, 0.5 * count, by) == count
        (entry,) = ledger.take_all()
        return entry.records

    def test_they_are_one_record(self) -> None:
        """With the results of all, who ran them, and the mean of the seconds they took; in however many reports."""
        (record,) = self.records(make_hold(make_bundle(6, attempt=2)), (1, 2), (3, 2))
        results = body.of_results("lab.work", [codec.encode(n) for n in (1, 2, 3, 4)], "w/1", 0.5)
        assert record == Record(Key(BUNDLE_ID, 1), SUCCEEDED, 2, results, 9.0, 4)

    def test_one_is_a_record_of_one(self) -> None:
        """As any other."""
        (record,) = self.records(make_hold(), (0, 1))
        assert record == Record(
            Key(BUNDLE_ID, 0), SUCCEEDED, 1, body.of_result("lab.work", codec.encode(0), "w/1", 0.5), 9.0
        )

    def test_a_gap_makes_two(self) -> None:
        """What does not follow each other in the bundle, here or in the whole of it, stands apart."""
        hold = make_hold(make_bundle(4, size=9, indexes=[2, 3, 7, 8]))
        assert [(r.key.index, r.count) for r in self.records(hold, (0, 3))] == [(2, 2), (7, 1)]
        hold = make_hold(make_bundle(9))
        assert [(r.key.index, r.count) for r in self.records(hold, (5, 2), (1, 3))] == [(5, 2), (1, 3)]

    def test_two_children_make_two(self) -> None:
        """A record says who ran it."""
        hold = make_hold(make_bundle(2))
        ledger = Ledger(Time().clock)
        ledger.succeed(hold, 0, 1, b"\x00", 0.1, "w/1")
        ledger.succeed(hold, 1, 1, b"\x01", 0.1, "w/2")
        (entry,) = ledger.take_all()
        assert [body.read(record.body).ran_by for record in entry.records] == ["w/1", "w/2"]
        assert entry.is_complete

    def test_a_record_keeps_to_its_size(self) -> None:
        """Results that are too large together are told of in several; one that is too large stands alone."""
        hold = make_hold(make_bundle(6))
        sizes = [30_000, 30_000, 30_000, 200_000, 10, 10]
        ledger = Ledger(Time().clock)
        ledger.succeed(hold, 0, len(sizes), b"".join(codec.encode(bytes(size)) for size in sizes), 1.0, "w/1")
        (entry,) = ledger.take_all()
        assert [(r.key.index, r.count) for r in entry.records] == [(0, 2), (2, 1), (3, 1), (4, 2)]

    def test_those_that_had_ended_are_left_out(self) -> None:
        """A second run of a job does not count, and its neighbors do."""
        hold = make_hold(make_bundle(4))
        ledger = Ledger(Time().clock)
        ledger.add(hold, 1, Failed(b"first"))
        assert ledger.succeed(hold, 0, 4, b"\x00\x01\x02\x03", 1.0, "w/1") == 3
        (entry,) = ledger.take_all()
        assert [(r.key.index, r.state, r.count) for r in entry.records] == [
            (1, FAILED, 1),
            (0, SUCCEEDED, 1),
            (2, SUCCEEDED, 2),
        ]
        assert entry.is_complete


class TestWrite:
    """What is written, in which order."""

    def entry(self, *, is_complete: bool = True, reply: str = "", index: int = 0) -> Settled:
        """Return an entry with something of everything."""
        bundle = make_bundle()
        records = [Record(Key(BUNDLE_ID, index), SUCCEEDED), Record(Key(BUNDLE_ID, index + 50), RETRYING)]
        item = QuarantineItem(f"item{index}", "red", "why", b"", 0.0)
        frame: Any = f"frame{index}"
        return Settled(make_delivery(bundle), records, [frame], [item], is_complete, reply)

    def write(self, batch: list[Settled], lane: FakeLane, results: FakeResults, door: FakeDoor | None = None) -> None:
        """Write the batch."""
        fakes: tuple[Any, Any, Any] = (lane, results, door)
        write(batch, *fakes)

    def test_endings_successors_announcements_acknowledgement(self) -> None:
        """Nothing is announced or acknowledged before all that follows from it is safe; each step is one call for all."""
        log: list[tuple[str, Any]] = []
        batch = [self.entry(index=0), self.entry(index=1)]
        self.write(batch, FakeLane(log), FakeResults(log))
        assert verbs(log) == ["store", "quarantine", "publish", "store", "acknowledge"]
        assert [record.key.index for record in log[0][1][0]] == [0, 1]
        assert [record.key.index for record in log[3][1][0]] == [50, 51]
        assert [item.id for item in log[1][1]] == ["item0", "item1"]
        assert log[2][1] == ["frame0", "frame1"]
        assert log[4][1] == [entry.delivery for entry in batch]

    def test_each_client_is_told_of_its_own(self) -> None:
        """Records are stored with the inbox of the bundle that they belong to."""
        log: list[tuple[str, Any]] = []
        batch = [self.entry(reply="a", index=0), self.entry(reply="b", index=1), self.entry(reply="a", index=2)]
        self.write(batch, FakeLane(), FakeResults(log))
        stored = [(said[1], [r.key.index for r in said[0]]) for verb, said in log if verb == "store"]
        assert stored == [("a", [0, 2]), ("b", [1]), ("a", [50, 52]), ("b", [51])]

    def test_only_what_is_complete_is_acknowledged(self) -> None:
        """A delivery with a job left stays in hand; its records are stored all the same."""
        log: list[tuple[str, Any]] = []
        done, half = self.entry(), self.entry(is_complete=False, index=1)
        self.write([half, done], FakeLane(log), FakeResults(log))
        assert log[-1] == ("acknowledge", [done.delivery])
        assert len(log[0][1][0]) == 2  # endings, of both

    def test_nothing_to_say_is_not_said(self) -> None:
        """An entry that is only acknowledged makes one call, one that is only noted makes none."""
        log: list[tuple[str, Any]] = []
        self.write([Settled(make_delivery(), is_complete=True)], FakeLane(log), FakeResults(log))
        self.write([Settled(make_delivery())], FakeLane(log), FakeResults(log))
        assert verbs(log) == ["acknowledge"]

    def test_a_failing_store_means_no_acknowledgement(self) -> None:
        """The error goes up and nothing after it was done, so that the batch may be written again."""
        log: list[tuple[str, Any]] = []
        with pytest.raises(BrokerUnavailable):
            self.write([self.entry()], FakeLane(log), FakeResults(log, error=BrokerUnavailable("gone")))
        assert verbs(log) == ["store"]

    def test_a_failing_publish_means_no_acknowledgement(self) -> None:
        """A retry that was not accepted leaves the original with the broker."""
        log: list[tuple[str, Any]] = []
        with pytest.raises(BrokerUnavailable):
            self.write([self.entry()], FakeLane(log, error=BrokerUnavailable("gone")), FakeResults(log))
        assert verbs(log) == ["store", "quarantine", "publish"]

    def test_the_door_does_all_in_one(self) -> None:
        """Where broker and results are one server nothing else is called."""
        log: list[tuple[str, Any]] = []
        batch = [self.entry()]
        self.write(batch, FakeLane(log), FakeResults(log), FakeDoor(log))
        assert log == [("settle", batch)]

    @pytest.mark.parametrize("has_door", [True, False])
    def test_what_was_lost_is_counted(self, caplog: pytest.LogCaptureFixture, has_door: bool) -> None:  # noqa: FBT001
        """Deliveries that belong to another worker by now are no error; a warning says how many, and they are marked."""
        batch = [self.entry(), self.entry()]
        lane = FakeLane(lost=[entry.delivery for entry in batch])
        self.write(batch, lane, FakeResults(), FakeDoor(is_ours=False) if has_door else None)
        assert [record.message for record in caplog.records if "set aside" not in record.message] == [
            "2 deliveries belonged to another worker by the time they were settled"
        ]
        assert all(entry.delivery.is_lost for entry in batch)

    def test_what_is_ours_is_no_news(self, caplog: pytest.LogCaptureFixture) -> None:
        """What is set aside is told, and nothing else."""
        self.write([self.entry()], FakeLane(), FakeResults(), FakeDoor())
        assert [record.message for record in caplog.records] == ["set aside item0 from red: why"]
