"""What a process knows of jobs' outcomes, within a bound of memory."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from queuelib.ids import created_at
from queuelib.outcome import supersedes

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuelib.ids import Key
    from queuelib.outcome import Record

__all__ = ["Known"]

_RECORD_BYTES = 300  # a record and its key in memory, without the body


class Known:
    """Records folded by `supersedes`, the oldest dropped first.

    Attributes:
        forgotten: Wall time up to which jobs were submitted of which something may have been dropped.
    """

    def __init__(self, max_bytes: int, is_wanted: Callable[[Key], bool]) -> None:
        self.forgotten = 0.0
        self._records: OrderedDict[Key, Record] = OrderedDict()
        self._max_bytes = max_bytes
        self._size = 0
        self._is_wanted = is_wanted

    def get(self, key: Key) -> Record | None:
        """Return what is known of a job."""
        return self._records.get(key)

    def add(self, record: Record) -> bool:
        """Take a record in; return whether it stands."""
        old = self._records.get(record.key)
        if not supersedes(record, old):
            return False
        if old is not None:
            self._size -= len(old.body) + _RECORD_BYTES
        self._records[record.key] = record
        self._size += len(record.body) + _RECORD_BYTES
        if self._size > self._max_bytes:
            self._shrink()
        return True

    def drop(self, key: Key) -> None:
        """Forget a job."""
        old = self._records.pop(key, None)
        if old is not None:
            self._size -= len(old.body) + _RECORD_BYTES

    def clear(self) -> None:
        """Forget all."""
        self._records.clear()
        self._size = 0
        self.forgotten = 0.0

    def _shrink(self) -> None:
        for _ in range(len(self._records)):
            if self._size <= self._max_bytes * 0.9:
                return
            key, record = self._records.popitem(last=False)
            if self._is_wanted(key):
                self._records[key] = record
                continue
            self._size -= len(record.body) + _RECORD_BYTES
            self.forgotten = max(self.forgotten, created_at(key.bundle) + 0.001)
