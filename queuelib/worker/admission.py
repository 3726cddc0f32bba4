"""Into the short lists: deliveries that were taken, once it is clear what they are, and jobs that come back unstarted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from queuelib.clock import Clock
from queuelib.errors import BrokerUnavailable
from queuelib.message import queue_of
from queuelib.ports import Delivery, Settled, StillReading

if TYPE_CHECKING:
    from queuelib.worker.books import Books
    from queuelib.worker.desks import Desks
    from queuelib.worker.intake import Intake
    from queuelib.worker.lease import Hold, Holds, Part
    from queuelib.worker.line import Line
    from queuelib.worker.pace import Pace
    from queuelib.worker.plan import Plan
    from queuelib.worker.returns import Returns
    from queuelib.worker.staff import Staff
    from queuelib.worker.starts import Starts
    from queuelib.worker.waits import Waits

__all__ = ["Admission"]


@dataclass(slots=True)
class Admission:
    """Lets jobs in.

    Args:
        plan: The worker's colors, most urgent first.
        line: The connection that deliveries came over.
        intake: Reads them.
        holds: Those that are in hand.
        desks: Where their jobs wait for a child.
        waits: Where they wait for results of others.
        starts: Whether those that were started before may start again.
        staff: Whom less urgent jobs are recalled from.
        returns: Where deliveries go that cannot be let in now.
        books: Where outcomes of jobs are entered that will not run.
        pace: Learns how large bundles are.
        clock: The clocks.
    """

    plan: Plan
    line: Line
    intake: Intake
    holds: Holds
    desks: Desks
    waits: Waits
    starts: Starts
    staff: Staff
    returns: Returns
    books: Books
    pace: Pace
    clock: Clock

    def receive(self, deliveries: Sequence[Delivery]) -> None:
        """Let in what was taken; what has to be looked up waits for that, where others wait already."""
        if self.returns.is_looking_up:
            self.returns.look_up_later([delivery for delivery in deliveries if delivery.redelivered])
            deliveries = [delivery for delivery in deliveries if not delivery.redelivered]
        if deliveries:
            self.read(deliveries)

    def read(self, deliveries: Sequence[Delivery]) -> None:
        """Let in what was taken, and look up now what was delivered before."""
        link = self.line.link
        lane = link.lane
        try:
            taken = self.intake.read(deliveries, lambda: link.results)
        except BrokerUnavailable as error:
            doubtful = [delivery for delivery in deliveries if delivery.redelivered] or deliveries
            self.returns.look_up_later(doubtful)
            if not isinstance(error, StillReading):
                self.line.lose(error, spares_lane=True)
            if len(doubtful) < len(deliveries) and link.lane is not None:
                self.read([delivery for delivery in deliveries if not delivery.redelivered])
            return
        self.books.add(taken.settled)
        self.returns.postpone(taken.postponed)
        ready = self.desks.ready
        was_waiting = {color for color in self.plan.colors if ready.count_of(color)}
        now = self.clock.wall()
        bundles: dict[str, list[int]] = {}
        for hold in taken.holds:
            if link.lane is not lane:
                _lose(deliveries)  # while one of them was given back
                break
            if self.returns.put_off_if_early(hold, now):
                continue
            bundles.setdefault(queue_of(hold.bundle), []).append(hold.left)
            if len(self.desks.each) > 1:
                self.desks.took(hold.bundle)
            if not self._is_here_already(hold, now):
                self.holds.add(hold)
                self._admit(hold, now)
        for color, sizes in bundles.items():
            self.pace.took(color, sum(sizes) / len(sizes))
        self._make_way(was_waiting)

    def put_back(self, parts: list[Part]) -> None:
        """Return jobs that did not start, or are to start anew, to the short lists."""
        if not parts:
            return
        self.starts.unmark(parts)
        waiting = [one for part in parts for one in part.hold.put_back(part)]
        self.desks.ready.put_back([part for part in waiting if not part.hold.delivery.is_lost])

    def _is_here_already(self, new: Hold, now: float) -> bool:
        """Whether jobs run here by another delivery, which then answers for this one too: nothing is started twice.

        The connection was lost and the broker delivers again, or the same message was sent twice.
        """
        for hold in self.holds.of_bundle(new.bundle.id):
            if hold.is_same(new.bundle):
                was_lost, old = hold.delivery.is_lost, self.holds.adopt(hold, new.delivery)
                self.books.readdress(old, new.delivery)
                left, has_news = hold.left, hold.learn(new)
                if left and not hold.left:
                    self.books.add([Settled(hold.delivery, is_complete=True)])
                if was_lost:
                    # It may be in there still, where it was lost without the connection.
                    self.desks.ready.discard(hold, now)
                    self._admit(hold, now)
                else:
                    self.books.add([Settled(old, is_complete=True)])
                    if has_news:
                        self.desks.ready.discard(hold, now)
                        self._admit(hold, now)
                return True
            if hold.overlaps(new.bundle):
                new.delivery.redelivered = True  # by then some of its jobs may have ended here
                self.returns.look_up_later([new.delivery])
                return True
        return False

    def _admit(self, hold: Hold, now: float) -> None:
        if hold.bundle.inputs:
            self.waits.add(hold)
            return
        for part in hold.waiting():
            starts = hold.starts[part.at] if part.is_suspect else 0
            outcome = self.starts.before(hold, starts) if starts else None
            if outcome is None:
                self.desks.ready.add(part, now)
            else:
                self.books.end(hold, part.at, outcome)

    def _make_way(self, was_waiting: set[str]) -> None:
        """Recall less urgent jobs when a color begins to wait that is more urgent than they."""
        names, ready = self.plan.palette.names, self.desks.ready
        new = [names.index(c) for c in self.plan.colors if c not in was_waiting and ready.count_of(c)]
        if new:
            self.put_back(self.staff.recall_below(min(new)))


def _lose(deliveries: Sequence[Delivery]) -> None:
    for delivery in deliveries:
        delivery.is_lost = True
