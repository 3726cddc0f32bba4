"""Outcomes on Redis: one hash per bundle with one time to live, read and written in batches by any process.

Keys, all beginning with the namespace:
    NS:r:{bundle in hex}   hash     size, due time, and a record per job: see scripts/store.lua
    NS:inbox:UUID          list     announcements for one client: see inbox.py
    NS:cancelled           stream   marks of a week
    NS:quarantine          hash     id -> item; kept for ever
    NS:workers             hash     name -> worker and its end, by the server's clock

It never ends a job itself: a cancelled job is shown as cancelled once a worker has met its mark.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import msgpack

from queuelib.ports import Cancelled, QuarantineItem, ResultCapabilities, WorkerInfo
from queuelib_redis.address import Address, parse
from queuelib_redis.client import Client, Script
from queuelib_redis.inbox import Inbox, address_pattern, pack, unpack
from queuelib_redis.wire import by_bundle, decode, encode, pairs, parts, seconds, without_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from queuelib.ids import Key
    from queuelib.message import Outgoing
    from queuelib.outcome import Record

__all__ = ["RedisResults"]

_ACCEPTED_FOR = 30 * 24 * 3600.0  # seconds, after its due time, for which a job that has not ended is remembered
_MARKS_FOR = 7 * 24 * 3600.0  # seconds; longer than any worker stays away and comes back with what it had taken
_INBOX_FOR = 120  # seconds after the last announcement; a client that comes later looks for itself
_INBOX_LENGTH = 1000  # announcements, each of up to 500 jobs
_COMMANDS_A_TRIP = 1000
_BUNDLES_A_CALL = 500
_MARKS_A_CALL = 5000
_OWN_BUNDLES = 100_000  # that this client remembers to have given out; others it looks up more often


class RedisResults:
    """The result backend of redis:// and rediss://."""

    # A stored outcome is lost with the server unless it writes an append-only file, which only its operator knows.
    capabilities = ResultCapabilities(records=True, crosses_processes=True)

    def __init__(self, url: str, namespace: str, keep: float) -> None:
        self.address: Address = parse(url)
        self.namespace = namespace
        self.keep = keep
        self._is_inbox = address_pattern(namespace).match
        self._accept, self._store, self._forget = Script("accept"), Script("store"), Script("forget")
        self._opened: dict[int, _Client] = {}  # by process: what a fork inherits belongs to the parent

    def accept(self, frames: Sequence[Outgoing]) -> None:
        """Remember bundles, for a month after they are due."""
        client = self._here()
        now = time.time()
        fresh = [frame for frame in frames if not frame.is_successor]
        commands: list[tuple[Any, ...]] = []
        for start in range(0, len(fresh), _BUNDLES_A_CALL):
            part = fresh[start : start + _BUNDLES_A_CALL]
            arguments: list[Any] = []
            for frame in part:
                alive = max(0.0, (frame.due or now) - now) + max(self.keep, _ACCEPTED_FOR)
                arguments += (frame.size, "" if frame.due is None else repr(frame.due), int(alive * 1000))
            keys = [self.bundle_key(frame.bundle) for frame in part]
            commands.append(("EVALSHA", self._accept.digest, len(keys), *keys, *arguments))
        client.run(commands, [self._accept])
        client.add_own(frame.bundle for frame in fresh)

    def store(self, records: Sequence[Record], reply: str = "") -> list[bool]:
        """Store what supersedes what is there; a batch of one call of a script is atomic."""
        client = self._here()
        stands = [False] * len(records)
        is_announced = bool(self._is_inbox(reply))
        for part in parts(records):
            command, order = self._store_command(records, part)
            commands = [command]
            ended = [records[at].key for at in order if records[at].is_final]
            if is_announced and ended:
                commands += self.announcement(reply, ended)
            answers = client.connection.send(commands, [self._store])
            for at, answer in zip(order, answers[0], strict=True):
                stands[at] = bool(answer)
        return stands

    def fetch(self, keys: Sequence[Key]) -> list[Record | None]:
        """Return what is known of each job."""
        client = self._here()
        groups = list(by_bundle(keys, range(len(keys))).values())
        answers = client.run(
            [
                ("HMGET", self.bundle_key(keys[group[0]].bundle), "n", "d", *[keys[at].index for at in group])
                for group in groups
            ]
        )
        now = time.time()
        found: list[Record | None] = [None] * len(keys)
        for group, (size, due, *values) in zip(groups, answers, strict=True):
            for at, value in zip(group, values, strict=True):
                found[at] = decode(keys[at], value) if value is not None else without_record(keys[at], size, due, now)
        return found

    def wait(self, keys: Sequence[Key], timeout: float) -> None:
        """Wait for an announcement; for jobs that were submitted elsewhere, look, at growing intervals."""
        if timeout <= 0 or not keys:
            return
        client = self._here()
        try:
            client.inbox.wait(keys, timeout, is_own=client.is_own(keys), has_ended=self._has_ended)
        finally:
            if client.inbox.is_closed:
                client.connection.close()  # the one that was in use when the others were closed

    def forget(self, keys: Sequence[Key]) -> None:
        """Drop records; the bundles stay."""
        client = self._here()
        alive = int(max(self.keep, _ACCEPTED_FOR) * 1000)
        commands = [
            ("EVALSHA", self._forget.digest, 1, self.bundle_key(bundle), alive, *indexes)
            for bundle, indexes in by_bundle(keys, [key.index for key in keys]).items()
        ]
        client.run(commands, [self._forget])
        client.inbox.forget(keys)

    def inbox(self) -> str:
        """Return the key of this process's list; it costs nothing until it is used."""
        return self._here().inbox.address

    def cancel(self, keys: Sequence[Key]) -> None:
        """Append marks, and drop those that are older than a week."""
        if not keys:
            return
        client = self._here()
        stream = self.key("cancelled")
        answers = client.run(
            [
                ("XADD", stream, "*", "k", pack(keys[start : start + _MARKS_A_CALL]))
                for start in range(0, len(keys), _MARKS_A_CALL)
            ]
        )
        now = int(bytes(answers[-1]).split(b"-")[0])  # the id that the server gave begins with its time
        oldest = max(0, now - int(_MARKS_FOR * 1000))
        client.run([("XTRIM", stream, "MINID", "~", oldest), ("PEXPIRE", stream, int(_MARKS_FOR * 1000))])

    def cancelled(self, cursor: Any) -> Cancelled:
        """Return new marks; the cursor is the last entry seen."""
        client = self._here()
        keys: list[Key] = []
        while True:
            start = "-" if cursor is None else f"({cursor}"
            (entries,) = client.run([("XRANGE", self.key("cancelled"), start, "+", "COUNT", _COMMANDS_A_TRIP)])
            for _, fields in entries:
                keys += unpack(fields[b"k"] if isinstance(fields, dict) else fields[1])
            if entries:
                cursor = bytes(entries[-1][0]).decode()
            if len(entries) < _COMMANDS_A_TRIP:
                return Cancelled(keys, cursor)

    def quarantine(self, items: Sequence[QuarantineItem]) -> None:
        """Set messages aside; one that is there already is replaced."""
        self._here().run(
            [
                ("HSET", self.key("quarantine"), item.id, msgpack.packb((item.color, item.reason, item.frame, item.at)))
                for item in items
            ]
        )

    def quarantined(self) -> list[QuarantineItem]:
        """Return what is set aside, oldest first."""
        (found,) = self._here().run([("HGETALL", self.key("quarantine"))])
        items = [QuarantineItem(name.decode(), *msgpack.unpackb(value)) for name, value in pairs(found)]
        return sorted(items, key=lambda item: (item.at, item.id))

    def release(self, ids: Sequence[str]) -> None:
        """Remove from the quarantine."""
        if ids:
            self._here().run([("HDEL", self.key("quarantine"), *ids)])

    def announce(self, worker: WorkerInfo, lifetime: float) -> None:
        """List a worker until it is heard of no more."""
        client = self._here()
        key = self.key("workers")
        if lifetime <= 0:
            client.run([("HDEL", key, worker.name)])
            return
        (now,) = client.run([("TIME",)])
        row = (seconds(now) + lifetime, worker.host, worker.pid, worker.colors, worker.tasks, worker.at)
        alive = int((lifetime + 24 * 3600) * 1000)
        client.run([("HSET", key, worker.name, msgpack.packb(row)), ("PEXPIRE", key, alive)])

    def workers(self) -> list[WorkerInfo]:
        """Return live workers, and strike the dead off the list."""
        client = self._here()
        time_there, found = client.run([("TIME",), ("HGETALL", self.key("workers"))])
        now = seconds(time_there)
        live: list[WorkerInfo] = []
        dead: list[bytes] = []
        for name, value in pairs(found):
            until, host, pid, colors, tasks, at = msgpack.unpackb(value)
            if until > now:
                live.append(WorkerInfo(name.decode(), host, pid, tuple(colors), tuple(tasks), at))
            else:
                dead.append(name)  # one that has just come back is heard of again within seconds
        if dead:
            client.run([("HDEL", self.key("workers"), *dead)])
        return live

    def close(self) -> None:
        """Close all connections, and end all waits; a later call opens new ones."""
        client = self._opened.pop(os.getpid(), None)
        if client is not None:
            client.inbox.close()
            client.connection.close()

    def key(self, name: str) -> str:
        """Return the key of something that this namespace has once."""
        return f"{self.namespace}:{name}"

    def bundle_key(self, bundle: bytes) -> str:
        """Return the key of a bundle's hash; the braces keep it on one node of a cluster."""
        return f"{self.namespace}:r:{{{bundle.hex()}}}"

    def announcement(self, reply: str, ended: Iterable[Key]) -> list[tuple[Any, ...]]:
        """Return the commands that tell a client."""
        return [
            ("RPUSH", reply, pack(ended)),
            ("LTRIM", reply, -_INBOX_LENGTH, -1),
            ("EXPIRE", reply, _INBOX_FOR),
        ]

    def _here(self) -> _Client:
        """Return this process's connections; nothing is opened yet."""
        pid = os.getpid()
        client = self._opened.get(pid)
        return client or self._opened.setdefault(pid, _Client(self.address, self.namespace))

    def _has_ended(self, keys: Sequence[Key]) -> bool:
        return any(record is not None and record.is_final for record in self.fetch(keys))

    def _store_command(self, records: Sequence[Record], part: Sequence[int]) -> tuple[tuple[Any, ...], list[int]]:
        """Return the call that stores some records, and where in `records` each of its answers belongs."""
        groups = by_bundle([records[at].key for at in part], part)
        arguments: list[Any] = [int(self.keep * 1000), int(max(self.keep, _ACCEPTED_FOR) * 1000)]
        order: list[int] = []
        for group in groups.values():
            arguments.append(len(group))
            for at in group:
                arguments += (records[at].key.index, encode(records[at]))
            order += group
        keys = [self.bundle_key(bundle) for bundle in groups]
        return ("EVALSHA", self._store.digest, len(keys), *keys, *arguments), order


class _Client:
    """What one process holds open."""

    def __init__(self, address: Address, namespace: str) -> None:
        self.connection = Client(address)
        self.inbox = Inbox(namespace, self.connection.pop)
        self._own: OrderedDict[bytes, None] = OrderedDict()

    def run(self, commands: Sequence[tuple[Any, ...]], scripts: Sequence[Script] = ()) -> list[Any]:
        """Send any number of commands, a limited number at a time."""
        answers: list[Any] = []
        for start in range(0, len(commands), _COMMANDS_A_TRIP):
            answers += self.connection.send(commands[start : start + _COMMANDS_A_TRIP], scripts)
        return answers

    def add_own(self, bundles: Iterable[bytes]) -> None:
        """Remember what was given out here: its endings are announced here."""
        self._own.update(dict.fromkeys(bundles))
        while len(self._own) > _OWN_BUNDLES:
            self._own.popitem(last=False)

    def is_own(self, keys: Sequence[Key]) -> bool:
        """Return whether all these jobs were given out here."""
        return all(key.bundle in self._own for key in keys)
