"""From deliveries to jobs that may start: what cannot be read or run is set aside, what has ended is not run again."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from queuelib import body
from queuelib.clock import Clock
from queuelib.envelope import decode
from queuelib.errors import DecodeError, UnsupportedVersion
from queuelib.ids import Key, job_id
from queuelib.outcome import QUARANTINED, QUEUED, RUNNING, Record
from queuelib.ports import Delivery, QuarantineItem, Settled
from queuelib.settings import UNKNOWN_DELAY
from queuelib.worker.lease import Hold

if TYPE_CHECKING:
    from queuelib.ports import ResultBackend

__all__ = ["Intake", "Taken"]


@dataclass(slots=True)
class Taken:
    """What became of a batch of deliveries.

    Attributes:
        holds: Those with jobs to run.
        settled: Those to be settled at once: unreadable, or with no job left.
        postponed: Those to be given back for a while: unknown task, newer version.
    """

    holds: list[Hold]
    settled: list[Settled]
    postponed: list[Delivery]


class Intake:
    """Reads deliveries.

    Args:
        tasks: Names of the tasks that are known here.
        colors: Colors that are served here.
        patience: Seconds for which an unknown task or version is given back before it is set aside.
        clock: The clocks.

    Attributes:
        pause: Seconds for which they are given back each time.
    """

    def __init__(self, tasks: Collection[str], colors: Collection[str], patience: float, clock: Clock) -> None:
        self._tasks = frozenset(tasks)
        self._colors = frozenset(colors)
        self._patience = patience
        self.pause = min(UNKNOWN_DELAY, patience / 4)  # a short patience is to hold several tries as well
        self._clock = clock

    def read(self, deliveries: Sequence[Delivery], results: Callable[[], ResultBackend]) -> Taken:
        """Sort deliveries into those to run, to settle and to postpone.

        Raises:
            BrokerUnavailable: A redelivered one had to be looked up, and the result backend did not answer.
        """
        taken = Taken([], [], [])
        holds: list[Hold] = []
        for delivery in deliveries:
            try:
                bundle = decode(delivery.frame)
            except UnsupportedVersion as error:
                self._postpone(taken, delivery, str(error))
                continue
            except DecodeError as error:
                taken.settled.append(self._set_aside(delivery, f"undecodable: {error}"))
                continue
            if bundle.task not in self._tasks:
                self._postpone(taken, delivery, f"no worker knows the task {bundle.task!r}")
                continue
            if bundle.color != delivery.color and bundle.color not in self._colors:
                taken.settled.append(self._set_aside(delivery, f"it came by {delivery.color} and is {bundle.color!r}"))
                continue
            holds.append(Hold(delivery, bundle))
        redelivered = [hold for hold in holds if hold.delivery.redelivered]
        if redelivered:
            self._look_up(redelivered, results())
        for hold in holds:
            if hold.left:
                taken.holds.append(hold)
            else:
                taken.settled.append(Settled(hold.delivery, is_complete=True))
        return taken

    def _look_up(self, redelivered: Sequence[Hold], results: ResultBackend) -> None:
        """Drop the jobs of redelivered bundles that have ended or gone on elsewhere, and count their starts."""
        places = [(hold, position) for hold in redelivered for position in range(hold.left)]
        records = results.fetch([hold.key(position) for hold, position in places])
        for (hold, position), record in zip(places, records, strict=True):
            if _is_over(record, hold.bundle.attempt):
                hold.end(position, position + 1)
            else:
                # Without a mark nobody knows whether it had started: it may have, once.
                counted = record is not None and record.state in (RUNNING, QUEUED) and record.body
                starts = body.starts_in(record.body) if record is not None and counted else 1
                if starts:
                    hold.suspect(position, starts)

    def _postpone(self, taken: Taken, delivery: Delivery, reason: str) -> None:
        age = self._clock.wall() - delivery.published
        if not self._patience or age + self.pause > self._patience:
            taken.settled.append(self._set_aside(delivery, reason))
        else:
            taken.postponed.append(delivery)

    def _set_aside(self, delivery: Delivery, reason: str) -> Settled:
        now = self._clock.wall()
        try:
            bundle = decode(delivery.frame)
        except DecodeError:
            item = QuarantineItem(f"unreadable-{uuid.uuid4().hex}", delivery.color, reason, delivery.frame, now)
            return Settled(delivery, quarantined=[item], is_complete=True)
        first = Key(bundle.id, bundle.indexes[0])
        item = QuarantineItem(job_id(*first), delivery.color, reason, delivery.frame, now)
        report = body.of_failure(bundle.task, "", reason)
        records = [Record(Key(bundle.id, i), QUARANTINED, bundle.attempt, report, now) for i in bundle.indexes]
        return Settled(delivery, records, quarantined=[item], is_complete=True, reply=bundle.reply)


def _is_over(record: Record | None, attempt: int) -> bool:
    # A later attempt is only announced once its message was accepted: see settle.py.
    return record is not None and (record.is_final or record.attempt > attempt)
