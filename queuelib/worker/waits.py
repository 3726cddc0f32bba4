"""Jobs in hand that wait for results of others: these are looked for until all are there, then the job goes on.

What a job waits for is in its message, and whether that is there is in the result backend, for each job by itself. So
nothing is counted, nobody has to tell anybody, and whoever takes the message over after a death finds what stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from queuelib import body
from queuelib.codec import encode, encoded_list, split_list
from queuelib.errors import BrokerUnavailable, DecodeError
from queuelib.ids import Key, created_at, job_id
from queuelib.inputs import filled, keys_of
from queuelib.outcome import CANCELLED, EXPIRED, FAILED, QUARANTINED, SUCCEEDED, Failed, Failure, Inherited, Released
from queuelib.ports import StillReading
from queuelib.settings import MAX_MESSAGE_BYTES
from queuelib.shown import shown
from queuelib.worker.lease import Part

if TYPE_CHECKING:
    from queuelib.clock import Clock
    from queuelib.outcome import Outcome, Record
    from queuelib.worker.lease import Hold
    from queuelib.worker.line import Line

__all__ = ["Waits"]

_MOST = 1000  # in hand; further ones wait in the queue
_ROTATED = 100  # so many make room for others when it is full, or nothing would move if these wait for those
_ROTATE_AFTER = 5.0  # seconds
_WINDOW = 256  # outcomes of one job's inputs that are looked for at once
_AT_ONCE = 2048  # outcomes that are looked for in one round
_SOONEST, _LATEST = 0.005, 1.0  # seconds between two looks
_SHARE = 0.05  # of the time that a job has waited here: how long it is until the next look
_PASSED = frozenset({FAILED, CANCELLED, EXPIRED, QUARANTINED})  # endings that may stand among results as values
_TRACE_WITHIN = 60.0  # seconds after its submission until a job has left a trace, where a backend keeps one


class Waits:
    """The jobs in hand that wait for results of others.

    Args:
        line: The connection.
        clock: The clocks.
    """

    def __init__(self, line: Line, clock: Clock) -> None:
        self._line = line
        self._clock = clock
        self._waits: dict[Hold, _Wait] = {}
        self._full_since: float | None = None

    @property
    def is_empty(self) -> bool:
        """Whether none waits here."""
        return not self._waits

    @property
    def room(self) -> int:
        """How many more to take."""
        return max(0, _MOST - len(self._waits))

    def add(self, hold: Hold) -> None:
        """Wait for the inputs of a job."""
        if hold not in self._waits:
            self._waits[hold] = _Wait(hold, self._clock.monotonic())

    def discard_lost(self) -> None:
        """Let go of those that others have by now, or that have ended."""
        for hold in [hold for hold in self._waits if hold.delivery.is_lost or not hold.left]:
            del self._waits[hold]

    def discard_ended(self, has_ended: Callable[[Part], bool]) -> None:
        """Let go of those that were cancelled or have expired."""
        for hold in [hold for hold in self._waits if has_ended(Part(hold, 0, 1))]:
            del self._waits[hold]

    def drain(self) -> None:
        """Let go of all."""
        self._waits.clear()

    def look_soon(self) -> None:
        """Look for all inputs in a moment: outcomes were just written here."""
        soon = self._clock.monotonic() + _SOONEST
        for wait in self._waits.values():
            wait.look_at = min(wait.look_at, soon)

    def pause(self, now: float) -> float:
        """Return the seconds until the next look."""
        return min((wait.look_at for wait in self._waits.values()), default=float("inf")) - now

    def rotate(self, now: float) -> list[Hold]:
        """Remove and return some that make room for others, if that has been short for a while."""
        if self.room:
            self._full_since = None
            return []
        if self._full_since is None:
            self._full_since = now
        if now - self._full_since < _ROTATE_AFTER:
            return []
        self._full_since = now
        latest = sorted(self._waits, key=lambda hold: self._waits[hold].look_at)[-_ROTATED:]
        for hold in latest:
            del self._waits[hold]
        return latest

    def look(self, now: float) -> Iterator[tuple[Hold, Outcome]]:
        """Look for inputs whose time has come; yield the jobs that wait no more, and what becomes of them."""
        if not self._waits or not self._line.link.may_try:
            return
        due = [wait for wait in self._waits.values() if wait.look_at <= now]
        try:
            self._follow([wait for wait in due if not wait.is_followed])
            while due:
                batch = _some(due)
                due = due[len(batch) :]
                found = iter(self._line.link.results.fetch([key for _, keys in batch for key in keys]))
                for wait, keys in batch:
                    if wait.enter(keys, list(islice(found, len(keys))), self._is_gone) and wait.outcome is None:
                        due.append(wait)  # there may be more
                        continue
                    wait.look_at = now + min(max((now - wait.since) * _SHARE, _SOONEST), _LATEST)
                    if wait.outcome is not None:
                        del self._waits[wait.hold]
                        yield wait.hold, wait.outcome
        except StillReading:
            return
        except BrokerUnavailable as error:
            self._line.lose(error, spares_lane=True)

    def _follow(self, waits: Sequence[_Wait]) -> None:
        if waits:
            self._line.link.follow([key for wait in waits for key in wait.keys])
            for wait in waits:
                wait.is_followed = True

    def _is_gone(self, wait: _Wait, key: Key) -> bool:
        """Whether a job without any trace will never have one."""
        link = self._line.link
        age = self._clock.wall() - created_at(key.bundle)
        if link.results.capabilities.records:
            return age > _TRACE_WITHIN
        return age > link.keep and self._clock.monotonic() - wait.since > link.keep


class _Wait:
    """One job, and what was found of what it waits for.

    Attributes:
        hold: The job.
        since: Monotonic time at which it began to wait here.
        look_at: Monotonic time of the next look.
        outcome: What becomes of it, once that is known.
        is_followed: Whether the result backend knows what it waits for.
        keys: All of that, in order.
    """

    def __init__(self, hold: Hold, now: float) -> None:
        self.hold = hold
        self.since = self.look_at = now
        self.outcome: Outcome | None = None
        self.is_followed = False
        self.keys = [key for one in hold.bundle.inputs for key in keys_of(one)]
        self._passes = [one.passes for one in hold.bundle.inputs for _ in keys_of(one)]
        self._values: list[bytes] = []
        self._size = len(hold.bundle.column)

    def window(self) -> list[Key]:
        """Return what to look for next: in order, so that what was found is not looked for again."""
        at = len(self._values)
        return self.keys[at : at + _WINDOW]

    def enter(
        self, keys: Sequence[Key], records: Sequence[Record | None], is_gone: Callable[[_Wait, Key], bool]
    ) -> bool:
        """Enter what was found of a window; return whether all of it was there."""
        last: Record | None = None
        column: list[bytes] = []
        for key, record in zip(keys, records, strict=True):
            if record is None or not record.is_final:
                if record is None and is_gone(self, key):
                    self.outcome = self._failed(
                        f"the outcome of job {job_id(*key)}, which it waits for, is not kept any more"
                    )
                return False
            if record.state == SUCCEEDED:
                if record is not last:
                    last, column = record, _results(record)
                value = column[key.index - record.key.index]
            elif self._passes[len(self._values)] and record.state in _PASSED:
                value = _failure(key, record)
            else:
                self.outcome = self._inherited(key, record)
                return False
            self._values.append(value)
            self._size += len(value)
            if self._size > MAX_MESSAGE_BYTES:
                self.outcome = self._failed(
                    f"what it waits for takes more than the {MAX_MESSAGE_BYTES:,} bytes that fit into a message; let its "
                    "jobs return less, or join their results in steps"
                )
                return False
        if len(self._values) == len(self.keys):
            self.outcome = self._released()
        return True

    def _released(self) -> Outcome:
        bundle, values = self.hold.bundle, iter(self._values)
        inputs = [
            encoded_list(list(islice(values, sum(run.count for run in one.runs)))) if one.is_list else next(values)
            for one in bundle.inputs
        ]
        try:
            return Released(filled(bundle.column, inputs))
        except DecodeError as error:
            return self._failed(f"its arguments cannot be put together: {error}")

    def _inherited(self, key: Key, record: Record) -> Outcome:
        if record.state in {FAILED, CANCELLED, EXPIRED}:
            return Inherited(record.state, record.body)
        return self._failed(f"job {job_id(*key)}, which it waits for, is {record.state}")

    def _failed(self, text: str) -> Outcome:
        return Failed(body.of_failure(self.hold.bundle.task, "queuelib.errors.InputError", text))


def _some(due: Sequence[_Wait]) -> list[tuple[_Wait, list[Key]]]:
    """Return what to look for in one question: the next window of as many as fit."""
    batch: list[tuple[_Wait, list[Key]]] = []
    count = 0
    for wait in due:
        batch.append((wait, window := wait.window()))
        count += len(window)
        if count >= _AT_ONCE:
            break
    return batch


def _failure(key: Key, record: Record) -> bytes:
    """Return the encoding of what stands for a job that did not end well."""
    found = body.read(record.body)
    return encode(Failure(record.state, found.type_name, shown(found.message, keep="\n"), job_id(*key)))


def _results(record: Record) -> list[bytes]:
    result = body.read(record.body).result
    return [result] if record.count == 1 else split_list(result, record.count)
