"""Outcomes on Redis: one key per bundle with one time to live, read and written in batches by any process.

Keys, all beginning with the namespace in braces:
    {NS}:r:BUNDLE      string or hash   size, due time and records of its jobs: see scripts/records.lua
    {NS}:inbox:UUID    list             announcements for one client: see inbox.py
    {NS}:cancelled     stream           marks of a week
    {NS}:quarantine    hash             id -> item; kept for ever
    {NS}:workers       hash             name -> worker and its end, by the server's clock

It never ends a job itself: a cancelled job is shown as cancelled once a worker has met its mark.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import msgpack

from queuelib.ports import Cancelled, QuarantineItem, ResultCapabilities, WorkerInfo
from queuelib.recent import Recent
from queuelib_redis.address import Address, parse
from queuelib_redis.client import Client
from queuelib_redis.inbox import Inbox, address_pattern, pack, unpack
from queuelib_redis.keys import ACCEPTED_FOR, prefix
from queuelib_redis.records import Found, grouped, pairs, parts, runs, seconds
from queuelib_redis.script import Script
from queuelib_redis.settlement import SETTLE, announcements

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from queuelib.ids import Key
    from queuelib.message import Outgoing
    from queuelib.outcome import Record
    from queuelib_redis.inbox import Hearing, Listen

__all__ = ["RedisResults"]

_MARKS_FOR = 7 * 24 * 3600.0  # seconds; longer than any worker stays away and comes back with what it had taken
_COMMANDS_A_TRIP = 1000
_SCRIPTED_BUNDLES = 50  # a call of fetch.lua: the server does nothing else meanwhile
_ACCEPT = Script("common", "records", "accept")
_FETCH = Script("common", "records", "fetch")
_FORGET = Script("common", "records", "forget")
_ONLY = {0}
_MOST_LOOKED_AT = 32  # jobs, behind the wait for an announcement
_BUNDLES_A_CALL = 500
_MARKS_A_CALL = 5000
_OWN_BUNDLES = 50_000  # at least that this client remembers to have given out; others it looks up more often


class RedisResults:
    """The result backend of redis:// and rediss://."""

    # A stored outcome is lost with the server unless it writes an append-only file, which only its operator knows.
    capabilities = ResultCapabilities(records=True, crosses_processes=True)

    def __init__(self, url: str, namespace: str, keep: float) -> None:
        self.address: Address = parse(url)
        self.namespace = namespace
        self.keep = keep
        self.prefix = prefix(namespace)
        self.keep_ms = b"%d" % (keep * 1000)
        self.lifetime_ms = b"%d" % (max(keep, ACCEPTED_FOR) * 1000)
        self.is_inbox = address_pattern(namespace).match
        self._opened: dict[int, _Client] = {}  # by process: what a fork inherits belongs to the parent

    def accept(self, frames: Sequence[Outgoing]) -> None:
        """Remember bundles, for a month after they are due."""
        client = self._here()
        now = time.time()
        fresh = [frame for frame in frames if not frame.is_successor]
        commands: list[tuple[Any, ...]] = []
        for start in range(0, len(fresh), _BUNDLES_A_CALL):
            arguments: list[Any] = []
            for frame in fresh[start : start + _BUNDLES_A_CALL]:
                alive = max(0.0, (frame.due or now) - now) + max(self.keep, ACCEPTED_FOR)
                due = "" if frame.due is None else repr(frame.due)
                arguments += (frame.bundle.hex(), frame.size, due, int(alive * 1000))
            commands.append(("EVALSHA", _ACCEPT.digest, 1, self.prefix, *arguments))
        client.run(commands, [_ACCEPT])
        client.add_own(frame.bundle for frame in fresh)

    def expect(self, frames: Sequence[Outgoing]) -> None:
        """Remember that the endings of these bundles are announced here."""
        self._here().add_own(frame.bundle for frame in frames if not frame.is_successor)

    def store(self, records: Sequence[Record], reply: str = "") -> list[bool]:
        """Store what supersedes what is there; a batch of one call of a script is atomic."""
        client = self._here()
        stands = [False] * len(records)
        for part in parts(records):
            sections, order = grouped(records, part)
            told = announcements(self, {reply: [records[at] for at in part]}) if reply else []
            arguments = [b"", b"0", self.keep_ms, self.lifetime_ms, b"0", b"0", *sections, b"0", b"0", *told]
            ((_, *answers),) = client.run([("EVALSHA", SETTLE.digest, 1, self.prefix, *arguments)], [SETTLE])
            for at, answer in zip(order, answers, strict=True):
                stands[at] = bool(answer)
        return stands

    def fetch(self, keys: Sequence[Key]) -> list[Record | None]:
        """Return what is known of each job; bundles of one are read by one command, any other by a script."""
        client, asked = self._here(), _by_bundle(keys)
        found = self._found(asked, client.run(self._questions(asked), [_FETCH]))
        absent = {bundle: asked[bundle] for bundle in asked if bundle not in found}
        if absent:  # a bundle of one that is kept otherwise, or not known
            found |= self._found(
                absent, client.run(self._questions(absent, is_scripted=True), [_FETCH]), is_scripted=True
            )
        return [found[key[0]].record(key) for key in keys]

    def wait(self, keys: Sequence[Key], timeout: float) -> list[Record | None] | None:
        """Wait for an announcement; for jobs that were submitted elsewhere, look, at growing intervals."""
        if timeout <= 0 or not keys:
            return None
        client = self._here()
        try:
            return client.inbox.wait(keys, timeout, is_own=client.is_own(keys), fetch=self.fetch)
        finally:
            if client.inbox.is_closed:
                client.connection.close()  # the one that was in use when the others were closed

    def listen(self) -> Hearing:
        """Hear of what is announced to this process."""
        client = self._here()
        address = client.inbox.address

        def ring() -> None:
            client.run([("RPUSH", address, b""), ("PEXPIRE", address, self.keep_ms)])

        return client.inbox.listen(client.has_given_out, ring)

    def read(
        self, address: str, timeout: float, keys: Sequence[Key]
    ) -> tuple[bytes | None, list[Record | None] | None]:
        """Take an announcement, waiting at most `timeout` seconds, and then look at some jobs in the same round trip.

        Returns:
            The announcement, or None; and what `fetch` would say now, or None if it is to be asked.
        """
        asked = _by_bundle(keys if len(keys) <= _MOST_LOOKED_AT else ())
        popped, answers = self._here().connection.pop(address, timeout, self._questions(asked))
        found = self._found(asked, answers) if answers else {}
        if not found or len(found) < len(asked):
            return popped, None
        return popped, [found[key[0]].record(key) for key in keys]

    def forget(self, keys: Sequence[Key]) -> None:
        """Drop records; the bundles stay."""
        client = self._here()
        jobs: dict[bytes, list[int]] = {}
        for bundle, index in keys:
            jobs.setdefault(bundle, []).append(index)
        commands = [
            ("EVALSHA", _FORGET.digest, 1, self.prefix, self.lifetime_ms, bundle.hex(), *indexes)
            for bundle, indexes in jobs.items()
        ]
        client.run(commands, [_FORGET])
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
        items = [_item(name, value) for name, value in pairs(found)]
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
        row = (
            seconds(now) + lifetime,
            worker.host,
            worker.pid,
            worker.colors,
            worker.tasks,
            worker.at,
            worker.processes,
        )
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
            try:
                until, host, pid, colors, tasks, at, processes = msgpack.unpackb(value)
                worker = WorkerInfo(name.decode(), host, pid, tuple(colors), tuple(tasks), at, int(processes))
                is_live = until > now
            except (ValueError, TypeError):
                continue  # somebody else wrote it
            if is_live:
                live.append(worker)
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
        return f"{{{self.namespace}}}:{name}"

    def bundle_key(self, bundle: bytes) -> str:
        """Return the key of what is known of a bundle."""
        return f"{{{self.namespace}}}:r:{bundle.hex()}"

    def _here(self) -> _Client:
        """Return this process's connections; nothing is opened yet."""
        pid = os.getpid()
        client = self._opened.get(pid)
        return client or self._opened.setdefault(pid, _Client(self.address, self.namespace, self.read))

    def _questions(self, asked: Mapping[bytes, set[int]], *, is_scripted: bool = False) -> list[tuple[Any, ...]]:
        """Return the commands whose answers `_found` reads."""
        only, others = _kinds(asked, is_scripted=is_scripted)
        commands: list[tuple[Any, ...]] = [
            ("MGET", *[self.bundle_key(bundle) for bundle in only[start : start + _BUNDLES_A_CALL]])
            for start in range(0, len(only), _BUNDLES_A_CALL)
        ]
        for start in range(0, len(others), _SCRIPTED_BUNDLES):
            arguments: list[Any] = []
            for bundle in others[start : start + _SCRIPTED_BUNDLES]:
                wanted = runs(asked[bundle])
                arguments += (bundle.hex(), len(wanted), *[index for run in wanted for index in run])
            commands.append(("EVALSHA", _FETCH.digest, 1, self.prefix, *arguments))
        return commands

    @staticmethod
    def _found(
        asked: Mapping[bytes, set[int]], answers: Iterable[Any], *, is_scripted: bool = False
    ) -> dict[bytes, Found]:
        """Return what the server knows of each bundle; one of a single job may be missing."""
        only, others = _kinds(asked, is_scripted=is_scripted)
        now = time.time()
        values = [value for answer in answers for value in answer]
        found = {bundle: Found(bundle, value, now) for bundle, value in zip(others, values[len(only) :], strict=True)}
        for bundle, value in zip(only, values, strict=False):
            if value is not None:
                found[bundle] = Found(bundle, value, now)
        return found


def _item(name: bytes, value: bytes) -> QuarantineItem:
    try:
        color, reason, frame, at = msgpack.unpackb(value)
        return QuarantineItem(name.decode(), str(color), str(reason), bytes(frame), float(at))
    except (ValueError, TypeError):  # somebody else wrote it; it stands in the list all the same
        return QuarantineItem(name.decode(errors="replace"), "", "not an entry of queuelib", bytes(value), 0.0)


class _Client:
    """What one process holds open."""

    def __init__(self, address: Address, namespace: str, listen: Listen) -> None:
        self.connection = Client(address)
        self.inbox = Inbox(namespace, listen)
        self._own = Recent[bytes](_OWN_BUNDLES)

    def run(self, commands: Sequence[tuple[Any, ...]], scripts: Sequence[Script] = ()) -> list[Any]:
        """Send any number of commands, a limited number at a time."""
        answers: list[Any] = []
        for start in range(0, len(commands), _COMMANDS_A_TRIP):
            answers += self.connection.send(commands[start : start + _COMMANDS_A_TRIP], scripts)
        return answers

    def add_own(self, bundles: Iterable[bytes]) -> None:
        """Remember what was given out here: its endings are announced here."""
        self._own.add(bundles)

    def has_given_out(self, key: Key) -> bool:
        """Return whether a job was given out here."""
        return key.bundle in self._own

    def is_own(self, keys: Sequence[Key]) -> bool:
        """Return whether all these jobs were given out here."""
        return all(key.bundle in self._own for key in keys)


def _by_bundle(keys: Iterable[Key]) -> dict[bytes, set[int]]:
    asked: dict[bytes, set[int]] = {}
    for bundle, index in keys:
        asked.setdefault(bundle, set()).add(index)
    return asked


def _kinds(asked: Mapping[bytes, set[int]], *, is_scripted: bool) -> tuple[list[bytes], list[bytes]]:
    """Return the bundles that may be read by a plain command, and the others."""
    only = [] if is_scripted else [bundle for bundle, indexes in asked.items() if indexes == _ONLY]
    return only, [bundle for bundle, indexes in asked.items() if is_scripted or indexes != _ONLY]
