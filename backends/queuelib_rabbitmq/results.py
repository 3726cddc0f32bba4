"""Outcomes on RabbitMQ: one durable stream, which any process reads, any number of times.

A client also has a reply queue: a stored batch that carries its name is copied there by the server, from the same
publish. What comes that way is believed at once, except where it is marked doubtful (from a delivery that was not the
first): then, as for the jobs of other processes, the stream is read from the bundle's own time on, and the record at
the lowest offset stands as `supersedes` says.

Cancel marks, the quarantine and the workers' announcements are streams of their own, folded by their readers.

It keeps no record of what was submitted, and `store` knows of standing outcomes only what this process has seen: what
`fetch` returns is decided by the stream alone.
"""

from __future__ import annotations

import os
import re
import threading
import time
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

from queuelib.errors import BrokerUnavailable
from queuelib.ids import Key, created_at
from queuelib.outcome import SUCCEEDED
from queuelib.ports import Cancelled, QuarantineItem, ResultCapabilities, WorkerInfo
from queuelib.settings import SUBMIT_DEADLINE
from queuelib_rabbitmq import wire
from queuelib_rabbitmq.io import Io, finish
from queuelib_rabbitmq.memory import Memory, check_interval
from queuelib_rabbitmq.reader import StreamReader, anew, since
from queuelib_rabbitmq.transport import parse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from queuelib.ear import Ear
    from queuelib.message import Outgoing
    from queuelib.outcome import Record

__all__ = ["RabbitResults"]

_READ_DEADLINE = 60.0  # seconds to read a stream to its end: 290,000 outcomes took 8
_STREAM_BYTES = 50_000_000_000  # of outcomes; a guard for the server's disk, far beyond a day of them
_LOOK_EVERY = 1.0  # seconds after which a lost connection is noticed by whoever waits for jobs of other processes
_ANNOUNCED = 600.0  # seconds of announcements that are read; they are repeated every few
_REOPEN_AFTER = 0.5  # seconds between two attempts to connect


class RabbitResults:
    """The result backend of amqp://."""

    # A blob is a queue: 300 results of 400 kB took 9 to 19 s so, and 2 to 4 s in the stream.
    capabilities = ResultCapabilities(crosses_processes=True, survives_restart=True, large_apart=False)

    def __init__(self, url: str, namespace: str, keep: float) -> None:
        self.address = parse(url)
        self.stream = f"{namespace}.results"
        self.quarantine_stream = f"{namespace}.quarantine"
        self.streams = _streams(namespace, keep)
        self._namespace = namespace
        # A message names where its outcomes are told of; it names no queue of anybody else's.
        self.is_reply = re.compile(rf"{re.escape(namespace)}\.reply\.[0-9a-f]{{32}}").fullmatch
        self._look_up_for = _READ_DEADLINE
        self._client = _Client(self)

    def limit_look_ups(self, seconds: float) -> None:
        """Bound how long `fetch` and `cancelled` read; what is not read by then is read on in the background.

        Of what went by on the way little is kept: who asks so is a worker, which asks again for the same jobs only.
        """
        self._look_up_for = min(seconds, _READ_DEADLINE)
        self._here().memory.keep_little()

    def accept(self, frames: Sequence[Outgoing]) -> None:
        """Remember which bundles are this process's own: their outcomes are pushed, and the stream is left alone."""
        self._here().memory.add_own(frame.bundle for frame in frames)

    def expect(self, frames: Sequence[Outgoing]) -> None:
        """Remember which bundles are this process's own."""
        self.accept(frames)

    def store(self, records: Sequence[Record], reply: str = "") -> list[bool]:
        """Append to the stream; every record of it counts as doubtful, as nobody says which delivery it came from."""
        here = self._here()
        io = here.open()
        reply = reply if self.is_reply(reply) else ""
        finish([io.publish(self.stream, body, reply) for body in wire.outcome_messages(records, doubtful=True)])
        return here.memory.add_stored(records)

    def fetch(self, keys: Sequence[Key]) -> list[Record | None]:
        """Return what was pushed, else what the stream says."""
        here = self._here()
        now = time.time()
        found = here.memory.best_of(keys)
        open_ones = [key for key, one in zip(keys, found, strict=True) if one is None or one.state != SUCCEEDED]
        unknown = here.memory.unanswered(open_ones, now)
        if unknown:
            here.outcomes.catch_up(partial(here.memory.seek, unknown), self._look_up_for)
            here.memory.set_read(unknown, now)
            found = here.memory.best_of(keys)
        here.memory.set_told(keys, found)
        return found

    def follow(self, keys: Sequence[Key]) -> None:
        """Read the stream for all of them at once: asked for by and by, they would be read for by and by."""
        here = self._here()
        here.outcomes.catch_up(partial(here.memory.seek, keys), self._look_up_for)

    def wait(self, keys: Sequence[Key], timeout: float) -> None:
        """Wait for a push; for jobs of other processes, follow the stream."""
        if timeout <= 0 or not keys:
            return
        here = self._here()
        with here.memory.wanting(keys) as waiter:
            if here.memory.has_news(keys):
                return
            if here.memory.is_own(keys):
                oldest = min(created_at(key.bundle) for key in keys)
                waiter.ended.wait(min(timeout, check_interval(time.time() - oldest)))
                return
            end = time.monotonic() + timeout
            with here.outcomes.following(partial(here.memory.seek, keys), _READ_DEADLINE):
                while here.outcomes.is_running and (left := end - time.monotonic()) > 0:
                    if waiter.ended.wait(min(left, _LOOK_EVERY)):
                        return

    def listen(self) -> Ear:
        """Hear of what is pushed to this process; jobs of others are looked up now and then."""
        return self._here().memory.listen()

    def forget(self, keys: Sequence[Key]) -> None:
        """Append that these endings do not count any more."""
        here = self._here()
        finish([here.open().publish(self.stream, wire.encode(wire.FORGETS, keys))])
        here.memory.forget(keys)

    def inbox(self) -> str:
        """Return the reply queue's name; it is opened in the background."""
        return self._here().listen(self._namespace)

    def cancel(self, keys: Sequence[Key]) -> None:
        """Append marks."""
        self._append("control", wire.encode(wire.CANCELS, keys, time.time()))

    def cancelled(self, cursor: Any) -> Cancelled:
        """Return new marks; a running reader brings them, so that asking again costs nothing and never waits."""
        here = self._here()
        here.control.touch()
        memory = here.memory
        has_all = memory.has_marks_after(cursor)
        if cursor is None or not has_all:
            here.control.catch_up(since(0.0) if has_all else anew(0.0), self._look_up_for)
            cursor = None
        elif not here.control.is_running:
            here.resume_control()
        return Cancelled(*memory.marks_after(cursor))

    def quarantine(self, items: Sequence[QuarantineItem]) -> None:
        """Append to the quarantine, which is kept for ever."""
        io = self._here().open()
        finish([io.publish(self.quarantine_stream, wire.encode(wire.ITEM, wire.item_row(item))) for item in items])

    def quarantined(self) -> list[QuarantineItem]:
        """Read all that is set aside and not released."""
        here = self._here()
        here.quarantine.catch_up(since(0.0), _READ_DEADLINE)
        with here.memory.lock:
            return list(here.memory.items.values())

    def release(self, ids: Sequence[str]) -> None:
        """Append that these items are not set aside any more."""
        self._append("quarantine", wire.encode(wire.RELEASES, list(ids)))

    def announce(self, worker: WorkerInfo, lifetime: float) -> None:
        """Append an announcement with its end."""
        self._append("workers", wire.encode(wire.WORKER, wire.worker_row(worker, time.time() + lifetime)))

    def workers(self) -> list[WorkerInfo]:
        """Read the announcements of the last minutes."""
        here = self._here()
        now = time.time()
        here.workers.catch_up(since(now - _ANNOUNCED), _READ_DEADLINE)
        with here.memory.lock:
            return [worker for worker, until in here.memory.workers.values() if until > now]

    def close(self) -> None:
        """End the connection and delete the reply queue; a later call begins anew."""
        client, self._client = self._here(), _Client(self)
        client.close()

    def _here(self) -> _Client:
        """Return what belongs to this process: a forked child leaves its parent's connection alone."""
        if self._client.pid != os.getpid():
            self._client = _Client(self)
        return self._client

    def _append(self, stream: str, body: bytes) -> None:
        finish([self._here().open().publish(f"{self._namespace}.{stream}", body)])


class _Client:
    """The connection of one process, its readers, and what it has learned."""

    def __init__(self, results: RabbitResults) -> None:
        self.pid = os.getpid()
        self.memory = memory = Memory(results.address.cache)
        names = list(results.streams)
        self.outcomes = StreamReader(names[0], self.open, memory.apply_outcomes, memory.unfold)
        self.control = StreamReader(names[1], self.open, memory.apply_control, lambda *_: memory.clear_marks())
        self.workers = StreamReader(names[2], self.open, memory.apply_control, lambda *_: memory.workers.clear())
        self.quarantine = StreamReader(names[3], self.open, memory.apply_control, lambda *_: memory.items.clear())
        self._address, self._streams = results.address, results.streams
        self._opening = threading.Lock()
        self._resuming = threading.Lock()
        self._io: Io | None = None
        self._failed_at = float("-inf")
        self._reply = ""
        self._is_closed = False

    def open(self) -> Io:
        """Return the connection, opened again if it was lost.

        Raises:
            BrokerUnavailable: The server does not answer, or this client was closed.
        """
        with self._opening:
            if self._io is not None and not self._io.is_dead:
                return self._io
            place = f"RabbitMQ at {self._address.host}:{self._address.port}"
            if self._is_closed:
                msg = f"{place}: the connection was closed"
                raise BrokerUnavailable(msg)
            if time.monotonic() - self._failed_at < _REOPEN_AFTER:
                msg = f"{place} did not answer a moment ago"
                raise BrokerUnavailable(msg)
            io = Io(
                self._address, self._streams, timeout=SUBMIT_DEADLINE, on_reply=self.memory.push, on_tick=self._tick
            )
            try:
                io.ready.result(SUBMIT_DEADLINE)
            except (TimeoutError, BrokerUnavailable) as error:
                self._failed_at = time.monotonic()
                io.close(timeout=0.0)  # it may be on its way, and nobody will want it
                msg = f"{place} does not answer: {error}"
                raise BrokerUnavailable(msg) from error
            if self._reply:
                io.listen(self._reply)
            self._io = io
            return io

    def listen(self, namespace: str) -> str:
        """Return the name of this process's reply queue; the first time, open it in the background."""
        with self.memory.lock:
            if not self._reply:
                self._reply = f"{namespace}.reply.{uuid.uuid4().hex}"
                threading.Thread(target=self._listen, name="queuelib-rabbitmq-open", daemon=True).start()
            return self._reply

    def resume_control(self) -> None:
        """Go on reading cancel marks, in the background: a worker asks twice a second and must not wait."""
        if not self._resuming.acquire(blocking=False):
            return

        def resume() -> None:
            try:
                self.control.catch_up(since(0.0), _READ_DEADLINE)
            except BrokerUnavailable:
                pass  # the next question tries again
            finally:
                self._resuming.release()

        threading.Thread(target=resume, name="queuelib-rabbitmq-resume", daemon=True).start()

    def close(self) -> None:
        """End the connection."""
        with self._opening:
            self._is_closed = True
            io, self._io = self._io, None
        if io is not None:
            io.close(delete=self._reply)

    def _listen(self) -> None:
        was_open = self._io is not None
        try:
            io = self.open()
        except BrokerUnavailable:
            return  # the next call that needs it says so, and opens the reply queue too
        if was_open:
            io.listen(self._reply)

    def _tick(self) -> None:
        for reader in (self.outcomes, self.control, self.workers, self.quarantine):
            reader.tick()


def _streams(namespace: str, keep: float) -> Mapping[str, Mapping[str, Any]]:
    """Return the arguments of each stream; old segments go whole, so they are small."""
    outcomes = {
        "x-max-age": f"{max(int(keep), 60)}s",
        "x-max-length-bytes": _STREAM_BYTES,
        "x-stream-max-segment-size-bytes": 16_000_000,
    }
    day = {"x-max-age": f"{max(int(keep), 86_400)}s", "x-stream-max-segment-size-bytes": 1_000_000}
    hour = {"x-max-age": "3600s", "x-stream-max-segment-size-bytes": 1_000_000}
    own: dict[str, dict[str, Any]] = {"results": outcomes, "control": day, "workers": hour, "quarantine": {}}
    return {f"{namespace}.{name}": {"x-queue-type": "stream", **arguments} for name, arguments in own.items()}
