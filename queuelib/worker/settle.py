"""From outcomes to what the broker and the result backend are told: one match, one door."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from queuelib import body, faults
from queuelib.bundle import outgoing, part
from queuelib.clock import Clock
from queuelib.codec import encoded_list, joined_list, split_list
from queuelib.errors import BrokerUnavailable, DecodeError, SubmitUnknown, TooLarge
from queuelib.ids import Key, job_id
from queuelib.outcome import (
    FAILED,
    QUARANTINED,
    RETRYING,
    SUCCEEDED,
    Again,
    Failed,
    Inherited,
    NotRun,
    Outcome,
    Quarantined,
    Record,
    Released,
)
from queuelib.ports import QuarantineItem, Settled
from queuelib.retry import delay_before
from queuelib.shown import shown

if TYPE_CHECKING:
    from queuelib.message import Outgoing
    from queuelib.ports import Delivery, Lane, ResultBackend, Settlement
    from queuelib.signing import Keyring
    from queuelib.worker.lease import Hold

__all__ = ["Ledger", "forget_accepted", "write"]

_log = logging.getLogger("queuelib.worker")


class _Run:
    """Successes of one delivery that follow each other: they become one record."""

    __slots__ = ("at", "count", "data", "ran_by", "seconds")

    def __init__(self, at: int, ran_by: str) -> None:
        self.at = at
        self.ran_by = ran_by
        self.count = 0
        self.data: list[bytes] = []
        self.seconds = 0.0


class _Entry:
    """What one delivery asks to be written so far."""

    __slots__ = ("quarantined", "records", "run", "successors")

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.successors: Sequence[Outgoing] = ()
        self.quarantined: Sequence[QuarantineItem] = ()
        self.run: _Run | None = None


class Ledger:
    """Collects the outcomes of some rounds into one entry a delivery; what it makes frames of is signed by `keys`."""

    def __init__(self, clock: Clock, keys: Keyring | None = None) -> None:
        self._clock = clock
        self._keys = keys
        self._entries: dict[Hold, _Entry] = {}
        self._singles: list[Settled] = []

    def __bool__(self) -> bool:
        return bool(self._entries or self._singles)

    def succeed(self, hold: Hold, at: int, count: int, data: bytes, seconds: float, ran_by: str) -> int:  # noqa: PLR0917
        """Enter jobs that returned, one after the other; return how many had not ended before.

        Args:
            hold: Their delivery.
            at: Position of the first one.
            count: How many.
            data: Their encoded results, one after the other.
            seconds: How long they ran in all.
            ran_by: Worker and process.
        """
        if not hold.end(at, at + count):
            return self._succeed_apart(hold, at, count, data, seconds, ran_by)
        if count == 1 and not hold.left and hold not in self._entries:  # most deliveries are of one job
            record = self._single(hold, at, data, seconds, ran_by)
            self._singles.append(Settled(hold.delivery, (record,), is_complete=True, reply=hold.bundle.reply))
            return 1
        entry = self._entry(hold)
        run = entry.run
        if run is None or run.at + run.count != at or run.ran_by != ran_by:
            self._close_run(hold, entry)
            run = entry.run = _Run(at, ran_by)
        run.count += count
        run.data.append(data)
        run.seconds += seconds
        return count

    def _succeed_apart(self, hold: Hold, at: int, count: int, data: bytes, seconds: float, ran_by: str) -> int:  # noqa: PLR0917
        """Enter those that have not ended already, where a second run of some of the jobs reported."""
        each, entered = seconds / count, 0
        for place, result in enumerate(split_list(joined_list(count, data), count), at):
            if not hold.has_ended(place):
                entered += self.succeed(hold, place, 1, result, each, ran_by)
            elif place in hold.elsewhere:
                record = self._single(hold, place, result, each, ran_by)
                self._singles.append(Settled(hold.delivery, (record,), reply=hold.bundle.reply))
        return entered

    def add(self, hold: Hold, at: int, outcome: Outcome) -> str:
        """Enter the outcome of a job; return the state it leads to, or nothing if it had ended before."""
        if hold.has_ended(at):
            return ""
        now, bundle = self._clock.wall(), hold.bundle
        successor: Outgoing | None = None
        item: QuarantineItem | None = None
        try:
            record, successor, item = self._made(hold, at, outcome, now)
        except (DecodeError, TooLarge) as error:  # the column cannot be cut, or its retry is a little too large to send
            record = Record(hold.key(at), FAILED, bundle.attempt, body.of_error(bundle.task, error), now)
        # From here on nothing raises: a job is over only where its record is in the entry.
        hold.end(at, at + 1)
        entry = self._entry(hold)
        entry.records.append(record)
        if successor is not None:
            entry.successors = [*entry.successors, successor]
        if item is not None:
            entry.quarantined = [*entry.quarantined, item]
        return record.state

    def deliveries(self) -> set[Delivery]:
        """Return of which deliveries there are entries."""
        return {hold.delivery for hold in self._entries} | {entry.delivery for entry in self._singles}

    def take_all(self) -> list[Settled]:
        """Return the entries, and start anew."""
        settled, self._singles = self._singles, []
        for hold, entry in self._entries.items():
            self._close_run(hold, entry)
            is_complete = not hold.left
            settled.append(
                Settled(
                    hold.delivery,
                    entry.records,
                    entry.successors,
                    entry.quarantined,
                    is_complete,
                    hold.bundle.reply,
                )
            )
        self._entries.clear()
        return settled

    def _entry(self, hold: Hold) -> _Entry:
        entry = self._entries.get(hold)
        if entry is None:
            entry = self._entries[hold] = _Entry()
        return entry

    def _made(
        self, hold: Hold, at: int, outcome: Outcome, now: float
    ) -> tuple[Record, Outgoing | None, QuarantineItem | None]:
        """Return the record of an outcome, the message of its retry and what is set aside, where there are any."""
        bundle, key = hold.bundle, hold.key(at)
        attempt = bundle.attempt
        match outcome:
            case bytes():
                return Record(key, SUCCEEDED, attempt, body.of_result(bundle.task, outcome), now), None, None
            case Again(delay, report) if attempt <= bundle.limits.retries:
                wait = delay_before(attempt + 1, bundle.limits) if delay is None else delay
                successor = part(bundle, [at], attempt=attempt + 1, due=now + wait, deaths=0)
                frame = outgoing(successor, self._keys, is_successor=True)
                return Record(key, RETRYING, attempt + 1, report, now), frame, None
            case Released(column):
                whole = bundle._replace(column=column, inputs=(), attempt=attempt + 1)
                return (
                    Record(key, RETRYING, attempt + 1, b"", now),
                    outgoing(whole, self._keys, is_successor=True),
                    None,
                )
            case Inherited(state, report):
                return Record(key, state, attempt, report, now), None, None
            case Again(_, report) | Failed(report):
                return Record(key, FAILED, attempt, report, now), None, None
            case NotRun(state):
                return Record(key, state, attempt, b"", now), None, None
            case Quarantined(reason):
                alone = outgoing(part(bundle, [at], due=None, deaths=0), self._keys)
                item = QuarantineItem(job_id(*key), bundle.color, shown(reason), alone.frame, now)
                why = body.of_failure(bundle.task, "", reason)
                return Record(key, QUARANTINED, attempt, why, now), None, item

    def _close_run(self, hold: Hold, entry: _Entry) -> None:
        """Turn the successes in a row into records: as few as their indexes and their size allow."""
        run, entry.run = entry.run, None
        if run is None:
            return
        now, bundle = self._clock.wall(), hold.bundle
        mean = run.seconds / run.count
        column = joined_list(run.count, b"".join(run.data))
        if len(column) <= _RECORD_BYTES and _are_consecutive(bundle.indexes, run.at, run.count):
            spans = [(run.at, run.count, column)]
        else:
            spans = _spans(bundle.indexes, run.at, split_list(column, run.count))
        for at, count, results in spans:
            if count == 1:
                entry.records.append(self._single(hold, at, split_list(results, 1)[0], mean, run.ran_by))
            else:
                data = body.of_result(bundle.task, results, run.ran_by, mean)
                entry.records.append(Record(hold.key(at), SUCCEEDED, bundle.attempt, data, now, count))

    def _single(self, hold: Hold, at: int, result: bytes, seconds: float, ran_by: str) -> Record:
        bundle = hold.bundle
        data = body.of_result(bundle.task, result, ran_by, seconds)
        return Record(Key(bundle.id, bundle.indexes[at]), SUCCEEDED, bundle.attempt, data, self._clock.wall())


def _are_consecutive(indexes: Sequence[int], at: int, count: int) -> bool:
    return indexes[at + count - 1] - indexes[at] == count - 1


def _spans(indexes: Sequence[int], at: int, results: Sequence[bytes]) -> list[tuple[int, int, bytes]]:
    """Return position, count and encoded list of jobs whose indexes follow each other and that fit into one record."""
    spans: list[tuple[int, int, bytes]] = []
    first = size = 0
    for place, result in enumerate(results):
        is_gap = place > first and not _are_consecutive(indexes, at + place - 1, 2)
        if place > first and (is_gap or size + len(result) > _RECORD_BYTES):
            spans.append((at + first, place - first, encoded_list(results[first:place])))
            first, size = place, 0
        size += len(result)
    return [*spans, (at + first, len(results) - first, encoded_list(results[first:]))]


def forget_accepted(batch: Sequence[Settled], results: ResultBackend) -> None:
    """Take from a batch that may have been written the successors that stand: they would be accepted a second time.

    Raises:
        BrokerUnavailable: The result backend did not answer; the batch is as it was, or less.
    """
    for entry in batch:
        retries = [record for record in entry.records if record.state == RETRYING]
        found = results.fetch([record.key for record in retries]) if retries else []
        pairs = list(zip(retries, found, entry.successors, strict=True))
        stand = {record.key for record, known, _ in pairs if known is not None and known.attempt >= record.attempt}
        entry.successors = [successor for record, _, successor in pairs if record.key not in stand]
        entry.records = [record for record in entry.records if record.state != RETRYING or record.key not in stand]


def write(batch: Sequence[Settled], lane: Lane, results: ResultBackend, door: Settlement | None) -> None:
    """Write what became of some deliveries; in one step where there is a door for it.

    The order is: endings, the quarantine, successors, states on the way, acknowledgements. So a record that announces
    a later attempt is proof that its message was accepted, and nothing is acknowledged before all of it is safe.

    Raises:
        BrokerUnavailable: A server did not answer; the batch may be written again.
    """
    if door is not None:
        lost = [entry for entry, is_ours in zip(batch, door.settle(batch), strict=True) if not is_ours]
    else:
        lost = _write_in_order(batch, lane, results)
    for entry in batch:
        for item in entry.quarantined:
            _log.warning("set aside %s from %s: %s", item.id, item.color, item.reason)
    if lost:
        for entry in lost:
            entry.delivery.is_lost = True
        _log.warning("%d deliveries belonged to another worker by the time they were settled", len(lost))


def _write_in_order(batch: Sequence[Settled], lane: Lane, results: ResultBackend) -> list[Settled]:
    _store(batch, results, is_final=True)
    items = [item for entry in batch for item in entry.quarantined]
    if items:
        results.quarantine(items)
    if faults.ACTIVE:
        faults.point("after_result")
    successors = [frame for entry in batch for frame in entry.successors]
    if successors:
        try:
            lane.publish(successors, _PUBLISH_DEADLINE)
        except SubmitUnknown as error:  # they go again with the batch: twice is better than never
            raise BrokerUnavailable(str(error)) from error
        if faults.ACTIVE:
            faults.point("after_successor")
        _store(batch, results, is_final=False)
    if faults.ACTIVE:
        faults.point("before_ack")
    complete = {entry.delivery: entry for entry in batch if entry.is_complete}
    if not complete:
        return []
    return [complete[delivery] for delivery in lane.acknowledge(list(complete)) if delivery in complete]


def _store(batch: Sequence[Settled], results: ResultBackend, *, is_final: bool) -> None:
    by_reply: dict[str, list[Record]] = {}
    for entry in batch:
        records = [record for record in entry.records if record.is_final == is_final]
        if records:
            by_reply.setdefault(entry.reply, []).extend(records)
    for reply, records in by_reply.items():
        results.store(records, reply)


_PUBLISH_DEADLINE = 5.0
_RECORD_BYTES = 64 * 1024  # of results in one record, unless a single one is larger
