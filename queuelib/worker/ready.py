"""Jobs that wait in this worker for a child: a short list a color, chosen from by the rule in color.py."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from queuelib.color import Palette, choose

if TYPE_CHECKING:
    from queuelib.worker.lease import Hold, Part

__all__ = ["Ready", "ReadyByKind"]


_MOST_ALONE = 8192  # suspects of one color that wait here beside what a child may start; as much as is taken of others


class Ready:
    """The short lists of one worker.

    Suspects that run alone wait in lists of their own, so that whoever comes behind one that may not start yet can.
    """

    def __init__(self, palette: Palette, colors: Sequence[str]) -> None:
        self._palette = palette
        self._lists: dict[str, deque[Part]] = {name: deque() for name in palette.names if name in colors}
        self._alone: dict[str, deque[Part]] = {name: deque() for name in self._lists}
        self._counts = dict.fromkeys(self._lists, 0)
        self._owed: Mapping[str, float] = {}
        self._later: list[tuple[float, int, Part]] = []
        self._order = itertools.count()

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits, nor is held until it is due."""
        return not self._later and not any(self._lists.values()) and not any(self._alone.values())

    def count(self, *, has_alone: bool = False) -> int:
        """Return how many jobs may start, given whether a child has one beside which no other suspect may run."""
        return sum(self._counts.values()) + (0 if has_alone else sum(len(parts) for parts in self._alone.values()))

    def count_of(self, color: str) -> int:
        """Return how many jobs of a color wait; of suspects that run alone only those that are too many."""
        return self._counts[color] + max(0, len(self._alone[color]) - _MOST_ALONE)

    def add(self, part: Part, now: float) -> None:
        """Add jobs; those that are not due yet are held back, for transports that hold nothing back."""
        bundle = part.hold.bundle
        if bundle.due is not None and bundle.due > now:
            heappush(self._later, (bundle.due, next(self._order), part))
        elif part.runs_alone:
            self._alone[bundle.color].append(part)
        else:
            self._lists[bundle.color].append(part)
            self._counts[bundle.color] += part.end - part.at

    def put_back(self, parts: Sequence[Part]) -> None:
        """Return recalled jobs to the heads of their lists, in their order."""
        for part in reversed(parts):
            color = part.hold.bundle.color
            if part.runs_alone:
                self._alone[color].appendleft(part)
            else:
                self._lists[color].appendleft(part)
                self._counts[color] += part.end - part.at

    def promote(self, now: float) -> None:
        """Move what became due."""
        while self._later and self._later[0][0] <= now:
            self.add(heappop(self._later)[2], now)

    def next_due(self) -> float | None:
        """Return when the next held job is due."""
        return self._later[0][0] if self._later else None

    def pop(self, want: Callable[[Part, bool], int], *, has_alone: bool = False) -> Part | None:
        """Remove and return the jobs that start next.

        Args:
            want: Called with jobs that wait at the head of a color's list, and with whether other colors wait as
                well. It returns how many of them are wanted, 0 for none; where other colors wait, the rule between
                them speaks of single starts, and it should want one.
            has_alone: Whether a child has a job beside which no other suspect may run.

        Returns:
            As many as were wanted, or None if none are or nothing waits.
        """
        waiting = [name for name, parts in self._lists.items() if parts or (self._alone[name] and not has_alone)]
        if not waiting:
            return None
        is_contested = len(waiting) > 1
        color, owed = choose(self._palette, waiting, self._owed) if is_contested else (waiting[0], {})
        if color is None:
            return None
        alone = self._alone[color]
        if alone and not has_alone:  # it was here before: somebody had it already
            if want(alone[0], is_contested) <= 0:
                return None
            self._owed = owed
            return alone.popleft()
        parts = self._lists[color]
        first = parts[0]
        count = want(first, is_contested)
        if count <= 0:
            return None
        self._owed = owed
        self._counts[color] -= count
        return parts.popleft() if count >= first.end - first.at else first.cut(count)

    def discard_lost(self, now: float) -> None:
        """Remove the jobs of deliveries that are not ours any more."""
        self._keep(lambda hold: not hold.delivery.is_lost, now)

    def discard(self, unwanted: Hold, now: float) -> None:
        """Remove the jobs of one delivery."""
        self._keep(lambda hold: hold is not unwanted, now)

    def _keep(self, is_wanted: Callable[[Hold], bool], now: float) -> None:
        kept = [part for part in self.drain() if is_wanted(part.hold)]
        for part in kept:
            self.add(part, now)

    def drain(self) -> list[Part]:
        """Remove and return everything."""
        parts = [part for waiting in self._lists.values() for part in waiting]
        parts += [part for alone in self._alone.values() for part in alone]
        parts += [part for _, _, part in self._later]
        for color, waiting in self._lists.items():
            waiting.clear()
            self._alone[color].clear()
            self._counts[color] = 0
        self._later.clear()
        return parts


class ReadyByKind:
    """The same for a worker that runs coroutines elsewhere than plain functions: nobody waits behind the other kind.

    Args:
        palette, colors: As for `Ready`.
        coroutines: Names of the tasks that are coroutines.

    Attributes:
        plain: Jobs of plain functions.
        coroutines: Jobs of coroutines.
    """

    def __init__(self, palette: Palette, colors: Sequence[str], coroutines: Collection[str]) -> None:
        self.plain, self.coroutines = Ready(palette, colors), Ready(palette, colors)
        self._both = self.plain, self.coroutines
        self._names = frozenset(coroutines)

    def is_coroutine(self, part: Part) -> bool:
        """Whether these are jobs of a coroutine."""
        return part.hold.bundle.task in self._names

    @property
    def is_empty(self) -> bool:
        """As of `Ready`."""
        return all(ready.is_empty for ready in self._both)

    def count_of(self, color: str) -> int:
        """As of `Ready`."""
        return sum(ready.count_of(color) for ready in self._both)

    def add(self, part: Part, now: float) -> None:
        """As of `Ready`."""
        self._of(part).add(part, now)

    def put_back(self, parts: Sequence[Part]) -> None:
        """As of `Ready`."""
        for part in reversed(parts):
            self._of(part).put_back((part,))

    def promote(self, now: float) -> None:
        """As of `Ready`."""
        for ready in self._both:
            ready.promote(now)

    def next_due(self) -> float | None:
        """As of `Ready`."""
        return min((due for ready in self._both if (due := ready.next_due()) is not None), default=None)

    def discard_lost(self, now: float) -> None:
        """As of `Ready`."""
        for ready in self._both:
            ready.discard_lost(now)

    def discard(self, unwanted: Hold, now: float) -> None:
        """As of `Ready`."""
        for ready in self._both:
            ready.discard(unwanted, now)

    def drain(self) -> list[Part]:
        """As of `Ready`."""
        return [part for ready in self._both for part in ready.drain()]

    def _of(self, part: Part) -> Ready:
        return self.coroutines if self.is_coroutine(part) else self.plain
