"""Deliveries that go back: at once, after a while, or as soon as the server answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from queuelib.errors import BrokerUnavailable
from queuelib.outcome import QUEUED
from queuelib.worker.lease import Hold, Holds
from queuelib.worker.returns import Returns
from tests.unit.fakes import BUNDLE_ID, Time, make_bundle, make_delivery

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from queuelib.ports import Delivery

PAUSE = 30.0


class Desk:
    """Returns, and what went back over their connection."""

    def __init__(self, *, delays: bool = True, keeps_claims: bool = True) -> None:
        self.time = Time()
        self.given: list[tuple[list[Delivery], float]] = []
        self.stored: list[tuple[int, str]] = []
        self.is_broken = False
        lane = SimpleNamespace(give_back=self.give_back)
        self.link = SimpleNamespace(lane=lane, delays=delays, keeps_claims=keeps_claims, may_try=True)
        line = SimpleNamespace(link=self.link, lose=self.lose, attempt=lambda operation, *rest: operation(*rest))
        starts = SimpleNamespace(store=self.store)
        self.returns = Returns(cast("Any", line), cast("Any", starts), PAUSE, self.time.clock)

    def give_back(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        if self.is_broken:
            raise BrokerUnavailable("gone")
        self.given.append((list(deliveries), delay))

    def lose(self, error: BrokerUnavailable) -> None:
        self.link.may_try = False

    def store(self, jobs: Iterable[tuple[Hold, int]], state: str, more_starts: int) -> None:
        assert more_starts == 0
        self.stored += [(at, state) for _, at in jobs]


def held(*deliveries: Delivery) -> Holds:
    """Return these in hand, with two jobs each."""
    holds = Holds()
    for number, delivery in enumerate(deliveries):
        holds.add(Hold(delivery, make_bundle(2, id=bytes([number]) + BUNDLE_ID[1:])))
    return holds


def test_what_cannot_be_run_here_yet_goes_back_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    """Where the transport holds it back until then; the log says why."""
    it, delivery = Desk(), make_delivery()
    it.returns.postpone([(delivery, "why")])
    assert caplog.messages == [f"a message in yellow goes back for {PAUSE:g} s, for others to run: why"]
    assert it.given == [([delivery], PAUSE)]
    assert it.returns.retry(it.time.now + PAUSE) == []


def test_many_go_back_together() -> None:
    """One by one they would take the time of a round trip each."""
    it, deliveries = Desk(), [make_delivery(), make_delivery()]
    it.returns.postpone([(delivery, "why") for delivery in deliveries])
    assert it.given == [(deliveries, PAUSE)]
    it.returns.postpone([])
    assert len(it.given) == 1


def test_it_waits_here_where_the_transport_holds_nothing_back() -> None:
    """And is received again once, when its time has come."""
    it, delivery = Desk(delays=False), make_delivery()
    it.returns.postpone([(delivery, "why")])
    assert it.given == []
    assert it.returns.retry(it.time.now + PAUSE - 0.1) == []
    assert it.returns.retry(it.time.now + PAUSE) == [delivery]
    assert it.returns.retry(it.time.now + PAUSE) == []


def test_what_waits_here_is_forgotten_with_its_connection() -> None:
    """Others have it then."""
    it = Desk(delays=False)
    it.returns.postpone([(make_delivery(), "why")])
    it.returns.forget()
    assert it.returns.retry(it.time.now + PAUSE) == []


def test_what_comes_early_goes_back_until_it_is_due() -> None:
    """Less than a minute is waited for here: clocks differ."""
    it = Desk()
    early, soon, now = (make_bundle(due=it.time.now + wait) for wait in (100.0, 50.0, -1.0))
    holds = [Hold(make_delivery(bundle), bundle) for bundle in (early, soon, now)]
    assert [it.returns.put_off_if_early(hold, it.time.now) for hold in holds] == [True, False, False]
    assert it.given == [([holds[0].delivery], 100.0)]


def test_what_could_not_go_back_is_tried_again_where_claims_outlive_the_failure() -> None:
    """Not before the pause is over, and until it works; else others have it already."""
    for keeps_claims in (True, False):
        it, delivery = Desk(keeps_claims=keeps_claims), make_delivery()
        it.is_broken = True
        it.returns.give_back([delivery], 1.0)
        it.is_broken = False
        it.returns.retry(it.time.now)
        assert it.given == []
        it.link.may_try = True
        it.returns.retry(it.time.now)
        it.returns.retry(it.time.now)
        assert it.given == ([([delivery], 1.0)] if keeps_claims else [])


def test_at_the_end_only_what_nobody_runs_goes_back() -> None:
    """With what waits here; what others have by now is let go of in silence."""
    it = Desk(delays=False, keeps_claims=False)
    running, waiting, lost, postponed = (make_delivery() for _ in range(4))
    holds = held(running, waiting, lost)
    running_hold = holds.of_delivery(running)
    assert running_hold is not None
    running_hold.hand(0, 1)
    lost.is_lost = True
    it.returns.postpone([(postponed, "why")])
    it.returns.leave(holds)
    assert it.given == [([waiting, postponed], 0.0)]
    assert it.stored == [(0, QUEUED), (1, QUEUED)]
    assert [hold.delivery for hold in holds] == [running]


def test_the_last_call_takes_all_that_is_whole() -> None:
    """Also what could not go back before; a delivery of which a job has ended is not whole."""
    it = Desk()
    stranded, touched, whole = (make_delivery() for _ in range(3))
    it.is_broken = True
    it.returns.give_back([stranded], 1.0)
    it.is_broken = False
    holds = held(touched, whole)
    touched_hold = holds.of_delivery(touched)
    assert touched_hold is not None
    touched_hold.end(0, 1)
    it.returns.close(holds)
    assert it.given == [([whole, stranded], 0.0)]
