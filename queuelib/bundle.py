"""Cutting a stream of calls into bundles, and a bundle into its parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from queuelib import codec
from queuelib.envelope import encode
from queuelib.message import Bundle, Outgoing, queue_of
from queuelib.signing import Keyring

__all__ = ["BoundedSizes", "Chunk", "Chunks", "Sizes", "outgoing", "part"]

MAX_BYTES_A_BUNDLE = 64 * 1024  # stays below one AMQP frame (131,072 bytes)
MAX_JOBS_A_BUNDLE = 4096
TARGET = 0.1  # seconds of work in a bundle: long enough to hide its costs, short enough to spread and to lose
QUICK = 0.020  # seconds; a slower job travels alone
_SINGLES = 256  # of a task that nobody has timed: the first jobs travel alone, for they may be long ones,
_UNKNOWN = 64  # and the later ones in bundles of at most so many
_MEMORY = TARGET  # seconds of work


class Sizes:
    """How many jobs of one task go into a bundle: by their run times, as the outcomes tell them."""

    def __init__(self) -> None:
        self._spent = 0.0  # seconds, and
        self._jobs = 0.0  # jobs that were run in them, both fading with the time that others ran since
        self._size = 1

    def ran(self, seconds: float, count: int) -> None:
        """Note the mean run time of some jobs; the size at most doubles with each note, and shrinks at once."""
        spent = seconds * count
        if not 0.0 <= spent < math.inf:
            return  # a stored number may be anything
        kept = math.exp(-spent / _MEMORY)  # so that a stall in one job of thousands does not count for all
        self._spent = self._spent * kept + spent
        self._jobs = self._jobs * kept + count
        mean = max(self._spent / self._jobs, 1e-6)
        fitting = 1 if mean > QUICK * (1.0 + 1e-9) else int(TARGET / mean + 1e-9)
        self._size = max(1, min(fitting, 2 * self._size, MAX_JOBS_A_BUNDLE))

    def at(self, position: int) -> int:
        """Return how many jobs the bundle that starts at `position` of a stream may hold."""
        if not self._jobs:
            return min(_UNKNOWN, 1 + position // _SINGLES)
        return self._size


class BoundedSizes(Sizes):
    """Sizes that keep within bounds; what they learn, others learn as well.

    Args:
        usual: What they would be.
        least: Fewest jobs in a bundle.
        most: Most.
    """

    def __init__(self, usual: Sizes, least: int, most: int) -> None:
        super().__init__()
        self._usual = usual
        self._most = min(most, MAX_JOBS_A_BUNDLE)
        self._least = min(least, self._most)

    def ran(self, seconds: float, count: int) -> None:
        """Note the mean run time of some jobs."""
        self._usual.ran(seconds, count)

    def at(self, position: int) -> int:
        """Return how many jobs the bundle that starts at `position` of a stream may hold."""
        return max(self._least, min(self._usual.at(position), self._most))


class Chunk:
    """Some calls, encoded as the column of one bundle."""

    __slots__ = ("column", "count")

    def __init__(self, column: bytes, count: int) -> None:
        self.column = column
        self.count = count


class Chunks:
    """Cuts calls into the columns of successive bundles, in order and lazily.

    Args:
        calls: The calls, in whatever form `pack` takes them.
        pack: Encodes some calls as one column.
        sizes: How many go together.
        total: Number of calls if it is known: towards the end bundles get smaller, so that the last ones spread.
    """

    def __init__(
        self,
        calls: Iterable[Any],
        pack: Callable[[Sequence[Any]], bytes],
        sizes: Sizes,
        total: int | None = None,
    ) -> None:
        self._calls = iter(calls)
        self._pack = pack
        self._sizes = sizes
        self._total = total
        self._position = 0
        self._left_over: list[Chunk] = []
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        if not self._left_over:
            size = self._sizes.at(self._position)
            if self._total is not None:
                size = max(1, min(size, (self._total - self._position) // _LAST_SPREAD))
            calls: list[Any] = []
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            try:
                calls.extend(islice(self._calls, size))
            except Exception as failure:  # of somebody's iterable
                if not calls:
                    raise
                self._error = failure  # it comes after those that came before it
            if not calls:
                raise StopIteration
            self._left_over = self._fitting(calls)
        chunk = self._left_over.pop()
        self._position += chunk.count
        return chunk

    def _fitting(self, calls: list[Any]) -> list[Chunk]:
        """Return columns that are not too large, the first one last."""
        column = self._pack(calls)
        if len(column) <= MAX_BYTES_A_BUNDLE or len(calls) == 1:
            return [Chunk(column, len(calls))]
        middle = len(calls) // 2
        return self._fitting(calls[middle:]) + self._fitting(calls[:middle])


_LAST_SPREAD = 8  # bundles that the last calls are spread over at the least


def part(bundle: Bundle, positions: Sequence[int], **changes: Any) -> Bundle:
    """Return the jobs at `positions` of a bundle as a bundle of their own, under their own ids."""
    if len(positions) == len(bundle.indexes):
        return bundle._replace(**changes)
    rows = codec.split_list(bundle.column, len(bundle.indexes))
    return bundle._replace(
        indexes=[bundle.indexes[p] for p in positions],
        column=codec.encoded_list([rows[p] for p in positions]),
        **changes,
    )


def outgoing(bundle: Bundle, keys: Keyring | None = None, *, is_successor: bool = False) -> Outgoing:
    """Return a bundle as the frame that the broker gets, signed if there are keys.

    Raises:
        TooLarge: It is larger than a message may be.
    """
    return Outgoing(
        queue_of(bundle),
        bundle.id,
        encode(bundle, keys),
        None if bundle.inputs else bundle.due,
        bundle.size,
        is_successor,
    )
