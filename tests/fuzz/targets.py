"""What is fuzzed: each reader of foreign bytes or text, with the only errors that may come out, and honest inputs."""

from __future__ import annotations

import datetime as dt
import socket
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import click

from queuelib import body, codec, envelope, plugins
from queuelib.cli.worker import duration, size
from queuelib.errors import ConfigurationError, DecodeError, UnknownJob
from queuelib.ids import Key, job_id, parse_job_id
from queuelib.outcome import SUCCEEDED, Record
from queuelib.schema import Schema
from queuelib.settings import mask
from queuelib.worker.child import outcome_from
from queuelib.worker.frames import FrameReader, pack_frame
from queuelib_rabbitmq import wire
from queuelib_redis import inbox, records
from tests.unit.wire_vectors import EXAMPLES

__all__ = ["TARGETS", "Target"]


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        name: For people.
        read: What reads one input.
        allowed: The errors that may come out.
        seeds: Honest inputs, all bytes or all text.
    """

    name: str
    read: Callable[[Any], object]
    allowed: tuple[type[Exception], ...]
    seeds: Sequence[bytes] | Sequence[str]


def _typed(genome: list[float], name: str, at: dt.datetime | None = None, *more: int, **rest: float) -> float:
    raise NotImplementedError


_SCHEMA = Schema.of_function(_typed)
_SCHEMA_HASH = _SCHEMA.hash
_KEY = Key(bytes(range(16)), 3)
_AT = dt.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=ZoneInfo("Europe/Berlin"))
_VALUES: list[Any] = [
    None, True, 3, -7, 2**80, 0.5, "text", b"bytes", [1, [2.5, "x"]], {"a": 1, "b": [None]}, {(1, 2): 3}, _AT, _AT.date(), _AT.time(),
    dt.timedelta(3, 4, 5), Decimal("1.25"), UUID(int=7), 1 + 2j, {1, 2}, frozenset({("a", 1)}), Path("/x/y"), Fraction(3, 7),
    [_AT, {Decimal(1): {frozenset({1}): UUID(int=1)}}], "\ud800",
]  # fmt: skip
_RECORDS = [
    Record(_KEY, SUCCEEDED, 1, body.of_result("lab.echo", b"\x01", "w/1", 0.5), 1.5),
    Record(
        _KEY,
        "failed",
        2,
        body.of_failure("lab.echo", "ValueError", "no", codec.encode(["no"]), "Traceback", "w/1"),
        1.5,
    ),
    Record(_KEY, SUCCEEDED, 1, body.of_results("lab.echo", [b"\x01", b"\x02", b"\x03"]), 1.5, 3),
]


def _values() -> list[bytes]:
    found = [codec.encode(value) for value in _VALUES]
    try:
        import numpy as np  # noqa: PLC0415
    except ImportError:
        return found
    return [
        *found,
        codec.encode(np.arange(6.0).reshape(2, 3)),
        codec.encode(np.float32(1.5)),
        codec.encode(np.array(["a", "bc"])),
    ]


def _load_column(data: bytes) -> object:
    return _SCHEMA.load_column(data, _SCHEMA_HASH)


def _read_record(data: bytes) -> object:
    found = body.read(data)
    return body.rebuild(found, {}) if found.type_name else found


def _read_frames(data: bytes) -> object:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 512 * 1024)
        theirs.sendall(data)
        theirs.close()
        values, _ = FrameReader(ours, most=1 << 20, is_flat=True).ready()
    return [outcome_from(value[2:]) for value in values]


def _read_stream(data: bytes) -> object:
    message = wire.decode(data)
    if message is None:
        return None
    kind, *content = message
    readers: dict[Any, Callable[[], object]] = {
        wire.OUTCOMES: lambda: wire.records_of(content[1]),
        wire.CANCELS: lambda: wire.keys_of(content[0]),
        wire.ITEM: lambda: wire.item_of(content[0]),
        wire.WORKER: lambda: wire.worker_of(content[0]),
    }
    return readers[kind]() if isinstance(kind, int) and kind in readers else None


def _read_redis(data: bytes) -> object:
    return records.Found(_KEY.bundle, data, 0.0).record(Key(_KEY.bundle, 0))


def _url(text: str) -> object:
    mask(text)
    backend = _BACKENDS.get(plugins.scheme_of(text))
    return backend and backend.transport(text, "fuzz")


_URLS = [
    "sqlite:///jobs.db", "sqlite:////data/jobs.db", "redis://me:secret@host:6379/0?wait=1", "rediss://host/1?ca=/x&verify=no",
    "sentinel://a:1,b:2/0?master=m", "amqp://guest:guest@host:5672//", "amqps://host/vhost?heartbeat=5&queue_type=classic",
    "amqp://[::1]:5672/a%2Fb", "memory://", "memory://name",
]  # fmt: skip
_BACKENDS = {scheme: backend for backend in map(plugins.find_backend, _URLS) if backend for scheme in backend.schemes}
_FRAMES = [
    pack_frame(value)
    for value in (
        ["hello", 17],
        [1, 0.5, 0, b"\x01"],
        [2, 0.25, 1, None, b"x"],
        [3, 0.5, 1, 2.5, b"x"],
        [4, 0.5, 3, "why"],
    )
]
_STREAM = [
    *[message for record in _RECORDS for message in wire.outcome_messages([record], doubtful=False)],
    wire.encode(wire.CANCELS, [[_KEY.bundle, 3]], 1.5),
    wire.encode(wire.ITEM, ["id", "red", "why", b"frame", 1.5]),
    wire.encode(wire.WORKER, ["w", "host", 17, ["red"], ["lab.echo"], 1.5, 2.5]),
    wire.encode(wire.MARK, b"mark"),
]
_COLUMNS = [
    codec.encoded_list([_SCHEMA.pack(([1.0, 2.0], "x"), {})]),
    codec.encoded_list([_SCHEMA.pack(([1.0], "x", _AT, 4, 5), {"more_": 1.5}), _SCHEMA.pack(([], ""), {})]),
]
TARGETS = [
    Target("envelope", envelope.decode, (DecodeError,), [envelope.encode(bundle) for bundle in EXAMPLES.values()]),
    Target("value", codec.decode, (DecodeError,), _values()),
    Target("column", _load_column, (DecodeError,), _COLUMNS),
    Target("split", lambda data: codec.split_list(data, 2), (DecodeError,), _COLUMNS),
    Target("record", _read_record, (DecodeError,), [record.body for record in _RECORDS]),
    Target("starts", body.starts_in, (), [body.of_starts(1), b""]),
    Target("frames of a child", _read_frames, (DecodeError, ValueError), [*_FRAMES, b"".join(_FRAMES)]),
    Target("stream of RabbitMQ", _read_stream, wire.FOREIGN, _STREAM),
    Target("record on Redis", _read_redis, (), [records.encode(record) for record in _RECORDS] + [b"a123.5", b"p"]),
    Target("inbox on Redis", inbox.unpack_runs, (), [inbox.pack([_KEY])]),
    Target("URL", _url, (ConfigurationError,), _URLS),
    Target("duration", duration, (click.BadParameter,), ["30", "30s", "1.5h", "5 m", "2d"]),
    Target("size", size, (click.BadParameter,), ["500M", "2G", "1.5 KiB", "7"]),
    Target("job id", parse_job_id, (UnknownJob,), [job_id(*_KEY), job_id(bytes(16), 0)]),
]
