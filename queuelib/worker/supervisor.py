"""The supervisor: one thread and one selector over the broker, the children and the clock. It runs no user code.

A round hears what children report, settles it, takes what there is room for, and hands it out.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from queuelib import body
from queuelib.clock import SYSTEM, Clock
from queuelib.errors import BrokerUnavailable
from queuelib.ids import Key, job_id
from queuelib.outcome import (
    CANCELLED,
    EXPIRED,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    Again,
    NotRun,
    Outcome,
    Quarantined,
    Record,
)
from queuelib.ports import Delivery, Settled, WorkerInfo
from queuelib.settings import DEATHS, UNKNOWN_DELAY
from queuelib.worker.assign import Assigner
from queuelib.worker.intake import Intake
from queuelib.worker.lease import Hold, Member
from queuelib.worker.link import Link
from queuelib.worker.pace import MOST_HANDED, QUICK, Pace
from queuelib.worker.ready import Ready
from queuelib.worker.settle import Ledger, write
from queuelib.worker.staff import STUCK_AFTER, Death, Staff

if TYPE_CHECKING:
    from queuelib.worker.children import Crew
    from queuelib.worker.plan import Plan

__all__ = ["Supervisor"]

_log = logging.getLogger("queuelib.worker")
_NOTICE = 25  # between info and warning: a daemon says it, a worker beside a program does not
_LOOK_EVERY = 0.25  # seconds between two looks at limits and running times
_RENEW_EVERY = 1.0  # heartbeats, the dead, what became due
_ANNOUNCE_EVERY = 5.0
_ANNOUNCE_FOR = 15.0  # three chances
_MARKS_EVERY = 0.02  # a cancelled job is started at most this long after its mark
_POLL = 0.005  # for transports that cannot wake us
_SETTLE_EVERY = 0.003  # what quick jobs lose at most when the worker dies is run again in as little time
_SHOW_RUNNING_AFTER = 1.0  # a state that costs a write is only published for jobs that last
_BURST_LOOKS = 10  # empty takes, one each 5 to 250 ms, after which a transport that pushes has nothing for us
_INTERRUPTED = "interrupted"
_TOO_LONG = "hard_timeout"


class Supervisor:
    """Runs one worker until it is told to stop."""

    def __init__(self, crew: Crew, link: Link, plan: Plan, clock: Clock = SYSTEM) -> None:
        self._link = link
        self._plan = plan
        self._clock = clock
        self._tasks = frozenset(crew.manifest["tasks"])
        self._ready = Ready(plan.palette, plan.colors)
        self._pace = Pace()
        self._assigner = Assigner(plan, self._ready, self._pace)
        self._ledger = Ledger(clock)
        self._intake = Intake(self._tasks, plan.colors, plan.patience, clock)
        self._holds: set[Hold] = set()
        self._lost: WeakSet[Delivery] = WeakSet()  # taken over a connection that is gone
        self._unsettled: list[Settled] = []
        self._postponed: list[tuple[float, Delivery]] = []
        self._cancelled: set[Key] = set()
        self._cursor: Any = None
        self._is_pressing = False  # an outcome is in the ledger that must not wait
        self._settle_at = 0.0
        self._timers: dict[str, float] = {}
        self._selector = selectors.DefaultSelector()
        self._staff = Staff(crew, plan, self._selector)
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
            self._staff.hire()
            self._connect()
            self._announce(_ANNOUNCE_FOR)
            self.on_ready()
            while not self._is_over():
                self._round()
        finally:
            self._close()

    def _round(self) -> None:
        self._wait()
        self._hear()
        if self._may_settle():
            self._settle()
        self._connect()
        self._look_around()
        if self._stops:
            self._wind_down()
        else:
            self._take()
            if self._staff.has_unstarted:
                self._read_marks(_MARKS_EVERY)  # what a child was handed may be cancelled as well
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
        has_idle = self._staff.has_idle
        if self._staff.has_unstarted:
            pause = min(pause, STUCK_AFTER if has_idle else _MARKS_EVERY)
        if has_idle and lane is not None and not self._stops:
            due = self._try(lane.next_due)
            soonest = min((at for at in (due, self._ready.next_due()) if at is not None), default=None)
            if soonest is not None:
                pause = min(pause, soonest - self._clock.wall())
        if self._ledger:
            pause = min(pause, self._settle_at - now)
        return min(pause, self._stop_at - now) if self._stop_at else pause

    # Children.

    def _hear(self) -> None:
        heard = self._staff.hear()
        for report in heard.reports:
            bundle = report.member.bundle
            self._pace.ran(bundle.task, bundle.color, report.elapsed)
            self._is_pressing = self._is_pressing or report.elapsed > QUICK
            self._end(report.member, report.outcome)
        self._put_back(heard.returned)
        for death in heard.deaths:
            self._assigner.forget(death.member)
            self._account_for(death)

    def _end(self, member: Member, outcome: Outcome) -> None:
        self._assigner.forget(member)
        if self._ledger.add(member, outcome):
            self._finished += 1

    def _account_for(self, death: Death) -> None:
        """Decide what becomes of a job whose child died while it ran."""
        member = death.member
        if death.why == _INTERRUPTED or not death.was_meant:
            self._put_back([member])
            return
        if death.why == _TOO_LONG:
            limit = member.bundle.limits.hard_timeout
            text = f"killed: it ran longer than its hard_timeout of {limit:g} s"
            self._end(member, Again(None, body.of_failure(member.bundle.task, "TimeoutError", text)))
            return
        deaths, how = member.starts + 1, death.why or death.how
        _log.warning("child %d died (%s) while it ran %s, death %d", death.pid, how, job_id(*member.key), deaths)
        if deaths >= DEATHS:
            self._end(member, Quarantined(f"{deaths} processes died while they ran it, the last one by {how}"))
            return
        member.starts, member.is_marked = deaths, False
        self._ready.put_back([member])

    def _put_back(self, members: list[Member]) -> None:
        """Return jobs that did not start, or are to start anew, to the short lists."""
        unmarked = [member for member in members if member.is_marked]
        for member in members:
            self._assigner.forget(member)
            member.is_marked = False
        if unmarked:
            self._note(unmarked, QUEUED, 0)
        self._ready.put_back([member for member in members if not member.hold.is_lost])

    # Broker and results.

    def _connect(self) -> None:
        if self._link.connect() and self._link.lane is not None:
            for note in self._link.lane.notes():
                _log.log(_NOTICE, "%s", note)
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
        if not self._ledger or self._is_pressing or self._assigner.is_idle:
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
        room = self._assigner.room(self._staff.working)
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
        running = self._assigner.holder_of(member)
        if running is not None:
            self._adopt(running, member)
        elif member.starts >= DEATHS:
            self._end(member, Quarantined(f"{member.starts} workers or children died while they ran it"))
        else:
            self._ready.add(member, now)

    def _adopt(self, running: Member, member: Member) -> None:
        """Let a job that runs here answer for a second delivery of it: the connection was lost, or it was sent twice."""
        old = running.hold
        del old.pending[running.position]
        member.hold.pending[member.position] = running
        running.hold, running.position = member.hold, member.position
        if not old.is_lost and not old.pending:
            self._unsettled.append(Settled(old.delivery, is_complete=True))

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
            # Idle children get what others were handed and have not started.
            self._put_back(self._staff.recall_stuck(self._clock.monotonic()))
        if not len(self._ready):
            return
        self._read_marks(_MARKS_EVERY)
        working = self._staff.working
        share = max(1, min(MOST_HANDED, -(-len(self._ready) // max(1, len(working)))))
        for child in sorted(working, key=lambda child: len(child.handed)):
            batch = self._assigner.choose(child, share, self._has_ended)
            if batch:
                self._mark(batch)
                self._assigner.hand(child, batch)

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
        self._put_back(self._staff.recall_below(min(new)))

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
            self._staff.tidy()

    def _look_at_children(self, now: float) -> None:
        lasting: list[Member] = []
        for child, member, seconds in self._staff.running(now):
            hard = member.bundle.limits.hard_timeout
            if hard is not None and seconds > hard and child.pid:
                child.doomed = member
                child.kill(_TOO_LONG)
            elif seconds > _SHOW_RUNNING_AFTER and not member.is_marked:
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
                new = set(marks.keys) - self._cancelled
                self._cancelled |= new
                self._cursor = marks.cursor
                self._put_back(self._staff.recall_any(new))

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
            is_out_of_time = self._stops > 1 or (self._stop_at and self._clock.monotonic() >= self._stop_at)
            return self._assigner.is_idle and bool(is_out_of_time or not self._unsettled)
        if not self._plan.burst:
            return False
        needed = 1 if self._link.keeps_claims else _BURST_LOOKS
        is_idle = self._assigner.is_idle and self._ready.is_empty and not self._unsettled and not self._ledger
        return is_idle and self._empty_takes >= needed

    def _wind_down(self) -> None:
        if not self._stop_at:
            grace = self._plan.grace
            self._stop_at = float("inf") if grace is None else self._clock.monotonic() + grace
            self._staff.stop_hiring()
            self._put_back(self._staff.recall_all())
        if self._stops > 1 or self._clock.monotonic() >= self._stop_at:
            self._staff.kill(_INTERRUPTED)
        self._ready.drain()

    def _close(self) -> None:
        self._give_everything_back()
        self._announce(0.0)
        self._staff.close(_INTERRUPTED)
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


def _drain(sock: socket.socket) -> None:
    try:
        while sock.recv(4096):
            pass
    except BlockingIOError:
        pass
