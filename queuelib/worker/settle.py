"""From outcomes to what the broker and the result backend are told: one match, one door."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from queuelib import body
from queuelib.bundle import outgoing, part
from queuelib.clock import Clock
from queuelib.ids import job_id
from queuelib.outcome import (
    FAILED,
    QUARANTINED,
    RETRYING,
    SUCCEEDED,
    Again,
    Done,
    Failed,
    NotRun,
    Outcome,
    Quarantined,
    Record,
)
from queuelib.ports import QuarantineItem, Settled
from queuelib.retry import delay_before

if TYPE_CHECKING:
    from queuelib.ports import Lane, ResultBackend, Settlement
    from queuelib.worker.lease import Hold, Member

__all__ = ["Ledger", "write"]

_log = logging.getLogger("queuelib.worker")


class Ledger:
    """Collects the outcomes of one round into one entry a delivery."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: dict[Hold, Settled] = {}

    def __bool__(self) -> bool:
        return bool(self._entries)

    def add(self, member: Member, outcome: Outcome) -> str:
        """Enter the outcome of a job; return the state it leads to."""
        hold, now = member.hold, self._clock.wall()
        if hold.pending.pop(member.position, None) is None:
            return ""  # it has ended already: a second run of the same job reported
        entry = self._entries.setdefault(hold, hold.settled())
        entry.is_complete = not hold.pending
        attempt, key = member.bundle.attempt, member.key
        match outcome:
            case Done(result):
                record = Record(key, SUCCEEDED, attempt, result, now)
            case Again(delay, report) if attempt <= member.bundle.limits.retries:
                wait = delay_before(attempt + 1, member.bundle.limits) if delay is None else delay
                successor = part(member.bundle, [member.position], attempt=attempt + 1, due=now + wait, deaths=0)
                entry.successors.append(outgoing(successor, is_successor=True))
                record = Record(key, RETRYING, attempt + 1, report, now)
            case Again(_, report) | Failed(report):
                record = Record(key, FAILED, attempt, report, now)
            case NotRun(state):
                record = Record(key, state, attempt, b"", now)
            case Quarantined(reason):
                frame = outgoing(replace(part(member.bundle, [member.position]), due=None, deaths=0)).frame
                entry.quarantined.append(QuarantineItem(job_id(*key), member.bundle.color, reason, frame, now))
                report = body.of_failure(member.bundle.task, "", reason)
                record = Record(key, QUARANTINED, attempt, report, now)
        entry.records.append(record)
        return record.state

    def take_all(self) -> list[Settled]:
        """Return the entries, and start anew."""
        entries = list(self._entries.values())
        self._entries.clear()
        return entries


def write(batch: Sequence[Settled], lane: Lane, results: ResultBackend, door: Settlement | None) -> None:
    """Store, publish successors, then acknowledge; in one step where there is a door for it.

    Raises:
        BrokerUnavailable: A server did not answer; the batch may be written again.
    """
    if door is not None:
        lost = [entry for entry, is_ours in zip(batch, door.settle(batch), strict=True) if not is_ours]
    else:
        lost = _write_in_order(batch, lane, results)
    if lost:
        _log.warning("%d deliveries belonged to another worker by the time they were settled", len(lost))


def _write_in_order(batch: Sequence[Settled], lane: Lane, results: ResultBackend) -> list[Settled]:
    by_reply: dict[str, list[Record]] = {}
    for entry in batch:
        by_reply.setdefault(entry.reply, []).extend(entry.records)
    for reply, records in by_reply.items():
        if records:
            results.store(records, reply)
    items = [item for entry in batch for item in entry.quarantined]
    if items:
        results.quarantine(items)
    successors = [frame for entry in batch for frame in entry.successors]
    if successors:
        lane.publish(successors, _PUBLISH_DEADLINE)
    complete = {entry.delivery: entry for entry in batch if entry.is_complete}
    if not complete:
        return []
    return [complete[delivery] for delivery in lane.acknowledge(list(complete)) if delivery in complete]


_PUBLISH_DEADLINE = 5.0
