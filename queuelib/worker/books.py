"""Outcomes from the moment they are heard until they are written, however often that takes: nothing of them is dropped."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from queuelib import faults
from queuelib.clock import Clock
from queuelib.errors import BrokerUnavailable, DecodeError, TooLarge
from queuelib.outcome import SUCCEEDED, Outcome, Record
from queuelib.ports import Delivery, Settled, StillReading
from queuelib.worker.children import Report, Successes
from queuelib.worker.pace import QUICK, Pace
from queuelib.worker.settle import Ledger, forget_accepted, write

if TYPE_CHECKING:
    from queuelib.ports import Lane
    from queuelib.worker.lease import Hold, Holds
    from queuelib.worker.line import Line

__all__ = ["Books"]

_log = logging.getLogger("queuelib.worker")
_SETTLE_EVERY = 0.020  # what quick jobs lose at most when the worker dies is run again in as little time


class Books:
    """The outcomes that are not written yet.

    Args:
        line: The connection.
        holds: What is in hand; a delivery is let go of once all that became of it is written.
        pace: Learns how long jobs took.
        name: The worker, as the records say who ran a job.
        clock: The clocks.

    Attributes:
        finished: How many jobs ended here.
    """

    def __init__(self, line: Line, holds: Holds, pace: Pace, name: str, clock: Clock) -> None:
        self.finished = 0
        self._line = line
        self._link = line.link
        self._holds = holds
        self._pace = pace
        self._name = name
        self._clock = clock
        self._ledger = Ledger(clock, line.link.keys)
        self._unsettled: list[Settled] = []
        self._is_pressing = False  # an outcome is in the ledger that must not wait
        self._is_in_doubt = False  # what is unsettled may have been written: only the answer was lost
        self._settle_at = 0.0
        self._ran_by: dict[int, str] = {}

    @property
    def is_empty(self) -> bool:
        """Whether all is written."""
        return not self._unsettled and not self._ledger

    # What is entered.

    def enter(self, reports: Sequence[Successes | Report]) -> None:
        """Enter what children reported, and note how long it took: of jobs of one task in a row by their mean."""
        task, color, seconds, count = "", "", 0.0, 0
        for report in reports:
            hold = report.hold
            bundle = hold.bundle
            if bundle.task != task or bundle.color != color:
                self._note_pace(task, color, seconds, count)
                task, color, seconds, count = bundle.task, bundle.color, 0.0, 0
            seconds += report.elapsed
            if isinstance(report, Successes):
                ran_by = self._ran_by.get(report.pid) or self._name_of(report.pid)
                at, number, data = report.at, report.count, report.data
                self.finished += self._ledger.succeed(hold, at, number, data, report.elapsed, ran_by)
                count += number
            else:
                self.end(hold, report.at, report.outcome)
                count += 1
        self._note_pace(task, color, seconds, count)

    def end(self, hold: Hold, at: int, outcome: Outcome) -> None:
        """Enter how one job ended, unless it had ended before."""
        if self._ledger.add(hold, at, outcome):
            self.finished += 1

    def add(self, settled: Iterable[Settled]) -> None:
        """Enter what is to be written of deliveries that are not in hand."""
        self._unsettled += settled

    def readdress(self, old: Delivery, new: Delivery) -> None:
        """Have all that was entered of one delivery said of another one, which its hold has adopted."""
        self._unsettled += self._ledger.take_all()
        for entry in self._unsettled:
            if entry.delivery is old:
                entry.delivery = new

    def unwritten(self) -> set[Delivery]:
        """Return of which deliveries something is not written yet."""
        return self._ledger.deliveries() | {entry.delivery for entry in self._unsettled}

    def _note_pace(self, task: str, color: str, seconds: float, count: int) -> None:
        if count:
            self._pace.ran(task, color, seconds / count, count)
            self._is_pressing = self._is_pressing or seconds / count > QUICK

    def _name_of(self, pid: int) -> str:
        """Return who ran what a child reports, as the records say it."""
        if len(self._ran_by) > 1000:  # noqa: PLR2004 - far more children than live at once
            self._ran_by.clear()
        name = self._ran_by[pid] = f"{self._name}/{pid or os.getpid()}"
        return name

    # What is written.

    def may_wait(self) -> bool:
        """Whether outcomes of quick jobs, and of no others, wait a moment for each other."""
        return bool(self._ledger) and not self._is_pressing and self._clock.monotonic() < self._settle_at

    def rest(self, now: float) -> float:
        """Return the seconds until what waits is to be written."""
        return self._settle_at - now if self._ledger else float("inf")

    def settle(self) -> bool:
        """Write all that was entered if the server may be asked; return whether some of it turned out to be lost."""
        self._is_pressing = False
        self._settle_at = self._clock.monotonic() + _SETTLE_EVERY
        if self._ledger:
            self._unsettled += self._ledger.take_all()
        if not self._unsettled or not self._link.may_try:
            return False
        batch, self._unsettled = self._unsettled, []
        ours = [entry for entry in batch if not entry.delivery.is_lost]
        if len(ours) < len(batch):
            self._settle_lost([entry for entry in batch if entry.delivery.is_lost])
        lane = self._link.lane
        if not ours or lane is None or not self._are_new(ours):
            self._unsettled = ours + self._unsettled
            return False
        try:
            self._write(ours, lane)
        except BrokerUnavailable as error:
            self._line.lose(error)
            self._unsettled = ours + self._unsettled
            return False
        self._link.recovered()
        are_lost = False
        for entry in ours:
            if entry.is_complete:
                self._holds.discard(entry.delivery)
            elif entry.delivery.is_lost:
                self._reopen(entry, [record for record in entry.records if record.state != SUCCEEDED])
            are_lost = are_lost or entry.delivery.is_lost
        return are_lost

    def close(self, holds: Iterable[Hold]) -> None:
        """Write what can be written, once; the jobs of these that have no outcome go on as messages of their own."""
        self._unsettled += self._ledger.take_all()
        ours = [entry for entry in self._unsettled if not entry.delivery.is_lost]
        rest = list(self._remainders(holds))
        if not self._are_new(ours):  # then they are done once more rather than not at all
            ours = [entry for entry in ours if not entry.successors]
        if (ours or rest) and self._link.lane is not None:
            self._line.attempt(self._write, ours, self._link.lane, rest)

    def _remainders(self, holds: Iterable[Hold]) -> Iterator[Settled]:
        """Return entries that have the jobs without an outcome go on, of deliveries of which others have one."""
        for hold in holds:
            if hold.left and not hold.is_untouched:
                try:
                    remainder = hold.remainder(self._link.keys)
                except (DecodeError, TooLarge) as error:  # whoever gets it reads what ended of it
                    _log.warning(
                        "the rest of a message in %s cannot be cut out of it, so it stays with the broker: %s",
                        hold.bundle.color,
                        error,
                    )
                    continue
                yield Settled(hold.delivery, successors=[remainder], is_complete=True, reply=hold.bundle.reply)

    def _are_new(self, batch: list[Settled]) -> bool:
        """Take from a batch what stands already, if it may; return False where nobody says whether it does."""
        if not self._is_in_doubt:
            return True
        try:
            forget_accepted(batch, self._link.results)
        except StillReading:
            return False
        except BrokerUnavailable as error:
            self._line.lose(error, spares_lane=True)
            return False
        return True

    def _write(self, batch: list[Settled], lane: Lane, remainders: Sequence[Settled] = ()) -> None:
        self._is_in_doubt = True
        if faults.ACTIVE:
            faults.point("before_settle")
        write([*batch, *remainders] if remainders else batch, lane, self._link.results, self._link.door)
        if faults.ACTIVE:
            faults.point("after_settle")
        self._is_in_doubt = False

    def _settle_lost(self, batch: Sequence[Settled]) -> None:
        """Store the successes of deliveries that another worker speaks for; what cannot be stored now is kept.

        It is not dropped then: should the message come back to this worker first, it need not run again.
        """
        for at, entry in enumerate(batch):
            successes = [record for record in entry.records if record.state == SUCCEEDED]
            if successes and self._line.ask(self._link.results.store, successes, entry.reply) is None:
                self._unsettled += batch[at:]
                return
            if entry.is_complete:
                self._holds.discard(entry.delivery)
            else:
                self._reopen(entry, [record for record in entry.records if record.state != SUCCEEDED])

    def _reopen(self, entry: Settled, dropped: Iterable[Record]) -> None:
        """Note that outcomes were written nowhere: should the message come back here, their jobs run again."""
        hold = self._holds.of_delivery(entry.delivery)
        if hold is not None:
            for key in [key for record in dropped for key in record.keys]:
                hold.reopen(key.index)
