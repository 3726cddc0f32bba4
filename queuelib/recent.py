"""What was seen lately, in bounded memory."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

__all__ = ["Recent"]

T = TypeVar("T", bound=Hashable)


class Recent(Generic[T]):
    """Remembers the latest values, at least `fewest` and at most twice as many; threads that add at once may lose some.

    The older half is dropped at once: a dictionary that loses its first entries one by one has to be walked through,
    and made anew, ever again.

    >>> recent = Recent[int](2)
    >>> recent.add([1, 2, 3, 4, 5])
    >>> 1 in recent, 4 in recent
    (False, True)
    """

    def __init__(self, fewest: int) -> None:
        self._fewest = fewest
        self._new: set[T] = set()
        self._old: set[T] = set()

    def add(self, values: Iterable[T]) -> None:
        """Remember values."""
        for value in values:
            if len(self._new) >= self._fewest:
                self._old, self._new = self._new, set()
            self._new.add(value)

    def __contains__(self, value: object) -> bool:
        return value in self._new or value in self._old

    def __len__(self) -> int:
        return len(self._new | self._old)
