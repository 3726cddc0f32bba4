"""The children of one worker: hired, heard, recalled from, replaced when they are spent or have died."""

from __future__ import annotations

import logging
import os
import select
import selectors
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from queuelib.errors import DecodeError
from queuelib.worker import process

if TYPE_CHECKING:
    from queuelib.ids import Key
    from queuelib.worker.children import Child, Crew, Report
    from queuelib.worker.lease import Member
    from queuelib.worker.plan import Plan

__all__ = ["Death", "Heard", "Staff"]

_log = logging.getLogger("queuelib.worker")
STUCK_AFTER = 0.005  # seconds; a running job that blocks others for longer loses them to an idle child
_LAST_WORDS = 0.1  # seconds between the closing of a dying child's socket and its end


@dataclass(frozen=True, slots=True)
class Death:
    """A child ended while it ran a job.

    Attributes:
        member: The job.
        pid: The child.
        how: How it ended, for people.
        why: Why we killed it; empty if it died by itself.
        was_meant: Whether this very job was why.
    """

    member: Member
    pid: int
    how: str
    why: str
    was_meant: bool


@dataclass(slots=True)
class Heard:
    """What the children had to say: reports, jobs that came back unstarted, and deaths."""

    reports: list[Report] = field(default_factory=list["Report"])
    returned: list[Member] = field(default_factory=list["Member"])
    deaths: list[Death] = field(default_factory=list[Death])


class Staff:
    """The children, as one."""

    def __init__(self, crew: Crew, plan: Plan, selector: selectors.BaseSelector) -> None:
        self._crew = crew
        self._plan = plan
        self._selector = selector
        self._children: list[Child] = []
        self._is_hiring = True

    def __iter__(self) -> Iterator[Child]:
        return iter(self._children)

    def __len__(self) -> int:
        return len(self._children)

    @property
    def working(self) -> list[Child]:
        """Those that may get jobs."""
        return [child for child in self._children if not child.is_retiring]

    @property
    def has_idle(self) -> bool:
        """Whether one has nothing to do."""
        return any(child.is_idle for child in self._children)

    @property
    def has_unstarted(self) -> bool:
        """Whether one was handed more than it runs."""
        return any(len(child.handed) > 1 for child in self._children)

    def hire(self) -> None:
        """Make children until there are as many as planned.

        Raises:
            WorkerError: The process that makes them is gone.
        """
        while self._is_hiring and len(self.working) < self._plan.processes:
            child = self._crew.hire()
            self._children.append(child)
            self._selector.register(child.sock, selectors.EVENT_READ)
            if child.pidfd >= 0:
                self._selector.register(child.pidfd, selectors.EVENT_READ)

    def hear(self) -> Heard:
        """Return what happened since the last call; replace who has died or is spent."""
        heard = Heard()
        for child in list(self._children):
            reports, is_closed = _reports_of(child)
            heard.reports += reports
            if is_closed or _has_ended(child):
                self._bury(child, heard)
            elif reports and not child.is_retiring and self._is_spent(child):
                heard.returned += child.recall()
                child.stop()
        self.hire()
        return heard

    def recall_below(self, rank: int) -> list[Member]:
        """Take back unstarted jobs from children that have some of a color less urgent than `rank`."""
        names = self._plan.palette.names
        recalled: list[Member] = []
        for child in self._children:
            later = list(child.handed)[1:]
            if any(names.index(member.bundle.color) > rank for member in later):
                recalled += child.recall()
        return recalled

    def recall_any(self, keys: Collection[Key]) -> list[Member]:
        """Take back unstarted jobs from children that have some of these."""
        recalled: list[Member] = []
        for child in self._children if keys else ():
            if any(member.key in keys for member in list(child.handed)[1:]):
                recalled += child.recall()
        return recalled

    def recall_stuck(self, now: float) -> list[Member]:
        """Take back what waits behind a job that has been running for a while, if another child is idle."""
        recalled: list[Member] = []
        if self.has_idle:
            for child in self._children:
                number, started = child.slot.running()
                if len(child.handed) > 1 and number >= 0 and now - started > STUCK_AFTER:
                    recalled += child.recall()
        return recalled

    def recall_all(self) -> list[Member]:
        """Take back all that has not started."""
        return [member for child in self._children for member in child.recall()]

    def running(self, now: float) -> Iterator[tuple[Child, Member, float]]:
        """Yield each child that runs a job, the job, and for how many seconds."""
        for child in self._children:
            number, started = child.slot.running()
            if child.handed and child.handed[0].number == number:
                yield child, child.handed[0], now - started

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
        heard.reports += _reports_of(child)[0]
        running = child.started_but_unreported()
        heard.returned += [member for member in child.handed if member is not running]
        child.handed.clear()
        self._children.remove(child)
        self._selector.unregister(child.sock)
        if child.pidfd >= 0:
            self._selector.unregister(child.pidfd)
        how = _reap(child)
        child.close()
        self._crew.fire(child)
        if running is not None:
            was_meant = child.doomed is None or child.doomed is running
            heard.deaths.append(Death(running, child.pid, how, child.death_note, was_meant))

    def _is_spent(self, child: Child) -> bool:
        plan = self._plan
        if plan.isolate or (plan.max_jobs is not None and child.done >= plan.max_jobs):
            return True
        return plan.max_memory is not None and child.memory_bytes() > plan.max_memory


def _reports_of(child: Child) -> tuple[list[Report], bool]:
    try:
        return child.reports()
    except (ValueError, DecodeError) as error:
        _log.error("%s; it is killed", error)
        child.kill("it wrote to the pipe that its worker listens on")
        return [], False


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
        return f"signal {os.WTERMSIG(status)}"
    return f"exit status {os.WEXITSTATUS(status)} without an outcome"
