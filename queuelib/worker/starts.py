"""Whether a job may start: not if it was cancelled or has expired, and not unmarked if it may have been started before."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from queuelib import body
from queuelib.clock import Clock
from queuelib.ids import Key, job_id, running_mark
from queuelib.outcome import CANCELLED, EXPIRED, QUEUED, RUNNING, Again, Failed, NotRun, Outcome, Quarantined, Record
from queuelib.settings import DEATHS
from queuelib.worker.lease import Part
from queuelib.worker.staff import CUT_OFF, INTERRUPTED, TOO_LONG

if TYPE_CHECKING:
    from queuelib.worker.books import Books
    from queuelib.worker.lease import Hold
    from queuelib.worker.line import Line
    from queuelib.worker.ready import Ready, ReadyByKind
    from queuelib.worker.staff import Death

__all__ = ["READ_EVERY", "Starts", "Withdrawals"]

_log = logging.getLogger("queuelib.worker")
READ_EVERY = 0.02  # seconds: a cancelled job is started at most this long after its mark
_SHOW_AFTER = 1.0  # seconds: a state that costs a write is only published for jobs that last
_MARK_AGAIN = 0.25  # of the time for which marks are kept: then that of a job that runs is stored again
_MOST_WITHDRAWN = 100_000  # bundles of which cancelled jobs are remembered


class Withdrawals:
    """Jobs that are here and are not to start any more: they were cancelled, or have expired.

    Args:
        line: The connection.
        books: Where they end.
        ready: The short lists.
        clock: The clocks.

    Attributes:
        has_let_go: Whether some have ended here, until the supervisor has seen it.
    """

    def __init__(self, line: Line, books: Books, ready: Ready | ReadyByKind, clock: Clock) -> None:
        self.has_let_go = False
        self._line = line
        self._books = books
        self._ready = ready
        self._clock = clock
        self._cancelled: dict[bytes, set[int]] = {}
        self._cursor: object = None
        self._read_at = float("-inf")

    def read(self, now: float) -> set[bytes]:
        """Read which jobs were cancelled if that was not done just now; return the bundles that have further ones."""
        if now - self._read_at < READ_EVERY:
            return set()
        self._read_at = now
        marks = self._line.ask(self._line.link.results.cancelled, self._cursor)
        if marks is None:
            return set()
        self._cursor = marks.cursor
        return self._remember(marks.keys)

    def has_to_stop(self, hold: Hold, at: int) -> bool:
        """Whether a job was cancelled although it runs."""
        bundle, index = running_mark(hold.key(at))
        return index in self._cancelled.get(bundle, ())

    def _remember(self, keys: Iterable[Key]) -> set[bytes]:
        new: set[bytes] = set()
        for bundle, index in keys:
            indexes = self._cancelled.setdefault(bundle, set())
            if index not in indexes:
                indexes.add(index)
                new.add(bundle)
        while len(self._cancelled) > _MOST_WITHDRAWN:
            del self._cancelled[next(iter(self._cancelled))]
        return new

    def has_ended(self, part: Part) -> bool:
        """Whether jobs that were to start had better not: those that may are put back then."""
        hold = part.hold
        bundle = hold.bundle
        if bundle.expires is not None and self._clock.wall() > bundle.expires:
            for at in range(part.at, part.end):
                self._books.end(hold, at, NotRun(EXPIRED))
            self.has_let_go = True
            return True
        cancelled = self._cancelled.get(bundle.id)
        if not cancelled or cancelled.isdisjoint(bundle.indexes[part.at : part.end]):
            return False
        for at in range(part.at, part.end):
            if bundle.indexes[at] in cancelled:
                self._books.end(hold, at, NotRun(CANCELLED))
        self.has_let_go = True
        singles = [Part(hold, at, at + 1) for at in range(part.at, part.end)]
        self._ready.put_back([one for one in singles if not hold.has_ended(one.at)])
        return True


class Starts:
    """How often jobs were started without an outcome, as it is stored for whoever takes them over, and what follows.

    Args:
        line: The connection.
        once: Names of the tasks that must not start a second time: all their starts are marked.
        clock: The clocks.
        keep: Seconds for which what is stored is kept.
    """

    def __init__(self, line: Line, once: Collection[str], clock: Clock, keep: float) -> None:
        self._line = line
        self._once = frozenset(once)
        self._clock = clock
        self._again_after = max(keep * _MARK_AGAIN, _SHOW_AFTER)

    def mark(self, batch: Sequence[Part]) -> Sequence[Part] | None:
        """Store that jobs start, before they do, where that must be known; return those that may, None if nobody knows.

        Those that were started before without an outcome may be what kills; those of at_most_once tasks must not be
        started by whoever takes them over, so that it has to be known, after the mark, that they are still ours.
        """
        suspects = [part for part in batch if part.is_suspect and not part.hold.delivery.is_lost]
        if not suspects:
            return [part for part in batch if not part.hold.delivery.is_lost]
        lane = self._line.link.lane
        if lane is None or self.store([(part.hold, part.at) for part in suspects], RUNNING, 1) is None:
            return None
        now = self._clock.monotonic()
        for part in suspects:
            part.hold.mark(part.at, now)
        once = [part.hold.delivery for part in suspects if part.hold.bundle.task in self._once]
        lost = self._line.attempt(lane.find_lost, once) if once else ()
        if lost is None:
            return None
        for delivery in lost:
            delivery.is_lost = True
        return [part for part in batch if not part.hold.delivery.is_lost]

    def unmark(self, parts: Iterable[Part]) -> None:
        """Store of jobs that come back from a child that they did not start, where it was stored that they do.

        Not where another worker may have them by now: what stands there may be its own mark. Ours stays then, and the
        next start here stores it again.
        """
        marked = [
            (part.hold, at)
            for part in parts
            if part.hold.marked and not part.hold.delivery.is_lost
            for at in range(part.at, part.end)
            if at in part.hold.marked
        ]
        for hold, at in marked:
            hold.mark(at, float("-inf"))  # whatever is stored now: should it run here after all, that is shown anew
        lane = self._line.link.lane
        if not marked or lane is None or not self._line.link.may_try:
            return
        lost = self._line.attempt(lane.find_lost, list(dict.fromkeys(hold.delivery for hold, _ in marked)))
        if lost is None:
            return
        for delivery in lost:
            delivery.is_lost = True
        ours = [(hold, at) for hold, at in marked if not hold.delivery.is_lost]
        if ours and self.store(ours, QUEUED, 0) is not None:
            for hold, at in ours:
                hold.unmark([at])

    def show(self, running: Iterable[tuple[Hold, int, float]]) -> None:
        """Store of jobs that they run, once they have for a second and unless that was done before; and later again.

        A mark that is forgotten while its job runs is missed by whoever takes the job over.
        """
        now = self._clock.monotonic()
        ours = [(hold, at) for hold, at, seconds in running if seconds > _SHOW_AFTER and not hold.delivery.is_lost]
        due = [(hold, at) for hold, at in ours if now - hold.marked.get(at, float("-inf")) > self._again_after]
        if due and self._line.link.may_try and self.store(due, RUNNING, 1) is not None:
            for hold, at in due:
                hold.mark(at, now)

    def store(self, jobs: Iterable[tuple[Hold, int]], state: str, more_starts: int) -> Sequence[bool] | None:
        """Store that jobs run or wait, with how often they were started; return None where that failed."""
        now = self._clock.wall()
        records = [
            Record(hold.key(at), state, hold.bundle.attempt, body.of_starts(hold.starts.get(at, 0) + more_starts), now)
            for hold, at in jobs
        ]
        stand: Sequence[bool] | None = self._line.ask(self._line.link.results.store, records)
        return stand

    def before(self, hold: Hold, starts: int) -> Outcome | None:
        """Return the outcome of a job that may have been started so often before; None if it may start once more."""
        outcome = self.with_its_worker(hold)
        if outcome is None and starts >= DEATHS:
            outcome = Quarantined(f"{starts} workers or children died while they ran it")
        return outcome

    def after(self, death: Death) -> Outcome | None:
        """Return the outcome of a job whose child died while it ran; None if it is to start anew."""
        hold, at = death.hold, death.at
        bundle = hold.bundle
        is_once, how = bundle.task in self._once, death.why or death.how
        if death.why == TOO_LONG and death.was_meant:
            text = f"killed: it ran longer than its hard_timeout of {bundle.limits.hard_timeout:g} s"
            report = body.of_failure(bundle.task, "TimeoutError", text)
            return Failed(report) if is_once else Again(None, report)
        if is_once:
            return Failed(body.of_loss(bundle.task, f"its process ended ({how}) while it ran"))
        if death.why in {INTERRUPTED, CUT_OFF} or not death.was_meant:
            return None
        deaths = hold.starts.get(at, 0) + 1
        _log.warning("child %d died (%s) while it ran %s, death %d", death.pid, how, job_id(*hold.key(at)), deaths)
        if deaths >= DEATHS:
            return Quarantined(f"{deaths} processes died while they ran it, the last one by {how}")
        hold.suspect(at, deaths)
        hold.unmark([at])  # the next start is marked with its number
        return None

    def with_its_worker(self, hold: Hold) -> Outcome | None:
        """Return the outcome of a job that ran when its worker ended; None if others may start it once more."""
        if hold.bundle.task not in self._once:
            return None
        return Failed(body.of_loss(hold.bundle.task, "its worker ended while it ran"))
