"""The children of one worker: hired, heard, recalled from, replaced when they are spent or have died."""

from __future__ import annotations

import logging
import os
import selectors
import signal
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from queuelib.errors import DecodeError
from queuelib.polling import is_readable
from queuelib.worker import process
from queuelib.worker.crew import NoRoomError
from queuelib.worker.slots import Slots

if TYPE_CHECKING:
    from queuelib.worker.children import Child, Report, Successes, Told
    from queuelib.worker.crew import Crew
    from queuelib.worker.lease import Hold, Part
    from queuelib.worker.plan import Plan

__all__ = ["CUT_OFF", "INTERRUPTED", "STUCK_AFTER", "TOO_LONG", "Death", "Heard", "Pool", "Staff"]

_log = logging.getLogger("queuelib.worker")
STUCK_AFTER = 0.005  # seconds; a running job that blocks others for longer loses them to an idle child
_WORTH_SHARING = 0.010  # seconds of work that a child has before it, some of which an idle one takes over
# Why a child was killed.
CUT_OFF = "its worker was cut off from the broker"
INTERRUPTED = "interrupted"
TOO_LONG = "hard_timeout"
_LAST_WORDS = 0.1  # seconds between the closing of a dying child's socket and its end


class Death(NamedTuple):
    """A child ended while it ran a job.

    Attributes:
        hold: The job's delivery.
        at: Its position there.
        pid: The child.
        how: How it ended, for people.
        why: Why we killed it; empty if it died by itself.
        was_meant: Whether this very job was why.
    """

    hold: Hold
    at: int
    pid: int
    how: str
    why: str
    was_meant: bool


@dataclass(slots=True)
class Heard:
    """What the children had to say: reports, jobs that came back unstarted, deaths, and what handlers told and saved."""

    reports: list[Successes | Report] = field(default_factory=list["Successes | Report"])
    returned: list[Part] = field(default_factory=list["Part"])
    deaths: list[Death] = field(default_factory=list[Death])
    told: list[Told] = field(default_factory=list["Told"])


class Pool:
    """Children that run the same kind of jobs.

    Args:
        count: How many of them are to work at the same time.
        lanes: How many of them share a process; 0: each is one.

    Attributes:
        children: Those that live.
    """

    def __init__(self, count: int, lanes: int = 0) -> None:
        self.lanes = lanes
        self.slots = Slots(count, max(1, lanes))
        self.children: list[Child] = []

    @property
    def working(self) -> list[Child]:
        """Those that may get jobs."""
        return self.slots.working(self.children)

    @property
    def has_idle(self) -> bool:
        """Whether one that may get jobs has nothing to do."""
        return any(child.is_idle for child in (self.children if self.slots.is_settled else self.working))


class Staff:
    """The children, as one.

    Attributes:
        pool: Those that run jobs of plain functions, and of coroutines where these have no pool of their own.
        pool_async: Those that run coroutines, if they have.
    """

    def __init__(self, crew: Crew, plan: Plan, selector: selectors.BaseSelector) -> None:
        self._crew = crew
        self._plan = plan
        self._selector = selector
        self._children: list[Child] = []
        threads = plan.threads if plan.threads > 1 else 0
        self.pool = Pool(plan.processes * plan.threads, threads)
        self.pool_async = Pool(plan.asynchronous, plan.asynchronous) if plan.asynchronous else None
        self.pools = [self.pool] if self.pool_async is None else [self.pool, self.pool_async]
        self._ended: dict[int, str] = {}  # how processes ended of which some lanes are still here
        self._is_hiring = True
        self._is_warm = False  # whether it is known that handlers submit jobs
        self._until = float("inf")
        self._most = float("inf")  # children, as there was no room for more
        self._was_full = False
        self._selector.register(crew.bell, selectors.EVENT_READ, "bell")

    @property
    def is_idle(self) -> bool:
        """Whether nobody has anything."""
        return not any(child.handed for child in self._children)

    @property
    def is_quiet(self) -> bool:
        """Whether nobody has anything but jobs that wait for others."""
        return all(child.is_lending for child in self._children if child.handed)

    @property
    def has_idle(self) -> bool:
        """Whether one that may get jobs has nothing to do."""
        return any(pool.has_idle for pool in self.pools)

    @property
    def has_unstarted(self) -> bool:
        """Whether one was handed more than it runs."""
        return any(child.unreported > 1 for child in self._children)

    def hire(self) -> None:
        """Make children until there are as many as planned, not counting those whose jobs wait for others.

        Raises:
            WorkerError: The process that makes them is gone, or there is no room for so many.
        """
        for pool in self.pools:
            self._fill(pool)

    def _fill(self, pool: Pool) -> None:
        while self._is_hiring and pool.slots.has_vacancy(pool.children):
            for child in self._crew.hire_lanes(pool.lanes) if pool.lanes else (self._crew.hire(),):
                self._welcome(child, pool)

    def _welcome(self, child: Child, pool: Pool) -> None:
        child.slot.claim(self._until)
        self._children.append(child)
        pool.children.append(child)
        self._selector.register(child.sock, selectors.EVENT_READ, child)
        if child.pidfd >= 0:
            self._selector.register(child.pidfd, selectors.EVENT_READ, child)

    def hear(self, noisy: Collection[Child]) -> Heard:
        """Return what happened since the last call; bury who has died, and let go who is spent.

        Args:
            noisy: Children whose socket or process has something to say.
        """
        heard = Heard()
        for child in [child for child in self._children if child.handed or child in noisy]:
            is_closed = child in noisy and _has_closed(child)
            reports = _reports_of(child)
            heard.reports += reports
            if child.told:
                heard.told += child.take_told()
            if is_closed or (child in noisy and _has_ended(child)):
                self._bury(child, heard)
            elif reports and not child.is_retiring and self._is_spent(child):
                self._retire(child, heard)
        return heard

    def refill(self) -> None:
        """Replace who has gone or is about to, or waits; where there is no room for more, once one has gone.

        Raises:
            WorkerError: The process that makes children is gone, or there is room for none at all.
            OSError: The latter.
        """
        for pool in self.pools:
            if len(self._children) < self._most and pool.slots.has_vacancy(pool.children):
                try:
                    self._fill(pool)
                except (NoRoomError, OSError) as error:
                    if not self._children:
                        raise
                    self._most = len(self._children)
                    self._note_full(error)

    def _note_full(self, error: Exception) -> None:
        """Say once that there is no room for more."""
        if not self._was_full:
            self._was_full = True
            _log.warning(
                "%s; no job of this worker that waits for others lends its slot from here on, and nobody is replaced, "
                "until a process of it has ended: where all wait for what is queued, nothing goes on without another worker",
                error,
            )

    def lend(self, now: float) -> list[Part]:
        """Note whose jobs wait for others and whose go on; return what is taken back from those that are to do no more."""
        recalled: list[Part] = []
        for pool in self.pools:
            if pool.lanes and self._plan.max_jobs is not None:
                self._end_shares(pool, self._plan.max_jobs)
            for child in pool.slots.look(pool.children, now):
                recalled += child.recall()
                self._warm()
            for child in pool.slots.outstayed(pool.children, now):
                child.stop()
        return recalled

    @staticmethod
    def _end_shares(pool: Pool, most: int) -> None:
        """Have processes end whose lanes were given all that they may run: others are to do what idle lanes of them cannot.

        What they run may wait for that. What has not started behind it is not left there: it is taken back as ever.
        """
        for child in pool.children:
            if child is child.mates[0] and not child.is_retiring:
                mates = child.mates
                if sum(m.done + m.unreported for m in mates) >= most and all(m.unreported <= 1 for m in mates):
                    for mate in mates:
                        mate.stop()

    def _warm(self) -> None:
        if not self._is_warm:
            self._is_warm = True
            self._crew.warm()

    @property
    def next_lent(self) -> float:
        """When, on the monotonic clock, somebody's slot is to be lent."""
        return min([pool.slots.next_look for pool in self.pools])

    def has_lender(self, since: float) -> bool:
        """Whether a job waits for others that was started before a time on the monotonic clock."""
        return any(
            running[3] <= since
            for child in self._children
            if child.is_lending and (running := child.running()) is not None
        )

    def claim(self, until: float) -> None:
        """Let children start jobs until this time on the monotonic clock."""
        self._until = until
        for child in self._children:
            child.slot.claim(until)

    def having(self, tasks: Collection[str]) -> tuple[Child, ...]:
        """Return the children that have jobs of one of these tasks."""
        return tuple(child for child in self._children if any(part.hold.bundle.task in tasks for part in child.handed))

    def recall_below(self, rank: int) -> list[Part]:
        """Take back unstarted jobs from children that have some of a color less urgent than `rank`."""
        names = self._plan.palette.names
        recalled: list[Part] = []
        for child in self._children:
            if child.unreported > 1 and any(names.index(part.hold.bundle.color) > rank for part in child.handed):
                recalled += child.recall()
        return recalled

    def recall_bundles(self, ids: Collection[bytes]) -> list[Part]:
        """Take back unstarted jobs from children that have some of these bundles."""
        recalled: list[Part] = []
        for child in self._children if ids else ():
            if child.unreported > 1 and any(part.hold.bundle.id in ids for part in child.handed):
                recalled += child.recall()
        return recalled

    @staticmethod
    def recall_stuck(pool: Pool, now: float) -> list[Part]:
        """Take back what waits behind long work, if another child of the pool is idle."""
        recalled: list[Part] = []
        if pool.has_idle:
            for child in pool.children:
                if child.unreported > 1:
                    running = child.running()
                    if child.ahead > _WORTH_SHARING or (running is not None and now - running[3] > STUCK_AFTER):
                        recalled += child.recall()
        return recalled

    def recall_all(self) -> list[Part]:
        """Take back all that has not started."""
        return [part for child in self._children for part in child.recall()]

    def check(self, now: float) -> list[tuple[Hold, int, float]]:
        """Kill who runs a job for longer than it may, and tell handlers whose jobs others may run by now.

        That is where a delivery was lost, and also where the claim on it has run out: others cannot be asked then.

        Returns:
            What else runs: hold and position of each job, and for how many seconds.
        """
        found: list[tuple[Hold, int, float]] = []
        for child in self._children:
            running = child.running()
            if running is None:
                continue
            hold, at, number, started = running
            child.slot.lose(number if hold.delivery.is_lost or now > self._until else 0)
            hard = hold.bundle.limits.hard_timeout
            if hard is not None and now - started > hard and child.pid:
                child.doomed = number
                child.kill(TOO_LONG)
            else:
                found.append((hold, at, now - started))
        return found

    def stop_jobs(self, are_to_stop: Callable[[Hold, int], bool]) -> None:
        """Interrupt the handlers of jobs that are to stop; again at each call, until they do."""
        for child in self._children:
            running = child.running()
            if running is not None and are_to_stop(running[0], running[1]):
                child.stop_job(running[2])

    @property
    def has_alone(self) -> bool:
        """Whether one has a job beside which no other suspect may run."""
        # They are handed over alone. One that waits must not keep what it waits for from running.
        return any(child.handed[0].runs_alone for child in self._children if child.handed and not child.is_lending)

    def interrupt(self, why: str) -> None:
        """Have what runs raise `Shutdown` in its handler; nobody is hired any more."""
        self._is_hiring = False
        if self._crew.can_kill:
            for child in self._children:
                if child is child.mates[0]:
                    child.interrupt(why)

    def kill(self, why: str) -> None:
        """Kill all that can be killed; nobody is hired any more."""
        self._is_hiring = False
        if self._crew.can_kill:
            for child in self._children:
                child.kill(why)

    def tidy(self) -> None:
        """Reap the orphans that children left behind, which as a subreaper we inherit."""
        if self._crew.can_kill:
            process.reap_strangers({self._crew.pid, *(child.pid for child in self._children)})

    def stop_hiring(self) -> None:
        """Replace nobody from here on."""
        self._is_hiring = False

    def hire_again(self) -> None:
        """Replace those that go or wait, as before."""
        self._is_hiring = True

    def close(self, why: str) -> None:
        """End everybody and whoever makes them."""
        self.kill(why)
        for child in self._children:
            if self._crew.can_kill and child is child.mates[0]:
                _reap(child)
            child.close()
        self._children.clear()
        self._crew.close()

    def _bury(self, child: Child, heard: Heard) -> None:
        """Account for a dead child: its running job is named, what it had not started comes back."""
        _has_closed(child)  # what it wrote to its socket since that was read last, which may be its last words
        heard.reports += _reports_of(child)
        heard.told += child.take_told()
        unstarted, running = child.leave()
        heard.returned += unstarted
        self._children.remove(child)
        self._most = float("inf")
        for pool in self.pools:
            if child in pool.children:
                pool.children.remove(child)
        self._selector.unregister(child.sock)
        if child.pidfd >= 0:
            self._selector.unregister(child.pidfd)
        how = self._end_of(child)
        child.mates.remove(child)
        self._retire(child, heard)  # its process has one lane less, and another one comes in its place
        child.close()
        if running is not None:
            was_meant = child.doomed in (0, running.number)
            heard.deaths.append(Death(running.hold, running.at, child.pid, how, child.death_note, was_meant))

    def _end_of(self, child: Child) -> str:
        """Return how a child ended, for people; where its process has other lanes, that may go on."""
        how = self._ended.pop(child.pid, "")
        if not how:
            if len(child.mates) > 1 and not _has_ended(child):
                return "its thread ended"
            how = _reap(child)
        if len(child.mates) > 1:
            self._ended[child.pid] = how
        return how

    def _retire(self, child: Child, heard: Heard) -> None:
        """Have the process of a child end once all its lanes have run what they run."""
        for mate in child.mates:
            if not mate.is_retiring:
                heard.returned += mate.recall()
                mate.stop()

    def _is_spent(self, child: Child) -> bool:
        plan = self._plan
        if plan.isolate or (plan.max_jobs is not None and sum(mate.done for mate in child.mates) >= plan.max_jobs):
            return True
        return plan.max_memory is not None and child.memory_bytes() > plan.max_memory


def _has_closed(child: Child) -> bool:
    try:
        return child.read()
    except (ValueError, DecodeError) as error:
        _disown(child, error)
        return False


def _reports_of(child: Child) -> list[Successes | Report]:
    try:
        return child.reports()
    except (ValueError, DecodeError) as error:
        _disown(child, error)
        return []


def _disown(child: Child, error: Exception) -> None:
    _log.error("%s; it is killed", error)
    child.kill("it wrote where its worker listens")


def _has_ended(child: Child) -> bool:
    if child.pidfd < 0:
        return False
    try:
        return os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _reap(child: Child) -> str:
    """Wait for a dead child, clean up what it started, and return how it ended, for people."""
    if not child.pid:
        return "its thread ended"
    is_readable(child.pidfd, _LAST_WORDS)
    child.kill(child.death_note)  # grandchildren in its process group
    try:
        status = os.waitpid(child.pid, 0)[1]
    except ChildProcessError:
        return "unknown cause"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        is_ours = number != signal.SIGKILL or child.death_note
        return f"signal {number}" if is_ours else f"signal {number}, as the kernel sends it when memory is short"
    return f"exit status {os.WEXITSTATUS(status)} without an outcome"
