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
from typing import TYPE_CHECKING, Any

from queuelib.errors import BrokerUnavailable
from queuelib.ports import StillReading
from queuelib.settings import SUBMIT_DEADLINE
from queuelib_rabbitmq import wire
from queuelib_rabbitmq.io import Io, Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["StreamReader"]

_LINGER = 2.0  # seconds that the consumer outlives the last question: the next one then costs a round trip only
_MARK_AGAIN = 1.0  # seconds; a mark written before the consumer was attached behind it is written again


class StreamReader:
    """What is known of one stream: everything from `start` (wall time) to `next_offset`.

    `apply` gets each message in order, in the connection's thread; `reset` is called when reading starts anew from
    an earlier time, and everything comes again.
    """

    def __init__(
        self, stream: str, open_io: Callable[[], Io], apply: Callable[[list[Any]], None], reset: Callable[[], None]
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
        self._marks: dict[bytes, threading.Event] = {}
        self._used = 0.0
        self._holders = 0

    @property
    def is_running(self) -> bool:
        """Whether new messages come by themselves."""
        return self._reading is not None and self._io is not None and not self._io.is_dead

    def catch_up(self, since: float, timeout: float) -> None:
        """Return when everything that was stored from `since` (wall time) until this call has been applied.

        Raises:
            StillReading: It took longer than `timeout`; the next call goes on from there.
            BrokerUnavailable: The server does not answer.
        """
        end = time.monotonic() + timeout
        mark = os.urandom(12)
        seen = self._marks[mark] = threading.Event()
        try:
            while (left := end - time.monotonic()) > 0:
                io = self._ensure(since)
                confirm = min(max(left, _MARK_AGAIN), SUBMIT_DEADLINE)
                io.publish(self._stream, wire.encode(wire.MARK, mark)).result(confirm)
                if seen.wait(min(_MARK_AGAIN, left)):
                    return
                while self._is_moving() and (left := end - time.monotonic()) > 0:
                    if seen.wait(min(_MARK_AGAIN, left)):
                        return
            msg = f"the stream {self._stream} was not read to its end within {timeout:g} s"
            raise StillReading(msg)
        except TimeoutError as error:
            msg = f"the stream {self._stream} did not confirm a mark in time"
            raise BrokerUnavailable(msg) from error
        finally:
            self._marks.pop(mark, None)

    @contextmanager
    def following(self, since: float, timeout: float) -> Generator[None, None, None]:
        """Keep reading for the time of the block."""
        with self._lock:
            self._holders += 1
        try:
            self.catch_up(since, timeout)
            yield
        finally:
            with self._lock:
                self._holders -= 1
                self._used = time.monotonic()

    def restart(self) -> None:
        """Have the next question read from its own time on again: something read before was dropped since."""
        with self._lock:
            self.start = float("inf")

    def touch(self) -> None:
        """Say that somebody still asks."""
        self._used = time.monotonic()

    def tick(self) -> None:
        """Stop reading when nobody has asked for a while."""
        with self._lock:
            if self._reading is not None and not self._holders and time.monotonic() - self._used > _LINGER:
                self._stop()

    def _ensure(self, since: float) -> Io:
        io = self._open_io()
        with self._lock:
            self.touch()
            if since < self.start:
                self._stop()
                self._reset()
                self.start, self._next = since, None
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
        seen = self._marks.get(message[1]) if isinstance(message[1], bytes) else None
        if seen is not None:
            seen.set()

    def _dropped(self, offset: int, body: bytes) -> None:
        """Stand in until the reading knows itself."""
