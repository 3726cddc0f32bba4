"""What a process knows of jobs' outcomes, within a bound of memory."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING

from queuelib.body import singles
from queuelib.errors import DecodeError
from queuelib.ids import created_at
from queuelib.outcome import SUCCEEDED, supersedes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from queuelib.ids import Key
    from queuelib.outcome import Record

__all__ = ["Folded", "Known"]

_ROOMY = 0.8  # share of the room that is left full where something had to be dropped
_AHEAD = 0.25  # share of the room for what is likely to be asked for next
_RECORD_BYTES = 625  # a record and its key in memory, without the body: measured over 200,000 of them


class Known:
    """Records folded by `supersedes`, the oldest dropped first; those of several successes whole where they can be.

    Args:
        max_bytes: What is dropped for want of room keeps this, unless more is wanted.
        is_wanted: Says of a record whether it has to stay.
        on_drop: Told the bundle of what is dropped for want of room.
    """

    def __init__(
        self, max_bytes: int, is_wanted: Callable[[Record], bool], on_drop: Callable[[bytes], None] = lambda _: None
    ) -> None:
        self._records: OrderedDict[Key, Record] = OrderedDict()
        self._counts: Counter[bytes] = Counter()  # records of a bundle
        self._spans: OrderedDict[bytes, list[Record]] = OrderedDict()  # of a bundle, ascending; they do not overlap
        self._max_bytes = max_bytes
        self._full_at = max_bytes
        self._size = 0
        self._is_wanted = is_wanted
        self._on_drop = on_drop

    def get(self, key: Key) -> Record | None:
        """Return what is known of a job."""
        return self._records.get(key) or (self._span(key.bundle, key.index) if self._spans else None)

    def add(self, record: Record) -> bool:
        """Take a record in; return whether it stands, for all its jobs."""
        if record.count == 1:
            stands = self._add_single(record)
        elif self._make_way(record):
            spans = self._spans.setdefault(record.key.bundle, [])
            spans.insert(bisect_right(spans, record.key.index, key=_first), record)
            self._size += len(record.body) + _RECORD_BYTES
            stands = True
        else:
            stands = min([self._add_single(one) for one in _singles(record)], default=False)
        if self._size > self._full_at:
            self._shrink()
        return stands

    def is_apart(self, record: Record) -> bool:
        """Return whether surely nothing is known of any of its jobs."""
        return not self._counts[record.key.bundle] and not self._is_overlapped(record)

    def take(self, key: Key) -> Record | None:
        """Remove and return what is known of a job, and of others where one record tells of all."""
        record = self._records.get(key)
        if record is not None:
            self._pop(key)
            return record
        span = self._span(key.bundle, key.index) if self._spans else None
        if span is not None:
            self._remove_span(span)
        return span

    def drop(self, key: Key) -> None:
        """Forget a job."""
        self._pop(key)
        span = self._span(key.bundle, key.index)
        if span is not None:
            self._remove_span(span)
            for one in _singles(span):
                if one.key != key:
                    self._add_single(one)

    def limit(self, max_bytes: int) -> None:
        """Keep at most so much from now on, unless that is more than before."""
        self._max_bytes = min(self._max_bytes, max_bytes)
        self._full_at = min(self._full_at, max_bytes)

    def clear(self, *, keeps_wanted: bool = False) -> None:
        """Forget all, or all that is not wanted."""
        everything = self._everything()
        self._records.clear()
        self._counts.clear()
        self._spans.clear()
        self._size = 0
        self._full_at = self._max_bytes
        if keeps_wanted:
            for record in filter(self._is_wanted, everything):
                self.add(record)

    def _everything(self) -> list[Record]:
        return [*self._records.values(), *(span for spans in self._spans.values() for span in spans)]

    def _span(self, bundle: bytes, index: int) -> Record | None:
        spans = self._spans.get(bundle)
        if not spans:
            return None
        at = bisect_right(spans, index, key=_first) - 1
        return spans[at] if at >= 0 and index < _first(spans[at]) + spans[at].count else None

    def _add_single(self, record: Record) -> bool:
        key = record.key
        if not supersedes(record, self.get(key)):
            return False
        self._pop(key)
        self._records[key] = record
        self._counts[key.bundle] += 1
        self._size += len(record.body) + _RECORD_BYTES
        return True

    def _is_overlapped(self, record: Record) -> bool:
        bundle, first = record.key
        spans = self._spans.get(bundle, ())
        at = bisect_right(spans, first + record.count - 1, key=_first) - 1
        return at >= 0 and first < _first(spans[at]) + spans[at].count

    def _make_way(self, record: Record) -> bool:
        """Drop what gives way to these successes, unless something stands before one of them; return whether not."""
        if self._is_overlapped(record):
            return False
        if not self._counts[record.key.bundle]:
            return True
        there = [self._records[key] for key in record.keys if key in self._records]
        if any(one.state == SUCCEEDED for one in there):
            return False
        for one in there:
            self._pop(one.key)
        return True

    def _pop(self, key: Key) -> None:
        old = self._records.pop(key, None)
        if old is not None:
            self._size -= len(old.body) + _RECORD_BYTES
            self._counts[key.bundle] -= 1
            if not self._counts[key.bundle]:
                del self._counts[key.bundle]

    def _remove_span(self, span: Record) -> None:
        spans = self._spans[span.key.bundle]
        spans.remove(span)
        if not spans:
            del self._spans[span.key.bundle]
        self._size -= len(span.body) + _RECORD_BYTES

    def _shrink(self) -> None:
        self._drop_oldest()
        # Where nearly all is wanted, looking through all of it at every new record would take for ever.
        self._full_at = self._max_bytes if self._is_roomy() else int(self._size * 1.25)

    def _is_roomy(self) -> bool:
        return self._size <= self._max_bytes * _ROOMY

    def _drop_oldest(self) -> None:
        for _ in range(len(self._records)):
            if self._is_roomy():
                return
            key, record = next(iter(self._records.items()))
            if self._is_wanted(record):
                self._records.move_to_end(key)
                continue
            self._pop(key)
            self._on_drop(key.bundle)
        for _ in range(len(self._spans)):
            if self._is_roomy():
                return
            bundle, spans = self._spans.popitem(last=False)
            if any(self._is_wanted(span) for span in spans):
                self._spans[bundle] = spans
                continue
            self._size -= sum(len(span.body) + _RECORD_BYTES for span in spans)
            self._on_drop(bundle)


class Folded(Known):
    """What was read of the results stream, from one point in time on, and what of it was dropped.

    A program that takes its results in the order in which it submitted may be far behind what is dropped first, and would
    have the stream read anew for each. So that share of the room is kept for what follows the job that it was read for.
    """

    def __init__(self, max_bytes: int, is_wanted: Callable[[Record], bool]) -> None:
        super().__init__(max_bytes, lambda record: is_wanted(record) or self._is_ahead(record), self._note_loss)
        self._lost_until = 0.0
        self._ahead_from = self._ahead_until = float("inf")

    def lacks(self, at: float) -> bool:
        """Return whether something may have been dropped of a job that was submitted at this wall time."""
        return at < self._lost_until and not self._ahead_from <= at < self._ahead_until

    def begin_anew(self, at: float, *, keeps_wanted: bool) -> None:
        """Forget all, or all that is not wanted: the stream is read anew for a job that was submitted at this wall time."""
        self._ahead_from = self._ahead_until = float("inf")
        self._lost_until = 0.0
        self.clear(keeps_wanted=keeps_wanted)
        self._ahead_from = at

    def _is_ahead(self, record: Record) -> bool:
        return self._ahead_from <= created_at(record.key.bundle) < self._ahead_until

    def _note_loss(self, bundle: bytes) -> None:
        self._lost_until = max(self._lost_until, created_at(bundle) + 0.001)

    def _shrink(self) -> None:
        ahead = sorted(
            (created_at(record.key.bundle), len(record.body) + _RECORD_BYTES)
            for record in self._everything()
            if self._is_ahead(record)
        )
        size = 0
        for at, more in ahead:
            size += more
            if size > self._max_bytes * _AHEAD:
                self._ahead_until = at
                break
        super()._shrink()


def _first(record: Record) -> int:
    return record.key.index


def _singles(record: Record) -> Sequence[Record]:
    try:
        return singles(record)
    except DecodeError:
        return ()  # it was not written by queuelib: as good as nothing
