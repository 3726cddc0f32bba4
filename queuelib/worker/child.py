"""The loop of a child: take a token, take the job it stands for, run it, report it. It owns no connection.

Jobs arrive in order on a socket, a token for each in an eventfd that both ends can take from. Whoever takes the
token decides: the child starts the job, or the supervisor has recalled it.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import time
from collections import deque
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Any

from queuelib.context import Running
from queuelib.ids import Key
from queuelib.outcome import Again, Done, Failed, NotRun, Outcome, Quarantined
from queuelib.worker.frames import FrameReader, send_frame

if TYPE_CHECKING:
    from queuelib.worker.execute import Executor

__all__ = ["DROP", "JOBS", "SLOT_BYTES", "STOP", "Slot", "outcome_from", "serve"]

JOBS, DROP, STOP = 0, 1, 2  # kinds of frames to a child
HELLO = "hello"  # its first frame back, with its pid
_SLOT = Struct("<qdq")  # number of the running job or -1, its start on the monotonic clock, epoch of recalls
SLOT_BYTES = _SLOT.size
_RUNNING = Struct("<qd")
_EPOCH = Struct("<q")
_DONE, _AGAIN, _FAILED, _QUARANTINED = range(4)


@dataclass(slots=True)
class Slot:
    """One child's corner of the shared memory."""

    memory: mmap.mmap
    offset: int

    def clear(self) -> None:
        """Make it that of a child that has done nothing yet."""
        _SLOT.pack_into(self.memory, self.offset, -1, 0.0, 0)

    def begin(self, number: int) -> None:
        """Say that a job starts now."""
        _RUNNING.pack_into(self.memory, self.offset, number, time.monotonic())

    def end(self) -> None:
        """Say that nothing runs."""
        _RUNNING.pack_into(self.memory, self.offset, -1, 0.0)

    def running(self) -> tuple[int, float]:
        """Return the number of the running job, or -1, and its start."""
        number, start = _RUNNING.unpack_from(self.memory, self.offset)
        return number, start

    @property
    def epoch(self) -> int:
        """How often jobs were recalled."""
        epoch: int = _EPOCH.unpack_from(self.memory, self.offset + _RUNNING.size)[0]
        return epoch

    @epoch.setter
    def epoch(self, value: int) -> None:
        _EPOCH.pack_into(self.memory, self.offset + _RUNNING.size, value)


def serve(sock: socket.socket, tokens: int, slot: Slot, executor: Executor, worker: str) -> None:
    """Run jobs until told to stop, or until the supervisor is gone."""
    inbox = _Inbox(FrameReader(sock), slot)
    send_frame(sock, (HELLO, os.getpid()))
    while _take_token(tokens, sock):
        entry = inbox.pop()
        if entry is None:
            return
        number, task, schema, bundle, index, attempt, timeout, arguments = entry
        slot.begin(number)
        started = time.monotonic()
        outcome = executor.run(Running(Key(bundle, index), task, attempt, worker), schema, arguments, timeout)
        elapsed = time.monotonic() - started
        slot.end()
        # The outcome leaves before the next token is taken, so at most one job was started and not reported.
        send_frame(sock, (number, elapsed, *_as_tuple(outcome)))


def _take_token(tokens: int, sock: socket.socket) -> bool:
    """Wait for a token; return False if the supervisor is gone, who alone could say that nothing was recalled."""
    while True:
        try:
            os.eventfd_read(tokens)
        except BlockingIOError:  # the descriptor is shared with the supervisor, which never waits on it
            poll = select.poll()
            poll.register(tokens, select.POLLIN)
            poll.register(sock, select.POLLRDHUP)
            if any(fd == sock.fileno() for fd, _ in poll.poll()):
                return False
        else:
            return True


class _Inbox:
    """What was handed over and not started yet."""

    def __init__(self, reader: FrameReader, slot: Slot) -> None:
        self._reader = reader
        self._slot = slot
        self._epoch = 0
        self._entries: deque[Any] = deque()

    def pop(self) -> Any:
        """Return the job that the token just taken stands for, or None to stop."""
        while self._epoch != self._slot.epoch or not self._entries:
            self._read()
        return self._entries.popleft()

    def _read(self) -> None:
        try:
            kind, value = self._reader.next()
        except EOFError:
            self._entries.append(None)
            self._epoch = self._slot.epoch
            return
        if kind == JOBS:
            self._entries.extend(value)
        elif kind == DROP:
            first, self._epoch = value
            while self._entries and (self._entries[-1] is None or self._entries[-1][0] >= first):
                self._entries.pop()
        else:
            self._entries.append(None)


def _as_tuple(outcome: Outcome) -> tuple[Any, ...]:
    match outcome:
        case Done(body):
            return (_DONE, body)
        case Again(delay, body):
            return (_AGAIN, delay, body)
        case Failed(body):
            return (_FAILED, body)
        case Quarantined(reason):
            return (_QUARANTINED, reason)
        case NotRun():
            msg = "a child only reports what it ran"
            raise AssertionError(msg)


def outcome_from(fields: list[Any]) -> Outcome:
    """Return the outcome in a child's report, after its number and elapsed time.

    Raises:
        ValueError: The report is none: user code wrote to the pipe.
    """
    match fields:
        case [0, bytes(body)]:
            return Done(body)
        case [1, (None | float() | int()) as delay, bytes(body)]:
            return Again(delay, body)
        case [2, bytes(body)]:
            return Failed(body)
        case [3, str(reason)]:
            return Quarantined(reason)
        case _:
            msg = f"not a report of a child: {fields!r:.200}"
            raise ValueError(msg)
