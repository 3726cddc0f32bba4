"""Attacks through what stands beside a message: headers, reply addresses, rows of streams and records on servers."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest

from queuelib.broker.incoming import DUE, FIRST_AT, arrival_of
from queuelib.ids import Key
from queuelib.outcome import SUCCEEDED, Record
from queuelib_rabbitmq import wire
from queuelib_rabbitmq.memory import Memory
from queuelib_rabbitmq.results import RabbitResults
from queuelib_redis import inbox, records

KEY = Key(bytes(16), 0)


@pytest.mark.parametrize("value", ["soon", b"1", None, [], {"a": 1}, math.nan, math.inf, -math.inf])
def test_s37_a_header_that_is_no_time_is_none(value: Any) -> None:
    """Whatever a publisher writes into our headers."""
    headers = {FIRST_AT: value, DUE: value, "x-death": value, "x-delivery-count": value}
    message = SimpleNamespace(body=b"x", headers=headers, delivery_info={}, delivery_tag=1)
    arrival = arrival_of(message)
    assert arrival.first_at is None
    assert arrival.due == 0.0


@pytest.mark.parametrize(
    "reply", ["lab.red", "lab.results", "lab.reply.", "other.reply." + "0" * 32, "lab.reply." + "0" * 31 + "G"]
)
def test_s37_outcomes_are_told_to_reply_queues_only(reply: str) -> None:
    """A message cannot name another queue, of its own namespace or of another, to have outcomes put there."""
    results = RabbitResults("amqp://host//", "lab", 60.0)
    assert not results.is_reply(reply)
    assert results.is_reply("lab.reply." + "0f" * 16)


@pytest.mark.parametrize("row", [
    [KEY[0], 0, 4, 1, 0.0, b"", 2**60], [KEY[0], 0, 4, 1, 0.0, b"", 0], [KEY[0], 2**40, 4, 1, 0.0, b""], [b"", 0, 4, 1, 0.0, b""],
    [[], 0, 4, 1, 0.0, b""], [KEY[0], 0, 99, 1, 0.0, b""], [KEY[0], 0, "x", 1, 0.0, b""], [KEY[0], 0, 4, "1", 0.0, b""],
    [KEY[0], 0, 4, 1, "now", b""], [KEY[0], 0, 4, 1, 0.0, "text"], [], 7, [1] * 100,
], ids=repr)  # fmt: skip
def test_s11_a_foreign_row_in_a_stream_is_skipped(row: Any) -> None:
    """Rows that claim an exabyte of successes, other types or unknown states: nothing is learned, and nobody dies."""
    with pytest.raises(wire.FOREIGN):
        wire.records_of([row])
    memory = Memory(1 << 20)
    memory.push(msgpack.packb([2, wire.OUTCOMES, False, [row]]))
    assert memory.best(KEY) is None


def test_s06_a_deep_row_in_a_small_stream_is_skipped() -> None:
    """A value nested hundreds of times stands where a name should: found by mutation, where it was to be shown as text."""
    deep: Any = []
    for _ in range(400):
        deep = [deep]
    for read, row in (
        (wire.item_of, [deep, "red", "why", b"", 0.0]),
        (wire.worker_of, [deep, "h", 1, [], [], 0.0, 0.0]),
    ):
        with pytest.raises(wire.FOREIGN):
            read(row)
    with pytest.raises(wire.FOREIGN):
        wire.worker_of(["w", "h", 1, [deep], [], 0.0, 0.0])


def test_s06_a_bomb_in_a_stream_is_skipped() -> None:
    """A stream's message of empty lists is no message."""
    count = 3_000_000
    assert wire.decode(b"\x94\x01\x00\xc2\xdd" + count.to_bytes(4, "big") + b"\x90" * count) is None


@pytest.mark.parametrize(("first", "count"), [(0, 2**32 - 1), (0, 65_537), (65_536, 1), (2**32 - 1, 2**32 - 1)])
def test_s37_a_mark_of_more_jobs_than_there_are(first: int, count: int) -> None:
    """A cancel mark that would make billions of jobs makes none; what stands beside it counts."""
    sound = inbox.pack([Key(KEY.bundle, 3), Key(KEY.bundle, 4)])
    forged = KEY.bundle + first.to_bytes(4, "big") + count.to_bytes(4, "big")
    assert inbox.unpack(forged + sound) == [Key(KEY.bundle, 3), Key(KEY.bundle, 4)]


@pytest.mark.parametrize(
    "value", [b"", b"X", b"S", b"S1", b"S1 2", b"Sx 1 b", b"Z1 1.0 b", b"S" + b"9" * 5000 + b" 1 b", b"\xff", b"aNaN?"]
)
def test_s37_a_damaged_record_on_redis_tells_of_nothing(value: bytes) -> None:
    """What a record does not say is not known, as if there were none."""
    assert records.Found(KEY.bundle, value, 0.0).record(KEY) in {None, Record(KEY, "queued")}
    sound = records.encode(Record(KEY, SUCCEEDED, 1, b"x", 1.5))
    assert records.Found(KEY.bundle, sound, 0.0).record(KEY) == Record(KEY, SUCCEEDED, 1, b"x", 1.5)
