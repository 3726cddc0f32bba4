"""The thread that watches jobs: what it looks at, and what happens to it. White box where it says so."""

from __future__ import annotations

import os
import random
import signal
import threading
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest

from queuelib.clock import Clock
from queuelib.errors import BrokerUnavailable, UnknownJob
from queuelib.ids import Key
from queuelib.outcome import QUEUED, SUCCEEDED, Record
from queuelib.watch import Ending, Watch, is_watcher
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from queuelib.ports import Span

A_LOOK = 1e-5  # seconds that looking at one job takes
WITHIN = 10.0


@dataclass
class Plain:
    """Knows how jobs ended, and counts who looks; it lets wait for given jobs only."""

    ended: set[Key] = field(default_factory=set["Key"])
    looks: int = 0
    fetches: int = 0
    waits: int = 0
    now: float = 0.0
    error: Exception | None = None
    on_wait: Callable[[], Sequence[Span] | None] = lambda: None

    def look_up(self, keys: Sequence[Key]) -> list[Ending]:
        """Return how each of the jobs ended."""
        self.fetches += 1
        self.looks += len(keys)
        self.now += A_LOOK * len(keys)
        if self.error is not None:
            raise self.error
        return [Record(key, SUCCEEDED if key in self.ended else QUEUED) for key in keys]

    def wait(self, keys: Sequence[Key], timeout: float) -> None:
        """End what the test wants to end next."""
        assert 0 < len(keys) <= 64
        assert timeout <= 0.05
        self.waits += 1
        self.on_wait()

    @property
    def clock(self) -> Clock:
        """A clock that looking moves."""
        return Clock(monotonic=lambda: self.now)


@dataclass
class Telling(Plain):
    """The same, and tells of ends: it is its own `Listening`."""

    tells: bool = True
    opened: int = 0
    closed: int = 0
    rung: threading.Event = field(default_factory=threading.Event)
    heard: list[Span | None] = field(default_factory=list["Span | None"])
    is_waiting: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.on_wait = self.until_rung

    def until_rung(self) -> Sequence[Span] | None:
        """Wait until somebody wakes it, however long that takes."""
        self.is_waiting.set()
        assert self.rung.wait(WITHIN)
        self.is_waiting.clear()
        self.rung.clear()
        heard, self.heard = self.heard, []
        return None if None in heard else [one for one in heard if one is not None]

    def listen(self) -> Any:
        """Begin to listen."""
        self.opened += 1
        return _Listening(self)


@dataclass
class _Listening:
    results: Telling

    def wait(self, timeout: float) -> Sequence[Span] | None:
        """Do what the test wants to happen; by default wait until somebody wakes."""
        assert timeout >= 0.0
        self.results.waits += 1
        return self.results.on_wait()

    def wake(self) -> None:
        self.results.rung.set()

    def tells_of(self, key: Key) -> bool:
        return self.results.tells

    def close(self) -> None:
        self.results.closed += 1


@dataclass(frozen=True)
class Watched:
    """A job."""

    key: Key


OLD = bytes(16)  # the id of a bundle that was submitted in 1970
NEW = b"n" * 16  # of one that will be submitted long after all tests


def jobs(size: int, bundle: bytes = OLD) -> list[Watched]:
    return [Watched(Key(bundle, index)) for index in range(size)]


@pytest.fixture
def watch_of() -> Iterator[Callable[[Plain], Watch]]:
    """Make watches, whose threads end with the test."""
    made: list[Watch] = []

    def make(results: Plain) -> Watch:
        opened: Any = results
        made.append(Watch(lambda: opened, results.look_up, clock=results.clock))
        return made[-1]

    yield make
    for watch in made:
        with watch.released():
            for key in list(watch._watchers):
                watch._forget(key)


def span(key: Key) -> Span:
    return (key.bundle, key.index, 1)


def told_of(told: SimpleQueue[Any], size: int) -> list[Any]:
    return [told.get(timeout=WITHIN) for _ in range(size)]


def ends_in(results: Plain, order: Sequence[Key], at_once: int, *, names: bool) -> Callable[[], Sequence[Span] | None]:
    """Return a wait in which the next jobs end, 200 times a second."""
    rest = iter(order)

    def wait() -> Sequence[Span] | None:
        results.now += 0.005
        batch = list(islice(rest, at_once))
        results.ended.update(batch)
        return [span(key) for key in batch] if names else None

    return wait


@pytest.mark.parametrize("order", ["in order", "shuffled"])
@pytest.mark.parametrize("kind", ["named", "unnamed", "asked"])
def test_a_job_is_not_looked_at_whenever_others_end(watch_of: Callable[[Plain], Watch], kind: str, order: str) -> None:
    """Of 10,000 jobs that end at 5,000 a second each is looked at a few times, and each fetch finds some of them."""
    results = Plain() if kind == "asked" else Telling()
    watched = jobs(10_000)
    keys = [job.key for job in watched]
    if order == "shuffled":
        random.Random(1).shuffle(keys)
    results.on_wait = ends_in(results, keys, 25, names=kind == "named")
    watch, told = watch_of(results), SimpleQueue[Any]()
    watch.add(watched, lambda job, _: told.put(job))
    assert {told.get(timeout=WITHIN).key for _ in watched} == set(keys)
    most = {"named": 3.0, "unnamed": 8.0, "asked": 8.0}[kind]
    assert results.looks <= most * len(watched)
    assert results.fetches <= 0.1 * len(watched)


def test_a_job_that_is_added_does_not_wait_for_a_wait_to_end(watch_of: Callable[[Plain], Watch]) -> None:
    """The thread is woken, and looks at what is new, not at what it waits for."""
    results, told = Telling(), SimpleQueue[Any]()
    watch, (slow, quick) = watch_of(results), jobs(2)
    watch.add([slow], lambda job, _: told.put(job))
    assert results.is_waiting.wait(WITHIN)
    assert results.looks == 1
    results.ended.add(quick.key)
    watch.add([quick], lambda job, _: told.put(job))
    assert told.get(timeout=WITHIN) is quick
    assert results.looks == 2
    assert len(watch) == 1
    assert results.is_waiting.wait(WITHIN)


def test_a_fresh_job_is_looked_at_once_it_was_told_of(watch_of: Callable[[Plain], Watch]) -> None:
    """Whoever hears since before a job was submitted need not look at it, nor be woken, before it hears of it."""
    results, told = Telling(), SimpleQueue[Any]()
    watch, (fresh, old), (slow,) = watch_of(results), jobs(2, NEW), jobs(1)
    watch.add([slow], lambda *_: None)
    assert results.is_waiting.wait(WITHIN)
    watch.add([fresh], lambda job, _: told.put(job))
    assert not results.rung.is_set()
    results.ended = {fresh.key, old.key}
    results.heard.append(span(fresh.key))
    results.rung.set()
    assert told.get(timeout=WITHIN) is fresh
    assert results.looks == 2
    for job in (old, fresh):  # of their bundle some job has ended: these may have, too
        assert results.is_waiting.wait(WITHIN)
        watch.add([job], lambda job, _: told.put(job))
        assert told.get(timeout=WITHIN) is job
    assert results.looks == 4


def test_a_ring_means_fresh_jobs_too(watch_of: Callable[[Plain], Watch]) -> None:
    """Where nobody says which job has ended, it may be the one that has just come to be watched."""
    results, told = Telling(), SimpleQueue[Any]()
    watch, (fresh,), (slow,) = watch_of(results), jobs(1, NEW), jobs(1)
    watch.add([slow], lambda *_: None)
    assert results.is_waiting.wait(WITHIN)
    watch.add([fresh], lambda job, _: told.put(job))
    assert not results.rung.is_set()
    results.ended.add(fresh.key)
    results.heard.append(None)
    results.rung.set()
    assert told.get(timeout=WITHIN) is fresh


def test_the_newest_job_does_not_wait_behind_many_that_do_not_end(watch_of: Callable[[Plain], Watch]) -> None:
    """Where nobody says which job has ended, it is found at the first ring, and without a look at all the others."""
    results, told = Telling(), SimpleQueue[Any]()
    watch, stuck, (newest,) = watch_of(results), jobs(2000), jobs(1, OLD[:-1] + b"n")
    watch.add(stuck, lambda *_: None)
    watch.add([newest], lambda job, _: told.put(job))
    assert results.is_waiting.wait(WITHIN)
    eventually(lambda: results.looks == 2001 and results.is_waiting.is_set(), within=WITHIN)
    results.ended.add(newest.key)
    results.heard.append(None)
    results.rung.set()
    assert told.get(timeout=WITHIN) is newest
    assert results.looks <= 2001 + 2 * 64 + 256


def _put_name(told: SimpleQueue[Any], name: str, *_: object) -> None:
    told.put(name)


def test_each_is_told_once_of_each_job_it_gave(watch_of: Callable[[Plain], Watch]) -> None:
    """Two who watch one job are both told, who gives a job twice is told twice, and then nobody any more."""
    results, told = Telling(), SimpleQueue[Any]()
    watch, (job,) = watch_of(results), jobs(1)
    for name in ("one", "other"):
        watch.add([job, job] if name == "other" else [job], partial(_put_name, told, name))
    assert results.is_waiting.wait(WITHIN)
    results.ended.add(job.key)
    results.on_wait = lambda: [span(job.key)] * 2
    results.rung.set()
    watch.add(jobs(1, OLD[:-1] + b"c"), lambda *_: None)  # it listens once more
    assert sorted(told_of(told, 3)) == ["one", "other", "other"]
    waits = results.waits
    eventually(lambda: results.waits > waits + 2, within=WITHIN)
    assert told.empty()
    assert results.opened == 1


def test_what_is_dropped_is_not_told(watch_of: Callable[[Plain], Watch]) -> None:
    """Whoever watches the same job too is told; a job that nobody watches any more is not looked at."""
    results, told = Telling(), SimpleQueue[Any]()
    watch, (kept, dropped) = watch_of(results), jobs(2)

    def tell(job: Watched, _: Ending) -> None:
        told.put(job)

    def other(job: Watched, _: Ending) -> None:
        told.put(("other", job))

    watch.add([kept, dropped], tell)
    watch.add([kept], other)
    assert results.is_waiting.wait(WITHIN)
    watch.drop([kept, dropped], tell)
    assert len(watch) == 1
    looks = results.looks
    results.ended = {kept.key, dropped.key}
    results.on_wait = lambda: [span(dropped.key), span(kept.key)]
    results.rung.set()
    assert told.get(timeout=WITHIN) == ("other", kept)
    assert results.looks == looks + 1
    assert told.empty()


def test_what_is_dropped_soon_opens_nothing(watch_of: Callable[[Plain], Watch]) -> None:
    """A backend that is closed after its last job was let go of stays closed, and is asked for nothing more."""
    results, told, before = Telling(), SimpleQueue[Any](), threading.active_count()
    watch, (job,) = watch_of(results), jobs(1)

    def tell(*ending: Any) -> None:
        told.put(ending)

    def let_go() -> Sequence[Span]:
        results.until_rung()
        watch.drop_soon([job], tell)
        return [span(job.key)]

    results.on_wait = let_go
    watch.add([job], tell)
    assert results.is_waiting.wait(WITHIN)
    looks = results.looks
    with watch.released():
        pass
    eventually(lambda: threading.active_count() == before, within=WITHIN)
    assert (results.opened, results.looks) == (1, looks)
    assert len(watch) == 0
    assert told.empty()


def test_a_job_that_is_not_told_of_is_found(watch_of: Callable[[Plain], Watch]) -> None:
    """Those of other clients are looked at again and again, ever less often."""
    results, told = Telling(tells=False), SimpleQueue[Any]()
    watch, (job,) = watch_of(results), jobs(1)
    looks_at: list[int] = []

    def wait() -> Sequence[Span]:
        results.now += 0.005
        if results.looks > len(looks_at):
            looks_at.append(results.waits)
        if len(looks_at) == 6:
            results.ended.add(job.key)
        return ()

    results.on_wait = wait
    watch.add([job], lambda *ending: told.put(ending))
    assert told.get(timeout=WITHIN) == (job, Record(job.key, SUCCEEDED))
    gaps = [after - before for before, after in zip(looks_at, looks_at[1:], strict=False)]
    assert gaps == sorted(gaps)
    assert gaps[-1] > 2 * gaps[0]


def test_a_lost_announcement_only_delays(watch_of: Callable[[Plain], Watch]) -> None:
    """What should have been told of is looked at all the same, now and then."""
    results, told = Telling(), SimpleQueue[Any]()
    watch, (job,) = watch_of(results), jobs(1)

    def wait() -> Sequence[Span]:
        results.now += 0.1
        results.ended.add(job.key)
        return ()

    results.on_wait = wait
    watch.add([job], lambda *ending: told.put(ending))
    assert told.get(timeout=WITHIN)[0] is job
    assert 5 <= results.waits <= 20


def test_a_job_that_never_was_ends_with_the_error(watch_of: Callable[[Plain], Watch]) -> None:
    """Nobody waits for it for ever; the jobs beside it are told of as ever."""
    results, told = Telling(), SimpleQueue[Any]()
    watch, (job, unknown) = watch_of(results), jobs(2)
    error = UnknownJob("never")
    look_up = results.look_up
    watch._look_up = lambda keys: [
        error if key == unknown.key else ending for key, ending in zip(keys, look_up(keys), strict=True)
    ]
    results.ended.add(job.key)
    watch.add([unknown, job], lambda *ending: told.put(ending))
    assert dict(told_of(told, 2)) == {unknown: error, job: Record(job.key, SUCCEEDED)}


@pytest.mark.parametrize(
    ("error", "fewest"), [(BrokerUnavailable("gone"), 10), (OSError("odd"), 1)], ids=["gone", "odd"]
)
def test_an_outage_is_told_to_those_who_cannot_wait(
    watch_of: Callable[[Plain], Watch], monkeypatch: pytest.MonkeyPatch, error: Exception, fewest: int
) -> None:
    """After 10 seconds of silence, or at once where waiting does not help; the others are told when it is over."""
    monkeypatch.setattr("queuelib.watch._PAUSE", (0.0, 0.0))
    monkeypatch.setattr("queuelib.watch._LONG_PAUSE", (0.0, 0.0))
    results, told, patient = Telling(error=error), SimpleQueue[Any](), SimpleQueue[Any]()
    watch, (job,) = watch_of(results), jobs(1)
    results.now = 100.0
    tick = results.clock.monotonic
    watch._clock = Clock(monotonic=lambda: tick() + 1.0 * results.fetches)
    watch.add([job], lambda *ending: patient.put(ending), is_patient=True)
    watch.add([job], lambda *ending: told.put(ending))
    assert told.get(timeout=WITHIN) == (job, error)
    assert results.fetches >= fewest
    assert patient.empty()
    results.ended.add(job.key)
    results.error = None
    assert patient.get(timeout=WITHIN) == (job, Record(job.key, SUCCEEDED))
    assert told.empty()


def test_who_closes_the_backend_finds_nobody_in_it(watch_of: Callable[[Plain], Watch]) -> None:
    """The thread stays away while the block lasts, even if jobs are added; then it listens anew and looks at all."""
    results, told = Telling(), SimpleQueue[Any]()
    watch, (job, added) = watch_of(results), jobs(2)
    watch.add([job], lambda *ending: told.put(ending))
    assert results.is_waiting.wait(WITHIN)
    with watch.released():
        assert not results.is_waiting.is_set()
        assert (results.opened, results.closed) == (1, 1)
        looks = results.looks
        results.ended = {job.key, added.key}
        watch.add([added], lambda *ending: told.put(ending))
        assert (results.opened, results.looks) == (1, looks)
    assert {one.key for one, _ in told_of(told, 2)} == results.ended
    assert results.opened == 2


def test_another_backend_is_asked_for_all(watch_of: Callable[[Plain], Watch]) -> None:
    """Where a dispatcher was configured anew, nobody told of what had ended there before."""
    old, new, told = Telling(), Telling(), SimpleQueue[Any]()
    watch, (job,) = watch_of(old), jobs(1)
    watch.add([job], lambda *ending: told.put(ending))
    assert old.is_waiting.wait(WITHIN)
    with watch.released():
        new.ended.add(job.key)
        opened: Any = new
        watch._open_results, watch._look_up = (lambda: opened), new.look_up
    assert told.get(timeout=WITHIN)[0] is job


def test_nobody_watches_and_there_is_no_thread(watch_of: Callable[[Plain], Watch]) -> None:
    """It ends when it is let go of, or some time after its last job; the next job starts another."""
    results, told = Telling(), SimpleQueue[Any]()
    watch, before = watch_of(results), threading.active_count()
    for job in jobs(2):
        assert threading.active_count() == before
        results.ended.add(job.key)
        watch.add([job], lambda job, _: told.put((job, is_watcher(), threading.current_thread().daemon)))
        assert told.get(timeout=WITHIN) == (job, True, True)
        with watch.released():
            pass
        eventually(lambda: threading.active_count() == before, within=WITHIN)
    assert results.opened == results.closed == 2
    assert not is_watcher()


def test_a_long_wait_is_noticed_once(watch_of: Callable[[Plain], Watch]) -> None:
    """After 5 seconds, for each kind of job that is watched by then."""
    results, told = Telling(), SimpleQueue[Any]()
    noticed: list[tuple[str, str]] = []
    watch, (job, other) = watch_of(results), jobs(2)
    watch._on_long_wait = noticed.append
    ticks = count()

    def wait() -> Sequence[Span]:
        results.now += 0.5
        if next(ticks) == 30:
            results.ended.add(job.key)
        return ()

    results.on_wait = wait
    results.ended.add(other.key)
    watch.add([other], lambda *_: None, about=("quick", "red"))
    watch.add([job], lambda *ending: told.put(ending), about=("slow", "red"))
    assert told.get(timeout=WITHIN)[0] is job
    assert noticed == [("slow", "red")]


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_starts_anew(watch_of: Callable[[Plain], Watch]) -> None:
    """What the parent watches is told in the parent only, and what the child watches in the child."""
    results, told = Telling(), SimpleQueue[Any]()
    watch, (job, mine) = watch_of(results), jobs(2)
    watch.add([job], lambda *ending: told.put(ending))
    assert results.is_waiting.wait(WITHIN)
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)  # ends it
        results.ended = {job.key, mine.key}
        seen: SimpleQueue[Any] = SimpleQueue()
        watch.add([mine], lambda one, _: seen.put(one))
        is_right = seen.get() == mine and seen.empty() and told.empty()
        os._exit(0 if is_right else 1)
    assert os.waitpid(pid, 0)[1] == 0
    results.ended.add(job.key)
    results.on_wait = lambda: [span(job.key)]
    results.rung.set()
    assert told.get(timeout=WITHIN)[0] is job
