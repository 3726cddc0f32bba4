"""What a child and its supervisor share in memory: what runs, and the results that were not read yet.

The child alone writes what runs and the ring of results, the supervisor alone the count of recalls and how far it has
read. In the ring lie the encoded results of quick jobs, one after the other; every other outcome goes through the
socket. One word says how many there are, how many bytes they take, and a check over all of them: what one end sees of
it is whole, or is seen to be not.
"""

from __future__ import annotations

import mmap
from typing import NamedTuple
from zlib import crc32

__all__ = ["EPOCH", "NUMBER", "SHARED_BYTES", "STARTED", "Batch", "Damaged", "Outbox", "Ring", "Slot"]

NUMBER, STARTED, EPOCH, _COMMIT, _READ, _SECONDS = range(6)  # words of 8 bytes at the beginning
_RING_AT = 64
_RING = 256 * 1024  # bytes; a power of two below that of _BYTES
SHARED_BYTES = _RING_AT + _RING
_BYTES, _JOBS, _CHECK = 0xFFFFFF, 0xFFFF, 0xFFFFFF  # parts of the commit word, from below
_JOBS_AT, _CHECK_AT = 24, 40  # bits


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
        words: As integers. At NUMBER stands the job that runs, 0 for none; at EPOCH the count of recalls.
        times: The same as seconds on the monotonic clock. At STARTED stands the start of the job that runs.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        self.memory = memory
        self.view = memoryview(memory)
        self.words = self.view[:_RING_AT].cast("Q")
        self.times = self.view[:_RING_AT].cast("d")

    def running(self) -> tuple[int, float]:
        """Return the number of the running job, or 0, and its start."""
        return self.words[NUMBER], self.times[STARTED]

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


class Outbox:
    """The child's end of the ring."""

    def __init__(self, slot: Slot) -> None:
        self._memory = slot.memory
        self._words = slot.words
        self._times = slot.times
        self._written = 0
        self._jobs = 0
        self._check = 0
        self._seconds = 0.0

    def put(self, result: bytes, seconds: float) -> bool:
        """Write the result of the next job; return False if there is no room for it."""
        written = self._written
        end = written + len(result)
        if end - self._words[_READ] > _RING:
            return False
        at = _RING_AT + written % _RING
        stop = at + end - written
        if stop <= SHARED_BYTES:
            self._memory[at:stop] = result
        else:
            self._memory[at:] = result[: SHARED_BYTES - at]
            self._memory[_RING_AT : _RING_AT + stop - SHARED_BYTES] = result[SHARED_BYTES - at :]
        self._written = end
        self._jobs = jobs = self._jobs + 1
        self._check = check = crc32(result, self._check)
        self._seconds = self._times[_SECONDS] = self._seconds + seconds
        self._words[_COMMIT] = (check & _CHECK) << _CHECK_AT | (jobs & _JOBS) << _JOBS_AT | end & _BYTES
        return True


class Ring:
    """The supervisor's end of the ring."""

    def __init__(self, slot: Slot) -> None:
        self._memory = slot.memory
        self._words = slot.words
        self._times = slot.times
        self._commit = 0
        self._at = 0
        self._jobs = 0
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
        commit = self._words[_COMMIT]
        if commit == self._commit:
            return _NOTHING
        seconds = self._times[_SECONDS]
        count = (commit >> _JOBS_AT) - self._jobs & _JOBS
        length = commit - self._at & _BYTES
        if length > _RING:
            raise Damaged
        at = _RING_AT + self._at % _RING
        end = at + length
        data = self._memory[at : min(end, SHARED_BYTES)]
        if end > SHARED_BYTES:
            data += self._memory[_RING_AT : _RING_AT + end - SHARED_BYTES]
        check = crc32(data, self._check)
        if (check & _CHECK) != commit >> _CHECK_AT:
            raise Damaged
        batch = Batch(count, data, max(0.0, seconds - self._seconds))
        self._commit, self._check, self._seconds = commit, check, seconds
        self._jobs += count
        self._at += length
        self._words[_READ] = self._at
        return batch
