"""The supervisor: one thread and one selector over the broker, the children and the clock. It runs no user code.

A round hears what children report, settles it, takes what there is room for, and hands it out.
"""

from __future__ import annotations

import logging
import os
import select
import selectors
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from queuelib import body
from queuelib.clock import SYSTEM, Clock
from queuelib.color import Palette
from queuelib.errors import BrokerUnavailable, DecodeError
from queuelib.ids import Key, job_id
from queuelib.outcome import CANCELLED, EXPIRED, QUEUED, RUNNING, SUCCEEDED, Again, NotRun, Quarantined, Record
from queuelib.ports import Delivery, Settled, WorkerInfo
from queuelib.settings import DEATHS, UNKNOWN_DELAY
from queuelib.worker.intake import Intake
from queuelib.worker.lease import Hold, Member
from queuelib.worker.link import Link
from queuelib.worker.pace import HAND_AHEAD, MOST_HANDED, QUICK, Pace
from queuelib.worker.ready import Ready
from queuelib.worker.settle import Ledger, write

if TYPE_CHECKING:
    from queuelib.worker.children import Child, Crew

__all__ = ["Plan", "Supervisor"]

_log = logging.getLogger("queuelib.worker")
_LOOK_EVERY = 0.25  # seconds between two looks at limits and running times
_RENEW_EVERY = 1.0  # heartbeats, the dead, what became due
_ANNOUNCE_EVERY = 5.0
_ANNOUNCE_FOR = 15.0  # three chances
_MARKS_EVERY = 0.02  # a cancelled job is started at most this long after its mark
_POLL = 0.005  # for transports that cannot wake us
_SETTLE_EVERY = 0.003  # what quick jobs lose at most when the worker dies is run again in as little time
_STUCK_AFTER = 0.005  # a running job that blocks others for longer loses them to an idle child
_SHOW_RUNNING_AFTER = 1.0  # a state that costs a write is only published for jobs that last
_SUSPECT_ALONE = 2  # starts without an outcome from which a job runs while no other suspect does


@dataclass(frozen=True)
class Plan:
    """What a worker was asked to do.

    Attributes:
        name: Name of the worker.
        colors: Colors it serves.
        palette: All colors.
        processes: Number of children.
        burst: End when nothing is left to do.
        max_jobs: Replace a child after so many jobs; None for never.
        max_memory: Replace a child that has more resident bytes after a job; None for never.
        isolate: One child a job.
        patience: Seconds until an unknown task is set aside.
        grace: Seconds for running jobs to finish after the first signal; None for no limit.
    """

    name: str
    colors: tuple[str, ...]
    palette: Palette
    processes: int
    burst: bool = False
    max_jobs: int | None = None
    max_memory: int | None = None
    isolate: bool = False
    patience: float = 3600.0
    grace: float | None = None


class Supervisor:
    """Runs one worker until it is told to stop."""

    def __init__(self, crew: Crew, link: Link, plan: Plan, clock: Clock = SYSTEM) -> None:
        self._crew = crew
        self._link = link
        self._plan = plan
        self._clock = clock
        self._tasks = frozenset(crew.manifest["tasks"])
        self._ready = Ready(plan.palette, plan.colors)
        self._pace = Pace()
        self._ledger = Ledger(clock)
        self._intake = Intake(self._tasks, plan.colors, plan.patience, clock)
        self._holds: set[Hold] = set()
        self._lost: WeakSet[Delivery] = WeakSet()  # taken over a connection that is gone
        self._handed: dict[tuple[bytes, int, int], Member] = {}
        self._children: list[Child] = []
        self._unsettled: list[Settled] = []
        self._postponed: list[tuple[float, Delivery]] = []
        self._cancelled: set[Key] = set()
        self._cursor: Any = None
        self._is_pressing = False  # an outcome is in the ledger that must not wait
        self._settle_at = 0.0
        self._timers: dict[str, float] = {}
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)  # noqa: FBT003 - socket's own signature
        self._wake_write.setblocking(False)  # noqa: FBT003 - socket's own signature
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._lane_fd: int | None = None
        self._stops = 0
        self._stop_at = 0.0
        self._empty_takes = 0
        self._finished = 0
        self.on_ready: Callable[[], None] = lambda: None

    # Orders from outside; safe in signal handlers and other threads.

    def stop(self) -> None:
        """Take nothing more and finish; called again, interrupt what runs and give it back."""
        self._stops += 1
        self.wake()

    def wake(self) -> None:
        """Have the loop look around."""
        try:
            self._wake_write.send(b"\0")
        except (BlockingIOError, OSError):
            pass  # it has reasons enough to wake, or is gone

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stops > 0

    def watch(self, fd: int) -> None:
        """Stop when the other end of a pipe closes."""
        self._selector.register(fd, selectors.EVENT_READ, "owner")

    @property
    def finished(self) -> int:
        """How many jobs ended here."""
        return self._finished

    # The loop.

    def run(self) -> None:
        """Work until stopped, or until nothing is left if the plan is a burst."""
        try:
            while len(self._children) < self._plan.processes:
                self._hire()
            self._connect()
            self._announce(_ANNOUNCE_FOR)
            self.on_ready()
            while not self._is_over():
                self._round()
        finally:
            self._close()

    def _round(self) -> None:
        self._wait()
        for child in list(self._children):
            self._hear(child)
        if self._may_settle():
            self._settle()
        self._connect()
        self._look_around()
        if self._stops:
            self._wind_down()
        else:
            self._take()
            self._hand_out()
        if self._may_settle():
            self._settle()

    def _wait(self) -> None:
        for key, _ in self._selector.select(max(0.0, self._pause())):
            if key.fileobj is self._wake_read:
                _drain(self._wake_read)
            elif key.data == "owner":
                self._selector.unregister(key.fileobj)
                self._stops = max(self._stops, 1)

    def _pause(self) -> float:
        """Return the seconds until something is to be done even if nobody wakes us."""
        now = self._clock.monotonic()
        pause = _LOOK_EVERY
        lane = self._link.lane
        if lane is not None and self._lane_fd is None and not self._stops:
            pause = _POLL
        has_idle = any(child.is_idle for child in self._children)
        if has_idle and any(len(child.handed) > 1 for child in self._children):
            pause = min(pause, _STUCK_AFTER)
        if has_idle and lane is not None and not self._stops:
            due = self._try(lane.next_due)
            soonest = min((at for at in (due, self._ready.next_due()) if at is not None), default=None)
            if soonest is not None:
                pause = min(pause, soonest - self._clock.wall())
        if self._ledger:
            pause = min(pause, self._settle_at - now)
        return min(pause, self._stop_at - now) if self._stop_at else pause

    # Children.

    def _hire(self) -> None:
        child = self._crew.hire()
        self._children.append(child)
        self._selector.register(child.sock, selectors.EVENT_READ)
        if child.pidfd >= 0:
            self._selector.register(child.pidfd, selectors.EVENT_READ)

    def _hear(self, child: Child) -> None:
        try:
            reports, is_closed = child.reports()
        except (ValueError, DecodeError) as error:
            _log.error("%s; it is killed", error)
            child.kill("it wrote to the pipe that its worker listens on")
            reports, is_closed = [], False
        for report in reports:
            member = report.member
            self._pace.ran(member.bundle.task, member.bundle.color, report.elapsed)
            self._is_pressing = self._is_pressing or report.elapsed > QUICK
            self._end(member, report.outcome)
        if is_closed or _has_ended(child):
            self._bury(child)
        elif reports and not child.is_retiring and self._is_spent(child):
            self._put_back(child.recall())
            child.stop()
            if not self._stops:
                self._hire()

    def _end(self, member: Member, outcome: Any) -> None:
        self._handed.pop(member.identity, None)
        if self._ledger.add(member, outcome):
            self._finished += 1

    def _bury(self, child: Child) -> None:
        """Account for a dead child: its running job is blamed, what it had not started goes back."""
        reports, _ = child.reports() if not child.death_note.startswith("it wrote") else ([], True)
        for report in reports:
            self._end(report.member, report.outcome)
        running = child.started_but_unreported()
        rest = [member for member in child.handed if member is not running]
        child.handed.clear()
        self._children.remove(child)
        self._selector.unregister(child.sock)
        if child.pidfd >= 0:
            self._selector.unregister(child.pidfd)
        how = _reap(child)
        child.close()
        self._crew.fire(child)
        self._put_back(rest)
        if running is not None:
            self._handed.pop(running.identity, None)
            self._blame(running, child, how)
        if len(self._working()) < self._plan.processes and not self._stops:
            self._hire()

    def _blame(self, member: Member, child: Child, how: str) -> None:
        why = child.death_note
        if why == _INTERRUPTED:
            self._put_back([member])
            return
        if why == _TOO_LONG:
            limit = member.bundle.limits.hard_timeout
            text = f"killed: it ran longer than its hard_timeout of {limit:g} s"
            report = body.of_failure(member.bundle.task, "TimeoutError", text)
            self._end(member, Again(None, report))
            return
        deaths = member.starts + 1
        _log.warning("child %d died (%s) while it ran %s, death %d", child.pid, why or how, job_id(*member.key), deaths)
        if deaths >= DEATHS:
            self._end(member, Quarantined(f"{deaths} processes died while they ran it, the last one by {why or how}"))
            return
        member.starts, member.is_marked = deaths, False
        self._ready.put_back([member])

    def _working(self) -> list[Child]:
        return [child for child in self._children if not child.is_retiring]

    def _is_spent(self, child: Child) -> bool:
        plan = self._plan
        if plan.isolate or (plan.max_jobs is not None and child.done >= plan.max_jobs):
            return True
        return plan.max_memory is not None and child.memory_bytes() > plan.max_memory

    def _put_back(self, members: list[Member]) -> None:
        """Return jobs that did not start, or are to start anew, to the short lists."""
        unmarked = [member for member in members if member.is_marked]
        for member in members:
            self._handed.pop(member.identity, None)
            member.is_marked = False
        if unmarked:
            self._note(unmarked, QUEUED, 0)
        self._ready.put_back([member for member in members if not member.hold.is_lost])

    # Broker and results.

    def _connect(self) -> None:
        if self._link.connect() and self._link.lane is not None:
            for note in self._link.lane.notes():
                _log.warning("%s", note)
            self._lane_fd = self._try(self._link.lane.fileno)
            if self._lane_fd is not None:
                self._selector.register(self._lane_fd, selectors.EVENT_READ)

    def _try(self, operation: Callable[..., Any], *arguments: Any) -> Any:
        """Call the broker or the result backend; after a failure return None and let the link recover."""
        try:
            return operation(*arguments)
        except BrokerUnavailable as error:
            self._lose(error)
            return None

    def _lose(self, error: BrokerUnavailable) -> None:
        fd, self._lane_fd = self._lane_fd, None
        if self._link.keeps_claims:
            self._lane_fd = fd
            self._link.failed(error)
            return
        if fd is not None:
            self._selector.unregister(fd)
        self._link.failed(error)
        for hold in self._holds:
            hold.is_lost = True
            self._ready.discard(hold)
            self._lost.add(hold.delivery)
        self._holds.clear()
        self._postponed.clear()

    def _may_settle(self) -> bool:
        """Whether to settle now: at once, except that outcomes of quick jobs wait a moment for each other."""
        if not self._ledger or self._is_pressing or not self._handed:
            return True
        return self._clock.monotonic() >= self._settle_at

    def _settle(self) -> None:
        self._is_pressing = False
        self._settle_at = self._clock.monotonic() + _SETTLE_EVERY
        self._unsettled += self._ledger.take_all()
        if not self._unsettled or not self._link.may_try:
            return
        batch, self._unsettled = self._unsettled, []
        ours = [entry for entry in batch if entry.delivery not in self._lost]
        for entry in batch:
            if entry.delivery in self._lost:
                successes = [record for record in entry.records if record.state == SUCCEEDED]
                if successes:
                    self._try(self._link.results.store, successes, entry.reply)
        lane = self._link.lane
        if not ours or lane is None:
            return
        try:
            write(ours, lane, self._link.results, self._link.door)
        except BrokerUnavailable as error:
            self._lose(error)
            self._unsettled = ours + self._unsettled
            return
        self._link.recovered()
        complete = {entry.delivery for entry in ours if entry.is_complete}
        self._holds = {hold for hold in self._holds if hold.delivery not in complete} if complete else self._holds

    def _take(self) -> None:
        lane = self._link.lane
        if lane is None or not self._link.may_try:
            return
        self._ready.promote(self._clock.wall())
        free = sum(self._is_soon_free(child) for child in self._working())
        count = len(self._children)
        room = {color: self._pace.room(color, self._ready.count(color), free, count) for color in self._plan.colors}
        if not any(room.values()):
            return
        deliveries = self._try(lane.take, room)
        self._empty_takes = 0 if deliveries else self._empty_takes + 1
        if deliveries:
            self._receive(deliveries)

    def _receive(self, deliveries: list[Delivery]) -> None:
        try:
            taken = self._intake.read(deliveries, lambda: self._link.results)
        except BrokerUnavailable as error:
            if self._link.lane is not None:
                self._try(self._link.lane.give_back, deliveries, 1.0)
            self._lose(error)
            return
        self._unsettled += taken.settled
        for delivery in taken.postponed:
            self._postpone(delivery)
        was_waiting = {color for color in self._plan.colors if self._ready.count(color)}
        now = self._clock.wall()
        for hold in taken.holds:
            self._holds.add(hold)
            self._pace.took(hold.bundle.color, len(hold.pending))
            for member in list(hold.pending.values()):
                self._admit(member, now)
        self._make_way(was_waiting)

    def _admit(self, member: Member, now: float) -> None:
        running = self._handed.get(member.identity)
        if running is not None:
            # The connection was lost and the broker sent it again, but it still runs here: it is adopted.
            member.hold.pending[member.position] = running
            running.hold, running.position = member.hold, member.position
        elif member.starts >= DEATHS:
            self._end(member, Quarantined(f"{member.starts} workers or children died while they ran it"))
        else:
            self._ready.add(member, now)

    def _postpone(self, delivery: Delivery) -> None:
        lane = self._link.lane
        _log.warning("a message in %s cannot be run here yet; it goes back for %g s", delivery.color, UNKNOWN_DELAY)
        if lane is not None and self._link.delays:
            self._try(lane.give_back, [delivery], UNKNOWN_DELAY)
        else:
            self._postponed.append((self._clock.monotonic() + UNKNOWN_DELAY, delivery))

    # Handing out.

    def _hand_out(self) -> None:
        if not len(self._ready):
            self._share_out()
            return
        self._read_marks(_MARKS_EVERY)
        for child in sorted(self._working(), key=lambda child: len(child.handed)):
            batch = self._fill(child)
            if batch:
                self._mark(batch)
                child.hand(batch)
                self._handed.update((member.identity, member) for member in batch)

    def _fill(self, child: Child) -> list[Member]:
        """Choose what a child gets now."""
        batch: list[Member] = []
        most = max(1, min(MOST_HANDED, -(-len(self._ready) // max(1, len(self._working())))))
        ahead = self._work_ahead(child)
        while ahead is not None and len(batch) < most:
            member = self._ready.pop(self._may_start)
            if member is None:
                break
            if self._has_ended(member):
                continue
            estimate = self._pace.estimate(member.bundle.task)
            is_first = not child.handed and not batch
            if not is_first and (
                estimate is None or ahead + estimate > HAND_AHEAD or self._plan.isolate or member.starts
            ):
                self._ready.unpop(member)
                break
            batch.append(member)
            if estimate is None or member.starts:
                break
            ahead += estimate
        return batch

    def _is_soon_free(self, child: Child) -> bool:
        """Whether a child is idle or runs a quick job; nothing is taken to wait behind slow ones."""
        if not child.handed:
            return not (self._plan.isolate and child.done)
        return not self._plan.isolate and self._pace.estimate(child.handed[0].bundle.task) is not None

    def _work_ahead(self, child: Child) -> float | None:
        """Return the seconds of work that a child has before it, or None if it must not get more."""
        if self._plan.isolate and (child.handed or child.done):
            return None
        if len(child.handed) >= MOST_HANDED:
            return None
        estimates = [self._pace.estimate(member.bundle.task) for member in child.handed]
        if None in estimates:
            return None
        return sum(estimate for estimate in estimates if estimate is not None)

    def _may_start(self, member: Member) -> bool:
        if member.starts < _SUSPECT_ALONE:
            return True
        return not any(other.starts >= _SUSPECT_ALONE for other in self._handed.values())

    def _has_ended(self, member: Member) -> bool:
        expires = member.bundle.expires
        if member.key in self._cancelled:
            self._end(member, NotRun(CANCELLED))
        elif expires is not None and self._clock.wall() > expires:
            self._end(member, NotRun(EXPIRED))
        else:
            return False
        return True

    def _mark(self, batch: list[Member]) -> None:
        """Store, before they start, that jobs start which were started before without an outcome."""
        suspects = [member for member in batch if member.starts]
        if suspects:
            self._note(suspects, RUNNING, 1)
            for member in suspects:
                member.is_marked = True

    def _note(self, members: Iterable[Member], state: str, more_starts: int) -> None:
        now = self._clock.wall()
        records = [Record(m.key, state, m.bundle.attempt, body.of_starts(m.starts + more_starts), now) for m in members]
        self._try(self._link.results.store, records)

    def _make_way(self, was_waiting: set[str]) -> None:
        """Recall less urgent jobs when a color begins to wait that is more urgent than they."""
        names = self._plan.palette.names
        new = [names.index(c) for c in self._plan.colors if c not in was_waiting and self._ready.count(c)]
        if not new:
            return
        rank = min(new)
        for child in self._children:
            later = list(child.handed)[1:]
            if any(names.index(member.bundle.color) > rank for member in later):
                self._put_back(child.recall())

    def _share_out(self) -> None:
        """Nothing waits: let idle children have what others were handed and have not started."""
        idle = [child for child in self._children if child.is_idle]
        if not idle:
            return
        now = self._clock.monotonic()
        for child in self._children:
            number, started = child.slot.running()
            if len(child.handed) > 1 and number >= 0 and now - started > _STUCK_AFTER:
                self._put_back(child.recall())
        if len(self._ready):
            self._hand_out()

    # The clock.

    def _look_around(self) -> None:
        now = self._clock.monotonic()
        lane = self._link.lane
        if lane is not None and self._is_time("renew", _RENEW_EVERY, now) and self._link.may_try:
            self._try(lane.renew)
        if self._is_time("announce", _ANNOUNCE_EVERY, now):
            self._announce(_ANNOUNCE_FOR)
        if self._is_time("look", _LOOK_EVERY, now):
            self._look_at_children(now)
            self._retry_postponed(now)

    def _look_at_children(self, now: float) -> None:
        lasting: list[Member] = []
        for child in self._children:
            number, started = child.slot.running()
            member = child.handed[0] if child.handed else None
            if member is None or member.number != number:
                continue
            hard = member.bundle.limits.hard_timeout
            if hard is not None and now - started > hard and self._crew.can_kill:
                child.kill(_TOO_LONG)
            elif now - started > _SHOW_RUNNING_AFTER and not member.is_marked:
                member.is_marked = True
                lasting.append(member)
        if lasting:
            self._note(lasting, RUNNING, 1)

    def _retry_postponed(self, now: float) -> None:
        due = [delivery for at, delivery in self._postponed if at <= now]
        if due:
            self._postponed = [entry for entry in self._postponed if entry[0] > now]
            self._receive(due)

    def _read_marks(self, every: float) -> None:
        if self._is_time("marks", every, self._clock.monotonic()):
            marks = self._try(self._link.results.cancelled, self._cursor)
            if marks is not None:
                self._cancelled.update(marks.keys)
                self._cursor = marks.cursor

    def _announce(self, lifetime: float) -> None:
        colors, tasks = tuple(self._plan.colors), tuple(sorted(self._tasks))
        info = WorkerInfo(self._plan.name, socket.gethostname(), os.getpid(), colors, tasks, self._clock.wall())
        self._try(self._link.results.announce, info, lifetime)

    def _is_time(self, name: str, every: float, now: float) -> bool:
        if now - self._timers.get(name, float("-inf")) < every:
            return False
        self._timers[name] = now
        return True

    # The end.

    def _is_over(self) -> bool:
        if self._stops:
            return not self._handed and not self._unsettled
        if not self._plan.burst:
            return False
        needed = 1 if self._link.keeps_claims else _BURST_LOOKS
        is_idle = not self._handed and self._ready.is_empty and not self._unsettled and not self._ledger
        return is_idle and self._empty_takes >= needed

    def _wind_down(self) -> None:
        if not self._stop_at:
            grace = self._plan.grace
            self._stop_at = float("inf") if grace is None else self._clock.monotonic() + grace
            for child in self._children:
                self._put_back(child.recall())
            self._ready.drain()
        if (self._stops > 1 or self._clock.monotonic() >= self._stop_at) and self._crew.can_kill:
            for child in self._children:
                child.kill(_INTERRUPTED)
        self._ready.drain()

    def _close(self) -> None:
        self._give_everything_back()
        self._announce(0.0)
        for child in self._children:
            if self._crew.can_kill:
                child.kill(_INTERRUPTED)
                _reap(child)
            child.close()
        self._children.clear()
        self._crew.close()
        self._link.close()
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()

    def _give_everything_back(self) -> None:
        lane = self._link.lane
        if lane is None:
            return
        whole = [hold.delivery for hold in self._holds if hold.is_untouched]
        whole += [delivery for _, delivery in self._postponed]
        parts = [hold for hold in self._holds if not hold.is_untouched and hold.pending]
        entries = [hold.settled() for hold in parts]
        for hold, entry in zip(parts, entries, strict=True):
            entry.successors.append(hold.remainder())
            entry.is_complete = True
        if whole:
            self._try(lane.give_back, whole)
        if entries and self._link.lane is not None:
            self._try(write, entries, lane, self._link.results, self._link.door)


_INTERRUPTED = "interrupted"
_TOO_LONG = "hard_timeout"
_BURST_LOOKS = 10  # empty takes, one each 20 to 250 ms, after which a transport that pushes has nothing for us


def _drain(sock: socket.socket) -> None:
    try:
        while sock.recv(4096):
            pass
    except BlockingIOError:
        pass


def _has_ended(child: Child) -> bool:
    if child.pidfd < 0:
        return False
    try:
        return os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


_LAST_WORDS = 0.1  # seconds


def _reap(child: Child) -> str:
    """Wait for a dead child, clean up what it started, and return how it ended, for people."""
    if not child.pid:
        return "its thread ended"
    select.select([child.pidfd], [], [], _LAST_WORDS)  # its socket closes a little before it has ended
    child.kill(child.death_note)  # grandchildren in its process group
    try:
        status = os.waitpid(child.pid, 0)[1]
    except ChildProcessError:
        return "unknown cause"
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    return f"exit status {os.WEXITSTATUS(status)} without an outcome"
