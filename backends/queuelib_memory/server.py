"""The server that memory:// talks to: everything a broker and a result backend keep, in this process and locked."""

from __future__ import annotations

import os
import threading
from bisect import insort
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from queuelib.body import singles
from queuelib.clock import SYSTEM, Clock
from queuelib.outcome import CANCELLED, QUEUED, RETRYING, SCHEDULED, Record, supersedes
from queuelib.ports import Delivery, QuarantineItem, Settled, WorkerInfo

if TYPE_CHECKING:
    from queuelib.ear import Ear
    from queuelib.ids import Key
    from queuelib.message import Outgoing

__all__ = ["MemoryServer", "drop", "server_named"]


@dataclass(slots=True, eq=False)
class _Item:
    queue: str
    bundle: bytes
    frame: bytes
    published: float
    number: int = 0  # its place among the ready ones of its queue
    redelivered: bool = False
    owner: object | None = None


@dataclass
class MemoryServer:
    """State shared by all connections to one memory:// URL; every method is atomic."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    queues: dict[str, deque[_Item]] = field(default_factory=dict[str, "deque[_Item]"])
    delayed: list[tuple[float, int, _Item]] = field(default_factory=list["tuple[float, int, _Item]"])
    taken: dict[object, set[_Item]] = field(default_factory=dict[object, "set[_Item]"])
    sizes: dict[bytes, tuple[int, float | None]] = field(default_factory=dict[bytes, "tuple[int, float | None]"])
    published: set[bytes] = field(default_factory=set[bytes])  # bundle ids: a second publish adds no frame
    records: dict[Key, Record] = field(default_factory=dict["Key", Record])
    marks: list[Key] = field(default_factory=list["Key"])
    quarantine: dict[tuple[str, str], QuarantineItem] = field(default_factory=dict)  # by namespace and id
    blobs: dict[tuple[str, bytes], tuple[bytes, float]] = field(default_factory=dict)  # content and end of its time
    memos: dict[tuple[str, str, Key], tuple[bytes, float]] = field(default_factory=dict)  # as blobs, by kind and job
    workers: dict[tuple[str, str], tuple[WorkerInfo, float]] = field(default_factory=dict)  # by namespace and name
    takers: dict[object, tuple[int, Callable[[], None]]] = field(default_factory=dict)
    exchanges: dict[str, str] = field(default_factory=dict[str, str])  # name to type
    bindings: dict[str, dict[tuple[str, str], str]] = field(  # exchange to (routing key, queue) to pattern
        default_factory=dict[str, "dict[tuple[str, str], str]"]
    )
    declared: set[str] = field(default_factory=set[str])  # queues that plain kombu programs declared
    pulse: int = 0  # one more after each batch of records
    clock: Clock = SYSTEM  # a test's own says what is due
    ears: list[Ear] = field(default_factory=list["Ear"])  # who is told of all ends
    _number: int = 0

    def __post_init__(self) -> None:
        self.changed = threading.Condition(self.lock)

    # Messages

    def publish(self, frames: Sequence[Outgoing]) -> None:
        """Accept frames, each new bundle id once."""
        now = self.clock.wall()
        with self.lock:
            for frame in frames:
                if frame.bundle and not frame.is_successor:
                    if frame.bundle in self.published:
                        continue
                    self.published.add(frame.bundle)
                    self.sizes[frame.bundle] = (frame.size, frame.due)
                self._enqueue(_Item(frame.color, frame.bundle, frame.frame, now), frame.due)
            self._wake_takers()

    def take(self, owner: object, room: Mapping[str, int]) -> list[Delivery]:
        """Claim at most `room[queue]` frames of each queue for an owner."""
        with self.lock:
            self._promote()
            mine = self.taken.setdefault(owner, set())
            deliveries: list[Delivery] = []
            for queue, count in room.items():
                waiting = self.queues.get(queue, ())
                for _ in range(min(count, len(waiting))):
                    item = self.queues[queue].popleft()
                    item.owner = owner
                    mine.add(item)
                    deliveries.append(Delivery(item.frame, queue, item, item.redelivered, item.published))
            return deliveries

    def acknowledge(self, owner: object, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Delete claimed frames; return the deliveries that belong to somebody else by now."""
        with self.lock:
            return [delivery for delivery in deliveries if not self._drop(owner, delivery)]

    def find_lost(self, owner: object, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Return the deliveries that belong to somebody else by now."""
        with self.lock:
            mine = self.taken.get(owner, set())
            return [delivery for delivery in deliveries if delivery.tag not in mine]

    def give_back(self, owner: object, deliveries: Sequence[Delivery], delay: float, *, died: bool = False) -> None:
        """Release claimed frames to their places in their queues."""
        with self.lock:
            for delivery in deliveries:
                item: _Item = delivery.tag
                if not self._drop(owner, delivery):
                    continue
                item.owner, item.redelivered = None, item.redelivered or died
                if delay > 0:
                    self._enqueue(item, self.clock.wall() + delay)
                else:
                    insort(self.queues.setdefault(item.queue, deque()), item, key=lambda each: each.number)
            self._wake_takers()

    def leave(self, owner: object, *, died: bool = False) -> None:
        """Release all that an owner holds; `died` marks it as redelivered."""
        with self.lock:
            held = [Delivery(item.frame, item.queue, item) for item in self.taken.get(owner, ())]
            self.give_back(owner, held, 0.0, died=died)
            self.taken.pop(owner, None)
            self.takers.pop(owner, None)

    def settle(self, owner: object, namespace: str, batch: Sequence[Settled], keep: float) -> list[bool]:
        """Write records, quarantine and successors and delete the deliveries, all at once."""
        with self.lock:
            mine = self.taken.get(owner, set())
            held = [settled.delivery.tag in mine for settled in batch]
            for settled, is_ours in zip(batch, held, strict=True):
                self.store([r for r in settled.records if is_ours or r.state == "succeeded"], keep)
                if not is_ours:
                    continue
                self.set_aside(namespace, settled.quarantined)
                self.publish(settled.successors)
                if settled.is_complete:
                    self._drop(owner, settled.delivery)
            return held

    def next_due(self) -> float | None:
        """Return when the next delayed frame is due."""
        with self.lock:
            return self.delayed[0][0] if self.delayed else None

    def size(self, queue: str) -> int:
        """Return how many frames wait in a queue, due or not."""
        with self.lock:
            return len(self.queues.get(queue, ())) + sum(item.queue == queue for _, _, item in self.delayed)

    def purge(self, queue: str) -> int:
        """Delete what waits in a queue."""
        with self.lock:
            count = self.size(queue)
            self.queues.pop(queue, None)
            self.delayed = [entry for entry in self.delayed if entry[2].queue != queue]
            heapify(self.delayed)
            return count

    # Records

    def accept(self, frames: Sequence[Outgoing]) -> None:
        """Remember bundles, whichever transport they travel over."""
        with self.lock:
            for frame in frames:
                self.sizes.setdefault(frame.bundle, (frame.size, frame.due))

    def store(self, records: Sequence[Record], keep: float) -> list[bool]:
        """Store what supersedes what is there."""
        with self.changed:
            stands = [self._put(record) for record in records]
            for ear in self.ears:
                ear.tell(records)
            self._forget_old(keep)
            self.pulse += 1
            self.changed.notify_all()
            return stands

    def fetch(self, keys: Sequence[Key]) -> list[Record | None]:
        """Return what is known of some jobs."""
        with self.lock:
            found = list(map(self.records.get, keys))
            if None not in found:
                return found
            return [self._waiting(key) if one is None else one for key, one in zip(keys, found, strict=True)]

    def forget(self, keys: Sequence[Key]) -> None:
        """Drop the endings of some jobs; of a span the other jobs go on, each with a record of its own."""
        with self.lock:
            for key in keys:
                record = self.records.pop(key, None)
                if record is not None and record.count > 1:
                    self.records.update({one.key: one for one in singles(record) if one.key in self.records})

    def cancel(self, keys: Sequence[Key], keep: float) -> None:
        """Mark jobs; end at once those whose bundle nobody holds."""
        with self.lock:
            self.marks.extend(keys)
            held = {item.bundle for items in self.taken.values() for item in items}
            now = self.clock.wall()
            self.store([Record(key, CANCELLED, at=now) for key in keys if self._is_waiting(key, held)], keep)

    def set_aside(self, namespace: str, items: Sequence[QuarantineItem]) -> None:
        """Add to the quarantine."""
        with self.lock:
            self.quarantine.update({(namespace, item.id): item for item in items})

    def _put(self, record: Record) -> bool:
        if record.count > 1:
            keys = record.keys
            if self.records.keys().isdisjoint(keys):
                self.records.update(dict.fromkeys(keys, record))
                return True
            return min([self._put(one) for one in singles(record)])
        stands = supersedes(record, self.records.get(record.key))
        if stands:
            self.records[record.key] = record
        return stands

    def _waiting(self, key: Key) -> Record | None:
        size, due = self.sizes.get(key.bundle, (0, None))
        if key.index >= size:
            return None
        return Record(key, SCHEDULED if due and due > self.clock.wall() else QUEUED)

    def _is_waiting(self, key: Key, held: set[bytes]) -> bool:
        (known,) = self.fetch([key])
        return known is not None and known.state in (QUEUED, SCHEDULED, RETRYING) and key.bundle not in held

    def _enqueue(self, item: _Item, due: float | None) -> None:
        if due is not None and due > self.clock.wall():
            self._number += 1
            heappush(self.delayed, (due, self._number, item))
        else:
            self._make_ready(item)

    def _promote(self) -> None:
        now = self.clock.wall()
        while self.delayed and self.delayed[0][0] <= now:
            self._make_ready(heappop(self.delayed)[2])

    def _make_ready(self, item: _Item) -> None:
        self._number += 1
        item.number = self._number
        self.queues.setdefault(item.queue, deque()).append(item)

    def _drop(self, owner: object, delivery: Delivery) -> bool:
        mine = self.taken.get(owner, set())
        is_ours = delivery.tag in mine
        mine.discard(delivery.tag)
        return is_ours

    def _wake_takers(self) -> None:
        for _, wake in self.takers.values():
            wake()

    def _forget_old(self, keep: float) -> None:
        oldest = self.clock.wall() - keep
        while self.records:
            key, record = next(iter(self.records.items()))
            if not record.at or record.at > oldest:
                break
            del self.records[key]
            self.sizes.pop(key.bundle, None)
            self.published.discard(key.bundle)


_servers: dict[str, MemoryServer] = {}
_servers_lock = threading.Lock()


def server_named(name: str) -> MemoryServer:
    """Return this process's server of that name; a forked child starts with empty ones."""
    with _servers_lock:
        return _servers.setdefault(name, MemoryServer())


def drop(name: str) -> None:
    """Forget this process's server of that name, and all that it keeps."""
    with _servers_lock:
        _servers.pop(name, None)


os.register_at_fork(after_in_child=_servers.clear)
