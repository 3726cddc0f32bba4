"""What a child and its supervisor share in memory: what runs, and the results that were not read yet.

The child alone writes what runs, whether it waits, and the ring of results, the supervisor alone the count of recalls, how far it has
read, and what became of its claims. In the ring lie the encoded results of quick jobs, one after the other; every other outcome goes through the
socket. One word says how many there are, how many bytes they take, and a check over all of them: what one end sees of
it is whole, or is seen to be not.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import NamedTuple
from zlib import crc32

__all__ = [
    "CANCELLED",
    "EPOCH",
    "LANE_BYTES",
    "LOST",
    "NUMBER",
    "REFUSED",
    "RING_AT",
    "SAVED",
    "SHARED_BYTES",
    "STARTED",
    "UNTIL",
    "WAITS",
    "Batch",
    "Damaged",
    "Ring",
    "Slot",
    "outbox",
]

# Words of 8 bytes at the beginning; those that are written for each job are in one line of the processor's cache.
NUMBER, STARTED, EPOCH, _COMMIT, _READ, _SECONDS, UNTIL, LOST, WAITS, CANCELLED, SAVED, REFUSED = range(12)
RING_AT = 128
_RING = 256 * 1024  # bytes; a power of two below that of _BYTES
_IN_RING = _RING - 1
SHARED_BYTES = RING_AT + _RING
LANE_BYTES = -(-SHARED_BYTES // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY  # from one lane to the next
# The commit word: bytes written, jobs written, and the check, from below. The first two are added up as one number, the
# place; the difference of two places says both, even where the sums have run over.
_BYTES, _JOB, _PLACE = (1 << 24) - 1, 1 << 24, (1 << 40) - 1
_CHECK, _CHECK_AT = (1 << 24) - 1, 40


_MOST_SECONDS = 60.0  # that one may have run: only quick ones stand here, and a clock may have been held back


class Damaged(ValueError):
    """What stands in the ring was not written by the loop of a child, or not all of it has arrived."""


class Batch(NamedTuple):
    """Successes that were read from the ring.

    Attributes:
        count: How many.
        data: Their encoded results, one after the other.
        seconds: How long they ran in all.
    """

    count: int  # type: ignore[assignment]  # tuple.count is not missed
    data: bytes
    seconds: float


_NOTHING = Batch(0, b"", 0.0)


class Slot:
    """The words: what runs, since when, and how often jobs were recalled.

    Attributes:
        words: As integers. At NUMBER stands the job that runs, 0 for none; at EPOCH the count of recalls; at LOST the
            last job of which the child was told that others may run it by now, at CANCELLED the last one that was to
            stop; at SAVED how many of the states that it handed over were stored, at REFUSED the last that was not.
        times: The same as seconds on the monotonic clock. At STARTED stands the start of the job that runs; at UNTIL
            the end of the worker's claims, after which no job is started; 0 for none. At WAITS stands since when the
            handler waits for other jobs; 0 where it does not.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        self.memory = memory
        self.view = memoryview(memory)
        self.words = self.view[:RING_AT].cast("Q")
        self.times = self.view[:RING_AT].cast("d")

    def has_lost(self) -> bool:
        """Whether the running job is one that others may run by now."""
        return 0 < self.words[NUMBER] == self.words[LOST]

    def is_cancelled(self) -> bool:
        """Whether the running job was to stop."""
        return 0 < self.words[NUMBER] == self.words[CANCELLED]

    def cancel(self, number: int) -> None:
        """Tell the handler of a job, if it still runs, that it is to stop."""
        self.words[CANCELLED] = number

    def running(self) -> tuple[int, float]:
        """Return the number of the running job, or 0, and its start."""
        return self.words[NUMBER], self.times[STARTED]

    @property
    def waits(self) -> float:
        """Since when a handler waits for other jobs; 0 for none."""
        return self.times[WAITS]

    def claim(self, until: float) -> None:
        """Let jobs start until this time on the monotonic clock."""
        self.times[UNTIL] = until

    def lose(self, number: int) -> None:
        """Tell the handler of a job, if it still runs, that others may run it by now."""
        self.words[LOST] = number

    @property
    def epoch(self) -> int:
        """How often jobs were recalled."""
        return self.words[EPOCH]

    @epoch.setter
    def epoch(self, value: int) -> None:
        self.words[EPOCH] = value

    def close(self) -> None:
        """Let go of the memory."""
        for view in (self.words, self.times, self.view):
            view.release()


def outbox(slot: Slot) -> Callable[[bytes, float], bool]:
    """Return the child's end of the ring: a function that writes the result of the next job and how long it ran.

    It returns False if there is no room for it. (A function, because it runs after every quick job, and reads the
    variables around it faster than attributes.)
    """
    memory, words, times = slot.memory, slot.words, slot.times
    place = room = check = 0
    spent = 0.0

    def put(result: bytes, seconds: float) -> bool:
        nonlocal place, room, check, spent
        size = len(result)
        if size > room:
            room = _RING - (place - words[_READ] & _BYTES)
            if size > room:
                return False
        room -= size
        at = RING_AT + (place & _IN_RING)
        end = at + size
        if end <= SHARED_BYTES:
            memory[at:end] = result
        else:
            memory[at:] = result[: SHARED_BYTES - at]
            memory[RING_AT : RING_AT + end - SHARED_BYTES] = result[SHARED_BYTES - at :]
        spent += seconds
        times[_SECONDS] = spent
        check = crc32(result, check)
        place = place + _JOB + size & _PLACE
        words[_COMMIT] = (check & _CHECK) << _CHECK_AT | place
        return True

    return put


class Ring:
    """The supervisor's end of the ring."""

    def __init__(self, slot: Slot) -> None:
        self._memory = slot.memory
        self._words = slot.words
        self._times = slot.times
        self._commit = 0
        self._check = 0
        self._seconds = 0.0

    @property
    def has_more(self) -> bool:
        """Whether something was written that was not read."""
        return self._words[_COMMIT] != self._commit

    def read(self) -> Batch:
        """Return what was written since the last call.

        Raises:
            Damaged: It is not what a child wrote.
        """
        commit, old = self._words[_COMMIT], self._commit
        if commit == old:
            return _NOTHING
        seconds = self._times[_SECONDS]
        added = commit - old & _PLACE
        count, length = added // _JOB, added & _BYTES
        if length > _RING:
            raise Damaged
        at = RING_AT + (old & _IN_RING)
        end = at + length
        data = self._memory[at : min(end, SHARED_BYTES)]
        if end > SHARED_BYTES:
            data += self._memory[RING_AT : RING_AT + end - SHARED_BYTES]
        check = crc32(data, self._check)
        if (check & _CHECK) != commit >> _CHECK_AT:
            raise Damaged
        spent = seconds - self._seconds
        is_ours = 0.0 <= spent < _MOST_SECONDS * count  # user code may have written it
        batch = Batch(count, data, spent if is_ours else 0.0)
        self._commit, self._check, self._seconds = commit, check, seconds
        self._words[_READ] = commit & _PLACE
        return batch
