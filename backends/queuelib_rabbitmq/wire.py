"""What stands in the streams: msgpack lists, version first, then the kind.

    [1, 0, doubtful, [[bundle, index, state, attempt, at, body], ...]]   outcomes and states of jobs
    [1, 1, mark]                                                         a reader's mark: it has read all before it
    [1, 2, [[bundle, index], ...], at]                                   these jobs are cancelled
    [1, 3, [id, color, reason, frame, at]]                               set aside
    [1, 4, [id, ...]]                                                    released from the quarantine
    [1, 5, [name, host, pid, [color, ...], [task, ...], at, until, processes]]      a worker lives until then
    [1, 6, [[bundle, index], ...]]                                       the endings of these jobs are forgotten

`state` is a position in STATES. `doubtful` says that the delivery behind the outcomes was not the first one, so that
another outcome may stand before them. A message of version 2 holds outcomes of which some rows end in a count: they
tell of so many successes in a row, as `Record` says. Unknown kinds and versions are skipped: a newer queuelib wrote them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

import msgpack

from queuelib import codec
from queuelib.ids import BUNDLE_BYTES, Key
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
from queuelib.ports import QuarantineItem, WorkerInfo
from queuelib.settings import MAX_CONTAINERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = [
    "CANCELS",
    "FOREIGN",
    "FORGETS",
    "ITEM",
    "MARK",
    "OUTCOMES",
    "RELEASES",
    "WORKER",
    "decode",
    "encode",
    "item_of",
    "item_row",
    "keys_of",
    "outcome_messages",
    "records_of",
    "skip",
    "worker_of",
    "worker_row",
]

OUTCOMES, MARK, CANCELS, ITEM, RELEASES, WORKER, FORGETS = range(7)
STATES = (QUEUED, SCHEDULED, RUNNING, RETRYING, SUCCEEDED, FAILED, CANCELLED, EXPIRED, QUARANTINED)

_MOST_JOBS = 65_536  # of a bundle
_VERSION = 1
_WITH_COUNTS = 2
_CODES = {state: code for code, state in enumerate(STATES)}
_MESSAGE_BYTES = 100_000  # a message that fits one AMQP frame of 128 KiB is written at once
_ROW_BYTES = 48  # a row without its body
FOREIGN = (ValueError, TypeError, IndexError, KeyError)  # what reading a message of others comes to
_log = logging.getLogger("queuelib.rabbitmq")


def encode(kind: int, *content: Any) -> bytes:
    """Return one message."""
    return _packed([_VERSION, kind, *content])


def decode(body: bytes) -> list[Any] | None:
    """Return `[kind, ...]`, or None for what this version cannot read."""
    try:
        message = msgpack.unpackb(body) if len(body) <= MAX_CONTAINERS else codec.decode(body)
    except (ValueError, msgpack.UnpackException, RecursionError):
        skip(body)
        return None
    if not isinstance(message, list) or len(message) < 3 or message[0] not in (_VERSION, _WITH_COUNTS):  # noqa: PLR2004 - see above
        return None
    return message[1:]


def skip(body: bytes) -> None:
    """Say that a message was not ours."""
    _log.warning("skipped a stream message that is not ours (%d bytes)", len(body))


def outcome_messages(records: Iterable[Record], *, doubtful: bool) -> Iterator[bytes]:
    """Yield the records as few messages, each of a size that is cheap to send."""
    rows: list[list[Any]] = []
    size = 0
    version = _VERSION
    for record in records:
        if rows and size + len(record.body) > _MESSAGE_BYTES:
            yield _packed([version, OUTCOMES, doubtful, rows])
            rows, size, version = [], 0, _VERSION
        key = record.key
        row = [key[0], key[1], _CODES[record.state], record.attempt, record.at, record.body]
        if record.count > 1:
            row.append(record.count)
            version = _WITH_COUNTS
        rows.append(row)
        size += len(record.body) + _ROW_BYTES
    if rows:
        yield _packed([version, OUTCOMES, doubtful, rows])


def records_of(rows: Iterable[Sequence[Any]]) -> list[Record]:
    """Read the rows of an outcome message.

    Raises:
        ValueError: One of them is not ours.
    """
    records = [
        Record(Key(bundle, index), STATES[state], attempt, body, at, *count)
        for bundle, index, state, attempt, at, body, *count in rows
    ]
    for record in records:
        if not _is_sound(record):
            msg = "a row of outcomes that is not ours"
            raise ValueError(msg)
    return records


def _is_sound(record: Record) -> bool:
    fields: Any = record  # as anybody may have written them
    (bundle, index), _, attempt, body, at, count = fields
    return (
        type(bundle) is bytes
        and type(body) is bytes
        and type(index) is type(attempt) is type(count) is int
        and isinstance(at, float | int)
        and len(bundle) == BUNDLE_BYTES
        and 0 <= index < _MOST_JOBS
        and 0 < count <= _MOST_JOBS
    )


def _packed(message: list[Any]) -> bytes:
    return cast("bytes", msgpack.packb(message))


def keys_of(rows: Iterable[Sequence[Any]]) -> list[Key]:
    """Read a list of jobs.

    Raises:
        ValueError: One of them is not ours.
    """
    keys = [Key(bundle, index) for bundle, index in rows]
    if not all(type(bundle) is bytes and type(index) is int for bundle, index in keys):
        msg = "a list of jobs that is not ours"
        raise ValueError(msg)
    return keys


def item_row(item: QuarantineItem) -> list[Any]:
    """Write a quarantined message."""
    return [item.id, item.color, item.reason, item.frame, item.at]


def item_of(row: Sequence[Any]) -> QuarantineItem:
    """Read a quarantined message.

    Raises:
        ValueError: It is not ours.
    """
    match list(row):
        case [str(name), str(color), str(reason), bytes(frame), (float() | int()) as at]:
            return QuarantineItem(name, color, reason, frame, float(at))
        case _:
            msg = "a row of the quarantine that is not ours"
            raise ValueError(msg)


def worker_row(worker: WorkerInfo, until: float) -> list[Any]:
    """Write that a worker lives."""
    return [
        worker.name,
        worker.host,
        worker.pid,
        list(worker.colors),
        list(worker.tasks),
        worker.at,
        until,
        worker.processes,
    ]


def worker_of(row: Sequence[Any]) -> tuple[WorkerInfo, float]:
    """Read that a worker lives, and until when.

    Raises:
        ValueError: It is not ours.
    """
    match list(row):
        case [
            str(name),
            str(host),
            int(pid),
            list(colors),
            list(tasks),
            (float() | int()) as at,
            (float() | int()) as until,
            int(processes),
        ]:
            worker = WorkerInfo(name, host, pid, _texts(colors), _texts(tasks), float(at), processes)
            return worker, float(until)
        case _:
            msg = "a row of workers that is not ours"
            raise ValueError(msg)


def _texts(values: Sequence[Any]) -> tuple[str, ...]:
    if not all(type(value) is str for value in values):
        msg = "a name that is no text"
        raise ValueError(msg)
    return tuple(values)
