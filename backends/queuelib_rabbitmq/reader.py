"""Reads one stream from a point in time on, without gaps, for as long as somebody asks.

A stream has no end that a reader could see. So whoever wants to know all that was stored before now writes a mark of
its own behind it, and waits until the mark has come by.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from queuelib.errors import BrokerUnavailable
from queuelib.ports import StillReading
from queuelib.settings import SUBMIT_DEADLINE
from queuelib_rabbitmq import wire
from queuelib_rabbitmq.io import Io, Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["CLOCK_SKEW", "StreamReader", "anew", "since"]

CLOCK_SKEW = 15.0  # seconds by which a client's clock may differ from the server's; reading them costs time
_LINGER = 2.0  # seconds that the consumer outlives the last question: the next one then costs a round trip only
_MARK_AGAIN = 1.0  # seconds; a mark written before the consumer was attached behind it is written again


class _Mark(NamedTuple):
    at: float  # wall time at which it was asked for
    seen: threading.Event


class Begin(Protocol):
    """Says where reading has to begin; called when it is possible, and nobody else can have it begin elsewhere."""

    def __call__(self, start: float, has_no_gap: bool, /) -> float | None:  # noqa: FBT001 - by position
        """Return from which wall time on the stream is to be read anew, or None to go on.

        Args:
            start: The wall time from which on everything was read, infinite for nothing.
            has_no_gap: Whether what was read before, and is wanted, stays; else all of it is forgotten.
        """
        ...


def since(at: float) -> Begin:
    """Have everything read from a wall time on."""
    return lambda start, _: at if at < start else None


def anew(at: float) -> Begin:
    """Have everything read again from a wall time on."""
    return lambda *_: at


def _go_on(_start: float, _has_no_gap: bool, /) -> None:  # noqa: FBT001
    return None


class StreamReader:
    """What is known of one stream: everything from `start` (wall time) to `next_offset`.

    `apply` gets each message in order, in the connection's thread; `reset` is called when reading begins anew at a wall
    time, with whether what was read before and is wanted has no gap before what comes then.
    """

    def __init__(
        self,
        stream: str,
        open_io: Callable[[], Io],
        apply: Callable[[list[Any]], None],
        reset: Callable[[float, bool], None],
    ) -> None:
        self.start = float("inf")
        self._stream = stream
        self._open_io = open_io
        self._apply = apply
        self._reset = reset
        self._lock = threading.RLock()
        self._io: Io | None = None
        self._reading: Reading | None = None
        self._next: int | None = None
        self._seen_until = float("-inf")  # wall time: what was stored before has come by, since reading started anew
        self._marks: dict[bytes, _Mark] = {}
        self._used = 0.0
        self._holders = 0

    @property
    def is_running(self) -> bool:
        """Whether new messages come by themselves."""
        return self._reading is not None and self._io is not None and not self._io.is_dead

    def catch_up(self, begin: Begin, timeout: float) -> None:
        """Return when everything that `begin` asks for, and that was stored before this call, has been applied.

        Args:
            begin: Says where reading has to begin.
            timeout: Seconds.

        Raises:
            StillReading: It took longer than `timeout`; the next call goes on from there.
            BrokerUnavailable: The server does not answer.
        """
        end = time.monotonic() + timeout
        mark = os.urandom(12)
        seen = threading.Event()
        self._marks[mark] = _Mark(time.time(), seen)
        self._hold(1)
        try:
            while (left := end - time.monotonic()) > 0:
                io = self._ensure(begin)
                begin = _go_on
                confirm = min(max(left, _MARK_AGAIN), SUBMIT_DEADLINE)
                io.publish(self._stream, wire.encode(wire.MARK, mark)).result(confirm)
                is_seen = seen.wait(min(_MARK_AGAIN, left))
                while not is_seen and self._is_moving() and (left := end - time.monotonic()) > 0:
                    is_seen = seen.wait(min(_MARK_AGAIN, left))
                if is_seen:
                    return
            msg = f"the stream {self._stream} was not read to its end within {timeout:g} s"
            raise StillReading(msg)
        except TimeoutError as error:
            msg = f"the stream {self._stream} did not confirm a mark in time"
            raise BrokerUnavailable(msg) from error
        finally:
            self._hold(-1)
            self._marks.pop(mark, None)

    @contextmanager
    def following(self, begin: Begin, timeout: float) -> Generator[None, None, None]:
        """Catch up, and keep reading for the time of the block."""
        self._hold(1)
        try:
            self.catch_up(begin, timeout)
            yield
        finally:
            self._hold(-1)

    def touch(self) -> None:
        """Say that somebody still asks."""
        self._used = time.monotonic()

    def tick(self) -> None:
        """Stop reading when nobody has asked for a while."""
        with self._lock:
            if self._reading is not None and not self._holders and time.monotonic() - self._used > _LINGER:
                self._stop()

    def _hold(self, change: int) -> None:
        with self._lock:
            self._holders += change
            self._used = time.monotonic()

    def _ensure(self, begin: Begin) -> Io:
        io = self._open_io()
        with self._lock:
            has_no_gap = self._seen_until > float("-inf")
            at = begin(self.start, has_no_gap)
            if at is not None:
                self._stop()
                self.start = min(at, self._seen_until - CLOCK_SKEW) if has_no_gap else at
                self._next, self._seen_until = None, float("-inf")
                self._reset(at, has_no_gap)
            if io is not self._io or self._reading is None:
                self._stop()
                self._io = io
                self._reading = reading = Reading(self._stream, self._offset(), self._dropped)
                reading.on_message = lambda offset, body: self._arrived(reading, offset, body)
                io.read(reading)
        return io

    def _offset(self) -> Any:
        if self._next is not None:
            return self._next
        return "first" if self.start <= 0 else datetime.fromtimestamp(self.start, UTC)

    def _stop(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None and self._io is not None:
            self._io.stop(reading)

    def _is_moving(self) -> bool:
        """Return whether the consumer has brought anything lately: a long way to go, and no reason to write again."""
        before = self._next
        time.sleep(0.05)
        return self._next != before

    def _arrived(self, reading: Reading, offset: int, body: bytes) -> None:
        with self._lock:
            if reading is not self._reading or (self._next is not None and offset < self._next):
                return  # of an earlier reading, or from before the point that was asked for: chunks come whole
            self._next = offset + 1
            message = wire.decode(body)
            if message is None:
                return
            if message[0] != wire.MARK:
                try:
                    self._apply(message)
                except wire.FOREIGN:
                    wire.skip(body)
                return
            mark = self._marks.get(message[1]) if isinstance(message[1], bytes) else None
            if mark is not None:
                self._seen_until = max(self._seen_until, mark.at)
                mark.seen.set()

    def _dropped(self, offset: int, body: bytes) -> None:
        """Stand in until the reading knows itself."""
