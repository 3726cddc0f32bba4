"""Jobs in hand that wait for results of others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from queuelib import body, codec
from queuelib.errors import BrokerUnavailable
from queuelib.ids import Key, job_id, new_bundle_id
from queuelib.inputs import cut, stand_in
from queuelib.message import Input, Run
from queuelib.outcome import (
    CANCELLED,
    EXPIRED,
    FAILED,
    FORGED,
    QUARANTINED,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    Failed,
    Inherited,
    Outcome,
    Record,
    Released,
)
from queuelib.ports import ResultCapabilities, StillReading
from queuelib.worker import waits
from queuelib.worker.lease import Hold
from queuelib.worker.waits import Waits
from tests.unit.fakes import FakeResults, Time, make_bundle, make_delivery

if TYPE_CHECKING:
    from collections.abc import Sequence

OTHER = bytes(16)


class Line:
    """The connection: results that a test fills, and which may be away."""

    def __init__(self) -> None:
        self.link: Any = self
        self.results = FakeResults()
        self.may_try = True
        self.keep = 1000.0
        self.followed: list[list[Key]] = []

    def lose(self, _: BrokerUnavailable, *, spares_lane: bool) -> None:
        """Be away."""
        assert spares_lane
        self.may_try = False

    def follow(self, keys: Sequence[Key]) -> None:
        """Note what will be asked for."""
        self.followed.append(list(keys))


class Desk:
    """What waits, and what is there."""

    def __init__(self) -> None:
        self.time = Time()
        self.line = Line()
        self.waits = Waits(self.line, self.time.clock)  # type: ignore[arg-type]  # all that it needs of one
        self.made = 0

    def wait(self, *inputs: Input, submitted: float | None = None) -> Hold:
        """Have a job wait that has these results as its arguments."""
        self.made += 1
        marks = [stand_in() for _ in inputs]
        column = cut(codec.encoded_list(marks), marks)
        bundle = make_bundle(1, id=self.id(submitted), inputs=inputs, attempt=0, column=column)
        hold = Hold(make_delivery(bundle), bundle)
        self.waits.add(hold)
        return hold

    def id(self, at: float | None = None) -> bytes:
        return new_bundle_id(self.time.now if at is None else at)

    def end(self, bundle: bytes, index: int, value: object, count: int = 1) -> None:
        """Have jobs succeed; of several, the value is the list of theirs."""
        data = codec.encode(value)
        record = Record(Key(bundle, index), SUCCEEDED, 1, body.of_result("lab.other", data), 1.0, count)
        self.line.results.records.update(dict.fromkeys(record.keys, record))

    def state(self, bundle: bytes, state: str, data: bytes = b"") -> None:
        """Have a job be in another state."""
        key = Key(bundle, 0)
        self.line.results.records[key] = Record(key, state, 1, data, 1.0)

    def look(self) -> list[tuple[Hold, Outcome]]:
        """Look for inputs when the next look is due."""
        self.time.now += max(0.0, min(self.waits.pause(self.time.now), 10.0))
        return list(self.waits.look(self.time.now))

    @property
    def fetched(self) -> list[list[Key]]:
        """What was looked for, in each round."""
        return [keys for verb, keys in self.line.results.log if verb == "fetch"]


def arguments(outcome: Outcome) -> Any:
    assert isinstance(outcome, Released)
    return codec.decode(codec.split_list(outcome.column, 1)[0])


def one(bundle: bytes, index: int = 0) -> Input:
    return Input([Run(bundle, index)])


def test_it_goes_on_with_all_arguments_once_they_are_there() -> None:
    """A single result as such, several as a list, in the order that was asked for, from records of one job or many."""
    it = Desk()
    first, second = it.id(), it.id()
    hold = it.wait(one(first), Input([Run(second, 2, 2), Run(first, 0), Run(second, 0)], is_list=True))
    assert it.look() == []
    it.end(second, 0, ["a", "b", "c", "d"], count=4)
    assert it.look() == []
    it.end(first, 0, {"x": 1})
    ((found, outcome),) = it.look()
    assert found is hold
    assert arguments(outcome) == [{"x": 1}, ["c", "d", {"x": 1}, "a"]]
    assert it.waits.is_empty


def test_what_was_found_is_not_looked_for_again() -> None:
    """However many there are, and however long the last one takes."""
    it = Desk()
    many = it.id()
    it.wait(Input([Run(many, 0, 1000)], is_list=True))
    it.end(many, 0, list(range(999)), count=999)
    for _ in range(5):
        assert it.look() == []
    assert sum(map(len, it.fetched)) < 1000 + 6 * waits._WINDOW
    it.end(many, 999, "last")
    ((_, outcome),) = it.look()
    assert arguments(outcome) == [[*range(999), "last"]]


@pytest.mark.parametrize("state", [FAILED, CANCELLED, EXPIRED])
def test_it_ends_as_what_it_waits_for(state: str) -> None:
    """With the same words; what else it waits for does not matter any more."""
    it = Desk()
    bad = it.id()
    hold = it.wait(Input([Run(bad, 0), Run(it.id(), 0)], is_list=True))
    it.state(bad, state, b"why")
    assert it.look() == [(hold, Inherited(state, b"why"))]


@pytest.mark.parametrize("state", [QUARANTINED, FORGED])
def test_it_fails_where_nobody_may_believe_its_input(state: str) -> None:
    """And says which it was."""
    it = Desk()
    bad = it.id()
    it.wait(one(bad))
    it.state(bad, state)
    ((_, outcome),) = it.look()
    assert isinstance(outcome, Failed)
    found = body.read(outcome.body)
    assert found.type_name == "queuelib.errors.InputError"
    assert state in found.message


@pytest.mark.parametrize("state", [FAILED, CANCELLED, EXPIRED, QUARANTINED])
def test_it_goes_on_with_failures_in_place(state: str) -> None:
    """Where that was asked for, what ended badly is a value among the others, whatever its backend knows of it."""
    it = Desk()
    many, bad = it.id(), it.id()
    it.wait(
        Input([Run(many, 0), Run(bad, 0), Run(many, 1)], is_list=True, passes=True), Input([Run(bad, 0)], passes=True)
    )
    it.state(bad, state, body.of_failure("lab.other", "ValueError", "x" * 5000))
    assert it.look() == []
    it.end(many, 0, ["a", "b"], count=2)
    ((_, outcome),) = it.look()
    (first, failure, last), again = arguments(outcome)
    assert (first, last) == ("a", "b")
    assert failure == again
    assert (failure.state, failure.type, failure.job) == (state, "ValueError", job_id(bad, 0))
    assert "characters left out" in failure.message
    assert len(failure.message) < 1200


def test_failures_in_place_are_for_the_arguments_that_ask_for_them() -> None:
    """Beside one that does, another still ends the job."""
    it = Desk()
    bad = it.id()
    it.wait(Input([Run(bad, 0)], passes=True), one(bad))
    why = body.of_failure("lab.other", "ValueError", "why")
    it.state(bad, FAILED, why)
    ((_, outcome),) = it.look()
    assert outcome == Inherited(FAILED, why)


@pytest.mark.parametrize("state", [QUEUED, RUNNING])
def test_what_has_not_ended_is_waited_for(state: str) -> None:
    """For days, if need be."""
    it = Desk()
    slow = it.id()
    it.wait(one(slow))
    it.state(slow, state)
    for _ in range(3):
        it.time.now += 100_000.0
        assert it.look() == []


@pytest.mark.parametrize(("records", "within"), [(True, 60.0), (False, 1000.0)])
def test_what_left_no_trace_is_not_waited_for_for_ever(records: bool, within: float) -> None:  # noqa: FBT001
    """A minute where each job has one from its submission on; else for as long as outcomes are kept."""
    it = Desk()
    it.line.results.capabilities = ResultCapabilities(records=records)
    it.wait(one(it.id()))
    it.time.now += within - 10.0
    assert it.look() == []
    it.time.now += 20.0
    ((_, outcome),) = it.look()
    assert isinstance(outcome, Failed)
    assert "not kept any more" in body.read(outcome.body).message


def test_results_that_fit_into_no_message_fail_it() -> None:
    """As soon as they are too large, and not only once all are there."""
    it = Desk()
    large = it.id()
    it.wait(Input([Run(large, 0, 30)], is_list=True))
    for index in range(20):
        it.end(large, index, bytes(1024 * 1024))
    ((_, outcome),) = it.look()
    assert isinstance(outcome, Failed)
    assert "16,777,216 bytes" in body.read(outcome.body).message


def test_looks_become_fewer_with_time() -> None:
    """Soon for what is quick, once a second for what takes hours; at once where something ended here."""
    it = Desk()
    slow = it.id()
    it.wait(one(slow))
    it.state(slow, RUNNING)
    pauses: list[float] = []
    for _ in range(200):
        it.look()
        pauses.append(it.waits.pause(it.time.now))
    assert pauses[0] == pytest.approx(0.005)
    assert pauses == sorted(pauses)
    assert pauses[-1] == 1.0
    it.waits.look_soon()
    assert it.waits.pause(it.time.now) == pytest.approx(0.005)


def test_a_server_that_is_away_changes_nothing() -> None:
    """It is asked again when the pause is over."""
    it = Desk()
    first = it.id()
    it.wait(one(first))
    it.end(first, 0, 1)
    it.line.results.error = BrokerUnavailable("gone")
    assert it.look() == []
    assert it.look() == []
    assert len(it.fetched) == 1
    it.line.results.error, it.line.may_try = None, True
    assert len(it.look()) == 1


def test_what_takes_long_to_read_is_no_failure() -> None:
    """It is asked for again, and nothing pauses."""
    it = Desk()
    first = it.id()
    it.wait(one(first))
    it.end(first, 0, 1)
    it.line.results.error = StillReading("much to read")
    assert it.look() == []
    assert it.line.may_try
    it.line.results.error = None
    assert len(it.look()) == 1


def test_the_backend_learns_once_what_it_will_be_asked_for() -> None:
    """All of it, before the first question."""
    it = Desk()
    many = it.id()
    it.wait(Input([Run(many, 0, 1000)], is_list=True))
    for _ in range(3):
        it.look()
    assert it.line.followed == [[Key(many, index) for index in range(1000)]]


def test_many_are_looked_for_together() -> None:
    """One question for all that is due."""
    it = Desk()
    ids = [it.id() for _ in range(100)]
    for bundle in ids:
        it.wait(one(bundle))
    it.look()
    assert [sorted(keys) for keys in it.fetched] == [sorted(Key(bundle, 0) for bundle in ids)]


def test_where_there_is_no_room_some_go_back() -> None:
    """What they wait for may be behind them."""
    it = Desk()
    holds = [it.wait(one(OTHER, index)) for index in range(waits._MOST)]
    assert it.waits.room == 0
    assert it.waits.rotate(it.time.now) == []
    it.time.now += waits._ROTATE_AFTER
    back = it.waits.rotate(it.time.now)
    assert len(back) == it.waits.room == waits._ROTATED
    assert set(back) < set(holds)
    assert it.waits.rotate(it.time.now) == []


def test_what_was_lost_or_has_ended_waits_no_more() -> None:
    """Others speak for it."""
    it = Desk()
    lost, cancelled, stays = (it.wait(one(it.id())) for _ in range(3))
    lost.delivery.is_lost = True
    it.waits.discard_lost()
    it.waits.discard_ended(lambda part: part.hold is cancelled)
    assert list(it.waits._waits) == [stays]
    it.waits.drain()
    assert it.waits.is_empty


def test_a_hold_waits_once() -> None:
    """However often it is brought."""
    it = Desk()
    first = it.id()
    hold = it.wait(one(first))
    it.waits.add(hold)
    it.end(first, 0, 1)
    assert len(it.look()) == 1


def order(found: Sequence[tuple[Hold, Outcome]]) -> list[Hold]:
    return [hold for hold, _ in found]


def test_one_that_goes_on_lets_others_go_on() -> None:
    """In the same round, each by itself."""
    it = Desk()
    ids = [it.id() for _ in range(3)]
    holds = [it.wait(one(bundle)) for bundle in ids]
    it.end(ids[0], 0, 1)
    it.end(ids[2], 0, 3)
    assert order(it.look()) == [holds[0], holds[2]]
