"""How long what is in hand is surely ours: who may start jobs until when, and which are killed before that ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from queuelib.worker.staff import CUT_OFF

if TYPE_CHECKING:
    from queuelib.ports import Lane
    from queuelib.worker.children import Child
    from queuelib.worker.lease import Holds
    from queuelib.worker.line import Line
    from queuelib.worker.staff import Staff

__all__ = ["Claims"]

_log = logging.getLogger("queuelib.worker")
_RENEW_EVERY = 1.0  # seconds: heartbeats, the dead, what became due; five times a lease where that is shorter
_EXCLUSIVE_FOR = 0.8  # of a lease: then an exclusive job is killed, and none is started that would be


class Claims:
    """The claims on all deliveries in hand: they are renewed together, and end together.

    Args:
        line: The connection; its link knows the lease.
        holds: What is in hand.
        staff: The children, who start nothing after the claims have ended.
        exclusive: Names of the tasks whose jobs must not run after that either.
        on_taken_over: Called when others have some of what was in hand, before any child may start jobs again.
        now: The monotonic time.

    Attributes:
        renew_every: Seconds between two renewals.
    """

    def __init__(  # noqa: PLR0917 - whose claims, on what, for whom
        self,
        line: Line,
        holds: Holds,
        staff: Staff,
        exclusive: Collection[str],
        on_taken_over: Callable[[], None],
        now: float,
    ) -> None:
        self._line = line
        self._holds = holds
        self._staff = staff
        self._exclusive = frozenset(exclusive)
        self._on_taken_over = on_taken_over
        self._lease = float("inf") if line.link.lease is None else line.link.lease
        self.renew_every = min(_RENEW_EVERY, self._lease / 5)
        self._held_at = now  # the last moment at which our claims are known to have held
        self._guarded: tuple[Child, ...] = ()  # children that have exclusive jobs

    def may_start(self, now: float) -> bool:
        """Whether jobs may be handed out; in a worker with exclusive tasks, only until those would be killed."""
        return now < self._held_at + self._lease * (_EXCLUSIVE_FOR if self._exclusive else 1.0)

    def held(self, at: float) -> None:
        """Note when the claims were seen to hold: they do for a lease from then on."""
        self._held_at = at
        self._staff.claim(at + self._lease)

    def renew(self, lane: Lane, now: float) -> None:
        """Keep our claims; after a silence longer than the lease, find out first which are left."""
        silence = self._line.attempt(lane.renew)
        if silence is None:
            return
        if now > self._held_at + self._lease and not self._find_lost(lane):
            return
        self.held(now - silence)

    def _find_lost(self, lane: Lane) -> bool:
        """Let go of what others have taken over; return False if the server does not say."""
        ours = [hold.delivery for hold in self._holds if not hold.delivery.is_lost]
        lost = self._line.attempt(lane.find_lost, ours)
        if lost is None:
            return False
        for delivery in lost:
            delivery.is_lost = True
        if lost:
            _log.warning(
                "%d deliveries belong to other workers after a silence of more than %g s", len(lost), self._lease
            )
            self._on_taken_over()
        return True

    def guard(self) -> None:
        """Note which children have exclusive jobs, after some were handed out or have ended."""
        if self._exclusive:
            self._guarded = self._staff.having(self._exclusive)

    def kill_exclusive(self, now: float) -> None:
        """Kill exclusive jobs if the claim on them is about to end; safe in other threads."""
        if now >= self._held_at + self._lease * _EXCLUSIVE_FOR:
            self.cut_off()

    def cut_off(self) -> None:
        """Kill exclusive jobs: others may have them already."""
        for child in self._guarded:
            child.kill(CUT_OFF)
