"""What a supervisor makes of lost connections, lost claims and its own end; white-box, without children."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from queuelib import envelope
from queuelib.color import DEFAULT_PALETTE
from queuelib.errors import BrokerUnavailable
from queuelib.message import Limits
from queuelib.outcome import FAILED, QUEUED, RETRYING, SUCCEEDED, Again, Failed
from queuelib.worker.children import ThreadCrew
from queuelib.worker.plan import Plan
from queuelib.worker.supervisor import Supervisor
from tests.unit.fakes import FakeDoor, FakeLane, FakeResults, Time, make_bundle, make_delivery

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from queuelib.outcome import Record
    from queuelib.ports import Delivery, Settled
    from queuelib.worker.lease import Hold


class Results(FakeResults):
    """A result backend that lists workers, too."""

    def announce(self, worker: Any, lifetime: float) -> None:
        """Do nothing."""


class Lane(FakeLane):
    """A lane on which nothing waits, and which may fail to take something back."""

    is_broken = False
    due: float | None = None

    def next_due(self) -> float | None:
        """Return when something is due."""
        return self.due

    def take(self, room: Mapping[str, int]) -> list[Delivery]:
        """Return nothing."""
        return []

    def stop_taking(self) -> None:
        """Write it down."""
        self.log.append(("stop_taking", None))

    def renew(self) -> float:
        """Write it down."""
        self.log.append(("renew", None))
        return 0.0

    def give_back(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """Write it down, or fail."""
        if self.is_broken:
            raise BrokerUnavailable("gone")
        self.log.append(("give_back", list(deliveries)))


class Door(FakeDoor):
    """A settlement in one step, whose answer may be lost."""

    def __init__(self, results: Results, *, is_ours: bool) -> None:
        super().__init__(results.log, is_ours)
        self.results = results
        self.loses_answer = False

    def settle(self, batch: Sequence[Settled]) -> list[bool]:
        """Write it down; the records stand."""
        written = [replace(entry) for entry in batch]
        self.results.records.update({record.key: record for entry in written for record in entry.records})
        if self.loses_answer:
            self.loses_answer = False
            super().settle(written)
            raise BrokerUnavailable("gone")
        return super().settle(written)


class Link:
    """Connections that the test breaks and mends."""

    def __init__(self, *, keeps_claims: bool, is_ours: bool = True) -> None:
        self.keeps_claims = keeps_claims
        self.lease = None
        self.delays = True
        self.may_try = True
        self.log: list[tuple[str, Any]] = []
        self.results = Results(self.log)
        self.lane: Lane | None = Lane(self.log)
        self.door = Door(self.results, is_ours=is_ours)

    def failed(self, error: BrokerUnavailable, *, keeps_lane: bool = False) -> None:
        """Forget the connection, unless it is well or claims survive it, and pause."""
        self.may_try = False
        if not self.keeps_claims and not keeps_lane:
            self.lane = None

    def connect(self) -> bool:
        """Make no new one."""
        return False

    def recovered(self) -> None:
        """All is well."""

    def close(self) -> None:
        """Nothing is open."""


class Desk:
    """A supervisor, of which a test plays the rounds."""

    def __init__(self, link: Any, processes: int) -> None:
        self.link = link
        self.time = Time()
        crew = ThreadCrew(None, {"tasks": ["lab.work"]}, "desk")  # type: ignore[arg-type]  # it makes no child
        plan = Plan("desk", DEFAULT_PALETTE.names, DEFAULT_PALETTE, processes)
        self.supervisor: Any = Supervisor(crew, self.link, plan, self.time.clock)

    def receive(self, delivery: Delivery) -> Hold:
        """Take a delivery, and hand all its jobs to a child."""
        self.supervisor._receive([delivery])
        hold: Hold
        (hold,) = self.supervisor._holds
        self.supervisor._ready.drain()
        hold.hand(0, len(hold.bundle.indexes))
        return hold

    def fail(self, hold: Hold, at: int) -> None:
        """Hear that a job failed."""
        self.supervisor._end(hold, at, Failed(b"why"))

    def retry(self, hold: Hold, at: int) -> None:
        """Hear that a job is to run again."""
        self.supervisor._end(hold, at, Again(0.0, b"why"))

    def succeed(self, hold: Hold, at: int) -> None:
        """Hear that a job returned."""
        self.supervisor._ledger.succeed(hold, at, 1, b"\x01", 0.001, "desk/1")

    def settle(self) -> None:
        """Write what is to be written."""
        self.supervisor._settle()

    def again(self) -> list[int]:
        """Return the positions of the jobs that wait to be started."""
        return [at for part in self.supervisor._ready.drain() for at in range(part.at, part.end)]

    def settled(self) -> list[Settled]:
        """Return what went through the door."""
        return [entry for verb, batch in self.link.log if verb == "settle" for entry in batch]

    def records(self) -> list[tuple[int, str]]:
        """Return index and state of all that was stored, in either way."""
        stored: list[Record] = [r for verb, said in self.link.log if verb == "store" for r in said[0]]
        return [(r.key.index, r.state) for r in (*stored, *(r for entry in self.settled() for r in entry.records))]


@contextmanager
def desk(link: Link, processes: int = 0) -> Iterator[Desk]:
    made = Desk(link, processes)
    try:
        yield made
    finally:
        made.supervisor._close()


def redelivered(delivery: Delivery) -> Delivery:
    """Return the same message, delivered once more."""
    return make_delivery(envelope.decode(delivery.frame), redelivered=True)


class TestLoss:
    """What was not written when a delivery was lost."""

    @pytest.mark.parametrize("keeps_claims", [False, True])
    def test_a_failure_that_nobody_stored_is_no_end(self, keeps_claims: bool) -> None:  # noqa: FBT001
        """Its job runs again when the message comes back, while a neighbor of it runs here: or it would never end."""
        with desk(Link(keeps_claims=keeps_claims, is_ours=False)) as it:
            delivery = make_delivery(make_bundle(2))
            hold = it.receive(delivery)
            it.fail(hold, 0)
            if not keeps_claims:
                it.supervisor._lose(BrokerUnavailable("gone"))
            it.link.may_try = True
            it.settle()
            it.link.lane, it.link.door = Lane(it.link.log), Door(it.link.results, is_ours=True)
            it.link.results.records.clear()
            it.supervisor._receive([redelivered(delivery)])
            assert it.again() == [0]
            it.succeed(hold, 1)
            it.settle()
            assert [entry.is_complete for entry in it.settled()][-1:] == [False]

    @pytest.mark.parametrize("comes_back", [False, True])
    def test_a_success_is_kept_until_it_is_stored(self, comes_back: bool) -> None:  # noqa: FBT001
        """The server is away when it is to be stored: it is written later, and its job does not run again here."""
        with desk(Link(keeps_claims=False)) as it:
            delivery = make_delivery(make_bundle(1))
            it.succeed(it.receive(delivery), 0)
            it.supervisor._lose(BrokerUnavailable("gone"))
            it.link.may_try, it.link.results.error = True, BrokerUnavailable("gone")
            it.settle()
            it.link.may_try, it.link.results.error = True, None
            it.link.lane = Lane(it.link.log)
            if comes_back:
                it.supervisor._receive([redelivered(delivery)])
            it.settle()
            assert it.again() == []
            assert it.records()[-1:] == [(0, SUCCEEDED)]
            assert [entry.is_complete for entry in it.settled()] == ([True] if comes_back else [])
            assert list(it.supervisor._holds) == []


class TestTwice:
    """The same message once more, while its jobs are in hand."""

    def test_both_deliveries_are_acknowledged(self) -> None:
        """Also where the job has just returned, and its outcome is not written yet."""
        with desk(Link(keeps_claims=True)) as it:
            first = make_delivery(make_bundle(1))
            second = redelivered(first)
            it.succeed(it.receive(first), 0)
            it.supervisor._receive([second])
            it.settle()
            assert {entry.delivery.tag for entry in it.settled() if entry.is_complete} == {first.tag, second.tag}
            assert list(it.supervisor._holds) == []


class TestTrouble:
    """A server that fails between two calls."""

    def test_what_cannot_be_given_back_is_given_back_later(self) -> None:
        """Where claims outlive the failure, the message stays ours: forgotten, it would wait for this worker's end."""
        with desk(Link(keeps_claims=True)) as it:
            delivery = make_delivery(make_bundle(1), redelivered=True)
            it.link.results.error = BrokerUnavailable("gone")
            it.link.lane.is_broken = True
            it.supervisor._receive([delivery])
            it.link.results.error, it.link.lane.is_broken, it.link.may_try = None, False, True
            it.supervisor._look_around()
            assert [said for verb, said in it.link.log if verb == "give_back"] == [[delivery]]
            assert it.again() == []

    def test_a_retry_is_accepted_once(self) -> None:
        """Where only the answer was lost, what is written again is the rest: two of it would run side by side."""
        with desk(Link(keeps_claims=True)) as it:
            hold = it.receive(make_delivery(make_bundle(3, limits=Limits(retries=2))))
            it.retry(hold, 0)
            it.link.door.loses_answer = True
            it.settle()
            it.link.may_try = True
            it.retry(hold, 1)
            it.settle()
            again = [envelope.decode(frame.frame).indexes[0] for e in it.settled() for frame in e.successors]
            assert again == [0, 1]
            assert it.records() == [(0, RETRYING), (1, RETRYING)]

    def test_a_claim_is_renewed_while_outcomes_cannot_be_written(self) -> None:
        """The result backend may be another server than the broker: what runs here must not be started elsewhere."""
        with desk(Link(keeps_claims=True)) as it:
            it.link.door = None
            it.succeed(it.receive(make_delivery(make_bundle(1))), 0)
            it.link.results.error = BrokerUnavailable("gone")
            for _ in range(3):
                it.link.may_try = True  # as after a pause; each failure makes a new one
                it.time.now += 10.0
                it.supervisor.wake()
                it.supervisor._round()
            assert [verb for verb, _ in it.link.log if verb == "renew"] == ["renew"] * 3
            it.link.results.error = None

    def test_results_apart_that_fail_cost_no_delivery(self) -> None:
        """The broker is well: were its connection thrown away, another worker would start what runs here."""
        with desk(Link(keeps_claims=False)) as it:
            it.link.door = None
            hold = it.receive(make_delivery(make_bundle(1)))
            it.succeed(hold, 0)
            it.link.results.error = BrokerUnavailable("gone")
            it.settle()
            assert it.link.lane is not None
            assert not hold.delivery.is_lost
            it.link.results.error, it.link.may_try = None, True
            it.settle()
            assert [said for verb, said in it.link.log if verb == "acknowledge"] == [[hold.delivery]]

    def test_it_does_not_spin_while_it_may_not_try(self) -> None:
        """What became due while the server was away waits, and the supervisor with it."""
        with desk(Link(keeps_claims=True), processes=1) as it:
            it.supervisor._staff.hire()
            it.link.lane.due = it.time.now - 1.0
            assert it.supervisor._pause() > 0.0


class TestEnd:
    """What is written last."""

    @pytest.mark.parametrize("keeps_claims", [False, True])
    def test_what_nobody_runs_goes_back_at_once(self, keeps_claims: bool) -> None:  # noqa: FBT001
        """What runs may take hours to its end; where the broker counts, a record says that the others did not start."""
        with desk(Link(keeps_claims=keeps_claims)) as it:
            running, waiting = make_delivery(make_bundle(1)), make_delivery(make_bundle(2, id=bytes(16)))
            it.receive(running)
            it.supervisor._receive([waiting])
            it.supervisor.stop()
            it.supervisor._wind_down()
            it.supervisor._wind_down()
            assert [verb for verb, _ in it.link.log if verb == "stop_taking"] == ["stop_taking"]
            assert [said for verb, said in it.link.log if verb == "give_back"] == [[waiting]]
            assert [hold.delivery for hold in it.supervisor._holds] == [running]
            assert it.records() == ([] if keeps_claims else [(0, QUEUED), (1, QUEUED)])

    def test_outcomes_go_before_what_is_given_back(self) -> None:
        """A delivery is acknowledged with what its jobs became, also where that could not be written until now."""
        with desk(Link(keeps_claims=True)) as it:
            hold = it.receive(make_delivery(make_bundle(3)))
            it.succeed(hold, 0)
            it.fail(hold, 1)
            it.link.may_try = False
            it.settle()
            assert it.records() == []
            it.supervisor._give_everything_back()
            assert sorted(it.records()) == [(0, SUCCEEDED), (1, FAILED)]
            (rest,) = [frame for entry in it.settled() for frame in entry.successors]
            assert list(envelope.decode(rest.frame).indexes) == [2]
