"""How records look inside a bundle's hash, and how many of them go into one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from queuelib.outcome import QUEUED, SCHEDULED, Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from queuelib.ids import Key

__all__ = ["by_bundle", "decode", "encode", "pairs", "parts", "seconds", "without_record"]

_RECORDS_A_CALL = 500  # of one script call: Lua's stack holds 8,000 values, and the server does nothing else meanwhile
_BYTES_A_CALL = 4 * 1024 * 1024


def encode(record: Record) -> bytes:
    """Return a record as scripts/store.lua reads it: state, attempt, time, body."""
    return b"%s %d %s %s" % (record.state.encode(), record.attempt, repr(record.at).encode(), record.body)


def decode(key: Key, value: bytes) -> Record:
    """Return the record in a value."""
    state, attempt, at, body = value.split(b" ", 3)
    return Record(key, state.decode(), int(attempt), body, float(at))


def without_record(key: Key, size: bytes | None, due: bytes | None, now: float) -> Record | None:
    """Return what the bundle says of a job that has no record: it waits, or there is no such job."""
    if size is None or key.index >= int(size):
        return None
    return Record(key, SCHEDULED if due and float(due) > now else QUEUED)


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


def by_bundle(keys: Iterable[Key], positions: Iterable[int]) -> dict[bytes, list[int]]:
    """Return the positions of each bundle's jobs."""
    grouped: dict[bytes, list[int]] = {}
    for key, at in zip(keys, positions, strict=True):
        grouped.setdefault(key.bundle, []).append(at)
    return grouped


def pairs(found: Any) -> Iterable[tuple[bytes, bytes]]:
    """Return fields and values, whether the driver made a dict of them or left a list."""
    return found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)


def seconds(server_time: Any) -> float:
    """Return the answer to TIME as a number."""
    return float(server_time[0]) + float(server_time[1]) / 1_000_000
