"""Deliveries that do not become jobs now: they go back to the broker unrun, or wait here to be looked up again."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from queuelib.clock import Clock
from queuelib.errors import BrokerUnavailable
from queuelib.outcome import QUEUED

if TYPE_CHECKING:
    from queuelib.ports import Delivery
    from queuelib.worker.lease import Hold, Holds
    from queuelib.worker.line import Line
    from queuelib.worker.starts import Starts

__all__ = ["Returns"]

_log = logging.getLogger("queuelib.worker")
_LOOK_AGAIN = 1.0  # seconds in which the loop goes its rounds, while a long stream is read on in the background
_MOST_DOUBTFUL = 1000  # deliveries, as of one take
_EARLY = 60.0  # seconds before its due time from which on a message is held here; clocks differ


class Returns:
    """What is to go back, until it has.

    Args:
        line: The connection.
        starts: Where it is stored how often jobs that go back were started.
        pause: Seconds for which a message goes back that cannot be run here yet.
        clock: The clocks.
    """

    def __init__(self, line: Line, starts: Starts, pause: float, clock: Clock) -> None:
        self._line = line
        self._link = line.link
        self._starts = starts
        self._pause = pause
        self._clock = clock
        self._postponed: list[tuple[float, Delivery]] = []  # kept here until a time, where no transport does that
        self._stranded: list[tuple[Sequence[Delivery], float]] = []  # could not be given back yet, and for how long
        self._doubtful: list[Delivery] = []  # to be looked up again, together: what was read for them is of use then
        self._behind: list[Delivery] = []  # to be looked up after those, which would be read for from the start again
        self._look_up_at = 0.0

    def give_back(self, deliveries: Sequence[Delivery], delay: float) -> None:
        """Return deliveries for a while; where that fails and they stay ours, try again until it works.

        They are not run here instead: they may have been returned, and only the answer been lost.
        """
        lane = self._link.lane
        try:
            if lane is not None:
                lane.give_back(deliveries, delay)
        except BrokerUnavailable as error:
            self._line.lose(error)
            if self._link.keeps_claims:
                self._stranded.append((deliveries, delay))

    def postpone(self, messages: Sequence[tuple[Delivery, str]]) -> None:
        """Put off messages that cannot be run here yet, and say why, each on one line."""
        for delivery, reason in messages:
            _log.warning(
                "a message in %s goes back for %g s, for others to run: %s", delivery.color, self._pause, reason
            )
        if messages and self._link.lane is not None and self._link.delays:
            self.give_back([delivery for delivery, _ in messages], self._pause)
        else:
            at = self._clock.monotonic() + self._pause
            self._postponed += [(at, delivery) for delivery, _ in messages]

    def put_off_if_early(self, hold: Hold, now: float) -> bool:
        """Whether a message came long before its time, on the word of its sender alone; then it goes back until then."""
        due = None if hold.bundle.inputs else hold.bundle.due  # it is due once its inputs are there
        if due is None or due - now <= _EARLY or not self._link.delays:
            return False
        self.give_back([hold.delivery], due - now)
        return True

    def retry(self, now: float) -> list[Delivery]:
        """Try again what could not be given back; return what was put off here until now, to be received again."""
        if self._stranded and self._link.may_try:
            stranded, self._stranded = self._stranded, []
            for deliveries, delay in stranded:
                self.give_back(deliveries, delay)
        due = [delivery for at, delivery in self._postponed if at <= now]
        if due:
            self._postponed = [entry for entry in self._postponed if entry[0] > now]
        return due

    @property
    def is_looking_up(self) -> bool:
        """Whether there are deliveries that could not be looked up yet."""
        return bool(self._doubtful or self._behind)

    @property
    def is_full(self) -> bool:
        """Whether these are so many that nothing more should be taken."""
        return len(self._doubtful) + len(self._behind) >= _MOST_DOUBTFUL

    def look_up_later(self, deliveries: Sequence[Delivery]) -> None:
        """Keep what could not be looked up: here, where most of what is to be read for it was read already."""
        if self._doubtful:
            self._behind += deliveries
        elif deliveries:
            self._doubtful = list(deliveries)
            self._look_up_at = self._clock.monotonic() + _LOOK_AGAIN

    def look_up_again(self, now: float) -> list[Delivery]:
        """Return what is to be looked up now, if it is still ours."""
        lane = self._link.lane
        if lane is None or not self._link.may_try or now < self._look_up_at:
            return []
        if not self._doubtful:
            self._doubtful, self._behind = self._behind, []
        lost = self._line.attempt(lane.find_lost, self._doubtful) if self._doubtful else ()
        if lost is None:
            return []
        again, self._doubtful = self._doubtful, []
        return [delivery for delivery in again if delivery not in lost]

    def forget(self) -> None:
        """Forget what waits here: it came over a connection that is gone, and others have it."""
        self._postponed.clear()
        self._doubtful.clear()
        self._behind.clear()

    def _leftovers(self) -> list[Delivery]:
        """Remove and return what waits here."""
        left = [*(delivery for _, delivery in self._postponed), *self._doubtful, *self._behind]
        self.forget()
        return left

    def leave(self, holds: Holds) -> None:
        """Give back what nobody here runs, at the end: what runs may take hours."""
        if self._link.lane is None or not self._link.may_try:
            return
        rest = [hold for hold in holds if hold.is_untouched and not hold.has_handed]
        ours = [hold for hold in rest if not hold.delivery.is_lost]
        self._uncount(ours)
        deliveries = [hold.delivery for hold in ours] + self._leftovers()
        for hold in rest:
            holds.discard(hold.delivery)
        if deliveries:
            self.give_back(deliveries, 0.0)

    def close(self, holds: Iterable[Hold]) -> None:
        """Give back, once, what is here still, and those of these deliveries no job of which has an outcome."""
        lane = self._link.lane
        untouched = [hold for hold in holds if hold.is_untouched]
        whole = [hold.delivery for hold in untouched]
        whole += self._leftovers()
        whole += [delivery for deliveries, _ in self._stranded for delivery in deliveries]
        self._uncount(untouched)
        if whole and lane is not None and self._link.lane is not None:
            self._line.attempt(lane.give_back, whole)

    def _uncount(self, holds: Iterable[Hold]) -> None:
        """Store of jobs that go back how often they were started, where the broker would let them look like a dead one's."""
        jobs = [(hold, at) for hold in holds for at in range(len(hold.bundle.indexes))]
        if jobs and not self._link.keeps_claims:
            self._starts.store(jobs, QUEUED, 0)
