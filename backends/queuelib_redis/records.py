"""How records look on the server (scripts/records.lua), and how batches of them are laid out for its scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from queuelib.ids import Key
from queuelib.outcome import (
    CANCELLED,
    EXPIRED,
    FAILED,
    QUARANTINED,
    QUEUED,
    RETRYING,
    RUNNING,
    SCHEDULED,
    SUCCEEDED,
    Record,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Found", "encode", "grouped", "pairs", "parts", "runs", "seconds"]

_LETTERS = {
    SUCCEEDED: b"S",
    FAILED: b"F",
    CANCELLED: b"C",
    EXPIRED: b"E",
    QUARANTINED: b"X",
    QUEUED: b"Q",
    SCHEDULED: b"W",
    RUNNING: b"R",
    RETRYING: b"T",
}
_STATES = {letter: state for state, letter in _LETTERS.items()}
_MOST_JOBS = 65_536  # of a bundle
_RECORDS_A_CALL = 1000  # the server does nothing else meanwhile
_BYTES_A_CALL = 4 * 1024 * 1024


def encode(record: Record) -> bytes:
    """Return a record as scripts/records.lua reads it."""
    key, state, attempt, body, at, count = record
    if count > 1:
        return b"%b%d %r %d %d %b" % (_LETTERS[state], attempt, at, key[1], count, body)
    return b"%b%d %r %b" % (_LETTERS[state], attempt, at, body)


def grouped(records: Sequence[Record], part: Iterable[int]) -> tuple[list[bytes], list[int]]:
    """Return the sections of settle.lua that hold records, and where in `records` each of its answers belongs."""
    only: list[bytes] = []
    order: list[int] = []
    groups: dict[bytes, list[int]] = {}
    for at in part:
        groups.setdefault(records[at].key[0], []).append(at)
    many: list[bytes] = []
    many_order: list[int] = []
    bundles = 0
    for bundle, positions in groups.items():
        first = records[positions[0]]
        if len(positions) == 1 and first.key[1] == 0 and first.count == 1:
            only += (bundle.hex().encode(), encode(first))
            order += positions
            continue
        bundles += 1
        many += (bundle.hex().encode(), b"%d" % len(positions))
        for at in positions:
            record = records[at]
            many += (b"%d" % record.key[1], b"%d" % record.count, encode(record))
        many_order += positions
    return [b"%d" % len(order), *only, b"%d" % bundles, *many], order + many_order


def parts(records: Sequence[Record]) -> Iterator[list[int]]:
    """Yield positions of records, as many as one call of a script may have."""
    part: list[int] = []
    size_bytes = 0
    for at, record in enumerate(records):
        if part and (len(part) >= _RECORDS_A_CALL or size_bytes + len(record.body) > _BYTES_A_CALL):
            yield part
            part, size_bytes = [], 0
        part.append(at)
        size_bytes += len(record.body)
    if part:
        yield part


def runs(indexes: Iterable[int]) -> list[tuple[int, int]]:
    """Return numbers as runs of consecutive ones: pairs of a first and a last one."""
    found: list[tuple[int, int]] = []
    for index in sorted(indexes):
        if found and index <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(index, found[-1][1]))
        else:
            found.append((index, index))
    return found


def pairs(found: Any) -> Iterable[tuple[bytes, bytes]]:
    """Return fields and values, whether the driver made a dict of them or left a list."""
    return found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)


class Found:
    """What the server knows of one bundle.

    Args:
        bundle: Its name.
        answer: An answer of fetch.lua, or of GET.
        now: Wall time, which tells scheduled jobs from queued ones.
    """

    __slots__ = ("_bundle", "_jobs", "_shared", "_size", "_waits")

    def __init__(self, bundle: bytes, answer: Any, now: float) -> None:
        self._bundle = bundle
        self._jobs: dict[int, bytes] = {}
        self._shared: list[tuple[int, int, Record]] = []
        self._size, self._waits = 0, QUEUED
        try:
            self._read(answer, now)
        except (ValueError, KeyError):  # somebody else wrote it: it tells of nothing
            self._size = 0

    def _read(self, answer: Any, now: float) -> None:
        bundle, due = self._bundle, b""
        if isinstance(answer, bytes):
            if answer[:1] in {b"a", b"p"}:
                self._size, due = 1, answer[1:]
            else:
                self._jobs[0] = answer
        elif answer:
            size, due, jobs, shared = answer
            self._size = int(size or 0)
            self._jobs = dict(zip(map(int, jobs[::2]), jobs[1::2], strict=True))
            records: dict[bytes, Record] = {}
            for first, last, value in zip(shared[::3], shared[1::3], shared[2::3], strict=True):
                record = records.setdefault(value, _shared(bundle, value))
                self._shared.append((int(first), int(last), record))
        if due and float(due) > now:
            self._waits = SCHEDULED

    def record(self, key: Key) -> Record | None:
        """Return the record of one of its jobs; one of several is returned whole."""
        index = key[1]
        value = self._jobs.get(index)
        if value is not None:
            try:
                return _single(key, value)
            except (ValueError, KeyError):
                return None  # somebody else wrote it: it tells of nothing
        for first, last, record in self._shared:
            if first <= index <= last:
                return record
        return Record(key, self._waits) if index < self._size else None


def seconds(server_time: Any) -> float:
    """Return the answer to TIME as a number."""
    return float(server_time[0]) + float(server_time[1]) / 1_000_000


def _single(key: Key, value: bytes) -> Record:
    head, at, body = value.split(b" ", 2)
    return Record(key, _STATES[head[:1]], int(head[1:]), body, float(at))


def _shared(bundle: bytes, value: bytes) -> Record:
    head, at, first, count, body = value.split(b" ", 4)
    if not 0 < int(count) <= _MOST_JOBS:
        msg = f"a record of {count!r} jobs"
        raise ValueError(msg)
    return Record(Key(bundle, int(first)), _STATES[head[:1]], int(head[1:]), body, float(at), int(count))
