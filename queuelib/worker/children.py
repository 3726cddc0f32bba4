"""One child as its supervisor sees it: what it was handed, what is taken back, what it has reported."""

from __future__ import annotations

import math
import os
import reprlib
import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from queuelib.codec import encoded_list, is_list_of_one, joined_list, split_list
from queuelib.errors import DecodeError
from queuelib.outcome import Outcome
from queuelib.settings import MAX_MESSAGE_BYTES
from queuelib.worker import process
from queuelib.worker.child import DROP, JOBS, STOP, outcome_from
from queuelib.worker.desk import PROGRESS, STATE
from queuelib.worker.frames import FrameReader, pack_frame
from queuelib.worker.shared import REFUSED, SAVED, Batch, Damaged, Ring, Slot

if TYPE_CHECKING:
    from queuelib.message import Bundle
    from queuelib.worker.lease import Hold, Part

__all__ = ["Child", "Report", "Successes", "Told"]


class Successes(NamedTuple):
    """Jobs of one delivery that a child ran one after the other, each of which returned.

    Attributes:
        hold: The delivery.
        at: Position of the first one.
        count: How many.
        data: Their encoded results, one after the other.
        elapsed: Seconds that they took in all.
        pid: The child; 0 for a thread.
    """

    hold: Hold
    at: int
    count: int  # type: ignore[assignment]  # tuple.count is not missed
    data: bytes
    elapsed: float
    pid: int


class Report(NamedTuple):
    """How one job ended otherwise.

    Attributes:
        hold: Its delivery.
        at: Its position there.
        outcome: The outcome.
        elapsed: Seconds that it took.
    """

    hold: Hold
    at: int
    outcome: Outcome
    elapsed: float


class Told(NamedTuple):
    """What the handler of a job told or saved.

    Attributes:
        child: Its child.
        hold: Its delivery.
        at: Its position there.
        kind: Which it is.
        data: Its content.
        is_urgent: Whether the handler waits until it is stored.
        saves: How many states that child has handed over by now.
    """

    child: Child
    hold: Hold
    at: int
    kind: str
    data: bytes
    is_urgent: bool
    saves: int


@dataclass(eq=False)
class Child:
    """One child, and the jobs it was handed and has not reported.

    Attributes:
        sock: Jobs go out here, and outcomes that the ring is not for come in.
        tokens: Semaphore with one token for each job that may start.
        slot: The shared memory.
        handed: The jobs, in order.
        unreported: How many they are.
        ahead: Seconds of work that they were expected to be.
        bytes_ahead: What its socket's buffer may hold, in bytes: it may not have read what was sent, nor what was recalled.
        done: How many it has run.
        is_lending: Whether its job waits for others, and another child does what this one would.
        mates: It and all others in its process, each a lane of it; they die together.
        spare_since: When it came to be one more than are needed, on the monotonic clock; 0 where it is not.
        doomed: Number of the job for which we killed it; 0 for none.
        death_note: Why we killed it; empty if it died by itself.
        told: What its handlers told and saved, and nobody has taken yet.
    """

    sock: socket.socket
    tokens: int
    slot: Slot
    pid: int = 0
    pidfd: int = -1
    handed: deque[Part] = field(default_factory=deque["Part"])
    unreported: int = 0
    ahead: float = 0.0
    bytes_ahead: int = 0
    done: int = 0
    is_retiring: bool = False
    is_lending: bool = False
    mates: list[Child] = field(default_factory=list["Child"])
    spare_since: float = 0.0
    doomed: int = 0
    death_note: str = ""
    told: list[Told] = field(default_factory=list["Told"])
    _saves: int = 0
    _is_closed: bool = False
    _next: int = 1
    _epoch: int = 0
    _doubts: int = 0

    def __post_init__(self) -> None:
        self.mates.append(self)
        self._reader = FrameReader(self.sock, most=_MOST_REPORTED, is_flat=True)
        self._ring = Ring(self.slot)
        self._others: deque[list[Any]] = deque()  # outcomes that came through the socket
        self._heard = 0  # the number of the last of them

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do."""
        return not self.handed and not self.is_retiring

    def hand(self, parts: Sequence[Part]) -> None:
        """Give it jobs, and the tokens to start them."""
        lots = _Lots()
        number = self._next
        for part in parts:
            hold, at, end = part.hold, part.at, part.end
            part.number, part.size = number, 0
            lots.add(hold, at, end, number)
            number += end - at
            hold.hand(at, end)
            self.ahead += part.cost * (end - at)
        count = number - self._next
        self._next += count
        self.unreported += count
        self.handed.extend(parts)
        frame = pack_frame((JOBS, (lots.lots, lots.runs)))
        parts[0].size = len(frame) + _FRAME_COST
        self.bytes_ahead += parts[0].size
        # Tokens first: an idle child reads only once it has one, and a frame larger than the socket's buffer needs a reader.
        os.eventfd_write(self.tokens, count)
        self._send(frame)

    def recall(self) -> list[Part]:
        """Take back what it has not started, in order."""
        if self.is_retiring:
            return []  # it was recalled before, and the token that is left is that of its stop
        count = self._take_tokens(self.unreported)
        if not count:
            return []
        recalled = self._last(count)
        self._epoch += 1
        self.bytes_ahead += _FRAME_COST
        if self._send(pack_frame((DROP, (recalled[0].number, self._epoch)))):
            self.slot.epoch = self._epoch
        return recalled

    def reports(self) -> list[Successes | Report]:
        """Return what it has reported since the last call.

        Raises:
            ValueError: It wrote something that is no report of a job it was handed.
            DecodeError: What came through the socket is no frame.
        """
        try:
            batch = self._ring.read()
        except Damaged as error:
            # What the child wrote first may be seen here last: memory is not ordered everywhere.
            self._doubts += 1
            if self._doubts < _MOST_DOUBTS:
                return []
            msg = f"child {self.pid} wrote something into the shared memory that is no result"
            raise ValueError(msg) from error
        self._doubts = 0
        if batch.count:
            try:
                self.read()  # what went through the socket before these is there by now
            except (ValueError, DecodeError) as error:
                self.kill(str(error))  # what is in the ring was written before, and is as good as any
        if batch.count + len(self._others) > self.unreported:
            msg = f"child {self.pid} reported more jobs than it was handed"
            raise ValueError(msg)
        found: list[Successes | Report] = []
        if batch.count or self._others:
            try:
                self._merge(batch, found)
            except (ValueError, DecodeError) as error:
                if not found:
                    raise
                self.kill(str(error))  # what stands before it was reported, and is not run again
        return found

    def _merge(self, batch: Batch, found: list[Successes | Report]) -> None:
        """Add what came through the ring and through the socket, in the order of the jobs."""
        left, data, split = batch.count, batch.data, None
        mean = batch.seconds / batch.count if batch.count else 0.0
        while left or self._others:
            part = self.handed[0]
            hold, at = part.hold, part.at
            ahead = self._others[0][0] - part.number if self._others else left
            if ahead == 0 and self._others:
                found.append(self._other(hold, at))
                self._reported(part, 1)
                continue
            if ahead < 0:
                msg = f"child {self.pid} reported a job that it does not run"
                raise ValueError(msg)
            count = min(left, ahead, part.end - at)
            if not count:
                break  # its neighbors before it were written after we read the ring
            if split is None and count < left:
                split = split_list(joined_list(batch.count, batch.data), batch.count)
            if split is not None:
                first = batch.count - left
                data = split[first] if count == 1 else b"".join(split[first : first + count])
            found.append(Successes(hold, at, count, data, mean * count, self.pid))
            left -= count
            self._reported(part, count)

    def _other(self, hold: Hold, at: int) -> Successes | Report:
        _, seconds, *fields = self._others.popleft()
        outcome = outcome_from(fields)
        if isinstance(outcome, bytes):
            return Successes(hold, at, 1, outcome, seconds, self.pid)
        return Report(hold, at, outcome, seconds)

    def read(self) -> bool:
        """Read its socket; return whether it has closed its end.

        Raises:
            DecodeError: What came is no frame.
            ValueError: It is no report.
        """
        values, is_closed = self._reader.ready()
        for value in values:
            match value:
                case [str(), int()]:
                    pass  # HELLO of a thread
                case [str() as kind, int() as number, bytes() as data, bool() as is_urgent] if kind in {
                    PROGRESS,
                    STATE,
                }:
                    self._note(number, kind, data, is_urgent=is_urgent)
                case [int() as number, float() as seconds, *_] if 0.0 <= seconds < math.inf:
                    if number <= self._heard:
                        msg = f"child {self.pid} reported a job that it does not run"
                        raise ValueError(msg)
                    self._heard = number
                    self._others.append(list(value))
                case _:
                    msg = f"not a report of a child: {reprlib.repr(value)}"
                    raise ValueError(msg)
        return is_closed

    def _note(self, number: int, kind: str, data: bytes, *, is_urgent: bool) -> None:
        """Keep what the handler of a job told; what comes after its outcome is forgotten.

        Raises:
            ValueError: It was not handed that job.
        """
        if not 0 < number < self._next:
            msg = f"child {self.pid} told something of a job that it does not run"
            raise ValueError(msg)
        self._saves += kind == STATE
        for part in self.handed:
            if part.number <= number < part.number + part.count:
                at = part.at + number - part.number
                self.told.append(Told(self, part.hold, at, kind, data, is_urgent, self._saves))
                return

    def take_told(self) -> list[Told]:
        """Return what its handlers told since the last call."""
        told, self.told = self.told, []
        return told

    def answer(self, saves: int, *, is_stored: bool) -> None:
        """Tell its handlers that so many states are stored, or that the last of them was dropped."""
        if not self._is_closed:
            words = self.slot.words
            words[REFUSED] = words[REFUSED] if is_stored else max(saves, words[REFUSED])
            words[SAVED] = max(saves, words[SAVED])

    def stop_job(self, number: int) -> None:
        """Interrupt the handler of a job, where that is possible, and have it see that it is to stop."""
        self.slot.cancel(number)
        if self.pid:
            process.stop_job(self.pid)

    def stop(self) -> None:
        """Have it end once it has run what it was handed."""
        self.is_retiring = True
        if self._send(pack_frame((STOP, None))):
            os.eventfd_write(self.tokens, 1)

    def leave(self) -> tuple[list[Part], Part | None]:
        """Return what a dead child had not started, and the job that it was running if there was one.

        That one's token is gone, and its outcome is not here.
        """
        stops = 1 if self.is_retiring else 0  # the token of its stop is that of no job
        unstarted = self._last(max(0, self._take_tokens(self.unreported + stops) - stops))
        running = self.handed[0].cut(1) if self.unreported else None
        if running is not None:
            unstarted = [part for part in self.handed if part.count] + unstarted
        self.handed.clear()
        self.unreported = 0
        return unstarted, running

    def running(self) -> tuple[Hold, int, int, float] | None:
        """Return the job that it runs, as hold and position, with its number and its start; None for none."""
        number, started = self.slot.running()
        if not self.handed or self.handed[0].number != number:
            return None
        return self.handed[0].hold, self.handed[0].at, number, started

    def waits_since(self) -> float | None:
        """Return since when the job that it runs waits for others; None if it does not."""
        since = self.slot.waits
        if not since:
            return None
        running = self.running()
        return since if running is not None and since >= running[3] else None

    def kill(self, why: str) -> None:
        """Kill it and what it started, at once; with all lanes of its process."""
        for mate in self.mates:
            mate.death_note = mate.death_note or why
            mate.doomed = mate.doomed or (_NOT_MEANT if self.doomed and mate is not self else 0)
        if self.pid:
            process.kill_group(self.pid)

    def interrupt(self, why: str) -> None:
        """Have it raise `Shutdown` wherever it is; with all lanes of its process."""
        for mate in self.mates:
            mate.death_note = mate.death_note or why
        if self.pid:
            process.interrupt(self.pid)

    def memory_bytes(self) -> int:
        """Return its resident memory."""
        try:
            with open(f"/proc/{self.pid}/statm", encoding="ascii") as file:  # noqa: PTH123 - a virtual file, often read
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError, ValueError):
            return 0

    def close(self) -> None:
        """Release the descriptors and the memory."""
        self._is_closed = True
        self.sock.close()
        os.close(self.tokens)
        if self.pidfd >= 0:
            os.close(self.pidfd)
        self.slot.close()

    def learn_pid(self) -> None:
        """Wait for its first frame, which has its pid."""
        match self._reader.next():
            case [str(), int(pid)] if pid > 1:
                self.pid = pid
            case other:
                msg = f"not the first word of a child: {reprlib.repr(other)}"
                raise DecodeError(msg)

    def _take_tokens(self, most: int) -> int:
        count = 0
        while count < most:
            try:
                os.eventfd_read(self.tokens)
            except BlockingIOError:
                break
            count += 1
        return count

    def _last(self, count: int) -> list[Part]:
        """Remove and return the last `count` jobs."""
        self.unreported -= count
        removed: list[Part] = []
        while count:
            part = self.handed.pop()
            if part.count > count:
                first = part.cut(part.count - count)
                self.handed.append(first)
            count -= part.count
            self.ahead -= part.cost * part.count
            removed.append(part)
        return removed[::-1]

    def _reported(self, part: Part, count: int) -> None:
        self.done += count
        self.unreported -= count
        part.at += count
        part.number += count
        self.ahead -= part.cost * count
        if part.at == part.end:
            self.handed.popleft()
            self.bytes_ahead -= part.size
            if not self.handed:
                self.ahead = 0.0  # no sum of small errors
                self.bytes_ahead = 0  # what was recalled as well: it is read before the next job starts

    def _send(self, frame: bytes) -> bool:
        try:
            self.sock.sendall(frame)
        except OSError:
            return False  # it is dying; its death is noticed by its pidfd
        return True


_MOST_REPORTED = MAX_MESSAGE_BYTES + 64 * 1024  # bytes: a result at its largest, and what stands around it
_NOT_MEANT = 2**64  # the number of no job
_MOST_DOUBTS = 2  # looks, some milliseconds apart
_FRAME_COST = 1024  # bytes that the kernel counts for a small write besides its data; 278 of 1 byte fill 208 KiB


class _Lots:
    """What a frame of jobs says: lots, and which of their jobs run in which order.

    Attributes:
        lots: The fields of each `Lot`: a bundle's, or those of jobs that came alone and have all else in common.
        runs: Number, lot, first position and end of jobs that come one after the other.
    """

    def __init__(self) -> None:
        self.lots: list[list[Any]] = []
        self.runs: list[list[int]] = []
        self._places: dict[Hold, int] = {}
        self._common: tuple[Any, ...] | None = None  # of the jobs of the last lot, if they came alone

    def add(self, hold: Hold, at: int, end: int, number: int) -> None:
        """Add some jobs of a delivery, of which the first has this number."""
        bundle = hold.bundle
        indexes = bundle.indexes
        if len(indexes) == 1 and bundle.seed is None and is_list_of_one(bundle.column):
            common = (bundle.task, bundle.schema, bundle.limits.timeout, bundle.attempt)
            if common == self._common:
                lot = self.lots[-1]
                lot[3].append(bundle.id)
                lot[4].append(indexes[0])
                lot[6].append(bundle.column)
                self.runs[-1][3] += 1
                return
            self._common = common
            self.runs.append([number, len(self.lots), 0, 1])
            self.lots.append([*common[:3], [bundle.id], [indexes[0]], bundle.attempt, [bundle.column], None])
            return
        self._common = None
        if hold.starts and self._add_apart(hold, at, end, number):
            return
        place = self._places.get(hold)
        if place is None:
            place = self._places[hold] = len(self.lots)
            some = None if type(indexes) is range else indexes
            self.lots.append(_fields(bundle, some, bundle.column))
        self.runs.append([number, place, at, end])

    def _add_apart(self, hold: Hold, at: int, end: int, number: int) -> bool:
        """Add jobs in lots of their own; return False where they cannot be told apart.

        A child reads all arguments of a lot at once. Where somebody died over a bundle, that may have been the reading of
        any of its jobs, and not the job that was started: apart, each is read when it starts itself.
        """
        bundle = hold.bundle
        try:
            rows = split_list(bundle.column, len(bundle.indexes))
        except DecodeError:
            return False
        for place in range(at, end):
            self.runs.append([number + place - at, len(self.lots), 0, 1])
            self.lots.append(_fields(bundle, [bundle.indexes[place]], encoded_list([rows[place]])))
        return True


def _fields(bundle: Bundle, indexes: Sequence[int] | None, column: bytes) -> list[Any]:
    draws = None if bundle.seed is None else (bundle.seed, bundle.first)
    return [bundle.task, bundle.schema, bundle.limits.timeout, bundle.id, indexes, bundle.attempt, column, draws]
