"""What handlers tell and save, from the moment it is heard until it is stored: the newest of each job, a few times a second.

Only what is still ours is stored: a job that another worker may run by now is spoken for by that one. What cannot be
stored is tried again here, apart from the connection that outcomes go over: they do not wait for what is said about jobs.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from queuelib.clock import Clock
from queuelib.errors import ConfigurationError, QueuelibError
from queuelib.ids import Key
from queuelib.outcome import Again
from queuelib.ports import Memo
from queuelib.settings import PROGRESS_KEEP
from queuelib.worker.children import Successes
from queuelib.worker.desk import PROGRESS, STATE

if TYPE_CHECKING:
    from queuelib.ports import Memos
    from queuelib.worker.children import Report, Told
    from queuelib.worker.lease import Hold
    from queuelib.worker.line import Line

__all__ = ["Notebook"]

_log = logging.getLogger("queuelib.worker")
_EVERY = 0.2  # seconds between two writes
_SAY_EVERY = 10.0  # seconds between two warnings of what was dropped
_MOST_FETCHED = 10_000  # bundles whose states were read here are remembered; those of others go by themselves
# Last words of jobs that have ended before anything of them was stored: for people, and on some servers a queue each.
_MOST_LAST_WORDS, _LAST_WORDS_A_SECOND = 100.0, 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0  # seconds after a failure
_PATIENCE = 5.0  # seconds of failures for which the outcomes wait of a job that runs again from a state not yet stored
_AGAIN_AFTER = PROGRESS_KEEP / 2  # seconds: then progress of a job that runs is written again, lest it be forgotten


class _Job:
    """A job of which something was told or saved here."""

    __slots__ = ("at", "has_state", "hold", "progress", "written_at")

    def __init__(self, hold: Hold, at: int) -> None:
        self.hold = hold
        self.at = at
        self.has_state = False
        self.progress = b""
        self.written_at = 0.0


class Notebook:
    """What is to be stored of running jobs.

    Args:
        line: The connection.
        connect: Returns the keeper of memos.
        keep: Seconds for which a state is kept.
        clock: The clocks.

    Attributes:
        unsaved: States that are not stored yet, by job; the thread that fetches reads them too.
        dropped: How many memos were dropped because their jobs may run elsewhere.
    """

    def __init__(self, line: Line, connect: Callable[[], Memos], keep: float, clock: Clock) -> None:
        self.unsaved: dict[Key, bytes] = {}
        self.dropped = 0
        self._line = line
        self._connect = connect
        self._keep = keep
        self._clock = clock
        self._memos: Memos | None = None
        self._is_without = False  # the result backend keeps no memos
        self._jobs: dict[bytes, dict[int, _Job]] = {}  # by bundle and index
        self._fetched: deque[Key] = deque()  # whose states the other thread has found
        self._with_state: dict[bytes, set[int]] = {}  # of which one is stored, told or not
        self._waiting: dict[tuple[Key, str], Told] = {}  # what is to be written
        # Whose states are to be removed, once their endings are written.
        self._gone: list[tuple[Hold, Key]] = []
        self._failures = 0  # in a row
        self._failed_at = 0.0  # the first of them
        self._try_at = 0.0
        self._write_at = 0.0
        self._is_pressing = False
        self._said_at = float("-inf")
        self._last_words = _MOST_LAST_WORDS  # how many may be stored now
        self._counted_at = clock.monotonic()

    # What is entered

    def enter(self, told: Iterable[Told]) -> None:
        """Enter what handlers told and saved."""
        for one in told:
            key = one.hold.key(one.at)
            jobs = self._jobs.setdefault(key.bundle, {})
            job = jobs.get(key.index)
            if job is None or job.hold is not one.hold:
                job = jobs[key.index] = _Job(one.hold, one.at)
            if one.kind == STATE:
                job.has_state = True
                self.unsaved[key] = one.data
            else:
                job.progress = one.data
            self._waiting[key, one.kind] = one
            self._is_pressing = self._is_pressing or one.is_urgent

    def reader(self, connect: Callable[[], Memos]) -> Callable[[Key], bytes | None]:
        """Return what reads the states that jobs have saved, for one other thread, which gets a connection of its own."""
        opened: list[Memos] = []

        def read(key: Key) -> bytes | None:
            state = self.unsaved.get(key)
            if state is None:
                opened.extend([connect()] if not opened else ())
                (state,) = opened[0].read(STATE, [key])
            if state is not None:
                self._fetched.append(key)
            return state

        return read

    def end(self, reports: Iterable[Successes | Report]) -> None:
        """Note which jobs have ended: what they told is written at once, and their states go if they do not run again."""
        while self._fetched:
            if len(self._with_state) >= _MOST_FETCHED:
                del self._with_state[next(iter(self._with_state))]
            bundle, index = self._fetched.popleft()
            self._with_state.setdefault(bundle, set()).add(index)
        if not self._jobs and not self._with_state:
            return
        for report in reports:
            bundle = report.hold.bundle.id
            if bundle in self._jobs or bundle in self._with_state:
                indexes = report.hold.bundle.indexes
                count = report.count if isinstance(report, Successes) else 1
                for at in range(report.at, report.at + count):
                    self._end(report.hold, Key(bundle, indexes[at]), goes_on=_goes_on(report))

    def press(self) -> None:
        """Have all be written next time: a child has died, and its job goes on from its state."""
        self._is_pressing = bool(self._waiting)
        self._try_at = 0.0

    def _end(self, hold: Hold, key: Key, *, goes_on: bool) -> None:
        jobs, stored = self._jobs.get(key.bundle, {}), self._with_state.get(key.bundle, set())
        job = jobs.pop(key.index, None)
        if key.bundle in self._jobs and not jobs:
            del self._jobs[key.bundle]
        has_state = key.index in stored or (job is not None and job.has_state)
        stored.discard(key.index)
        if key.bundle in self._with_state and not stored:
            del self._with_state[key.bundle]
        if has_state and not goes_on:
            self.unsaved.pop(key, None)
            told = self._waiting.pop((key, STATE), None)
            if told is not None:
                told.child.answer(told.saves, is_stored=True)
            self._gone.append((hold, key))
        if job is not None and job.written_at == 0.0 and (key, PROGRESS) in self._waiting and not self._may_have_word():
            del self._waiting[key, PROGRESS]
        self._is_pressing = self._is_pressing or bool(self._waiting)

    def _may_have_word(self) -> bool:
        """Whether one more job that has ended at once may have its progress stored."""
        now = self._clock.monotonic()
        spared = self._last_words + (now - self._counted_at) * _LAST_WORDS_A_SECOND
        self._last_words, self._counted_at = min(spared, _MOST_LAST_WORDS), now
        if self._last_words < 1.0:
            return False
        self._last_words -= 1.0
        return True

    # What is written

    def rest(self, now: float) -> float:
        """Return the seconds until something is to be written that can be."""
        may_write = self._waiting and self._line.link.lane is not None and self._line.link.may_try
        return max(0.0, self._write_at - now, self._try_at - now) if may_write else float("inf")

    def is_owing(self) -> bool:
        """Whether outcomes have to wait: a job runs again, and its state could not be stored yet.

        They do so for some seconds at most, and for nothing else.
        """
        if not self._failures or not self._is_patient():
            return False
        return any(kind == STATE and not self._runs(key) for key, kind in self._waiting)

    def write(self, now: float) -> None:
        """Write what is due, if the server may be asked; what others speak for is dropped."""
        if now < self._try_at:
            if not self._is_patient():
                self._give_up(
                    STATE
                )  # outcomes wait for none any more: their jobs may run elsewhere before the next try
            return
        if not self._waiting or (now < self._write_at and not self._is_pressing):
            return
        if not self._find_lost():
            return
        ours = {name: told for name, told in self._waiting.items() if not told.hold.delivery.is_lost}
        if ours and not self._store([self._memo(key, kind, told.data) for (key, kind), told in ours.items()]):
            return
        self._is_pressing, self._write_at = False, now + _EVERY
        self._note_dropped(len(self._waiting) - len(ours), now)
        for (key, kind), told in self._waiting.items():
            if kind == STATE:
                self.unsaved.pop(key, None)
                told.child.answer(told.saves, is_stored=(key, kind) in ours and not self._is_without)
            job = self._jobs.get(key.bundle, {}).get(key.index)
            if job is not None:
                job.written_at = now
        self._waiting.clear()

    def _give_up(self, *kinds: str) -> None:
        """Drop what nothing newer will ever replace: last words, and, after a while, states to go on from."""
        for name, told in list(self._waiting.items()):
            key, kind = name
            if kind not in kinds or self._runs(key) or (kind == STATE and self._is_patient()):
                continue
            del self._waiting[name]
            if kind == STATE:
                self.unsaved.pop(key, None)
                told.child.answer(told.saves, is_stored=False)

    def _runs(self, key: Key) -> bool:
        return key.index in self._jobs.get(key.bundle, ())

    def _is_patient(self) -> bool:
        return self._clock.monotonic() - self._failed_at < _PATIENCE

    def _find_lost(self) -> bool:
        """Ask the server which of the deliveries are not ours any more; return False if it does not say."""
        lane = self._line.link.lane
        if lane is None or not self._line.link.may_try:
            return False
        holds = dict.fromkeys(told.hold for told in self._waiting.values())
        doubtful = [hold.delivery for hold in holds if not hold.delivery.is_lost]
        lost = self._line.attempt(lane.find_lost, doubtful) if doubtful else ()
        for delivery in lost or ():
            delivery.is_lost = True
        return lost is not None

    def _note_dropped(self, count: int, now: float) -> None:
        self.dropped += count
        if count and now - self._said_at >= _SAY_EVERY:
            self._said_at = now
            _log.warning(
                "dropped what jobs told or saved here that other workers may run by now: %d times so far", self.dropped
            )

    def sweep(self, now: float, *, may_drop: bool) -> None:
        """Do what need not be done at once: remove states of jobs that have ended, and keep progress from being forgotten.

        Args:
            now: The monotonic time.
            may_drop: Whether all endings are written.
        """
        if self._gone and may_drop and self._line.link.may_try:
            # That of a job whose ending was not ours to write belongs to whoever runs it now.
            gone = [key for hold, key in self._gone if not hold.delivery.is_lost]
            if not gone or self._ask(lambda memos: memos.drop(STATE, gone)):
                self._gone.clear()
        old = [
            Memo(Key(bundle, index), PROGRESS, job.progress, PROGRESS_KEEP)
            for bundle, jobs in self._jobs.items()
            for index, job in jobs.items()
            if job.progress and now - job.written_at > _AGAIN_AFTER and not job.hold.delivery.is_lost
        ]
        if old and self._line.link.may_try and self._store(old):
            for memo in old:
                self._jobs[memo.key.bundle][memo.key.index].written_at = now
        self._forget_ended()

    def close(self) -> None:
        """Close the connection."""
        if self._memos is not None:
            self._memos.close()

    def _forget_ended(self) -> None:
        """Forget jobs that have ended without a report, as those whose child has died: their states go by themselves."""
        for bundle, jobs in list(self._jobs.items()):
            for index, job in list(jobs.items()):
                if job.hold.has_ended(job.at) or job.hold.delivery.is_lost:
                    del jobs[index]
            if not jobs:
                del self._jobs[bundle]

    def _memo(self, key: Key, kind: str, data: bytes) -> Memo:
        return Memo(key, kind, data, self._keep if kind == STATE else PROGRESS_KEEP)

    def _store(self, memos: Sequence[Memo]) -> bool:
        return self._ask(lambda keeper: keeper.write(memos))

    def _ask(self, what: Callable[[Memos], None]) -> bool:
        """Ask the keeper something; return False after a failure, and True where there is no keeper at all."""
        if self._is_without:
            return True
        if self._clock.monotonic() < self._try_at:
            return False
        try:
            if self._memos is None:
                self._memos = self._connect()
            what(self._memos)
        except ConfigurationError as error:
            self._is_without = True
            _log.error("what handlers tell and save is dropped: %s", error)
            return True
        except QueuelibError as error:
            self._failed(error)
            return False
        self._failures = 0
        return True

    def _failed(self, error: QueuelibError) -> None:
        now = self._clock.monotonic()
        if not self._failures:
            self._failed_at = now
            _log.warning("what handlers tell and save cannot be stored, and is tried again: %s", error)
        self._failures += 1
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._failures, 10))
        self._try_at = now + random.uniform(pause / 2, pause)
        self._give_up(PROGRESS, STATE)


def _goes_on(report: Successes | Report) -> bool:
    """Whether a job that was reported runs again."""
    if isinstance(report, Successes) or not isinstance(report.outcome, Again):
        return False
    return report.hold.bundle.attempt <= report.hold.bundle.limits.retries
