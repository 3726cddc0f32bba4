"""The supervisor: one thread and one selector over the broker, the children and the clock. It runs no user code.

A round hears what children report, settles it, takes what there is room for, and hands it out.
"""

from __future__ import annotations

import os
import selectors
from collections.abc import Callable
from typing import TYPE_CHECKING

from queuelib import builtin, faults
from queuelib.clock import SYSTEM, Clock
from queuelib.message import INPUTS
from queuelib.worker.admission import Admission
from queuelib.worker.books import Books
from queuelib.worker.children import Child
from queuelib.worker.claims import Claims
from queuelib.worker.desks import Desk, Desks
from queuelib.worker.intake import Intake
from queuelib.worker.lease import Holds, Part
from queuelib.worker.line import Line
from queuelib.worker.link import Link
from queuelib.worker.memos import Notebook
from queuelib.worker.pace import Pace
from queuelib.worker.presence import Presence
from queuelib.worker.returns import Returns
from queuelib.worker.staff import INTERRUPTED, STUCK_AFTER, Death, Staff
from queuelib.worker.starts import READ_EVERY, Starts, Withdrawals
from queuelib.worker.stopping import Stopping
from queuelib.worker.waits import Waits
from queuelib.worker.waker import Waker

if TYPE_CHECKING:
    from queuelib.ids import Key
    from queuelib.ports import Memos
    from queuelib.worker.crew import Crew
    from queuelib.worker.plan import Plan

__all__ = ["Supervisor"]

_LOOK_EVERY = 0.25  # seconds between two looks at limits and running times
_POLL = 0.005  # for transports that cannot wake us
_LISTEN_AGAIN = 0.020  # a child that has more to run rings at most every 10 ms: what it reported since is read then
_BURST_QUIET = 0.5  # seconds without a delivery after which a transport that pushes has nothing for us
_ROTATED_FOR = 1.0  # seconds for which what makes room for others goes back


class Supervisor:
    """Runs one worker until it is told to stop.

    It moves jobs from one of its parts to the next, and each part keeps the rules for what it has: `Line` the
    connection, `Claims` how long what came over it is ours, `Admission` and `Returns` what a delivery becomes, `Desks` what
    waits and for whom, `Starts` and `Withdrawals` what may start, `Staff` the children, `Books` outcomes until they are
    written, `Stopping` how it ends. What a server that does not answer means for all of them is told at `Line`.
    """

    def __init__(self, crew: Crew, link: Link, plan: Plan, clock: Clock = SYSTEM) -> None:
        tasks, once, exclusive = (frozenset(crew.manifest[name]) for name in ("tasks", "once", "exclusive"))
        self._link = link
        self._plan = plan
        self._clock = clock
        all_tasks = tuple(sorted(tasks | builtin.TASKS))
        self._selector = selectors.DefaultSelector()
        self._waker = Waker(self._selector, "wake")
        self._holds = Holds()
        pace = Pace()
        self._staff = Staff(crew, plan, self._selector)
        self._desks = Desks(plan, self._staff, pace)
        self._ready = self._desks.ready
        intake = Intake(all_tasks, plan.colors, plan.patience, clock, once=once, keys=link.keys)
        self._line = Line(link, self._selector, self._on_lost, rests=not plan.burst)
        self._presence = Presence(self._line, plan, all_tasks, clock)
        self._claims = Claims(self._line, self._holds, self._staff, exclusive, self._on_taken_over, clock.monotonic())
        self._books = Books(self._line, self._holds, pace, plan.name, clock)
        self._starts = Starts(self._line, once, clock, link.keep)
        self._notebook = Notebook(self._line, link.open_memos, link.keep, clock)
        self._withdrawals = Withdrawals(self._line, self._books, self._ready, clock)
        self._returns = Returns(self._line, self._starts, intake.pause, clock)
        self._waits = Waits(self._line, clock)
        self._admission = Admission(
            plan,
            self._line,
            intake,
            self._holds,
            self._desks,
            self._waits,
            self._starts,
            self._staff,
            self._returns,
            self._books,
            pace,
            clock,
        )
        self._finished = 0  # jobs, when inputs were looked for last
        self._timers: dict[str, float] = {}
        self._listen_at = float("inf")  # when to look for reports again though nobody rang
        self._empty_takes = 0
        self._taken_at = clock.monotonic()
        self._stopping = Stopping(plan.grace)
        self._is_taking = True  # until it is told to stop, and later where a job that ran by then waits for others
        self.ticked_at = clock.monotonic()
        self.on_ready: Callable[[], None] = lambda: None

    # Orders from outside; safe in signal handlers and other threads.

    def stop(self) -> None:
        """Take nothing more and finish; called again, interrupt what runs and give it back."""
        self._stopping.order()
        self._waker.wake()

    def wake(self) -> None:
        """Have the loop look around."""
        self._waker.wake()

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_ordered

    def watch(self, fd: int) -> None:
        """Stop when the other end of a pipe closes."""
        self._selector.register(fd, selectors.EVENT_READ, "owner")

    @property
    def finished(self) -> int:
        """How many jobs ended here."""
        return self._books.finished

    def read_state(self, connect: Callable[[], Memos]) -> Callable[[Key], bytes | None]:
        """Return what reads the states that jobs have saved, for one other thread, which gets a connection of its own."""
        return self._notebook.reader(connect)

    def kill_exclusive(self, now: float) -> None:
        """Kill exclusive jobs if the claim on them is about to end; safe in other threads."""
        self._claims.kill_exclusive(now)

    # The loop.

    def run(self) -> None:
        """Work until stopped, or until nothing is left if the plan is a burst."""
        try:
            self.begin()
            while not self.is_over():
                self.turn()
        finally:
            self.close()

    # The same in steps, for whoever runs jobs in this very thread.

    def begin(self) -> None:
        """Make what works, and connect."""
        self._staff.hire()
        self._connect()
        self._presence.tell()
        self.on_ready()

    def turn(self) -> None:
        """Go one round: wait until there is something to do, and do it."""
        self.ticked_at = self._clock.monotonic()
        noisy = self._wait()
        self._hear(noisy)
        self._look_around()  # before what may fail: a claim is renewed also while outcomes cannot be written
        self._notebook.write(self._clock.monotonic())  # before outcomes: whoever runs a job again finds its state
        if not self._notebook.is_owing():
            self._settle()
        self._connect()
        if self._stopping.is_ordered:
            self._wind_down()
        if self._is_taking:
            self._take()
            if self._staff.has_unstarted:
                self._withdraw()  # what a child was handed may be cancelled as well
            self._look_for_inputs()
            self._hand_out()
        if not self._notebook.is_owing():
            self._settle()

    def _wait(self) -> set[Child]:
        """Wait until there is something to do; return the children whose descriptors say something."""
        noisy: set[Child] = set()
        for key, _ in self._selector.select(max(0.0, self._pause())):
            if key.data == "bell":
                os.eventfd_read(key.fd)
                self._listen_at = 0.0
            elif isinstance(key.data, Child):
                noisy.add(key.data)
            elif key.data == "wake":
                self._waker.drain()
            elif key.data == "lane":
                self._line.hear(self._plan.colors, has_room=self._has_room)
            elif key.data == "owner":
                self._selector.unregister(key.fileobj)
                self._stopping.order_once()
        return noisy

    @property
    def _has_room(self) -> bool:
        """Whether what the lane has to say would be taken in this round; else it is readable for as long as nobody does."""
        if not self._is_taking or not self._link.may_try or self._returns.is_full:
            return False
        return bool(self._waits.room) or any(self._desks.room().values())

    def _pause(self) -> float:
        """Return the seconds until something is to be done even if nobody wakes us."""
        if self._withdrawals.has_let_go:  # of what was taken much will never start: there is room for what is behind it
            self._withdrawals.has_let_go = False
            return 0.0
        now = self._clock.monotonic()
        pause = min(_LOOK_EVERY, self._listen_at - now, self._staff.next_lent - now)
        lane = self._link.lane
        if lane is not None and self._line.fd is None and self._is_taking:
            pause = min(pause, _POLL)
        has_idle = self._staff.has_idle
        if self._staff.has_unstarted:
            pause = min(pause, STUCK_AFTER if has_idle else READ_EVERY)
        if has_idle and lane is not None and self._is_taking:
            due = self._line.attempt(lane.next_due)
            soonest = min((at for at in (due, self._ready.next_due()) if at is not None), default=None)
            if soonest is not None:
                wait = soonest - self._clock.wall()
                pause = min(pause, max(wait, _POLL))  # it may be overdue: the server is away, or there is no room
                if wait <= 0:
                    self._line.look_again()
        pause = min(pause, self._books.rest(now), self._waits.pause(now), self._notebook.rest(now))
        return min(pause, self._stopping.pause(now)) if self._stopping.is_ordered else pause

    # What is taken.

    def _connect(self) -> None:
        now = self._clock.monotonic()
        if self._link.connect() and self._link.lane is not None:
            self._claims.held(now)
            self._taken_at = self._clock.monotonic()
            self._line.listen(self._link.lane)

    def _take(self) -> None:
        lane = self._link.lane
        if lane is None or not self._link.may_try or self._returns.is_full:
            return
        self._ready.promote(self._clock.wall())
        room = self._desks.room() | {INPUTS: self._waits.room}
        if not self._line.may_have(room):
            return
        deliveries = self._line.take(lane, room)
        if deliveries is None:
            return
        self._empty_takes = 0 if deliveries else self._empty_takes + 1
        if deliveries or not self._staff.is_idle:
            self._taken_at = self._clock.monotonic()
        if deliveries:
            if faults.ACTIVE:
                faults.point("after_take")
            self._admission.receive(deliveries)

    # What is handed out.

    def _hand_out(self) -> None:
        for desk in self._desks.each:
            self._hand_out_at(desk)

    def _hand_out_at(self, desk: Desk) -> None:
        has_alone = self._staff.has_alone
        if not desk.ready.count(has_alone=has_alone):
            # Idle children get what others were handed and have not started.
            self._admission.put_back(self._staff.recall_stuck(desk.pool, self._clock.monotonic()))
        count = desk.ready.count(has_alone=has_alone)
        if not count or not self._claims.may_start(self._clock.monotonic()):
            return
        hungry = desk.assigner.hungry(desk.pool.working)
        if not hungry:
            return
        self._withdraw()
        share = -(-count // len(hungry))
        for child in hungry:
            has_alone = self._staff.has_alone
            if not desk.ready.count(has_alone=has_alone):
                return
            batch = desk.assigner.choose(child, share, self._withdrawals.has_ended, has_alone=has_alone)
            marked = self._starts.mark(batch)
            if marked is None:
                self._admission.put_back(batch)
            elif marked:
                child.hand(marked)
                self._claims.guard()

    def _withdraw(self) -> None:
        """Read what was cancelled, and take it back from children that have not started it."""
        new = self._withdrawals.read(self._clock.monotonic())
        if new:
            self._admission.put_back(self._staff.recall_bundles(new))

    def _look_for_inputs(self) -> None:
        """Have jobs go on whose inputs are there."""
        if self._waits.is_empty:
            return
        now = self._clock.monotonic()
        if self._books.finished != self._finished:
            self._finished = self._books.finished
            self._waits.look_soon()
        for hold, outcome in self._waits.look(now):
            self._books.end(hold, 0, outcome)
        for hold in self._waits.rotate(now):
            self._holds.discard(hold.delivery)
            self._returns.give_back([hold.delivery], _ROTATED_FOR)

    # What is heard.

    def _hear(self, noisy: set[Child]) -> None:
        now = self._clock.monotonic()
        heard = self._staff.hear(noisy)
        if heard.reports:
            self._listen_at = now + _LISTEN_AGAIN
        elif self._listen_at <= now:
            # The bell may be older than what was read with the last one; what comes now rings again.
            self._listen_at = now + _LISTEN_AGAIN if self._listen_at == 0.0 else float("inf")
        if heard.told:
            self._notebook.enter(heard.told)
        if heard.reports:
            self._notebook.end(heard.reports)
        if heard.deaths:
            self._notebook.press()
        self._books.enter(heard.reports)
        self._admission.put_back(heard.returned)
        for death in heard.deaths:
            self._account_for(death)
        self._admission.put_back(self._staff.lend(now))
        self._staff.refill()  # after all that was heard is in the books: it may fail
        self._claims.guard()

    def _account_for(self, death: Death) -> None:
        """Decide what becomes of a job whose child died while it ran."""
        outcome = self._starts.after(death)
        if outcome is None:
            self._admission.put_back([Part(death.hold, death.at, death.at + 1)])
        else:
            self._books.end(death.hold, death.at, outcome)

    def _settle(self) -> None:
        """Write outcomes now; those of quick jobs wait a moment for each other while others run."""
        if self._books.may_wait() and not self._staff.is_quiet:
            return
        had_some = not self._books.is_empty
        if self._books.settle():
            self._ready.discard_lost(self._clock.wall())
        if self._plan.burst and had_some and self._books.is_empty:
            # What goes on as another message is in a queue by now: the end is only behind one more look at it.
            self._empty_takes, self._taken_at, self._listen_at = 0, self._clock.monotonic(), 0.0
            self._line.look_again()

    # The clock.

    def _look_around(self) -> None:
        now = self._clock.monotonic()
        lane = self._link.lane
        if lane is not None and self._link.may_try and self._is_time("renew", self._claims.renew_every, now):
            self._claims.renew(lane, now)
        self._presence.tell_in_time(now)
        if self._is_time("look", _LOOK_EVERY, now):
            self._line.look_again()  # should a wake-up have been missed
            running = self._staff.check(now)
            self._starts.show(running)
            if any(seconds > _LOOK_EVERY for _, _, seconds in running):
                self._withdraw()
                self._staff.stop_jobs(self._withdrawals.has_to_stop)
            self._notebook.sweep(now, may_drop=self._books.is_empty)
            self._let_go()
            if not self._waits.is_empty:
                self._withdraw()
                self._waits.discard_ended(self._withdrawals.has_ended)
            self._admission.receive(self._returns.retry(now))
            doubtful = self._returns.look_up_again(now)
            if doubtful:
                self._admission.read(doubtful)
            self._staff.tidy()

    def _is_time(self, name: str, every: float, now: float) -> bool:
        if now - self._timers.get(name, float("-inf")) < every:
            return False
        self._timers[name] = now
        return True

    # What is lost.

    def _on_lost(self) -> None:
        """Let go of all that was taken over a connection that is gone; what has started goes on."""
        self._claims.cut_off()
        recalled = self._staff.recall_all()  # nothing more of this starts
        self._holds.lose()
        self._admission.put_back(recalled)
        self._ready.drain()
        self._waits.discard_lost()
        self._returns.forget()

    def _on_taken_over(self) -> None:
        """Let go of deliveries that others have taken over."""
        self._admission.put_back(self._staff.recall_all())
        self._ready.discard_lost(self._clock.wall())
        self._let_go()

    def _let_go(self) -> None:
        """Forget deliveries that others speak for, once no child has a job of them and what they became is written.

        Kept, one would answer for jobs that nobody here runs: were they to come back, they would be turned away.
        """
        lost = self._holds.idle_lost()
        if not lost:
            return
        self._waits.discard_lost()
        self._ready.discard_lost(self._clock.wall())
        unwritten = self._books.unwritten()
        for delivery in lost:
            if delivery not in unwritten:
                self._holds.discard(delivery)

    # The end.

    def is_over(self) -> bool:
        """Whether it was told to stop and has, or nothing is left to do for a burst."""
        if self._stopping.is_ordered:
            is_out_of_time = self._stopping.is_out_of_time(self._clock.monotonic())
            return self._staff.is_idle and (is_out_of_time or self._books.is_empty)
        if not self._plan.burst:
            return False
        if not self._staff.is_idle or not self._ready.is_empty or not self._books.is_empty:
            return False
        if self._returns.is_looking_up or not self._waits.is_empty or self._link.lane is None:
            return False
        quiet = 0.0 if self._link.keeps_claims else _BURST_QUIET
        return self._empty_takes > 0 and self._clock.monotonic() - self._taken_at >= quiet

    def _wind_down(self) -> None:
        now = self._clock.monotonic()
        self._stopping.begin(now)
        is_out_of_time = self._stopping.is_out_of_time(now)
        may_wait = not is_out_of_time and not self._stopping.has_interrupted
        if may_wait and self._staff.has_lender(self._stopping.since):
            self._resume_taking()  # what it waits for may be among what comes
            return
        if self._is_taking:
            self._is_taking = False
            self._staff.stop_hiring()
            self._admission.put_back(self._staff.recall_all())
            if self._link.lane is not None:
                self._line.attempt(self._link.lane.stop_taking)
        # What has started since then and waits is not waited for: there might be no end to it.
        is_over = is_out_of_time or (self._staff.is_quiet and not self._staff.is_idle)
        if self._stopping.is_to_kill(now):
            self._staff.kill(INTERRUPTED)
        elif is_over and not self._stopping.has_interrupted:
            self._stopping.interrupted(now)
            self._staff.interrupt(INTERRUPTED)
        self._ready.drain()
        self._waits.drain()
        self._returns.leave(self._holds)

    def _resume_taking(self) -> None:
        if not self._is_taking:
            self._is_taking = True
            self._staff.hire_again()
            self._line.look_again()

    def close(self) -> None:
        """Give back what is left, and end whatever works for it."""
        # After an error jobs may still run, and others have them as soon as they are back.
        self._staff.kill(INTERRUPTED)
        for hold in self._holds:
            outcome = self._starts.with_its_worker(hold)
            if outcome is not None:
                for at in hold.handed():
                    self._books.end(hold, at, outcome)
        self._notebook.press()
        self._notebook.write(self._clock.monotonic())
        self._give_everything_back()
        self._notebook.sweep(self._clock.monotonic(), may_drop=self._books.is_empty)
        self._notebook.close()
        self._presence.end()
        self._staff.close(INTERRUPTED)
        self._link.close()
        self._selector.close()
        self._waker.close()

    def _give_everything_back(self) -> None:
        if self._link.lane is None:
            return
        ours = [hold for hold in self._holds if not hold.delivery.is_lost]
        self._returns.close(ours)
        self._books.close(ours)
