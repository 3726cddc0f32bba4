"""The children of one worker: hired, heard, recalled from, replaced when they are spent or have died."""

from __future__ import annotations

import logging
import os
import select
import selectors
import signal
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from queuelib.errors import DecodeError
from queuelib.worker import process

if TYPE_CHECKING:
    from queuelib.worker.children import Child, Report, Successes
    from queuelib.worker.crew import Crew
    from queuelib.worker.lease import Hold, Part
    from queuelib.worker.plan import Plan

__all__ = ["CUT_OFF", "INTERRUPTED", "STUCK_AFTER", "TOO_LONG", "Death", "Heard", "Staff"]

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
    """What the children had to say: reports, jobs that came back unstarted, and deaths."""

    reports: list[Successes | Report] = field(default_factory=list["Successes | Report"])
    returned: list[Part] = field(default_factory=list["Part"])
    deaths: list[Death] = field(default_factory=list[Death])


class Staff:
    """The children, as one."""

    def __init__(self, crew: Crew, plan: Plan, selector: selectors.BaseSelector) -> None:
        self._crew = crew
        self._plan = plan
        self._selector = selector
        self._children: list[Child] = []
        self._is_hiring = True
        self._until = float("inf")
        self._selector.register(crew.bell, selectors.EVENT_READ, "bell")

    @property
    def working(self) -> list[Child]:
        """Those that may get jobs."""
        return [child for child in self._children if not child.is_retiring]

    @property
    def is_idle(self) -> bool:
        """Whether nobody has anything."""
        return not any(child.handed for child in self._children)

    @property
    def has_idle(self) -> bool:
        """Whether one has nothing to do."""
        return any(child.is_idle for child in self._children)

    @property
    def has_unstarted(self) -> bool:
        """Whether one was handed more than it runs."""
        return any(child.unreported > 1 for child in self._children)

    def hire(self) -> None:
        """Make children until there are as many as planned.

        Raises:
            WorkerError: The process that makes them is gone.
        """
        while self._is_hiring and len(self.working) < self._plan.processes:
            child = self._crew.hire()
            child.slot.claim(self._until)
            self._children.append(child)
            self._selector.register(child.sock, selectors.EVENT_READ, child)
            if child.pidfd >= 0:
                self._selector.register(child.pidfd, selectors.EVENT_READ, child)

    def hear(self, noisy: Collection[Child]) -> Heard:
        """Return what happened since the last call; bury who has died, and let go who is spent.

        Args:
            noisy: Children whose socket or process has something to say.
        """
        heard = Heard()
        for child in list(self._children):
            is_closed = child in noisy and _has_closed(child)
            reports = _reports_of(child)
            heard.reports += reports
            if is_closed or (child in noisy and _has_ended(child)):
                self._bury(child, heard)
            elif reports and not child.is_retiring and self._is_spent(child):
                heard.returned += child.recall()
                child.stop()
        return heard

    def refill(self) -> None:
        """Replace who has gone or is about to.

        Raises:
            WorkerError: The process that makes children is gone.
        """
        if len(self._children) < self._plan.processes or any(child.is_retiring for child in self._children):
            self.hire()

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

    def recall_stuck(self, now: float) -> list[Part]:
        """Take back what waits behind long work, if another child is idle."""
        recalled: list[Part] = []
        if self.has_idle:
            for child in self._children:
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

    @property
    def has_alone(self) -> bool:
        """Whether one has a job beside which no other suspect may run."""
        return any(child.handed[0].runs_alone for child in self._children if child.handed)  # they are handed over alone

    def interrupt(self, why: str) -> None:
        """Have what runs raise `Shutdown` in its handler; nobody is hired any more."""
        self._is_hiring = False
        if self._crew.can_kill:
            for child in self._children:
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

    def close(self, why: str) -> None:
        """End everybody and whoever makes them."""
        self.kill(why)
        for child in self._children:
            if self._crew.can_kill:
                _reap(child)
            child.close()
        self._children.clear()
        self._crew.close()

    def _bury(self, child: Child, heard: Heard) -> None:
        """Account for a dead child: its running job is named, what it had not started comes back."""
        _has_closed(child)  # what it wrote to its socket since that was read last, which may be its last words
        heard.reports += _reports_of(child)
        unstarted, running = child.leave()
        heard.returned += unstarted
        self._children.remove(child)
        self._selector.unregister(child.sock)
        if child.pidfd >= 0:
            self._selector.unregister(child.pidfd)
        how = _reap(child)
        child.close()
        if running is not None:
            was_meant = child.doomed in (0, running.number)
            heard.deaths.append(Death(running.hold, running.at, child.pid, how, child.death_note, was_meant))

    def _is_spent(self, child: Child) -> bool:
        plan = self._plan
        if plan.isolate or (plan.max_jobs is not None and child.done >= plan.max_jobs):
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
    select.select([child.pidfd], [], [], _LAST_WORDS)
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
