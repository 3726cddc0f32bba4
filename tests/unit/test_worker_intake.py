"""From deliveries to jobs that may start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgpack
import pytest

from queuelib import body, envelope
from queuelib.errors import BrokerUnavailable
from queuelib.ids import Key, job_id
from queuelib.outcome import (
    FAILED,
    QUARANTINED,
    QUEUED,
    RETRYING,
    RUNNING,
    SCHEDULED,
    SUCCEEDED,
    TERMINAL,
    Record,
)
from queuelib.worker.intake import Intake, Taken
from tests.unit.fakes import BUNDLE_ID, FakeResults, Time, make_bundle, make_delivery, positions

if TYPE_CHECKING:
    from queuelib.ports import Delivery

PATIENCE = 3600.0
NEWER = msgpack.packb([99, "whatever a newer queuelib writes"])


class Reader:
    """An intake with its clock and its result backend."""

    def __init__(self, *records: Record, patience: float = PATIENCE) -> None:
        self.time = Time()
        self.results = FakeResults(records={record.key: record for record in records})
        self.intake = Intake(["lab.work"], ["red", "yellow"], patience, self.time.clock)

    def read(self, *deliveries: Delivery) -> Taken:
        """Read deliveries."""
        results: Any = self.results
        return self.intake.read(deliveries, lambda: results)


def key(index: int) -> Key:
    """Return the key of a job of the bundle that all tests use."""
    return Key(BUNDLE_ID, index)


class TestRun:
    """What may start."""

    def test_every_job_of_a_bundle(self) -> None:
        """A delivery of a known task becomes a hold with all of its jobs pending, none of which was started before."""
        delivery = make_delivery(make_bundle(3))
        reader = Reader()
        taken = reader.read(delivery)
        (hold,) = taken.holds
        assert (taken.settled, taken.postponed) == ([], [])
        assert hold.delivery is delivery
        assert [(part.at, part.end) for part in hold.waiting()] == [(0, 3)]
        assert [hold.key(at) for at in range(3)] == [key(0), key(1), key(2)]
        assert hold.starts == {}
        assert reader.results.log == []

    def test_an_order_is_kept(self) -> None:
        """Deliveries are sorted into those to run, to settle and to postpone; each stays in the order of its kind."""
        good = [make_delivery(), make_delivery()]
        bad = [make_delivery(frame=b"?"), make_delivery(frame=b"!")]
        odd = [make_delivery(make_bundle(task="lab.new"), published=1e6) for _ in range(2)]
        taken = Reader().read(bad[0], good[0], odd[0], good[1], odd[1], bad[1])
        assert [hold.delivery for hold in taken.holds] == good
        assert [settled.delivery for settled in taken.settled] == bad
        assert [delivery for delivery, _ in taken.postponed] == odd

    def test_one_that_came_by_another_color_that_is_served(self) -> None:
        """A message may be moved to another queue by hand; its own color still counts here."""
        taken = Reader().read(make_delivery(make_bundle(color="red"), color="yellow"))
        assert [hold.bundle.color for hold in taken.holds] == ["red"]


class TestUnreadable:
    """What nobody can ever run."""

    @pytest.mark.parametrize(
        "frame", [b"", b"garbage", b"\x94\x02\xc0\xc0\xc4\x00", envelope.encode(make_bundle())[:-1]]
    )
    def test_it_is_set_aside_as_it_came(self, frame: bytes) -> None:
        """Bad bytes are quarantined with their reason, and the delivery is acknowledged; there is no job to tell of."""
        reader = Reader()
        taken = reader.read(make_delivery(frame=frame))
        (settled,) = taken.settled
        (item,) = settled.quarantined
        assert settled.is_complete
        assert settled.records == ()
        assert item.id.startswith("unreadable-")
        assert item.reason.startswith("undecodable: ")
        assert (item.frame, item.color, item.at) == (frame, "yellow", reader.time.now)

    def test_two_of_them_have_two_names(self) -> None:
        """One does not take the other's place in the quarantine."""
        taken = Reader().read(make_delivery(frame=b"?"), make_delivery(frame=b"?"))
        assert len({settled.quarantined[0].id for settled in taken.settled}) == 2

    def test_a_color_that_is_not_served(self) -> None:
        """A message that lies about its color is set aside under the id of its job, and whoever waits is told."""
        bundle = make_bundle(2, color="blue", reply="inbox", attempt=2)
        (settled,) = Reader().read(make_delivery(bundle, color="red")).settled
        (item,) = settled.quarantined
        assert item.id == job_id(BUNDLE_ID, 0)
        assert item.reason == "it came by red and is 'blue'"
        assert item.frame == envelope.encode(bundle)
        assert settled.reply == "inbox"
        assert [(r.key, r.state, r.attempt) for r in settled.records] == [(key(i), QUARANTINED, 2) for i in (0, 1)]
        assert {body.read(record.body).message for record in settled.records} == {item.reason}


class TestUnknown:
    """What a newer worker may know: a deploy is under way."""

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"bundle": make_bundle(task="lab.new")}, "no worker knows the task 'lab.new'"),
            ({"frame": NEWER}, "the envelope has version 99; this queuelib reads versions 2 to 4"),
        ],
    )
    def test_it_is_given_back_and_then_set_aside(self, changes: dict[str, Any], reason: str) -> None:
        """For an hour it goes back uncounted; when the next try would come too late it is quarantined."""
        reader = Reader()
        delivery = make_delivery(**changes, published=reader.time.now)
        assert reader.intake.pause == 30.0
        for age in (0.0, 30.0, PATIENCE - 30.0):
            reader.time.now = delivery.published + age
            taken = reader.read(delivery)
            assert (taken.postponed, taken.settled, taken.holds) == ([(delivery, reason)], [], [])
        reader.time.now = delivery.published + PATIENCE - 29.0
        taken = reader.read(delivery)
        assert taken.postponed == []
        (settled,) = taken.settled
        assert settled.is_complete
        assert [item.reason for item in settled.quarantined] == [reason]
        assert settled.quarantined[0].frame == delivery.frame

    def test_its_jobs_end_quarantined(self) -> None:
        """Whoever waits for a task that nobody knows learns why it never ran."""
        (settled,) = Reader(patience=0.0).read(make_delivery(make_bundle(2, task="lab.new"), published=1e6)).settled
        assert [(record.key, record.state) for record in settled.records] == [
            (key(0), QUARANTINED),
            (key(1), QUARANTINED),
        ]
        assert body.read(settled.records[0].body).message == "no worker knows the task 'lab.new'"

    def test_a_newer_version_is_not_read(self) -> None:
        """It has an item in the quarantine and no records: its ids are written in a way that is not known here."""
        (settled,) = Reader(patience=0.0).read(make_delivery(frame=NEWER, published=1e6)).settled
        assert settled.records == ()
        assert settled.quarantined[0].id.startswith("unreadable-")


class TestRedelivered:
    """What somebody took before and died, or gave back."""

    @pytest.mark.parametrize("state", sorted(TERMINAL))
    def test_finished_jobs_are_not_run_again(self, state: str) -> None:
        """Members that have ended are dropped; the others run."""
        reader = Reader(Record(key(1), state))
        (hold,) = reader.read(make_delivery(make_bundle(3), redelivered=True)).holds
        assert positions(hold.waiting()) == [0, 2]
        assert reader.results.log == [("fetch", [key(0), key(1), key(2)])]

    def test_a_finished_bundle_is_acknowledged(self) -> None:
        """With no job left there is nothing to write but the acknowledgement."""
        delivery = make_delivery(make_bundle(2), redelivered=True)
        taken = Reader(Record(key(0), SUCCEEDED), Record(key(1), FAILED)).read(delivery)
        assert taken.holds == []
        (settled,) = taken.settled
        assert (settled.delivery, settled.is_complete) == (delivery, True)
        assert (settled.records, settled.quarantined, settled.successors) == ((), (), ())

    @pytest.mark.parametrize("state", [QUEUED, SCHEDULED, RUNNING, RETRYING])
    def test_an_older_attempt_is_stale(self, state: str) -> None:
        """A job that goes on as a later attempt, which is announced once it was accepted, is not run by an earlier one."""
        reader = Reader(Record(key(0), state, attempt=2, body=body.of_starts(1)))
        assert reader.read(make_delivery(make_bundle(1, attempt=1), redelivered=True)).holds == []

    @pytest.mark.parametrize("attempt", [2, 3])
    def test_the_attempt_itself_is_not_stale(self, attempt: int) -> None:
        """The retry that a record announces is run, and so is one that the record does not know of yet."""
        reader = Reader(Record(key(0), RETRYING, attempt=2))
        taken = reader.read(make_delivery(make_bundle(1, attempt=attempt), redelivered=True))
        assert [positions(hold.waiting()) for hold in taken.holds] == [[0]]

    @pytest.mark.parametrize(
        ("record", "starts"),
        [
            (None, 1),
            (Record(key(0), QUEUED), 1),
            (Record(key(0), RUNNING), 1),
            (Record(key(0), RETRYING, body=b"\x02"), 1),
            (Record(key(0), QUEUED, body=body.of_starts(0)), 0),
            (Record(key(0), RUNNING, body=body.of_starts(1)), 1),
            (Record(key(0), RUNNING, body=body.of_starts(2)), 2),
            (Record(key(0), RUNNING, body=b"junk"), 1),
        ],
    )
    def test_starts_are_counted(self, record: Record | None, starts: int) -> None:
        """The mark says how often it was started; without one, or with one that cannot be read, it may have been, once."""
        reader = Reader(*([record] if record else []))
        (hold,) = reader.read(make_delivery(redelivered=True)).holds
        assert hold.starts.get(0, 0) == starts

    def test_the_ids_of_a_part_are_looked_up(self) -> None:
        """They are those of its own jobs, and not those at the beginning of the bundle."""
        reader = Reader(Record(key(7), SUCCEEDED))
        bundle = make_bundle(2, size=9, indexes=[4, 7])
        (hold,) = reader.read(make_delivery(bundle, redelivered=True)).holds
        assert [hold.key(at) for at in positions(hold.waiting())] == [key(4)]

    def test_jobs_with_a_start_behind_them_stand_alone(self) -> None:
        """Each is looked at by itself; those without one stay together."""
        marks = [Record(key(index), QUEUED, body=body.of_starts(int(index == 2))) for index in range(5)]
        (hold,) = Reader(*marks).read(make_delivery(make_bundle(5), redelivered=True)).holds
        assert [(part.at, part.end, part.is_suspect) for part in hold.waiting()] == [
            (0, 2, False),
            (2, 3, True),
            (3, 5, False),
        ]

    def test_a_result_backend_that_is_gone(self) -> None:
        """Nothing is run without knowing; the error goes up."""
        reader = Reader()
        reader.results.error = BrokerUnavailable("gone")
        with pytest.raises(BrokerUnavailable):
            reader.read(make_delivery(redelivered=True))
