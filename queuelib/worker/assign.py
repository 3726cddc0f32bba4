"""Which child gets which jobs: quick ones by the handful, slow and unknown ones one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from queuelib.worker.pace import HAND_AHEAD, MOST_BYTES_AHEAD, MOST_HANDED, Pace

if TYPE_CHECKING:
    from queuelib.worker.children import Child
    from queuelib.worker.lease import Part
    from queuelib.worker.plan import Plan
    from queuelib.worker.ready import Ready

__all__ = ["Assigner"]

_HUNGRY = 0.5  # of HAND_AHEAD; a child that has more before it gets nothing, so that bundles are seldom cut


class Assigner:
    """Chooses from the short lists."""

    def __init__(self, plan: Plan, ready: Ready, pace: Pace) -> None:
        self._plan = plan
        self._ready = ready
        self._pace = pace
        self._is_watched = plan.isolate or plan.max_memory is not None  # each child is looked at after each job

    def room(self, working: Sequence[Child]) -> dict[str, int]:
        """Return how many more bundles of each color to take."""
        free = sum(self._is_soon_free(child) for child in working)
        return {
            color: self._pace.room(color, self._ready.count_of(color), free, len(working))
            for color in self._plan.colors
        }

    def hungry(self, working: Sequence[Child]) -> list[Child]:
        """Return the children that may get jobs now, those with the least before them first."""
        hungry = [child for child in working if self._may_get_more(child)]
        return sorted(hungry, key=lambda child: child.ahead) if len(hungry) > 1 else hungry

    def choose(self, child: Child, share: int, has_ended: Callable[[Part], bool], *, has_alone: bool) -> list[Part]:
        """Remove from the short lists, and return, what a child gets now.

        Args:
            child: The child.
            share: The most jobs it may get, so that the others get some too.
            has_ended: Whether jobs have ended before their start; they are then passed over.
            has_alone: Whether a child has a job beside which no other suspect may run.
        """
        share = min(share, MOST_HANDED - child.unreported)
        if self._plan.max_jobs is not None:
            share = min(share, self._plan.max_jobs - sum(mate.done + mate.unreported for mate in child.mates))
        basket = _Basket(self._pace, child, share, is_watched=self._is_watched)
        while not basket.is_full:
            part = self._ready.pop(basket.want, has_alone=has_alone)
            if part is None:
                break
            if not has_ended(part):
                basket.add(part)
        return basket.parts

    def _may_get_more(self, child: Child) -> bool:
        if not child.handed:
            return not (self._plan.isolate and child.done)
        if self._plan.isolate or not child.handed[0].cost or child.unreported >= MOST_HANDED:
            return False
        return child.ahead < _HUNGRY * HAND_AHEAD

    def _is_soon_free(self, child: Child) -> bool:
        """Whether a child is idle or runs a quick job; nothing is taken to wait behind slow ones."""
        if not child.handed:
            return not (self._plan.isolate and child.done)
        return not self._plan.isolate and self._pace.estimate(child.handed[0].hold.bundle.task) is not None


class _Basket:
    """What one child gets at once."""

    def __init__(self, pace: Pace, child: Child, share: int, *, is_watched: bool) -> None:
        self.parts: list[Part] = []
        self._pace = pace
        self._share = share
        self._is_watched = is_watched
        self._is_first = not child.handed
        self._ahead = child.ahead
        self._bytes = child.bytes_ahead
        self._cost = 0.0

    @property
    def is_full(self) -> bool:
        """Whether nothing more fits."""
        return self._share <= 0 or self._ahead >= HAND_AHEAD

    def want(self, part: Part, is_contested: bool) -> int:  # noqa: FBT001 - as `Ready.pop` calls it
        """Return how many of these jobs fit."""
        hold = part.hold
        is_suspect = bool(hold.starts) and part.is_suspect
        estimate = self._pace.estimate(hold.bundle.task)
        self._cost = estimate or 0.0
        if estimate is None or is_suspect or self._is_watched:
            self._cost = 0.0
            return 1 if self._is_first else 0
        if not self._is_first and self._bytes + len(hold.bundle.column) > MOST_BYTES_AHEAD:
            return 0
        count = part.end - part.at
        if is_contested or count == 1:
            return 1
        fitting = int((HAND_AHEAD - self._ahead) / max(estimate, 1e-7))
        if 2 * fitting >= count:
            fitting = count  # a cut costs more than it gives
        return min(self._share, max(1, fitting), count)

    def add(self, part: Part) -> None:
        """Put jobs in that were wanted."""
        if not self._cost:
            self._share = 0  # it goes alone
        part.cost = self._cost
        self._is_first = False
        count = part.end - part.at
        self._share -= count
        self._ahead += part.cost * count
        last = self.parts[-1] if self.parts else None
        if last is None or last.hold is not part.hold:
            self._bytes += len(part.hold.bundle.column)
        elif last.end == part.at:
            last.end = part.end
            return
        self.parts.append(part)
