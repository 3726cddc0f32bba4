"""One thread a dispatcher, which tells whoever watches jobs that they have ended; none while nobody does.

It looks at a job when it comes to be watched, unless its end is still to be told, and when the result backend names it.
Where a backend does not say which job has ended, it looks at the oldest and at the newest, and goes round all of them
within a share of its time, so that a job is not looked at whenever any other ends.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from itertools import islice, repeat
from typing import Any, NamedTuple, Protocol
from weakref import WeakSet

from queuelib.clock import SYSTEM, Clock
from queuelib.errors import BrokerUnavailable
from queuelib.ids import Key, created_at
from queuelib.outcome import Record
from queuelib.ports import Listening, ResultBackend, Span, Teller
from queuelib.recent import Recent
from queuelib.rounds import WINDOW, Round

__all__ = ["Ending", "Tell", "Watch", "is_watcher"]

Ending = Record | Exception
"""How a job ended; an exception where nobody will ever know."""
Tell = Callable[[Any, Ending], object]
"""Called with the job and its ending, in the watcher's thread; it must be quick and must not raise."""
LookUp = Callable[[Sequence[Key]], Sequence[Ending]]

_log = logging.getLogger("queuelib.watch")
_FEW = 16  # jobs that come at once; looking at more is worth waking up for
_TOLD_OF = 10_000  # bundles at least
_FRONT = 64  # oldest jobs, looked at whenever some job has ended
_DEMOTED_AFTER = 16  # of those looks, a job makes way for those behind it
_SHARE = 8  # going round all jobs takes at most one part in so many of the time
_LONGEST_WAIT = 1.0  # seconds; what wakes the thread may be lost with a connection
_BLIND_WAIT = 0.05  # seconds; where nothing can wake it, a job that comes to be watched waits for no longer
_LINGER = 1.0  # seconds for which a thread without work waits for more: starting one takes 0.1 ms
_PATIENCE = 10.0  # seconds for which a server that does not answer is asked before those who wait are told
_PAUSE = (0.02, 0.2)  # seconds between two such questions, drawn
_LONG_PAUSE = (0.5, 2.0)  # the same once nobody waits for the answer
_NOTICE_AFTER = 5.0  # seconds after which a client asks itself whether anybody serves its jobs
_LEAVE_WITHIN = 5.0  # seconds for which closing waits for a call of the backend to return


class Watched(Protocol):
    """A job."""

    @property
    def key(self) -> Key:
        """What names it."""
        ...


class _Watcher(NamedTuple):
    job: Any
    tell: Tell
    is_patient: bool
    about: tuple[str, str]


class Watch:
    """The jobs that somebody watches; all methods may be called from any thread.

    Args:
        open_results: Opens the result backend.
        look_up: Returns the record of each job, or why there will never be one.
        on_long_wait: Called with the `about` of jobs that are watched for some seconds.
        clock: The clocks, for tests.
    """

    def __init__(
        self,
        open_results: Callable[[], ResultBackend],
        look_up: LookUp,
        on_long_wait: Callable[[tuple[str, str]], object] = lambda _: None,
        clock: Clock = SYSTEM,
    ) -> None:
        self._open_results = open_results
        self._look_up = look_up
        self._on_long_wait = on_long_wait
        self._clock = clock
        self._begin()
        _watches.add(self)

    def _begin(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._in_use = threading.RLock()  # what the thread holds while it is in the backend
        self._thread: threading.Thread | None = None
        self._fresh: list[_Watcher] = []
        self._watchers: dict[Key, list[_Watcher]] = {}  # in the order in which they came
        self._dropped: deque[tuple[Sequence[Watched], Tell]] = deque()
        self._front: dict[Key, int] = {}  # how often each was looked at in front
        self._untold: set[Key] = set()  # of whose ends the backend does not tell
        self._notices: dict[tuple[str, str], tuple[float, Key]] = {}
        self._asleep: Listening | None = None  # what the thread waits on
        self._holds = 0  # who wants the thread to stay away from the backend
        self._is_leaving = False
        # The thread's own.
        self._results: ResultBackend | None = None
        self._listening: Listening | None = None
        self._unseen: list[Key] = []
        self._told_until = float("inf")  # jobs that are older (wall time) may have ended unheard
        self._told_of = Recent[bytes](_TOLD_OF)  # bundles; of their jobs some have ended
        self._rounds = (Round(self._watchers, 1.0, 4.0), Round(self._untold, 0.005, 0.25))
        self._broken_at: float | None = None

    def __len__(self) -> int:
        """Return how many jobs are watched."""
        return len(self._watchers) + len(self._fresh)

    def add(
        self, jobs: Iterable[Watched], tell: Tell, about: tuple[str, str] = ("", ""), *, is_patient: bool = False
    ) -> None:
        """Have `tell` called once for each job when it has ended, soon if it has already.

        Args:
            jobs: The jobs; one that comes twice is told of twice.
            tell: What to call.
            about: Task and color, for the notice that nobody serves them.
            is_patient: Whether to wait for a server that does not answer, however long that takes; else `tell` gets
                the error after some seconds.
        """
        fresh = [_Watcher(job, tell, is_patient, about) for job in jobs]
        if not fresh:
            return
        with self._changed:
            self._fresh += fresh
            if about[0] and about not in self._notices:
                self._notices[about] = (self._clock.monotonic() + _NOTICE_AFTER, fresh[0].job.key)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="queuelib-watch", daemon=True)
                thread.start()
                self._thread = thread
            asleep = None
            if len(fresh) > _FEW or any(self._may_have_ended(one.job.key) for one in fresh):
                asleep, self._asleep = self._asleep, None
            self._changed.notify_all()
        _wake(asleep)

    def drop(self, jobs: Iterable[Watched], tell: Tell) -> None:
        """Have `tell` not called for these jobs any more; it may just be on its way."""
        dropped = {job.key for job in jobs}
        with self._changed:
            self._fresh = [one for one in self._fresh if one.tell != tell or one.job.key not in dropped]
            for key in dropped:
                left = [one for one in self._watchers.get(key, ()) if one.tell != tell]
                if left:
                    self._watchers[key] = left
                else:
                    self._forget(key)

    def drop_soon(self, jobs: Sequence[Watched], tell: Tell) -> None:
        """Do what `drop` does within a second; for finalizers, which run anywhere and must not wait for a lock."""
        self._dropped.append((jobs, tell))

    @contextmanager
    def released(self) -> Generator[None]:
        """Keep the thread away from the backend while the block lasts, which may close it; then it opens it anew."""
        with self._changed:
            self._holds += 1
            asleep, self._asleep = self._asleep, None
            self._changed.notify_all()
        _wake(asleep)
        is_ours = self._in_use.acquire(timeout=_LEAVE_WITHIN)
        try:
            self._hang_up()
            yield
        finally:
            if is_ours:
                self._in_use.release()
            with self._changed:
                self._holds -= 1
                self._is_leaving = True  # unless there is more to do
                self._changed.notify_all()

    # The thread

    def _run(self) -> None:
        _local.is_watcher = True
        while self._has_work():
            try:
                self._turn()
                self._broken_at = None
            except BrokerUnavailable as error:
                self._bear(error)
            except Exception as error:  # noqa: BLE001 - whatever it is, those who wait have to be told
                self._broken_at = float("-inf")
                self._bear(error)

    def _has_work(self) -> bool:
        """Return whether anything is watched, once it may be looked at; False, after a while, ends the thread."""
        if not self._is_wanted():
            with self._in_use:
                self._hang_up()
        with self._changed:
            self._changed.wait_for(lambda: self._is_wanted() or self._is_leaving, _LINGER)
            self._changed.wait_for(lambda: not self._holds)
            self._is_leaving = False
            if not self._is_wanted():
                self._thread = None
            return self._thread is not None

    def _is_wanted(self) -> bool:
        return bool(self._watchers or self._fresh)

    def _turn(self) -> None:
        self._listen()
        with self._changed:
            self._admit()
        while self._unseen and not self._holds:
            self._look(self._unseen[:WINDOW])
            del self._unseen[:WINDOW]
        self._hear(self._wait())
        for round_ in self._rounds:
            self._go_round(round_)
        self._give_notice()

    def _let_go(self) -> None:
        """Drop what `drop_soon` named; where that leaves nothing, a backend that was closed since must stay so."""
        while self._dropped:
            self.drop(*self._dropped.popleft())

    def _listen(self) -> None:
        """Open what tells of endings, anew if the backend is another one by now."""
        with self._in_use:
            self._let_go()
            if not self._is_wanted():
                return
            results = self._open_results()
            if self._listening is not None and self._results is results:
                return
            self._hang_up()
            listening = results.listen() if isinstance(results, Teller) else None
            listening = listening or _Blind(results, self._watchers)
            self._results, self._listening = results, listening
        with self._changed:
            self._told_until = self._clock.wall()
            self._told_of = Recent[bytes](_TOLD_OF)
            self._untold.clear()
            self._untold.update(key for key in self._watchers if not listening.tells_of(key))
            self._unseen = list(self._watchers)  # nobody told of what ended in between

    def _hang_up(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            with suppress(BrokerUnavailable):
                listening.close()

    def _may_have_ended(self, key: Key) -> bool:
        """Return whether a job is to be looked at when it comes to be watched: its end may have been told before."""
        listening = self._listening
        return (
            created_at(key.bundle) <= self._told_until
            or listening is None
            or not listening.tells_of(key)
            or key.bundle in self._told_of
        )

    def _admit(self) -> None:
        """Take in what has come to be watched, under the lock."""
        now, listening = self._clock.monotonic(), self._listening
        fresh, self._fresh = self._fresh, []
        if fresh and not self._watchers:
            self._rounds[0].put_off(now)
        for watcher in fresh:
            key = watcher.job.key
            others = self._watchers.get(key)
            if others is not None:
                others.append(watcher)
                continue
            self._watchers[key] = [watcher]
            self._front[key] = 0
            if self._may_have_ended(key):
                self._unseen.append(key)
                if listening is not None and not listening.tells_of(key):
                    self._untold.add(key)
                    self._rounds[1].put_off(now)

    def _wait(self) -> Sequence[Span] | None:
        """Wait until there may be something to do, and return which jobs have ended; None: nobody knows which."""
        timeout = max(0.0, min(self._rounds, key=_due).due - self._clock.monotonic())
        with self._in_use:
            with self._changed:
                listening = self._listening
                if self._fresh or self._holds or listening is None or not self._watchers:
                    return ()
                self._asleep = listening
            try:
                return listening.wait(min(timeout, _LONGEST_WAIT))
            finally:
                with self._changed:
                    self._asleep = None

    def _hear(self, spans: Sequence[Span] | None) -> None:
        """Look at what may have ended, also of what has just come to be watched."""
        if spans is None:
            with self._changed:
                self._told_until = self._clock.wall()
                self._admit()
            if not self._look_in_front():
                self._look_behind()
            self._rounds[0].hasten(self._clock.monotonic())
            return
        ended: list[Key] = []
        with self._changed:
            self._admit()
            for bundle, first, count in spans:
                keys = map(Key, repeat(bundle, count), range(first, first + count))
                ended += [key for key in keys if key in self._watchers]
                self._told_of.add((bundle,))
        for start in range(0, len(ended), WINDOW):
            self._look(ended[start : start + WINDOW])

    def _look_in_front(self) -> bool:
        """Look at the oldest jobs, and go on as long as most of them have ended; return whether any has."""
        has_found = False
        while True:
            with self._changed:
                front = list(islice(self._front, _FRONT))
            found = self._look(front)
            with self._changed:
                for key in front:
                    times = self._front.get(key)  # None: it has ended
                    if times is not None and times < _DEMOTED_AFTER:
                        self._front[key] = times + 1
                    elif times is not None:
                        del self._front[key]  # going round finds it
            has_found = has_found or found > 0
            if 2 * found < len(front) or not front:
                return has_found

    def _look_behind(self) -> None:
        """Look at the newest jobs: those before them may have to wait for long, as delayed ones do."""
        with self._changed:
            behind = list(islice(reversed(self._watchers), _FRONT))
        self._look(behind)

    def _go_round(self, round_: Round) -> None:
        began = self._clock.monotonic()
        with self._changed:
            window = round_.window(began)
        if window:
            found = self._look(window)
            now = self._clock.monotonic()
            round_.go_on(now, (now - began) * _SHARE, has_found=found > 0)

    def _look(self, keys: Sequence[Key]) -> int:
        """Look at jobs, and tell of those that have ended; return how many."""
        with self._in_use:
            self._let_go()
            open_ones = [key for key in keys if key in self._watchers]
            if not open_ones:
                return 0
            found = self._look_up(open_ones)
        ended: list[tuple[list[_Watcher], Ending]] = []
        with self._changed:
            for key, ending in zip(open_ones, found, strict=True):
                if isinstance(ending, Exception) or ending.is_final:
                    watchers = self._watchers.get(key)
                    if watchers is not None:
                        self._forget(key)
                        ended.append((watchers, ending))
        for watchers, ending in ended:
            for watcher in watchers:
                watcher.tell(watcher.job, ending)
        return len(ended)

    def _forget(self, key: Key) -> None:
        self._watchers.pop(key, None)
        self._front.pop(key, None)
        self._untold.discard(key)

    def _bear(self, error: Exception) -> None:
        """Wait a moment before the next try; after some seconds without an answer, tell those who cannot wait longer."""
        with self._in_use:
            self._hang_up()
        now = self._clock.monotonic()
        self._broken_at = now if self._broken_at is None else self._broken_at
        with self._changed:
            self._admit()
        told: list[_Watcher] = []
        pause = _PAUSE
        if now - self._broken_at > _PATIENCE:
            with self._changed:
                for key, watchers in list(self._watchers.items()):
                    told += [one for one in watchers if not one.is_patient]
                    watchers[:] = [one for one in watchers if one.is_patient]
                    if not watchers:
                        self._forget(key)
        for watcher in told:
            watcher.tell(watcher.job, error)
            pause = _LONG_PAUSE
        with self._changed:
            self._changed.wait_for(lambda: self._holds or self._fresh, random.uniform(*pause))

    def _give_notice(self) -> None:
        """Have it said, once, that jobs of some kind are watched for long."""
        if not self._notices:
            return
        now = self._clock.monotonic()
        late: list[tuple[str, str]] = []
        with self._changed:
            for about in [about for about, (at, _) in self._notices.items() if at <= now]:
                _, key = self._notices.pop(about)
                if key in self._watchers:
                    late.append(about)
                    continue
                others = (key for key, watchers in self._watchers.items() if watchers[0].about == about)
                if (another := next(others, None)) is not None:
                    self._notices[about] = (now + _NOTICE_AFTER, another)
        for about in late:
            with self._in_use:
                self._on_long_wait(about)


class _Blind:
    """Listens to a result backend that only lets wait for given jobs: briefly, for the oldest ones."""

    def __init__(self, results: ResultBackend, jobs: Collection[Key]) -> None:
        self._results = results
        self._jobs = jobs

    def wait(self, timeout: float) -> Sequence[Span] | None:
        """Wait for the oldest jobs."""
        self._results.wait(list(islice(self._jobs, _FRONT)), min(timeout, _BLIND_WAIT))
        return None

    def wake(self) -> None:
        """Do nothing: no wait is long."""

    def tells_of(self, key: Key) -> bool:  # noqa: ARG002 - whichever it is
        """Return True: after each wait any job may have ended."""
        return True

    def close(self) -> None:
        """Do nothing."""


def is_watcher() -> bool:
    """Return whether the caller runs in a thread that watches jobs, and would wait for itself."""
    return getattr(_local, "is_watcher", False)


def _wake(listening: Listening | None) -> None:
    if listening is not None:
        with suppress(BrokerUnavailable):  # then the wait ends with the same error
            listening.wake()


def _due(round_: Round) -> float:
    return round_.due


def _begin_anew() -> None:
    _local.is_watcher = False
    for watch in _watches:
        watch._begin()  # noqa: SLF001 - the thread, and what it was to tell of, is the parent's


_local = threading.local()
_watches: WeakSet[Watch] = WeakSet()
os.register_at_fork(after_in_child=_begin_anew)
