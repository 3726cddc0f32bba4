"""Which children do the work of a worker that was promised so many: those whose jobs wait for others do not count.

A job that waits lends its slot: another child works in its place, one that was hired for that or has nothing to do. When
it goes on there is one child too many. It gets no more jobs, is kept for a moment as the next one who waits may need it,
and leaves. What still runs in a process that is about to end has its slot, too, while its lanes that are idle have none.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from queuelib.worker.children import Child

__all__ = ["Slots"]

_log = logging.getLogger("queuelib.worker")
_LENT_AFTER = 0.03  # seconds; hiring a child takes 3 ms, and many waits are for what is about to end
_SPARE_FOR = 2.0  # seconds; a child that stays has its connections already
_MOST_LENT = 256  # at once: each is a process, with three descriptors here, of which 1,024 are usual


class Slots:
    """The slots of one worker.

    Args:
        count: How many children are to work at the same time.
        lanes: How many of them share a process, and come together.

    Attributes:
        count: The same.
        is_settled: Whether nobody lends, nobody is too many, and nobody is about to leave.
    """

    def __init__(self, count: int, lanes: int = 1) -> None:
        self.count = count
        self._lanes = lanes
        self.is_settled = True
        self._next_look = float("inf")
        self._is_exhausted = False

    def able(self, children: Sequence[Child]) -> list[Child]:
        """Return those who may do something: who does not wait for others, and is not about to leave."""
        return [child for child in children if not child.is_retiring and not child.is_lending]

    def has_vacancy(self, children: Sequence[Child]) -> bool:
        """Whether one more process is needed: none is for a part of those who wait, nor if none of it could work."""
        able = len(self.able(children))
        return able + self._lanes <= self.count and able + _count_leaving(children) < self.count

    def working(self, children: Sequence[Child]) -> list[Child]:
        """Return those that may get jobs: not more than there are slots, and first those that have some."""
        if self.is_settled:
            return [child for child in children if not child.is_retiring]
        able = self.able(children)
        count = max(0, self.count - _count_leaving(children))
        if len(able) <= count:
            return able
        return sorted(able, key=_has_nothing)[:count]

    def look(self, children: Sequence[Child], now: float) -> list[Child]:
        """Note who waits and who goes on; return those that are to do no more than what they run."""
        if self.is_settled and not any(child.is_retiring or child.slot.waits for child in children):
            self._next_look = float("inf")
            return []
        self.is_settled = False
        over = self._note_lenders(children, now)
        spare = self._note_spare(children, now)
        self.is_settled = not spare and not any(child.is_retiring or child.is_lending for child in children)
        return over + spare

    @property
    def next_look(self) -> float:
        """When, on the monotonic clock, a job will have waited for so long that it lends its slot; as of the last look."""
        return self._next_look

    def outstayed(self, children: Sequence[Child], now: float) -> list[Child]:
        """Return those that were too many for long, with all of their process, and have nothing to do."""
        if self.is_settled:
            return []
        return [child for child in children if all(_has_outstayed(mate, now) for mate in child.mates)]

    def _note_lenders(self, children: Sequence[Child], now: float) -> list[Child]:
        """Return those that lend their slots from now on."""
        waits = {child: since for child in children if (since := child.waits_since()) is not None}
        for child in children:
            child.is_lending = child.is_lending and child in waits
        due = [child for child, since in waits.items() if not child.is_lending and now - since >= _LENT_AFTER]
        room = _MOST_LENT - sum(child.is_lending for child in children)
        new, is_exhausted = due[:room], len(due) > room
        for child in new:
            child.is_lending = True
        if is_exhausted and not self._is_exhausted:
            _log.warning(
                "%d jobs of this worker wait for others, and no further one lends its slot: where all wait for what is "
                "queued, nothing goes on without another worker",
                _MOST_LENT,
            )
        self._is_exhausted = is_exhausted
        soon = [since for child, since in waits.items() if not child.is_lending]
        self._next_look = min(soon) + _LENT_AFTER if soon and not is_exhausted else float("inf")
        return new

    def _note_spare(self, children: Sequence[Child], now: float) -> list[Child]:
        """Return those that are too many."""
        working = self.working(children)
        spare = [child for child in self.able(children) if child not in working]
        for child in working:
            child.spare_since = 0.0
        for child in spare:
            child.spare_since = child.spare_since or now
        return spare


def _count_leaving(children: Sequence[Child]) -> int:
    """Return how many of those that are about to leave still do something."""
    return sum(child.is_retiring and not child.is_lending and bool(child.handed) for child in children)


def _has_outstayed(child: Child, now: float) -> bool:
    return 0.0 < child.spare_since < now - _SPARE_FOR and child.is_idle


def _has_nothing(child: Child) -> bool:
    return not child.handed
