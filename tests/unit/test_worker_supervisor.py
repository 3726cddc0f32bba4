"""What a supervisor makes of lost connections, lost claims and its own end; white-box, without children."""

from __future__ import annotations

import random
import socket
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import Mock

import pytest

from queuelib import body, envelope
from queuelib.bundle import part
from queuelib.color import DEFAULT_PALETTE
from queuelib.errors import BrokerUnavailable, ConfigurationError, JobLost
from queuelib.ids import Key
from queuelib.message import Limits
from queuelib.outcome import FAILED, QUEUED, RETRYING, RUNNING, SUCCEEDED, Again, Failed, Record
from queuelib.ports import Cancelled, Settled, StillReading
from queuelib.worker.children import Report, Successes, Told
from queuelib.worker.crew import ThreadCrew
from queuelib.worker.desk import PROGRESS, STATE
from queuelib.worker.lease import Part
from queuelib.worker.plan import Plan
from queuelib.worker.staff import Death, Heard
from queuelib.worker.supervisor import Supervisor
from tests.unit.fakes import (
    BUNDLE_ID,
    FakeDoor,
    FakeLane,
    FakeMemos,
    FakeResults,
    Time,
    make_bundle,
    make_delivery,
    positions,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from queuelib.ports import Delivery, Memos
    from queuelib.worker.lease import Hold


class Results(FakeResults):
    """A result backend that lists workers, too, and knows of no cancelled job."""

    def announce(self, worker: Any, lifetime: float) -> None:
        """Do nothing."""

    def cancelled(self, cursor: Any) -> Cancelled:
        """Return none."""
        return Cancelled([], cursor)


class Lane(FakeLane):
    """A lane on which nothing waits, and which may fail to take something back."""

    is_broken = False
    due: float | None = None
    silence: float = 0.0

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
        return self.silence

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
        self.keys = None
        self.keeps_claims = keeps_claims
        self.lease: float | None = None
        self.keep = 3600.0
        self.delays = True
        self.may_try = True
        self.log: list[tuple[str, Any]] = []
        self.results = Results(self.log)
        self.lane: Lane | None = Lane(self.log)
        self.door = Door(self.results, is_ours=is_ours)
        self.memos = FakeMemos()

    def failed(self, error: BrokerUnavailable, *, keeps_lane: bool = False) -> None:
        """Forget the connection, unless it is well or claims survive it, and pause."""
        self.may_try = False
        if not self.keeps_claims and not keeps_lane:
            self.lane = None

    def connect(self) -> bool:
        """Make no new one."""
        return False

    def open_memos(self) -> Memos:
        """Return those of a server of this test's own."""
        return self.memos

    def recovered(self) -> None:
        """All is well."""

    def close(self) -> None:
        """Nothing is open."""


class Desk:
    """A supervisor, of which a test plays the rounds."""

    def __init__(self, link: Any, processes: int, once: Sequence[str], exclusive: Sequence[str]) -> None:
        self.link = link
        self.time = Time()
        dispatcher: Any = SimpleNamespace(sharing=None, read_state=None)  # the children are given no job
        crew = ThreadCrew(dispatcher, {"tasks": ["lab.work"], "once": once, "exclusive": exclusive}, "desk")
        plan = Plan("desk", DEFAULT_PALETTE.names, DEFAULT_PALETTE, processes)
        self.supervisor: Any = Supervisor(crew, self.link, plan, self.time.clock)

    def receive(self, delivery: Delivery) -> Hold:
        """Take a delivery, and hand all its jobs to a child."""
        self.supervisor._admission.receive([delivery])
        hold: Hold
        (hold,) = self.supervisor._holds
        self.supervisor._ready.drain()
        hold.hand(0, len(hold.bundle.indexes))
        return hold

    def fail(self, hold: Hold, at: int) -> None:
        """Hear that a job failed."""
        self.supervisor._books.end(hold, at, Failed(b"why"))

    def retry(self, hold: Hold, at: int) -> None:
        """Hear that a job is to run again."""
        self.supervisor._books.end(hold, at, Again(0.0, b"why"))

    def succeed(self, hold: Hold, at: int) -> None:
        """Hear that a job returned."""
        self.supervisor._books._ledger.succeed(hold, at, 1, b"\x01", 0.001, "desk/1")

    def settle(self) -> None:
        """Write what is to be written."""
        self.supervisor._settle()

    def turn(self, *, told: Sequence[Told] = (), reports: Sequence[Report | Successes] = ()) -> None:
        """Go a round in which children, played by the test, say this."""
        self.supervisor._staff.hear = lambda _: Heard(told=list(told), reports=list(reports))
        self.supervisor.wake()
        self.supervisor.turn()

    def again(self) -> list[int]:
        """Return the positions of the jobs that wait to be started."""
        return positions(self.supervisor._ready.drain())

    def settled(self) -> list[Settled]:
        """Return what went through the door."""
        return [entry for verb, batch in self.link.log if verb == "settle" for entry in batch]

    def records(self) -> list[tuple[int, str]]:
        """Return index and state of all that was stored, in either way."""
        stored: list[Record] = [r for verb, said in self.link.log if verb == "store" for r in said[0]]
        return [(r.key.index, r.state) for r in (*stored, *(r for entry in self.settled() for r in entry.records))]


@contextmanager
def socketpair() -> Generator[tuple[socket.socket, socket.socket], None, None]:
    here, there = socket.socketpair()
    with here, there:
        yield here, there


@contextmanager
def desk(
    link: Link, processes: int = 0, once: Sequence[str] = (), exclusive: Sequence[str] = ()
) -> Generator[Desk, None, None]:
    made = Desk(link, processes, once, exclusive)
    try:
        yield made
    finally:
        made.supervisor.close()


def told_of(child: Any, hold: Hold, at: int, kind: str, saves: int = 0) -> Told:
    """Return what the handler of a job told or saved, with its kind for the content."""
    return Told(child, hold, at, kind, kind.encode(), kind == STATE, saves)


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
                it.supervisor._line.lose(BrokerUnavailable("gone"))
            it.link.may_try = True
            it.settle()
            it.link.lane, it.link.door = Lane(it.link.log), Door(it.link.results, is_ours=True)
            it.link.results.records.clear()
            it.supervisor._admission.receive([redelivered(delivery)])
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
            it.supervisor._line.lose(BrokerUnavailable("gone"))
            it.link.may_try, it.link.results.error = True, BrokerUnavailable("gone")
            it.settle()
            it.link.may_try, it.link.results.error = True, None
            it.link.lane = Lane(it.link.log)
            if comes_back:
                it.supervisor._admission.receive([redelivered(delivery)])
            it.settle()
            assert it.again() == []
            assert it.records()[-1:] == [(0, SUCCEEDED)]
            assert [entry.is_complete for entry in it.settled()] == ([True] if comes_back else [])
            assert list(it.supervisor._holds) == []


def started(it: Desk) -> list[int]:
    """Hand out what waits to a child that the test plays; return the positions of the jobs that it gets."""
    parts: list[Part] = []
    child = SimpleNamespace(handed=[], ahead=0.0, bytes_ahead=0, unreported=0, done=0, hand=parts.extend)
    it.supervisor._desks.each[0].assigner.hungry = lambda _: [child]
    it.supervisor._hand_out()
    return positions(parts)


def mark_of(it: Desk, at: int) -> tuple[str, int]:
    """Return state and number of starts that are stored of a job."""
    record = it.link.results.records[Key(BUNDLE_ID, at)]
    return record.state, body.starts_in(record.body)


class TestTakenOver:
    """A delivery that others had for a while, and that comes back while a child here still runs a job of it."""

    def back(self, it: Desk, keeps_claims: bool, *records: Record) -> Hold:  # noqa: FBT001
        """Run job 0 of two, lose the delivery, let others store something, and take the message once more."""
        delivery = make_delivery(make_bundle(2))
        it.supervisor._admission.receive([delivery])
        hold: Hold
        (hold,) = it.supervisor._holds
        it.supervisor._ready.drain()
        hold.hand(0, 1)
        if keeps_claims:
            it.link.lane.lost = [delivery]
            it.supervisor._claims._find_lost(it.link.lane)
        else:
            it.supervisor._line.lose(BrokerUnavailable("gone"))
            it.link.may_try, it.link.lane = True, Lane(it.link.log)
        it.link.results.records.update({record.key: record for record in records})
        it.supervisor._admission.receive([redelivered(delivery)])
        return hold

    @pytest.mark.parametrize("keeps_claims", [False, True])
    def test_what_ended_there_does_not_start_here(self, keeps_claims: bool) -> None:  # noqa: FBT001
        """Job 1 has succeeded elsewhere."""
        with desk(Link(keeps_claims=keeps_claims)) as it:
            hold = self.back(it, keeps_claims, Record(Key(BUNDLE_ID, 1), SUCCEEDED, 1, b"\x01", 0.0))
            assert it.again() == []
            it.succeed(hold, 0)
            it.settle()
            assert [entry.is_complete for entry in it.settled()] == [True]

    @pytest.mark.parametrize("keeps_claims", [False, True])
    def test_what_started_there_is_a_suspect_here(self, keeps_claims: bool) -> None:  # noqa: FBT001
        """And what must not start a second time ends."""
        for once in ((), ("lab.work",)):
            with desk(Link(keeps_claims=keeps_claims), once=once) as it:
                mark = Record(Key(BUNDLE_ID, 1), RUNNING, 1, body.of_starts(1), 0.0)
                hold = self.back(it, keeps_claims, mark)
                assert hold.starts[1] == 1
                assert it.again() == ([] if once else [1])
                it.settle()
                assert it.records() == ([(1, FAILED)] if once else [])
                it.succeed(hold, 0)

    def test_a_failure_that_was_dropped_is_no_permission(self) -> None:
        """It was marked here before it started: it ends, and does not start anew."""
        with desk(Link(keeps_claims=True), once=["lab.work"]) as it:
            hold = it.receive(make_delivery(make_bundle(2)))
            it.supervisor._starts.store([(hold, 0)], RUNNING, 1)
            it.link.lane.lost = [hold.delivery]
            it.supervisor._claims._find_lost(it.link.lane)
            it.fail(hold, 0)
            it.settle()
            it.supervisor._admission.receive([redelivered(hold.delivery)])
            assert it.again() == []
            it.settle()
            assert it.records()[-1] == (0, FAILED)

    @pytest.mark.parametrize("outcome", ["success", "failure", "retry", "death"])
    def test_what_ended_there_while_it_ran_here(self, outcome: str) -> None:
        """Only a success counts: nothing is tried again that has ended."""
        with desk(Link(keeps_claims=True)) as it:
            hold = self.back(it, True, Record(Key(BUNDLE_ID, 0), FAILED, 1, b"why", 0.0))  # noqa: FBT003
            assert it.again() == [1]
            if outcome == "success":
                it.succeed(hold, 0)
            elif outcome == "death":
                it.supervisor._account_for(Death(hold, 0, 7, "signal 9", "", was_meant=True))
            else:
                (it.retry if outcome == "retry" else it.fail)(hold, 0)
            it.settle()
            assert it.again() == []
            assert it.records() == ([(0, SUCCEEDED)] if outcome == "success" else [])
            assert [entry.successors for entry in it.settled() if entry.successors] == []
            it.succeed(hold, 1)
            it.settle()
            assert [entry.is_complete for entry in it.settled()][-1:] == [True]
            assert list(it.supervisor._holds) == []

    def test_all_has_ended_by_now(self) -> None:
        """Of what is kept until it can be stored, and of what ended elsewhere: then nothing is left but to say so."""
        with desk(Link(keeps_claims=True)) as it:
            delivery = make_delivery(make_bundle(2))
            hold = it.receive(delivery)
            it.succeed(hold, 0)
            it.link.results.error = BrokerUnavailable("gone")
            it.link.lane.lost = [delivery]
            it.supervisor._claims._find_lost(it.link.lane)
            hold.put_back(Part(hold, 1, 2))
            it.settle()
            it.supervisor._look_around()
            it.link.results.error, it.link.may_try = None, True
            key = Key(BUNDLE_ID, 1)
            it.link.results.records[key] = Record(key, SUCCEEDED, 1, b"\x01", 0.0)
            it.supervisor._admission.receive([redelivered(delivery)])
            assert it.again() == []
            it.link.log.clear()
            it.settle()
            assert it.records() == [(0, SUCCEEDED)]
            assert [entry.is_complete for entry in it.settled()] == [False, True]

    def test_a_remainder_of_it_runs_here(self) -> None:
        """Whoever took over gave back what it had not run: a delivery that was lost does not stand in its way."""
        with desk(Link(keeps_claims=True)) as it:
            delivery = make_delivery(make_bundle(3))
            hold = it.receive(delivery)
            hold.put_back(Part(hold, 1, 3))
            it.link.lane.lost = [delivery]
            it.supervisor._claims._find_lost(it.link.lane)
            assert list(it.supervisor._holds) == [hold]
            it.succeed(hold, 0)
            it.settle()
            it.supervisor._look_around()
            assert list(it.supervisor._holds) == []
            it.supervisor._admission.receive([make_delivery(part(make_bundle(3), [0, 1]))])
            assert it.again() == [0, 1]

    def test_a_lost_connection_keeps_what_runs_and_what_is_unwritten(self) -> None:
        """Nothing else: what waits was forgotten with it."""
        with desk(Link(keeps_claims=False)) as it:
            waits, runs, ended = (make_delivery(make_bundle(2, id=bytes([n]) * 16)) for n in range(3))
            it.supervisor._admission.receive([waits, runs, ended])
            holds = {hold.delivery: hold for hold in it.supervisor._holds}
            holds[runs].hand(0, 1)
            it.succeed(holds[ended], 0)
            it.supervisor._line.lose(BrokerUnavailable("gone"))
            it.supervisor._let_go()
            assert [hold.delivery for hold in it.supervisor._holds] == [runs, ended]
            assert waits.is_lost
            it.link.may_try = True
            it.settle()
            it.supervisor._let_go()
            assert [hold.delivery for hold in it.supervisor._holds] == [runs]


class TestTwice:
    """The same message once more, while its jobs are in hand."""

    @pytest.mark.parametrize("once", [(), ("lab.work",)])
    def test_what_was_lost_with_its_lease_starts_once_when_it_comes_back(self, once: Sequence[str]) -> None:
        """Of what waited here when others had it, and while a child still runs a neighbor."""
        link = Link(keeps_claims=True)
        link.lease = 15.0
        with desk(link, once=once) as it:
            delivery = make_delivery(make_bundle(4))
            it.supervisor._admission.receive([delivery])
            (hold,) = it.supervisor._holds
            (at,) = started(it)
            hold.hand(at, at + 1)
            cast("Any", link.lane).lost = [delivery]
            it.time.now += 20.0
            it.supervisor._claims.renew(link.lane, it.time.now)
            cast("Any", link.lane).lost = []
            it.supervisor._admission.receive([redelivered(delivery)])
            assert sorted(it.again()) == [other for other in range(4) if other != at]

    def test_what_the_second_one_tells_counts(self) -> None:
        """It was looked up, and what has ended by now does not start although the first one is still in hand."""
        with desk(Link(keeps_claims=True)) as it:
            first, other = make_delivery(make_bundle(2)), make_delivery(make_bundle(id=bytes(16)))
            it.supervisor._admission.receive([first, other])
            it.link.results.records[Key(BUNDLE_ID, 0)] = Record(Key(BUNDLE_ID, 0), SUCCEEDED, 1, b"\x01", 0.0)
            it.supervisor._admission.receive([redelivered(first)])
            waiting = it.supervisor._ready.drain()
            assert [(part.hold.bundle.id, part.at) for part in waiting] == [(bytes(16), 0), (BUNDLE_ID, 1)]

    def test_both_deliveries_are_acknowledged(self) -> None:
        """Also where the job has just returned, and its outcome is not written yet."""
        with desk(Link(keeps_claims=True)) as it:
            first = make_delivery(make_bundle(1))
            second = redelivered(first)
            it.succeed(it.receive(first), 0)
            it.supervisor._admission.receive([second])
            it.settle()
            assert {entry.delivery.tag for entry in it.settled() if entry.is_complete} == {first.tag, second.tag}
            assert list(it.supervisor._holds) == []


class TestTrouble:
    """A server that fails between two calls."""

    def test_what_cannot_be_given_back_is_given_back_later(self) -> None:
        """Where claims outlive the failure, the message stays ours: forgotten, it would wait for this worker's end."""
        with desk(Link(keeps_claims=True)) as it:
            it.link.lane.is_broken = True
            early = make_delivery(make_bundle(due=it.time.now + 500.0))
            it.supervisor._admission.receive([early])
            it.link.lane.is_broken, it.link.may_try = False, True
            it.supervisor._look_around()
            assert [said for verb, said in it.link.log if verb == "give_back"] == [[early]]
            assert it.again() == []

    def test_what_overlaps_is_looked_up_before_it_starts(self) -> None:
        """By then its jobs have ended here, by another delivery."""
        with desk(Link(keeps_claims=True)) as it:
            hold = it.receive(make_delivery(make_bundle(2)))
            rest = make_delivery(part(make_bundle(2), [1]))
            it.supervisor._admission.receive([rest])
            for at in (0, 1):
                it.succeed(hold, at)
                it.settle()
            it.time.now += 2.0
            it.supervisor._look_around()
            it.settle()
            assert it.again() == []
            assert [entry.delivery for entry in it.settled() if entry.is_complete] == [hold.delivery, rest]

    @pytest.mark.parametrize("what", ["unknown", "early"])
    def test_nothing_starts_of_what_was_lost_while_its_neighbor_went_back(self, what: str) -> None:
        """Others have all of it."""
        odd = make_bundle(id=bytes(16), task="lab.other") if what == "unknown" else make_bundle(id=bytes(16))
        with desk(Link(keeps_claims=False)) as it:
            lane = it.link.lane
            lane.is_broken = True
            lane.renew = lane.give_back  # which fails, too
            odd = odd._replace(due=it.time.now + 500.0 if what == "early" else None)
            deliveries = [make_delivery(odd, published=it.time.now), make_delivery(make_bundle())]
            it.supervisor._admission.receive(deliveries)
            assert it.link.lane is None
            assert started(it) == []
            assert all(delivery.is_lost for delivery in deliveries[1:])

    def test_the_claim_is_renewed_in_the_first_round_after_a_pause(self) -> None:
        """A round in which nothing may be asked is no renewal."""
        with desk(Link(keeps_claims=True)) as it:
            it.supervisor._look_around()
            for _ in range(3):
                it.time.now += 1.1
                it.link.may_try = False
                it.supervisor._look_around()
                it.link.may_try = True
                it.supervisor._look_around()
            assert [verb for verb, _ in it.link.log].count("renew") == 4

    def test_what_cannot_be_looked_up_before_it_is_written_again_costs_no_connection(self) -> None:
        """It is tried again, and nobody else gets what runs here meanwhile."""
        with desk(Link(keeps_claims=False)) as it:
            hold = it.receive(make_delivery(make_bundle(2, limits=Limits(retries=3))))
            it.supervisor._books._is_in_doubt = True
            it.retry(hold, 0)
            it.link.results.error = StillReading("not read to its end")
            it.settle()
            assert it.link.lane is not None
            assert not hold.delivery.is_lost
            assert it.settled() == []
            it.link.results.error = None
            it.settle()
            assert [len(entry.successors) for entry in it.settled()] == [1]

    def test_at_the_end_outcomes_are_written_though_retries_cannot_be_looked_up(self) -> None:
        """Those are done once more rather than not at all."""
        with desk(Link(keeps_claims=False)) as it:
            retried = it.receive(make_delivery(make_bundle(1, limits=Limits(retries=3))))
            it.retry(retried, 0)
            done = make_delivery(make_bundle(1, id=bytes(16)))
            it.supervisor._books.add([Settled(done, is_complete=True)])
            it.supervisor._books._is_in_doubt = True
            it.link.results.error = StillReading("not read to its end")
            it.supervisor._books.close([])
            assert [entry.delivery for entry in it.settled()] == [done]

    def test_a_take_that_failed_is_no_empty_one(self) -> None:
        """A burst does not end because of it."""
        with desk(Link(keeps_claims=True)) as it:
            it.supervisor._plan = replace(it.supervisor._plan, burst=True)
            it.supervisor._desks.each[0].assigner.room = lambda _: {"yellow": 1}
            it.link.lane.take = Mock(side_effect=BrokerUnavailable("gone"))
            it.supervisor._take()
            assert not it.supervisor.is_over()
            it.link.may_try, it.link.lane.take = True, Mock(return_value=[])
            it.supervisor._take()
            assert it.supervisor.is_over()

    @pytest.mark.parametrize("error", [StillReading("much to read"), BrokerUnavailable("gone")])
    def test_what_cannot_be_looked_up_waits_here(self, error: BrokerUnavailable) -> None:
        """Here it goes on where it was, and what comes later waits for that; what needs no look-up starts."""

        def waiting() -> list[Delivery]:
            return [part.hold.delivery for part in it.supervisor._ready.drain()]

        def look_around() -> None:
            it.time.now += 2.0
            it.link.may_try = True
            it.supervisor._look_around()

        with desk(Link(keeps_claims=False)) as it:
            first, other, fresh = (make_delivery(make_bundle(id=bytes([n]) * 16), redelivered=n < 2) for n in range(3))
            it.link.results.error = error
            it.supervisor._admission.receive([first, fresh])
            assert it.link.may_try == isinstance(error, StillReading)
            it.supervisor._admission.receive([other])
            assert waiting() == [fresh]
            look_around()
            it.link.results.error = None
            look_around()
            assert waiting() == [first]
            look_around()
            assert waiting() == [other]
            asked = [[key.bundle[0] for key in said] for verb, said in it.link.log if verb == "fetch"]
            assert asked == [[0], [0], [0], [1]]

    def test_not_everything_waits_to_be_looked_up(self) -> None:
        """Other workers take what this one would only keep."""
        with desk(Link(keeps_claims=True)) as it:
            it.link.results.error = StillReading("much to read")
            taken: list[int] = []
            it.supervisor._line.may_have = lambda _: True
            it.supervisor._line.take = lambda *_: taken.append(1)
            it.supervisor._take()
            it.supervisor._admission.receive([make_delivery(redelivered=True) for _ in range(1000)])
            it.supervisor._take()
            assert taken == [1]
            it.link.results.error = None

    @pytest.mark.parametrize("is_full", [False, True])
    def test_a_lane_is_not_heard_that_nobody_may_read(self, is_full: bool) -> None:  # noqa: FBT001
        """Or the loop would go round for as long, since it stays readable."""
        with desk(Link(keeps_claims=True), processes=1) as it, socketpair() as (here, there):
            it.supervisor._staff.hire()
            it.link.lane.capabilities = SimpleNamespace(wakes=False, has_batch_verbs=False)
            it.link.lane.fileno, it.link.lane.notes = here.fileno, list
            it.supervisor._line.listen(it.link.lane)
            there.send(b"1")
            it.supervisor._wait()
            assert here.fileno() in it.supervisor._selector.get_map()
            it.link.may_try = is_full
            if is_full:
                it.link.results.error = StillReading("much to read")
                it.supervisor._admission.receive([make_delivery(redelivered=True) for _ in range(1000)])
            it.supervisor._wait()
            assert here.fileno() not in it.supervisor._selector.get_map()
            it.link.may_try, it.link.results.error = True, None
            it.supervisor._returns.forget()
            it.supervisor._take()
            assert here.fileno() in it.supervisor._selector.get_map()

    @pytest.mark.parametrize("becomes", ["lost", "cut off", "stopped"])
    def test_what_waits_to_be_looked_up_may_go(self, becomes: str) -> None:
        """To others, who have it already or get it back."""
        with desk(Link(keeps_claims=becomes == "lost")) as it:
            delivery = make_delivery(redelivered=True)
            it.link.results.error = StillReading("much to read")
            it.supervisor._admission.receive([delivery])
            it.link.results.error = None
            if becomes == "lost":
                it.link.lane.lost = [delivery]
            elif becomes == "cut off":
                it.supervisor._line.lose(BrokerUnavailable("gone"))
                it.link.lane, it.link.may_try = Lane(it.link.log), True
            else:
                it.supervisor.stop()
                it.supervisor._wind_down()
            it.time.now += 2.0
            it.supervisor._look_around()
            assert it.again() == []
            given = [said for verb, said in it.link.log if verb == "give_back"]
            assert given == ([[delivery]] if becomes == "stopped" else [])

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
                it.supervisor.turn()
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

    @pytest.mark.parametrize("what", ["announce", "cancelled", "store", "fetch"])
    def test_results_that_fail_beside_a_door_cost_no_delivery(self, what: str) -> None:
        """They have a connection of their own, and what runs here is still ours as long as the lane answers."""
        with desk(Link(keeps_claims=False)) as it:
            hold = it.receive(make_delivery(make_bundle(1)))

            def fail(*_: Any) -> Any:
                raise BrokerUnavailable("it did not confirm within 5 s; is it out of memory or disk?")

            works = getattr(it.link.results, what)
            setattr(it.link.results, what, fail)
            it.supervisor._presence.tell()
            it.supervisor._withdraw()
            it.supervisor._starts.show([(hold, 0, 2.0)])
            it.supervisor._admission.receive([make_delivery(make_bundle(1, id=bytes(16)), redelivered=True)])
            setattr(it.link.results, what, works)
            assert not it.link.may_try
            assert it.link.lane is not None
            assert not hold.delivery.is_lost

    def test_it_does_not_spin_while_it_may_not_try(self) -> None:
        """What became due while the server was away waits, and the supervisor with it."""
        with desk(Link(keeps_claims=True), processes=1) as it:
            it.supervisor._staff.hire()
            it.link.lane.due = it.time.now - 1.0
            assert it.supervisor._pause() > 0.0


class TestMemos:
    """What handlers tell and save, where it cannot be stored."""

    def test_outcomes_do_not_wait_for_it(self) -> None:
        """Those of the very jobs and of their neighbors: all is well with the connection that they go over."""
        with desk(Link(keeps_claims=True)) as it:
            it.link.memos.is_away = True
            hold, child = it.receive(make_delivery(make_bundle(3))), Mock()
            for at in range(3):
                it.turn(told=[told_of(child, hold, at, PROGRESS), told_of(child, hold, at, STATE, saves=at + 1)])
            it.time.now += 1.0  # it is tried again, and fails again
            it.turn(reports=[Successes(hold, 0, 1, b"\x01", 0.1, 0)])
            assert it.records() == [(0, SUCCEEDED)]
            it.time.now += 1.0
            it.turn(reports=[Report(hold, 1, Failed(b"why"), 0.1)])
            assert it.records() == [(0, SUCCEEDED), (1, FAILED)]
            assert it.link.may_try
            assert not hold.delivery.is_lost
            it.link.memos.is_away = False
            it.time.now += 10.0
            it.turn()
            keys = [Key(BUNDLE_ID, at) for at in range(3)]
            assert it.link.memos.read(STATE, keys) == [None, None, b"state"]
            assert it.link.memos.read(PROGRESS, keys) == [None, None, b"progress"]

    def test_a_retry_waits_for_its_state_and_for_nothing_else(self) -> None:
        """For five seconds: then it runs again from what was stored before. For progress it does not wait."""
        with desk(Link(keeps_claims=True)) as it:
            it.link.memos.is_away = True
            hold, child = it.receive(make_delivery(make_bundle(2, limits=Limits(retries=1)))), Mock()
            again = Again(None, b"why")
            it.turn(told=[told_of(child, hold, 0, PROGRESS)], reports=[Report(hold, 0, again, 0.1)])
            assert it.records() == [(0, RETRYING)]
            it.turn(told=[told_of(child, hold, 1, STATE, saves=1)], reports=[Report(hold, 1, again, 0.1)])
            it.time.now += 4.5
            it.turn()
            assert it.records() == [(0, RETRYING)]
            child.answer.assert_not_called()
            it.time.now += 1.0
            it.turn()
            assert it.records() == [(0, RETRYING), (1, RETRYING)]
            child.answer.assert_called_once_with(1, is_stored=False)

    def test_a_retry_is_written_behind_its_state(self) -> None:
        """As soon as the server is back: whoever runs the job next finds it."""
        with desk(Link(keeps_claims=True)) as it:
            it.link.memos.is_away = True
            hold, child = it.receive(make_delivery(make_bundle(1, limits=Limits(retries=1)))), Mock()
            it.turn(told=[told_of(child, hold, 0, STATE, saves=1)], reports=[Report(hold, 0, Again(None, b"why"), 0.1)])
            assert it.records() == []
            it.link.memos.is_away = False
            it.time.now += 1.0
            it.turn()
            assert it.records() == [(0, RETRYING)]
            assert it.link.memos.read(STATE, [Key(BUNDLE_ID, 0)]) == [b"state"]

    def test_a_state_that_nobody_waited_for_is_not_written_any_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The job may run elsewhere by then, and have saved a newer one: whatever the pause that was begun before."""
        monkeypatch.setattr(random, "uniform", max)
        with desk(Link(keeps_claims=True)) as it:
            it.link.memos.is_away = True
            hold, child = it.receive(make_delivery(make_bundle(1, limits=Limits(retries=1)))), Mock()
            it.turn(told=[told_of(child, hold, 0, STATE, saves=1)], reports=[Report(hold, 0, Again(None, b"why"), 0.1)])
            for _ in range(4):
                it.time.now += it.supervisor._notebook.rest(it.time.now)
                it.turn()
            assert it.records() == []
            assert it.supervisor._notebook.rest(it.time.now) == pytest.approx(3.2)
            it.time.now += 2.5  # more than five seconds since the first failure
            it.turn()
            assert it.records() == [(0, RETRYING)]
            it.link.memos.is_away = False
            it.time.now += 1.0
            it.turn()
            assert it.link.memos.read(STATE, [Key(BUNDLE_ID, 0)]) == [None]
            child.answer.assert_called_once_with(1, is_stored=False)

    def test_who_keeps_none_holds_nothing_up_either(self) -> None:
        """A result backend without memos: what was saved is refused, and the job goes on without."""
        link = Link(keeps_claims=True)
        link.memos = Mock(write=Mock(side_effect=ConfigurationError("it keeps none")))
        with desk(link) as it:
            hold, child = it.receive(make_delivery(make_bundle(1, limits=Limits(retries=1)))), Mock()
            it.turn(told=[told_of(child, hold, 0, STATE, saves=1)], reports=[Report(hold, 0, Again(None, b"why"), 0.1)])
            assert it.records() == [(0, RETRYING)]
            child.answer.assert_called_once_with(1, is_stored=False)


class TestEnd:
    """What is written last."""

    @pytest.mark.parametrize("keeps_claims", [False, True])
    def test_what_nobody_runs_goes_back_at_once(self, keeps_claims: bool) -> None:  # noqa: FBT001
        """What runs may take hours to its end; where the broker counts, a record says that the others did not start."""
        with desk(Link(keeps_claims=keeps_claims)) as it:
            running, waiting = make_delivery(make_bundle(1)), make_delivery(make_bundle(2, id=bytes(16)))
            it.receive(running)
            it.supervisor._admission.receive([waiting])
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

    def test_what_cannot_be_cut_does_not_keep_the_rest_from_being_written(self) -> None:
        """A message of which nobody can make a part stays with the broker as it is; its outcomes are written, too."""
        with desk(Link(keeps_claims=True)) as it:
            hold = it.receive(make_delivery(make_bundle(1, id=b"o" * 16)))
            it.supervisor._admission.receive([make_delivery(make_bundle(2)._replace(column=b"\x92\xc1\xc1"))])
            it.supervisor._ready.drain()
            bad = next(one for one in it.supervisor._holds if one is not hold)
            bad.hand(0, 1)
            it.fail(bad, 0)
            it.succeed(hold, 0)
            it.supervisor._give_everything_back()
            assert sorted(it.records()) == [(0, FAILED), (0, SUCCEEDED)]
            assert {entry.delivery: entry.is_complete for entry in it.settled()} == {
                hold.delivery: True,
                bad.delivery: False,
            }

    def test_a_retry_in_doubt_is_not_published_again(self) -> None:
        """The answer to the last settlement was lost: what stands of it is not in what is written at the end."""
        link = Link(keeps_claims=True)
        with desk(link) as it:
            it.retry(it.receive(make_delivery(make_bundle(2, limits=Limits(retries=3)))), 0)
            link.door.loses_answer = True
            it.settle()
        published = [envelope.decode(frame.frame) for entry in it.settled() for frame in entry.successors]
        assert [(list(one.indexes), one.attempt) for one in published] == [([0], 2), ([1], 1)]

    def test_nothing_runs_any_more_when_it_is_given_back(self) -> None:
        """A worker that ends by an error may still run jobs: others have them as soon as they are back."""
        link = Link(keeps_claims=True)
        with desk(link) as it:
            it.receive(make_delivery(make_bundle(3)))
            it.supervisor._staff.kill = lambda why: link.log.append(("kill", why))
        verbs = [verb for verb, _ in link.log]
        assert verbs.index("kill") < verbs.index("give_back")


class TestOnce:
    """Tasks that must not start a second time."""

    def batch(self, it: Desk, *, redelivered: bool = False) -> list[Part]:
        """Take a bundle of one job and return what would be handed to a child."""
        it.supervisor._admission.receive([make_delivery(make_bundle(1), redelivered=redelivered)])
        parts: list[Part] = it.supervisor._ready.drain()
        return parts

    def take(self, it: Desk) -> Hold:
        """Take a bundle of one job, which waits then."""
        it.supervisor._admission.receive([make_delivery(make_bundle(1))])
        hold: Hold
        (hold,) = it.supervisor._holds
        return hold

    def test_its_start_is_stored_before_it_starts(self) -> None:
        """And only then the server is asked whether it is still ours: who takes it over sees the mark."""
        with desk(Link(keeps_claims=True), once=["lab.work"]) as it:
            self.take(it)
            it.link.log.clear()
            assert started(it) == [0]
            assert [verb for verb, _ in it.link.log] == ["store", "find_lost"]
            assert it.records() == [(0, RUNNING)]

    def test_it_does_not_start_without_its_mark(self) -> None:
        """Where the mark cannot be stored it waits."""
        with desk(Link(keeps_claims=True), once=["lab.work"]) as it:
            self.take(it)
            it.link.results.error = BrokerUnavailable("gone")
            assert started(it) == []
            assert it.again() == [0]
            it.link.results.error = None

    def test_it_does_not_start_where_others_have_it(self) -> None:
        """The claim was lost between the taking and the mark."""
        with desk(Link(keeps_claims=True), once=["lab.work"]) as it:
            it.link.lane.lost = [self.take(it).delivery]
            assert started(it) == []
            assert it.again() == []

    def test_nothing_is_marked_of_what_others_have(self) -> None:
        """Of the other jobs of that delivery, either: they would end as lost although nobody had started them."""
        with desk(Link(keeps_claims=True), once=["lab.work"]) as it:
            it.supervisor._admission.receive([make_delivery(make_bundle(3))])
            (hold,) = it.supervisor._holds
            it.link.lane.lost = [hold.delivery]
            assert started(it) == []
            assert it.records() == [(0, RUNNING)]
            it.supervisor._look_around()
            assert it.again() == []
            assert list(it.supervisor._holds) == []

    def test_the_mark_of_another_worker_stands(self) -> None:
        """Whose the job is is not known after the mark; it waits, and nothing is stored that may be wrong."""
        with desk(Link(keeps_claims=True), once=["lab.work"]) as it:
            self.take(it)
            it.link.lane.error = BrokerUnavailable("no answer")
            assert started(it) == []
            assert mark_of(it, 0) == (RUNNING, 1)
            it.link.lane.error, it.link.may_try = None, True
            assert started(it) == [0]
            assert mark_of(it, 0) == (RUNNING, 1)

    @pytest.mark.parametrize("is_ours", [False, True])
    def test_what_comes_back_unstarted_is_unmarked_if_it_is_ours(self, is_ours: bool) -> None:  # noqa: FBT001
        """What others have may have been started, and marked, by them."""
        with desk(Link(keeps_claims=True), once=["lab.work"]) as it:
            hold = self.take(it)
            assert started(it) == [0]
            hold.hand(0, 1)
            it.link.lane.lost = [] if is_ours else [hold.delivery]
            it.supervisor._admission.put_back([Part(hold, 0, 1)])
            assert mark_of(it, 0) == ((QUEUED, 0) if is_ours else (RUNNING, 1))
            assert it.again() == ([0] if is_ours else [])

    def test_who_takes_it_over_ends_it(self) -> None:
        """A mark says that it may have run: it fails, and its reason says so."""
        with desk(Link(keeps_claims=True), once=["lab.work"]) as it:
            it.link.results.records[Key(BUNDLE_ID, 0)] = Record(Key(BUNDLE_ID, 0), RUNNING, 1, body.of_starts(1), 0.0)
            assert self.batch(it, redelivered=True) == []
            it.settle()
            assert it.records() == [(0, FAILED)]
            (entry,) = it.settled()
            assert isinstance(body.rebuild(body.read(entry.records[0].body), {}), JobLost)

    def test_who_takes_it_over_unstarted_runs_it(self) -> None:
        """Without a mark it has not started, since each start is marked."""
        with desk(Link(keeps_claims=True), once=["lab.work"]) as it:
            assert len(self.batch(it, redelivered=True)) == 1

    def test_the_death_of_its_child_ends_it(self) -> None:
        """Also where the worker itself killed the child."""
        with desk(Link(keeps_claims=True), once=["lab.work"]) as it:
            hold = it.receive(make_delivery(make_bundle(2)))
            for at, why in enumerate(["", "interrupted"]):
                it.supervisor._account_for(Death(hold, at, 7, "signal 9", why, was_meant=True))
            it.settle()
            assert sorted(it.records()) == [(0, FAILED), (1, FAILED)]

    def test_the_end_of_its_worker_ends_it(self) -> None:
        """After an error, too: what a child has is not given back as if it had not started."""
        with desk(Link(keeps_claims=True), once=["lab.work"]) as it:
            hold = it.receive(make_delivery(make_bundle(2)))
            hold.put_back(Part(hold, 1, 2))
        assert it.records() == [(0, FAILED)]
        last = it.settled()[-1]
        assert (last.is_complete, [envelope.decode(one.frame).indexes for one in last.successors]) == (True, [[1]])


class TestClaim:
    """A worker that was cut off for longer than its lease."""

    def cut_off(self, it: Desk, seconds: float) -> None:
        """Let time pass, and look around."""
        it.time.now += seconds
        it.supervisor._look_around()

    def link(self) -> Link:
        """Return a link with a lease."""
        made = Link(keeps_claims=True)
        made.lease = 15.0
        return made

    def test_it_asks_what_is_left(self) -> None:
        """Only after so long, and it lets go of what others have."""
        with desk(self.link()) as it:
            kept, lost = make_delivery(make_bundle(1)), make_delivery(make_bundle(1, id=bytes(16)))
            it.supervisor._admission.receive([kept, lost])
            it.link.lane.lost = [lost]
            self.cut_off(it, 10.0)
            assert [verb for verb, _ in it.link.log if verb == "find_lost"] == []
            self.cut_off(it, 16.0)
            assert [said for verb, said in it.link.log if verb == "find_lost"] == [[kept, lost]]
            assert (kept.is_lost, lost.is_lost) == (False, True)
            assert [part.hold.delivery for part in it.supervisor._ready.drain()] == [kept]

    def test_it_starts_nothing_meanwhile(self) -> None:
        """What it holds may run elsewhere by now."""
        with desk(self.link(), processes=1) as it:
            it.supervisor._staff.hire()
            it.link.may_try = False
            it.supervisor._admission.receive([make_delivery(make_bundle(1))])
            it.time.now += 16.0
            it.supervisor._hand_out()
            assert it.again() == [0]

    def test_a_server_that_is_silent_does_not_honor_claims(self) -> None:
        """That a call did not fail is not enough where nothing was heard for as long."""
        with desk(self.link()) as it:
            it.link.lane.silence = 14.0
            self.cut_off(it, 10.0)
            it.link.lane.silence = 16.0
            self.cut_off(it, 2.0)
            assert [verb for verb, _ in it.link.log if verb == "find_lost"] == ["find_lost"]

    def test_a_handler_is_told_when_its_lease_has_run_out(self) -> None:
        """The server cannot be asked, but by then another worker may have the job; told so, it is until it is ours."""
        with desk(self.link()) as it:
            hold, told = it.receive(make_delivery()), cast("list[int]", [])
            slot = SimpleNamespace(lose=told.append, claim=lambda _: None)
            child = SimpleNamespace(running=lambda: (hold, 0, 7, it.time.now), slot=slot, recall=list)
            it.supervisor._claims.held(it.time.now)
            it.supervisor._staff._children = [child]
            it.link.may_try = False
            self.cut_off(it, 14.0)
            self.cut_off(it, 2.0)
            it.link.may_try = True
            self.cut_off(it, 1.0)
            it.link.lane.lost = [hold.delivery]
            self.cut_off(it, 16.0)
            assert told == [0, 7, 0, 7]
            it.supervisor._staff._children = []

    def test_an_exclusive_job_is_killed_before_the_claim_ends(self) -> None:
        """Not earlier, and not while the claim is renewed."""
        with desk(self.link()) as it:
            killed: list[str] = []
            it.supervisor._claims._guarded = (SimpleNamespace(kill=killed.append),)
            began = it.time.now
            it.supervisor.kill_exclusive(began + 11.0)
            assert killed == []
            it.supervisor.kill_exclusive(began + 12.5)
            assert len(killed) == 1
            self.cut_off(it, 11.0)
            it.supervisor.kill_exclusive(began + 12.5)
            assert len(killed) == 1
            it.supervisor._claims._guarded = ()

    def test_none_is_started_that_would_be_killed(self) -> None:
        """From then on, until the claim is renewed."""
        with desk(self.link(), exclusive=["lab.work"]) as it:
            it.supervisor._admission.receive([make_delivery(make_bundle(1))])
            it.link.may_try = False
            self.cut_off(it, 12.5)
            assert started(it) == []
            it.link.may_try = True
            self.cut_off(it, 1.0)
            assert started(it) == [0]
