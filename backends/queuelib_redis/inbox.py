"""The waiting side of a client: one list on the server, on which workers announce which jobs have ended.

Any number of threads wait at once. One of them reads the list and wakes the others, and when it leaves another one
takes over; nothing else runs in the background. An announcement is a hint: a lost one only delays, because each waiter
also looks at the records themselves, now and then for its own client's jobs, and more often for those of others.
"""

from __future__ import annotations

import re
import struct
import threading
import time
import uuid
from collections import OrderedDict
from typing import TYPE_CHECKING

from queuelib.ids import BUNDLE_BYTES, Key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from queuelib.outcome import Record

    Listen = Callable[[str, float, Sequence[Key]], "tuple[bytes | None, list[Record | None] | None]"]

__all__ = ["Inbox", "address_pattern", "pack", "pack_runs", "unpack", "unpack_runs"]

_RUN = struct.Struct(f">{BUNDLE_BYTES}sII")  # bundle, first job, number of jobs
_MOST_JOBS = 65_536  # of a bundle
_READ_SLICE = 1.0  # seconds of one blocking read; well below the socket's time limit
_OWN_CHECK = 1.0  # seconds between two looks at records that will be announced here
_FIRST_CHECK, _LAST_CHECK = 0.005, 0.25  # seconds, doubling, for jobs that are announced elsewhere or nowhere
_CHECK_SHARE = 10  # looking takes at most a tenth of the time, however many jobs are looked at
_MOST_TOLD = 100_000  # announced runs of jobs that nobody has heard yet; of more only that there were some
_NEWS_AGE = 1.0  # seconds for which an announcement that nobody waited for is remembered


class Inbox:
    """One client's address, and the threads that wait there."""

    def __init__(self, namespace: str, listen: Listen) -> None:
        self.address = f"{{{namespace}}}:inbox:{uuid.uuid4().hex}"
        self._listen = listen
        self._changed = threading.Condition()
        self._waiters: list[_Waiter] = []
        self._reader: _Reader | None = None
        self._hearings: list[Hearing] = []
        self.is_closed = False
        self._news: OrderedDict[tuple[bytes, int, int], float] = OrderedDict()  # runs of jobs, oldest first

    def wait(
        self,
        keys: Sequence[Key],
        timeout: float,
        *,
        is_own: bool,
        fetch: Callable[[Sequence[Key]], list[Record | None]],
    ) -> list[Record | None] | None:
        """Return once one of these jobs was announced here or found ended, or after `timeout` seconds.

        Args:
            keys: The jobs.
            timeout: Seconds.
            is_own: Whether all of them are announced here.
            fetch: Looks at the records on the server.

        Returns:
            What `fetch` would say now, or None if it is to be asked.
        """
        end = time.monotonic() + timeout
        waiter = _Waiter(keys)
        pause = _OWN_CHECK if is_own else _FIRST_CHECK
        try:
            if self._register(waiter):
                return None
            while (left := end - time.monotonic()) > 0:
                if self._await_news(waiter, min(left, pause)) or time.monotonic() >= end:
                    return waiter.seen
                began = time.monotonic()
                seen = fetch(keys) if waiter.seen is None else waiter.seen
                if any(record is not None and record.is_final for record in seen):
                    return seen
                cost = (time.monotonic() - began) * _CHECK_SHARE
                pause = max(cost, _OWN_CHECK if is_own else min(2 * pause, _LAST_CHECK))
            return None
        finally:
            with self._changed:
                self._waiters.remove(waiter)

    def listen(self, is_own: Callable[[Key], bool], ring: Callable[[], object]) -> Hearing:
        """Hear of all that is announced here.

        Args:
            is_own: Whether a job's end is announced here.
            ring: Announces nothing, so that a read returns.
        """
        return Hearing(self, is_own, ring)

    def close(self) -> None:
        """End all waits, early."""
        with self._changed:
            self.is_closed = True
            for hearing in self._hearings:
                hearing.is_woken = True
            for waiter in self._waiters:
                waiter.is_woken = True
            self._changed.notify_all()

    def forget(self, keys: Iterable[Key]) -> None:
        """Drop what was announced of these jobs: it does not hold any more."""
        waiter = _Waiter(list(keys))
        with self._changed:
            for run in [run for run in self._news if waiter.is_told_by(run)]:
                del self._news[run]

    def enter(self, hearing: Hearing) -> None:
        """Tell somebody of all that is announced from now on."""
        with self._changed:
            self._hearings.append(hearing)

    def leave(self, hearing: Hearing) -> None:
        """Tell it no more."""
        with self._changed:
            self._hearings.remove(hearing)

    def hear(self, hearing: Hearing, timeout: float) -> Sequence[tuple[bytes, int, int]] | None:
        """Return what was announced, once there is something, or after `timeout` seconds."""
        if not self.is_closed:
            self._await_news(hearing, timeout)
        with self._changed:
            return hearing.take()

    def wake(self, hearing: Hearing) -> bool:
        """End its wait; return whether it is reading, which only an announcement ends."""
        with self._changed:
            hearing.is_woken = True
            self._changed.notify_all()
            return self._reader is hearing

    def _register(self, waiter: _Waiter) -> bool:
        """Enter a waiter; return whether there is nothing to wait for: one of its jobs was announced just before."""
        with self._changed:
            self._waiters.append(waiter)
            self._drop_old_news()
            return self.is_closed or any(waiter.is_told_by(run) for run in self._news)

    def _await_news(self, waiter: _Reader, timeout: float) -> bool:
        """Read, or wait for whoever reads, at most `timeout` seconds; return whether the waiter's news came."""
        end = time.monotonic() + timeout
        waiter.seen = None
        while True:
            with self._changed:
                while self._reader is not None and not waiter.is_woken and (left := end - time.monotonic()) > 0:
                    waiter.seen = None  # by then it is old
                    self._changed.wait(left)
                left = end - time.monotonic()
                if waiter.is_woken or left <= 0:
                    return waiter.is_woken
                self._reader = waiter
            try:
                has_news = self._read(waiter, min(left, _READ_SLICE))
            finally:
                with self._changed:
                    self._reader = None
                    self._changed.notify_all()
            if has_news:
                return True

    def _read(self, reader: _Reader, timeout: float) -> bool:
        """Take an announcement and tell everybody; return whether it is the reader's own, which looks at its jobs too."""
        announced, reader.seen = self._listen(self.address, timeout, reader.keys)
        if announced is None:
            return False
        runs = unpack_runs(announced)
        now = time.monotonic()
        with self._changed:
            for run in runs:
                self._news[run] = now
                self._news.move_to_end(run)
            self._drop_old_news()
            for waiter in self._waiters:
                waiter.is_woken = waiter.is_woken or any(waiter.is_told_by(run) for run in runs)
            for hearing in self._hearings:
                hearing.tell(runs)
            return reader.is_woken

    def _drop_old_news(self) -> None:
        oldest = time.monotonic() - _NEWS_AGE
        while self._news:
            key = next(iter(self._news))
            if self._news[key] > oldest:
                break
            del self._news[key]


class _Reader:
    """Who may read the list."""

    __slots__ = ("is_woken", "keys", "seen")

    def __init__(self, keys: Sequence[Key]) -> None:
        self.keys = keys
        self.seen: list[Record | None] | None = None  # of its jobs, by the last read of its own
        self.is_woken = False


class Hearing(_Reader):
    """Hears of all that is announced, whichever thread reads it; of what others submitted nothing is."""

    __slots__ = ("_inbox", "_is_own", "_ring", "_told")

    def __init__(self, inbox: Inbox, is_own: Callable[[Key], bool], ring: Callable[[], object]) -> None:
        super().__init__(())
        self._inbox = inbox
        self._is_own = is_own
        self._ring = ring
        self._told: list[tuple[bytes, int, int]] = []
        inbox.enter(self)

    def wait(self, timeout: float) -> Sequence[tuple[bytes, int, int]] | None:
        """Wait for announcements."""
        return self._inbox.hear(self, timeout)

    def wake(self) -> None:
        """End the wait, which takes an announcement of nothing where this thread is the one that reads."""
        if self._inbox.wake(self):
            self._ring()

    def tells_of(self, key: Key) -> bool:
        """Return whether the job was submitted here."""
        return self._is_own(key)

    def close(self) -> None:
        """Hear no more."""
        self._inbox.leave(self)

    def tell(self, runs: Sequence[tuple[bytes, int, int]]) -> None:
        """Take in what was announced, under the inbox's lock."""
        self.is_woken = True
        if len(self._told) <= _MOST_TOLD:
            self._told += runs

    def take(self) -> Sequence[tuple[bytes, int, int]] | None:
        """Return what was announced since the last call, under the inbox's lock; None if it was too much to keep."""
        told, self._told, self.is_woken = self._told, [], False
        return told if len(told) <= _MOST_TOLD else None


class _Waiter(_Reader):
    __slots__ = ("_jobs",)

    def __init__(self, keys: Sequence[Key]) -> None:
        super().__init__(keys)
        self._jobs: dict[bytes, set[int]] = {}
        for bundle, index in keys:
            self._jobs.setdefault(bundle, set()).add(index)

    def is_told_by(self, run: tuple[bytes, int, int]) -> bool:
        bundle, first, count = run
        jobs = self._jobs.get(bundle)
        if jobs is None:
            return False
        if len(jobs) < count:
            return any(first <= index < first + count for index in jobs)
        return not jobs.isdisjoint(range(first, first + count))


def pack(keys: Sequence[Key]) -> bytes:
    """Return jobs as they are told to others: a bundle, a first job and a number of jobs, for each run of them."""
    found: list[bytes] = []
    start = 0
    for at in range(1, len(keys) + 1):
        first = keys[start]
        if at == len(keys) or keys[at] != (first.bundle, first.index + at - start):
            found.append(_RUN.pack(first.bundle, first.index, at - start))
            start = at
    return b"".join(found)


def pack_runs(records: Iterable[Record]) -> bytes:
    """Return the jobs that some records tell of, as `pack` does."""
    rows: list[tuple[bytes, int, int]] = []
    for record in records:
        bundle, first = record.key
        if rows and rows[-1][0] == bundle and rows[-1][1] + rows[-1][2] == first:
            rows[-1] = (bundle, rows[-1][1], rows[-1][2] + record.count)
        else:
            rows.append((bundle, first, record.count))
    return b"".join([_RUN.pack(*row) for row in rows])


def unpack_runs(packed: bytes) -> list[tuple[bytes, int, int]]:
    """Return bundle, first job and number of jobs of each run; a torn end, and what no bundle has, is left out."""
    whole = len(packed) - len(packed) % _RUN.size
    return [run for run in _RUN.iter_unpack(packed[:whole]) if run[1] + run[2] <= _MOST_JOBS]


def unpack(packed: bytes) -> list[Key]:
    """Return the keys that were packed."""
    return [Key(bundle, index) for bundle, first, count in unpack_runs(packed) for index in range(first, first + count)]


def address_pattern(namespace: str) -> re.Pattern[str]:
    """Return what an inbox of this namespace looks like: a bundle must not make a worker write to any other key."""
    return re.compile(rf"\{{{re.escape(namespace)}\}}:inbox:[0-9a-f]{{32}}\Z")
