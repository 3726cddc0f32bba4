"""Which child gets which jobs: quick ones by the handful, slow and unknown ones one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from queuelib.worker.pace import HAND_AHEAD, MOST_BYTES_AHEAD, MOST_HANDED, Pace

if TYPE_CHECKING:
    from queuelib.worker.children import Child
    from queuelib.worker.lease import Member
    from queuelib.worker.plan import Plan
    from queuelib.worker.ready import Ready

__all__ = ["Assigner"]

_SUSPECT_ALONE = 2  # starts without an outcome from which a job runs while no other suspect does


class Assigner:
    """Chooses from the short lists, and knows what the children have."""

    def __init__(self, plan: Plan, ready: Ready, pace: Pace) -> None:
        self._plan = plan
        self._ready = ready
        self._pace = pace
        self._is_watched = plan.isolate or plan.max_memory is not None  # each child is looked at after each job
        self._handed: dict[tuple[bytes, int, int], Member] = {}

    @property
    def is_idle(self) -> bool:
        """Whether no child has anything."""
        return not self._handed

    def holder_of(self, member: Member) -> Member | None:
        """Return the job with the same identity that a child has, if any."""
        return self._handed.get(member.identity)

    def forget(self, member: Member) -> None:
        """Note that a job is with a child no more."""
        self._handed.pop(member.identity, None)

    def hand(self, child: Child, batch: list[Member]) -> None:
        """Hand jobs over."""
        self._handed.update((member.identity, member) for member in batch)
        child.hand(batch)

    def room(self, working: list[Child]) -> dict[str, int]:
        """Return how many more bundles of each color to take."""
        free = sum(self._is_soon_free(child) for child in working)
        return {
            color: self._pace.room(color, self._ready.count(color), free, len(working)) for color in self._plan.colors
        }

    def choose(self, child: Child, share: int, has_ended: Callable[[Member], bool]) -> list[Member]:
        """Remove from the short lists, and return, what a child gets now.

        Args:
            child: The child.
            share: The most jobs it may get, so that the others get some too.
            has_ended: Whether a job has ended before its start; it is then passed over.
        """
        batch: list[Member] = []
        if self._plan.max_jobs is not None:
            share = min(share, self._plan.max_jobs - child.done - len(child.handed))
        ahead = self._work_ahead(child)
        size = sum(len(member.bundle.arguments[member.position]) for member in child.handed)
        while ahead is not None and len(batch) < share:
            member = self._ready.pop(self._may_start)
            if member is None:
                break
            if has_ended(member):
                continue
            estimate = self._pace.estimate(member.bundle.task)
            goes_alone = estimate is None or member.starts > 0 or self._is_watched
            is_first = not child.handed and not batch
            size += len(member.bundle.arguments[member.position])
            if not is_first and (goes_alone or ahead + (estimate or 0.0) > HAND_AHEAD or size > MOST_BYTES_AHEAD):
                self._ready.unpop(member)
                break
            batch.append(member)
            if goes_alone:
                break
            ahead += estimate or 0.0
        return batch

    def _is_soon_free(self, child: Child) -> bool:
        """Whether a child is idle or runs a quick job; nothing is taken to wait behind slow ones."""
        if not child.handed:
            return not (self._plan.isolate and child.done)
        return not self._plan.isolate and self._pace.estimate(child.handed[0].bundle.task) is not None

    def _work_ahead(self, child: Child) -> float | None:
        """Return the seconds of work that a child has before it, or None if it must not get more."""
        if len(child.handed) >= MOST_HANDED or (self._plan.isolate and (child.handed or child.done)):
            return None
        total = 0.0
        for member in child.handed:
            estimate = self._pace.estimate(member.bundle.task)
            if estimate is None:
                return None
            total += estimate
        return total

    def _may_start(self, member: Member) -> bool:
        if member.starts < _SUSPECT_ALONE:
            return True
        return not any(other.starts >= _SUSPECT_ALONE for other in self._handed.values())
