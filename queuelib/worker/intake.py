"""From deliveries to jobs that may start: what cannot be read or run is set aside, what has ended is not run again."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from queuelib import body
from queuelib.clock import Clock
from queuelib.envelope import decode
from queuelib.errors import BadSignature, CannotDecrypt, DecodeError, UnsupportedVersion
from queuelib.ids import Key, job_id
from queuelib.message import queue_of
from queuelib.outcome import QUARANTINED, QUEUED, RUNNING, SCHEDULED, Record
from queuelib.ports import Delivery, QuarantineItem, Settled
from queuelib.recent import Recent
from queuelib.settings import UNKNOWN_DELAY
from queuelib.shown import shown
from queuelib.worker.lease import Hold

if TYPE_CHECKING:
    from queuelib.message import Bundle
    from queuelib.ports import ResultBackend
    from queuelib.signing import Keyring

__all__ = ["Intake", "Taken"]

_MOST_SEEN = 100_000  # at least so many signed messages that a worker remembers, the latest ones


@dataclass(slots=True)
class Taken:
    """What became of a batch of deliveries.

    Attributes:
        holds: Those with jobs to run.
        settled: Those to be settled at once: unreadable, or with no job left.
        postponed: Those to be given back for a while, each with its reason: unknown task, newer version, encrypted and
            no key.
    """

    holds: list[Hold]
    settled: list[Settled]
    postponed: list[tuple[Delivery, str]]


class Intake:
    """Reads deliveries.

    Args:
        tasks: Names of the tasks that are known here.
        colors: Colors that are served here.
        patience: Seconds for which what another worker may be able to run is given back before it is set aside.
        clock: The clocks.
        once: Names of the tasks that must not start a second time: all their starts are marked.
        keys: Who may have signed a message; None: anybody may write one.

    Attributes:
        pause: Seconds for which they are given back each time.
    """

    def __init__(
        self,
        tasks: Collection[str],
        colors: Collection[str],
        patience: float,
        clock: Clock,
        *,
        once: Collection[str] = (),
        keys: Keyring | None = None,
    ) -> None:
        self._tasks = frozenset(tasks)
        self._once = frozenset(once)
        self._colors = frozenset(colors)
        self._patience = patience
        self.pause = min(UNKNOWN_DELAY, patience / 4)  # a short patience is to hold several tries as well
        self._clock = clock
        self._keys = keys
        self._seen = Recent[tuple[bytes, int, int]](_MOST_SEEN)

    def read(self, deliveries: Sequence[Delivery], results: Callable[[], ResultBackend]) -> Taken:
        """Sort deliveries into those to run, to settle and to postpone.

        Raises:
            BrokerUnavailable: A redelivered one had to be looked up, and the result backend did not answer.
        """
        taken = Taken([], [], [])
        bundles = ((delivery, self._bundle(delivery, taken)) for delivery in deliveries)
        holds = [Hold(delivery, bundle) for delivery, bundle in bundles if bundle is not None]
        for hold in holds:
            if hold.bundle.task in self._once and not hold.bundle.inputs:
                hold.starts = dict.fromkeys(range(hold.left), 0)
        doubtful = [hold for hold in holds if hold.delivery.redelivered]
        if self._keys is not None and len(doubtful) < len(holds):
            doubtful += self._replayed([hold for hold in holds if not hold.delivery.redelivered], results())
        if doubtful:
            self._look_up(doubtful, results())
        if self._keys is not None and not results().capabilities.records:
            self._note_seen(holds)  # not before: what could not be looked up now comes once more
        for hold in holds:
            if hold.left:
                taken.holds.append(hold)
            else:
                taken.settled.append(Settled(hold.delivery, is_complete=True))
        return taken

    def _bundle(self, delivery: Delivery, taken: Taken) -> Bundle | None:
        """Return what is in a delivery, or None if it was sorted otherwise."""
        try:
            bundle = decode(delivery.frame, self._keys)
        except BadSignature as error:
            taken.settled.append(self._refuse(delivery, str(error)))
        except (UnsupportedVersion, CannotDecrypt) as error:
            self._postpone(taken, delivery, str(error))
        except DecodeError as error:
            taken.settled.append(self._set_aside(delivery, f"undecodable: {error}"))
        else:
            is_elsewhere = queue_of(bundle) != delivery.color
            if is_elsewhere and self._keys is not None:
                reason = f"it was signed for the color {bundle.color!r} and came by {delivery.color}"
                taken.settled.append(self._refuse(delivery, reason))
            elif bundle.task not in self._tasks and not bundle.inputs:  # anybody can wait
                self._postpone(taken, delivery, f"no worker knows the task {bundle.task!r}")
            elif is_elsewhere and bundle.color not in self._colors:
                taken.settled.append(self._set_aside(delivery, f"it came by {delivery.color} and is {bundle.color!r}"))
            else:
                return bundle
        return None

    def _replayed(self, holds: Sequence[Hold], results: ResultBackend) -> list[Hold]:
        """Return the bundles of whose first job something is known: whoever reads the broker can send them again.

        Those of which all jobs have ended are among them. To ask for each job would cost more than quick ones take; and
        a backend that keeps no record of what was given out has to read for it all that ended since, so that there only
        what was here before is looked up.
        """
        if not results.capabilities.records:
            marks = [_mark_of(hold) for hold in holds]
            holds = [hold for hold, mark in zip(holds, marks, strict=True) if mark in self._seen]
        records = results.fetch([hold.key(0) for hold in holds]) if holds else []
        return [hold for hold, found in zip(holds, records, strict=True) if found is not None and not _waits(found)]

    def _note_seen(self, holds: Sequence[Hold]) -> None:
        self._seen.add(_mark_of(hold) for hold in holds if not hold.delivery.redelivered)

    def _look_up(self, holds: Sequence[Hold], results: ResultBackend) -> None:
        """Drop the jobs that have ended or gone on elsewhere, and count the starts of redelivered ones."""
        places = [(hold, position) for hold in holds for position in range(hold.left)]
        records = results.fetch([hold.key(position) for hold, position in places])
        for (hold, position), record in zip(places, records, strict=True):
            if _is_over(record, hold.bundle.attempt):
                hold.end(position, position + 1)
            elif hold.delivery.redelivered and not hold.bundle.inputs:
                # Without a mark nobody knows whether it had started: it may have, once, unless every start is marked.
                counted = record is not None and record.state in (RUNNING, QUEUED) and record.body
                unmarked = 0 if hold.bundle.task in self._once else 1
                starts = body.starts_in(record.body) if record is not None and counted else unmarked
                if starts:
                    hold.suspect(position, starts)

    def _postpone(self, taken: Taken, delivery: Delivery, reason: str) -> None:
        age = self._clock.wall() - delivery.published
        # A time that no clock can have shown is a forged one, and would wait for ever.
        if not self._patience or not -_SKEW <= age <= self._patience - self.pause:
            taken.settled.append(self._set_aside(delivery, reason))
        else:
            taken.postponed.append((delivery, shown(reason)))

    def _refuse(self, delivery: Delivery, reason: str) -> Settled:
        """Set a message aside and say nothing of the jobs that it names: it need not be theirs."""
        name = f"refused-{uuid.uuid4().hex}"
        item = QuarantineItem(name, delivery.color, f"not to be trusted: {reason}", delivery.frame, self._clock.wall())
        return Settled(delivery, quarantined=[item], is_complete=True)

    def _set_aside(self, delivery: Delivery, reason: str) -> Settled:
        now, reason = self._clock.wall(), shown(reason)
        try:
            bundle = decode(delivery.frame, self._keys)
        except DecodeError:
            item = QuarantineItem(f"unreadable-{uuid.uuid4().hex}", delivery.color, reason, delivery.frame, now)
            return Settled(delivery, quarantined=[item], is_complete=True)
        first = Key(bundle.id, bundle.indexes[0])
        item = QuarantineItem(job_id(*first), delivery.color, reason, delivery.frame, now)
        report = body.of_failure(bundle.task, "", reason)
        records = [Record(Key(bundle.id, i), QUARANTINED, bundle.attempt, report, now) for i in bundle.indexes]
        return Settled(delivery, records, quarantined=[item], is_complete=True, reply=bundle.reply)


_SKEW = 300.0  # seconds that another machine's clock may be ahead of ours


def _mark_of(hold: Hold) -> tuple[bytes, int, int]:
    return hold.bundle.id, hold.bundle.indexes[0], hold.bundle.attempt


def _waits(record: Record) -> bool:
    return record.state in {QUEUED, SCHEDULED} and not record.body


def _is_over(record: Record | None, attempt: int) -> bool:
    # A later attempt is only announced once its message was accepted: see settle.py.
    if record is None or record.is_final or attempt:
        return record is not None and (record.is_final or record.attempt > attempt)
    return record.attempt > attempt and record.at > 0.0  # of what was never run a backend may say so by itself, too
