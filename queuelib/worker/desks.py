"""Who runs jobs of which kind, out of which short lists: one desk, or two where coroutines have children of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from queuelib.worker.assign import Assigner
from queuelib.worker.pace import Mix
from queuelib.worker.ready import Ready, ReadyByKind

if TYPE_CHECKING:
    from queuelib.message import Bundle
    from queuelib.worker.pace import Pace
    from queuelib.worker.plan import Plan
    from queuelib.worker.staff import Pool, Staff

__all__ = ["Desk", "Desks"]


class Desk(NamedTuple):
    """Who runs jobs of one kind, what waits for them, and who chooses."""

    pool: Pool
    ready: Ready
    assigner: Assigner

    def shelf(self, color: str) -> int:
        """Return how many more jobs of a color may be kept here though they cannot start."""
        return max(0, self.pool.slots.count - self.ready.count_of(color))


class Desks:
    """The desks of one worker.

    Attributes:
        ready: The short lists of all of them, as one.
        each: The one for plain functions, and the one for coroutines if there is one.
    """

    def __init__(self, plan: Plan, staff: Staff, pace: Pace) -> None:
        self._coroutines = plan.coroutines
        self._mix = Mix()
        self.ready: Ready | ReadyByKind
        if staff.pool_async is None:
            self.ready = Ready(plan.palette, plan.colors)
            self.each = [Desk(staff.pool, self.ready, Assigner(plan, self.ready, pace))]
        else:
            self.ready = ReadyByKind(plan.palette, plan.colors, plan.coroutines)
            pairs = (staff.pool, self.ready.plain), (staff.pool_async, self.ready.coroutines)
            self.each = [Desk(pool, ready, Assigner(plan, ready, pace)) for pool, ready in pairs]

    def took(self, bundle: Bundle) -> None:
        """Note a message where there are two: of which kind the next ones are is guessed from it."""
        self._mix.took(bundle.color, is_coroutine=bundle.task in self._coroutines)

    def room(self) -> dict[str, int]:
        """Return how many more bundles of each color to take."""
        first, *others = self.each
        room = first.assigner.room(first.pool.working)
        for other in others:  # that of coroutines, if they have one
            theirs = other.assigner.room(other.pool.working)
            for color, count in room.items():
                shelves = first.shelf(color), other.shelf(color)
                room[color] = self._mix.room(color, (count, theirs[color]), shelves)
        return room
