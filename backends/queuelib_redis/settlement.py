"""The one door of a Redis server: outcomes, successors and acknowledgements of a batch in one script."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgpack

from queuelib import faults
from queuelib.outcome import SUCCEEDED
from queuelib_redis import entry
from queuelib_redis.inbox import pack_runs
from queuelib_redis.records import grouped
from queuelib_redis.script import Script

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from queuelib.outcome import Record
    from queuelib.ports import QuarantineItem, Settled
    from queuelib_redis.results import RedisResults
    from queuelib_redis.transport import Channel

__all__ = ["SETTLE", "RedisSettlement", "announcements", "quarantine_section", "settle_tags"]

SETTLE = Script("common", "records", "settle")
_ENTRIES_A_CALL = 500  # the server does nothing else meanwhile
_BYTES_A_CALL = 4 * 1024 * 1024
_NOTHING = [b"0", b"0", b"0", b"0"]  # sections of records, of what is set aside, and of successors
_TAGS_A_CALL = 2000


class RedisSettlement:
    """Settles over the connection that took."""

    def __init__(self, channel: Channel, results: RedisResults) -> None:
        self._channel = channel
        self._results = results

    def settle(self, batch: Sequence[Settled]) -> list[bool]:
        """Write a batch; of a delivery that is not ours any more, only the successes."""
        held: list[bool] = []
        for part in _parts(batch):
            held += self._settle_part(part)
        return held

    def _settle_part(self, batch: Sequence[Settled]) -> list[bool]:
        channel = self._channel
        held = [settled.delivery.tag in channel.held for settled in batch]
        while True:
            if faults.ACTIVE:  # one script does all: there is nothing between before and after
                faults.point("before_ack")
            answer = channel.confirmed(
                channel.wire.run(SETTLE, channel.prefix, self._arguments(batch, held), channel.confirmation)
            )
            if faults.ACTIVE and answer[0]:
                faults.point("after_result")
                if any(settled.successors for settled in batch):
                    faults.point("after_successor")
            if answer[0]:
                break
            lost = {int(tag) for tag in answer[1:]}
            channel.held -= lost
            held = [settled.delivery.tag in channel.held for settled in batch]
        for settled in batch:
            if settled.is_complete:
                channel.held.discard(settled.delivery.tag)
        return held

    def _arguments(self, batch: Sequence[Settled], held: Sequence[bool]) -> list[bytes]:
        done: list[bytes] = []
        kept: list[bytes] = []
        records: list[Record] = []
        successors: list[bytes] = []
        items: list[QuarantineItem] = []
        told: dict[str, list[Record]] = {}
        now = time.time()
        channel, results = self._channel, self._results
        for settled, is_ours in zip(batch, held, strict=True):
            its = settled.records
            if is_ours:
                (done if settled.is_complete else kept).append(b"%d" % settled.delivery.tag)
                items += settled.quarantined
                for frame in settled.successors:
                    queue = channel.queue_prefix + frame.color
                    due = b"" if frame.due is None else b"%.6f" % frame.due
                    head = entry.header(queue, now)
                    successors += (due, entry.queue_bytes(queue), head + frame.frame)
            else:
                its = [record for record in its if record.state == SUCCEEDED]
            records += its
            if settled.reply and its:
                told.setdefault(settled.reply, []).extend(its)
        sections, _ = grouped(records, range(len(records)))
        return [
            channel.taker,
            b"%d" % len(channel.held),
            results.keep_ms,
            results.lifetime_ms,
            b"%d" % len(done),
            *done,
            b"%d" % len(kept),
            *kept,
            *sections,
            *quarantine_section(items),
            b"%d" % (len(successors) // 3),
            *successors,
            *announcements(results, told),
        ]


def settle_tags(channel: Channel, tags: Sequence[int]) -> set[int]:
    """Delete messages in flight; return the tags of those that were not ours any more."""
    lost = {tag for tag in tags if tag not in channel.held}
    ours = list(dict.fromkeys(tag for tag in tags if tag in channel.held))
    for start in range(0, len(ours), _TAGS_A_CALL):
        part = ours[start : start + _TAGS_A_CALL]
        while part:
            count = b"%d" % len(channel.held)
            done = [b"%d" % tag for tag in part]
            arguments = [channel.taker, count, b"0", b"0", b"%d" % len(done), *done, b"0", *_NOTHING]
            answer = channel.confirmed(channel.wire.run(SETTLE, channel.prefix, arguments, channel.confirmation))
            if answer[0]:
                break
            gone = {int(tag) for tag in answer[1:]}
            channel.held -= gone
            lost |= gone
            part = [tag for tag in part if tag not in gone]
        channel.held.difference_update(part)
    return lost


def announcements(results: RedisResults, told: dict[str, list[Record]]) -> list[bytes]:
    """Return inboxes and what each of them is told: which jobs have ended."""
    found: list[bytes] = []
    for reply, records in told.items():
        ended = [record for record in records if record.is_final]
        if ended and results.is_inbox(reply):
            found += (reply.encode(), pack_runs(ended))
    return found


def quarantine_section(items: Sequence[QuarantineItem]) -> list[bytes]:
    """Return the section of settle.lua that sets messages aside."""
    section = [b"%d" % len(items)]
    for item in items:
        packed: Any = msgpack.packb((item.color, item.reason, item.frame, item.at))
        section += (item.id.encode(), packed)
    return section


def _parts(batch: Sequence[Settled]) -> Iterator[Sequence[Settled]]:
    start = size_bytes = 0
    for at, settled in enumerate(batch):
        size = sum(len(record.body) for record in settled.records)
        size += sum(len(frame.frame) for frame in settled.successors)
        if at > start and (at - start >= _ENTRIES_A_CALL or size_bytes + size > _BYTES_A_CALL):
            yield batch[start:at]
            start, size_bytes = at, 0
        size_bytes += size
    if start < len(batch):
        yield batch[start:]
