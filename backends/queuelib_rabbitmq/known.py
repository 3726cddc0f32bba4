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

__all__ = ["Known"]

_RECORD_BYTES = 625  # a record and its key in memory, without the body: measured over 200,000 of them


class Known:
    """Records folded by `supersedes`, the oldest dropped first; those of several successes whole where they can be.

    Attributes:
        forgotten: Wall time up to which jobs were submitted of which something may have been dropped.
    """

    def __init__(self, max_bytes: int, is_wanted: Callable[[Record], bool]) -> None:
        self.forgotten = 0.0
        self._records: OrderedDict[Key, Record] = OrderedDict()
        self._counts: Counter[bytes] = Counter()  # records of a bundle
        self._spans: OrderedDict[bytes, list[Record]] = OrderedDict()  # of a bundle, ascending; they do not overlap
        self._max_bytes = max_bytes
        self._size = 0
        self._is_wanted = is_wanted

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
        if self._size > self._max_bytes:
            self._shrink()
        return stands

    def is_apart(self, record: Record) -> bool:
        """Return whether surely nothing is known of any of its jobs."""
        return not self._counts[record.key.bundle] and not self._is_overlapped(record)

    def drop(self, key: Key) -> None:
        """Forget a job."""
        self._pop(key)
        span = self._span(key.bundle, key.index)
        if span is not None:
            self._spans[key.bundle].remove(span)
            self._size -= len(span.body) + _RECORD_BYTES
            for one in _singles(span):
                if one.key != key:
                    self._add_single(one)

    def clear(self) -> None:
        """Forget all."""
        self._records.clear()
        self._counts.clear()
        self._spans.clear()
        self._size = 0
        self.forgotten = 0.0

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

    def _shrink(self) -> None:
        for _ in range(len(self._records)):
            if self._size <= self._max_bytes * 0.9:
                return
            key, record = next(iter(self._records.items()))
            if self._is_wanted(record):
                self._records.move_to_end(key)
                continue
            self._pop(key)
            self._lose(key.bundle)
        for _ in range(len(self._spans)):
            if self._size <= self._max_bytes * 0.9:
                return
            bundle, spans = self._spans.popitem(last=False)
            if any(self._is_wanted(span) for span in spans):
                self._spans[bundle] = spans
                continue
            self._size -= sum(len(span.body) + _RECORD_BYTES for span in spans)
            self._lose(bundle)

    def _lose(self, bundle: bytes) -> None:
        self.forgotten = max(self.forgotten, created_at(bundle) + 0.001)


def _first(record: Record) -> int:
    return record.key.index


def _singles(record: Record) -> Sequence[Record]:
    try:
        return singles(record)
    except DecodeError:
        return ()  # it was not written by queuelib: as good as nothing
