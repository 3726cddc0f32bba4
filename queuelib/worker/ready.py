"""Jobs that wait in this worker for a child: a short list a color, chosen from by the rule in color.py."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from queuelib.color import Palette, choose

if TYPE_CHECKING:
    from queuelib.worker.lease import Hold, Member

__all__ = ["Ready"]


class Ready:
    """The short lists of one worker."""

    def __init__(self, palette: Palette, colors: Sequence[str]) -> None:
        self._palette = palette
        self._lists: dict[str, deque[Member]] = {name: deque() for name in palette.names if name in colors}
        self._owed: Mapping[str, float] = {}
        self._owed_before: Mapping[str, float] = {}
        self._later: list[tuple[float, int, Member]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return sum(map(len, self._lists.values()))

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits, nor is held until it is due."""
        return not self._later and not any(self._lists.values())

    def count(self, color: str) -> int:
        """Return how many jobs of a color wait."""
        return len(self._lists[color])

    def add(self, member: Member, now: float) -> None:
        """Add a job; one that is not due yet is held back, for transports that hold nothing back."""
        due = member.bundle.due
        if due is not None and due > now:
            heappush(self._later, (due, next(self._order), member))
        else:
            self._lists[member.bundle.color].append(member)

    def put_back(self, members: Sequence[Member]) -> None:
        """Return recalled jobs to the heads of their lists, in their order."""
        for member in reversed(members):
            self._lists[member.bundle.color].appendleft(member)

    def promote(self, now: float) -> None:
        """Move what became due."""
        while self._later and self._later[0][0] <= now:
            member = heappop(self._later)[2]
            self._lists[member.bundle.color].append(member)

    def next_due(self) -> float | None:
        """Return when the next held job is due."""
        return self._later[0][0] if self._later else None

    def pop(self, is_startable: Callable[[Member], bool]) -> Member | None:
        """Remove and return the job that starts next; None if none waits or its color's first may not start now."""
        waiting = [name for name, members in self._lists.items() if members and is_startable(members[0])]
        color, owed = choose(self._palette, waiting, self._owed)
        if color is None:
            return None
        self._owed_before, self._owed = self._owed, owed
        return self._lists[color].popleft()

    def unpop(self, member: Member) -> None:
        """Return the job that was popped last: it could not be handed over after all, and is still owed its start."""
        self._lists[member.bundle.color].appendleft(member)
        self._owed = self._owed_before

    def most_urgent(self) -> int | None:
        """Return the rank of the most urgent color that waits, 0 for the first of the palette."""
        for rank, name in enumerate(self._palette.names):
            if self._lists.get(name):
                return rank
        return None

    def drain(self) -> list[Member]:
        """Remove and return everything."""
        members = [member for waiting in self._lists.values() for member in waiting]
        members += [member for _, _, member in self._later]
        for waiting in self._lists.values():
            waiting.clear()
        self._later.clear()
        return members

    def discard(self, hold: Hold) -> None:
        """Remove the jobs of a delivery."""
        for waiting in self._lists.values():
            if any(member.hold is hold for member in waiting):
                kept = [member for member in waiting if member.hold is not hold]
                waiting.clear()
                waiting.extend(kept)
        self._later = [entry for entry in self._later if entry[2].hold is not hold]
        heapify(self._later)
        heapify(self._later)

    def __iter__(self) -> Iterator[Member]:
        return itertools.chain(*self._lists.values())
