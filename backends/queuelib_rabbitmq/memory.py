"""What a process has learned from the streams and from its reply queue."""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from queuelib.body import singles
from queuelib.ear import Ear
from queuelib.ids import Key, created_at
from queuelib.outcome import SUCCEEDED, Record, supersedes
from queuelib.recent import Recent
from queuelib_rabbitmq import wire
from queuelib_rabbitmq.known import Folded, Known
from queuelib_rabbitmq.reader import CLOCK_SKEW

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from queuelib.ports import QuarantineItem, WorkerInfo

__all__ = ["Memory", "Waiter", "check_interval"]

_OWN_BUNDLES = 100_000  # at least so many bundles of this process whose outcomes are pushed; older ones are looked up
_CHECK_SHARE = 0.25  # of a job's age: how often the stream is asked about a job whose outcome should be pushed
_CHECK_MIN, _CHECK_MAX = 1.0, 60.0  # seconds
_SOUGHT_FOR = 150.0  # seconds that what was read for a look-up is kept for the next: more than twice between two checks
_LITTLE = 4 * 1024 * 1024  # bytes
_TOLD_SHARE, _FOLDED_SHARE, _STORED_SHARE = 1 / 16, 1 / 2, 1 / 8  # of `most_bytes`


class Waiter:
    """Somebody who wants to know when one of some jobs has ended."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self.keys = frozenset(keys)
        self.bundles = frozenset(key.bundle for key in keys)
        self.ended = threading.Event()

    def wants(self, record: Record) -> bool:
        """Return whether a record tells of one of these jobs."""
        if record.count == 1:
            return record.key in self.keys
        return record.key.bundle in self.bundles and any(_tells_of(record, key) for key in self.keys)


class Memory:
    """Outcomes, cancel marks, quarantine and workers, as far as they were read; safe from any thread.

    Args:
        most_bytes: Of outcomes that were pushed to this process and that it has not asked for; shares of it for others.

    Attributes:
        lock: Guards everything here.
        folded: Records as the results stream has them, complete from where its reader began.
        items: The quarantine.
        workers: Announcements, each with its end.
    """

    def __init__(self, most_bytes: int) -> None:
        self.lock = threading.RLock()
        self.folded = Folded(int(most_bytes * _FOLDED_SHARE), self._is_wanted)
        self._marks: list[Key] = []  # cancelled jobs, in order, without those that were asked for
        self._dropped = 0  # how many those were
        self._epoch = os.urandom(8)  # tells the cursors of this reading from those of another
        self.items: dict[str, QuarantineItem] = {}
        self.workers: dict[str, tuple[WorkerInfo, float]] = {}
        self._own = Recent[bytes](_OWN_BUNDLES)
        self._dropped_of = Recent[bytes](_OWN_BUNDLES)  # bundles of which what was pushed is not here any more
        self._pushed = Known(most_bytes, self._is_wanted, self._note_dropped)
        self._told = Known(int(most_bytes * _TOLD_SHARE), self._is_wanted, self._note_dropped)
        self._stored = Known(int(most_bytes * _STORED_SHARE), self._is_wanted)
        self._doubtful: set[Key] = set()
        self._waiters: set[Waiter] = set()
        self._ears: list[Ear] = []
        # Jobs of which everything is here that the reader has come by, and when they were asked for last, monotonic.
        self._sought: dict[Key, float] = {}
        self._checked: dict[Key, float] = {}  # wall time up to which it was read to its end for them
        self._cleaned = 0.0

    def keep_little(self) -> None:
        """Keep little of what the stream says and nobody asked for."""
        with self.lock:
            self.folded.limit(_LITTLE)

    def add_own(self, bundles: Iterable[bytes]) -> None:
        """Take note of bundles whose outcomes are pushed to this process."""
        with self.lock:
            self._own.add(bundles)

    def is_own(self, keys: Iterable[Key]) -> bool:
        """Return whether all these jobs' outcomes are pushed to this process."""
        return all(key.bundle in self._own for key in keys)

    def add_stored(self, records: Sequence[Record]) -> list[bool]:
        """Take note of what this process stored; return which of it stands, as far as this process knows."""
        with self.lock:
            return [self._add_stored(record) for record in records]

    def best(self, key: Key) -> Record | None:
        """Return what is known of a job."""
        best = self.folded.get(key)
        for known in (self._pushed, self._told):
            record = known.get(key)
            if record is not None and supersedes(record, best):
                best = record
        return best

    def best_of(self, keys: Iterable[Key]) -> list[Record | None]:
        """Return what is known of each job; quickly where one record tells of many in a row."""
        found: list[Record | None] = []
        last_bundle, start, end = b"", 0, 0
        record: Record | None = None
        with self.lock:
            for key in keys:
                bundle, index = key
                if not (start <= index < end and bundle == last_bundle):
                    record = self.best(key)
                    start = end = 0
                    if record is not None and record.count > 1 and record.state == SUCCEEDED:
                        (last_bundle, start), end = record.key, record.key.index + record.count
                found.append(record)
        return found

    def set_told(self, keys: Iterable[Key], found: Iterable[Record | None]) -> None:
        """Take note that these endings are with who asked: they are the first to be dropped."""
        last: Record | None = None
        with self.lock:
            for key, record in zip(keys, found, strict=True):
                if record is None or not record.is_final:
                    continue
                self._sought.pop(key, None)
                if record is last:
                    continue
                last = record
                if (pushed := self._pushed.take(key)) is not None:
                    self._told.add(pushed)

    def unanswered(self, keys: Iterable[Key], now: float) -> list[Key]:
        """Return the jobs for which the stream has to be read."""
        with self.lock:
            return [key for key in keys if not self._is_answered(key, now)]

    def set_read(self, keys: Iterable[Key], now: float) -> None:
        """Take note that the stream was read to its end for these jobs."""
        with self.lock:
            self._doubtful.difference_update(keys)
            for key in keys:
                record = self.best(key)
                if record is not None and record.is_final:
                    self._sought.pop(key, None)
                    self._checked.pop(key, None)
                elif key in self._sought:
                    self._checked[key] = now

    def has_news(self, keys: Iterable[Key]) -> bool:
        """Return whether one of these jobs has ended, or may have."""
        with self.lock:
            return any(
                key in self._doubtful or ((record := self.best(key)) is not None and record.is_final) for key in keys
            )

    @contextmanager
    def wanting(self, keys: Sequence[Key]) -> Generator[Waiter, None, None]:
        """Keep what is learned of these jobs, however much else goes by, and tell of their ends."""
        waiter = Waiter(keys)
        with self.lock:
            self._waiters.add(waiter)
        try:
            yield waiter
        finally:
            with self.lock:
                self._waiters.discard(waiter)

    def listen(self) -> Ear:
        """Hear of every end that is learned of."""
        ear = Ear(lambda key: key.bundle in self._own, self._leave)
        with self.lock:
            self._ears.append(ear)
        return ear

    def seek(self, keys: Iterable[Key], start: float, has_no_gap: bool, /) -> float | None:  # noqa: FBT001 - see `Begin`
        """Keep what comes of these jobs from now on; return from when on the stream is to be read anew for them, if it is."""
        asked, now = time.monotonic(), time.time()
        with self.lock:
            self._clean(asked)
            new = {key: min(created_at(key.bundle), now) for key in keys if key not in self._sought}
            begin = [at for at in new.values() if at - CLOCK_SKEW < start or self.folded.lacks(at)]
            self._sought.update(dict.fromkeys(keys, asked))
            if not begin:
                return None
            if not has_no_gap:
                begin += [created_at(key.bundle) for key in self._sought]
            return min(begin) - CLOCK_SKEW

    def forget(self, keys: Iterable[Key]) -> None:
        """Drop what is known of these jobs."""
        with self.lock:
            for key in keys:
                for known in (self._pushed, self._told, self._stored, self.folded):
                    known.drop(key)

    def unfold(self, begin: float, has_no_gap: bool, /) -> None:  # noqa: FBT001 - as the reader calls it
        """Drop what the stream said, but what is sought where that has no gap: it is read anew from this wall time on."""
        with self.lock:
            self.folded.begin_anew(begin + CLOCK_SKEW, keeps_wanted=has_no_gap)

    def push(self, body: bytes) -> None:
        """Take in a message from the reply queue."""
        message = wire.decode(body)
        if message is None or message[0] != wire.OUTCOMES:
            return
        try:
            _, is_doubtful, rows = message
            records = wire.records_of(rows)
        except wire.FOREIGN:
            wire.skip(body)
            return
        with self.lock:
            for record in records:
                if is_doubtful and record.is_final:
                    if record.key.bundle in self._own:  # for other jobs the stream is read anyway
                        self._doubtful.update(record.keys)
                else:
                    self._pushed.add(record)
                self._wake(record)

    def has_marks_after(self, cursor: Any) -> bool:
        """Return whether all marks behind a cursor of `marks_after` are here; else the stream is to be read again."""
        with self.lock:
            return not self._dropped or (cursor is not None and cursor[0] == self._epoch and cursor[1] >= self._dropped)

    def marks_after(self, cursor: Any) -> tuple[list[Key], Any]:
        """Return the cancelled jobs behind a cursor, or all that are here, and the next cursor.

        What is before the cursor is dropped: whoever has it knows that, and a worker that lives for months does not keep
        what it was told.
        """
        with self.lock:
            if cursor is not None and cursor[0] == self._epoch and cursor[1] > self._dropped:
                del self._marks[: cursor[1] - self._dropped]
                self._dropped = cursor[1]
            return list(self._marks), (self._epoch, self._dropped + len(self._marks))

    def clear_marks(self) -> None:
        """Drop all marks: they come again."""
        with self.lock:
            self._marks.clear()
            self._dropped = 0
            self._epoch = os.urandom(8)

    def apply_outcomes(self, message: list[Any]) -> None:
        """Take in a message of the results stream."""
        kind, *content = message
        with self.lock:
            if kind == wire.OUTCOMES:
                for record in wire.records_of(content[1]):
                    self.folded.add(record)
                    self._wake(record)
            elif kind == wire.FORGETS:
                self.forget(wire.keys_of(content[0]))

    def apply_control(self, message: list[Any]) -> None:
        """Take in a message of one of the small streams."""
        kind, content = message[0], message[1]
        with self.lock:
            if kind == wire.CANCELS:
                self._marks.extend(wire.keys_of(content))
            elif kind == wire.ITEM:
                item = wire.item_of(content)
                self.items[item.id] = item
            elif kind == wire.RELEASES:
                for name in content:
                    self.items.pop(name, None)
            elif kind == wire.WORKER:
                worker, until = wire.worker_of(content)
                self.workers[worker.name] = (worker, until)

    def _leave(self, ear: Ear) -> None:
        with self.lock:
            self._ears.remove(ear)

    def _add_stored(self, record: Record) -> bool:
        if record.key.bundle in self._own:
            self._doubtful.update(record.keys)
        known = self.folded.get(record.key)
        if known == record or self.folded.is_apart(record):  # equal: the stream has brought it back already
            return self._stored.add(record)
        if record.count > 1:
            return min([self._add_stored(one) for one in singles(record)])
        return supersedes(record, known) and self._stored.add(record)

    def _is_answered(self, key: Key, now: float) -> bool:
        record = self.best(key)
        if record is not None and record.is_final and (record.state == SUCCEEDED or self._is_pushed(record)):
            return True  # of any other ending the reader may not have come to a success behind it
        created = created_at(key.bundle)
        if key in self._doubtful or key.bundle not in self._own:
            return False
        checked = self._checked.get(key)
        if checked is None and key.bundle in self._dropped_of:
            return False  # it need not be one that is still to come
        return now - max(checked or 0.0, created) < check_interval(now - created)

    def _note_dropped(self, bundle: bytes) -> None:
        self._dropped_of.add((bundle,))

    def _is_pushed(self, record: Record) -> bool:
        return any(known.get(record.key) is record for known in (self._pushed, self._told))

    def _clean(self, now: float) -> None:
        if now - self._cleaned < _SOUGHT_FOR / 10:
            return
        self._cleaned = now
        waited = {key for waiter in self._waiters for key in waiter.keys}
        for key in [key for key, at in self._sought.items() if now - at > _SOUGHT_FOR and key not in waited]:
            del self._sought[key]
            self._checked.pop(key, None)
        self._doubtful = {key for key in self._doubtful if key.bundle in self._own}  # of others nobody asks

    def _is_wanted(self, record: Record) -> bool:
        if self._sought and any(key in self._sought for key in (record.keys if record.count > 1 else (record.key,))):
            return True
        return any(waiter.wants(record) for waiter in self._waiters)

    def _wake(self, record: Record) -> None:
        if record.is_final:
            for ear in self._ears:
                ear.tell((record,))
            for waiter in self._waiters:
                if not waiter.ended.is_set() and waiter.wants(record):
                    waiter.ended.set()


def _tells_of(record: Record, key: Key) -> bool:
    bundle, first = record.key
    return key.bundle == bundle and first <= key.index < first + record.count


def check_interval(age: float) -> float:
    """Return after how many seconds the stream is asked about a job of this age whose outcome was not pushed."""
    return min(max(age * _CHECK_SHARE, _CHECK_MIN), _CHECK_MAX)
