"""Cutting a stream of calls into bundles, and a bundle into its parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from queuelib.envelope import encode
from queuelib.message import Bundle, Outgoing

__all__ = ["MAX_JOBS_A_BUNDLE", "Chunks", "outgoing", "part", "size_at"]

MAX_JOBS_A_BUNDLE = 64  # beyond, the cost of a job's arguments dominates that of its envelope
MAX_BYTES_A_BUNDLE = 64 * 1024  # stays below one AMQP frame (131,072 bytes)
_SINGLES = 256  # the first ones travel alone, so that a short list of long jobs spreads over every machine


def size_at(position: int) -> int:
    """Return how many jobs the bundle that starts at `position` of a stream may hold."""
    return min(MAX_JOBS_A_BUNDLE, 1 + position // _SINGLES)


class Chunks:
    """Cuts encoded argument lists into the columns of successive bundles, in order and lazily.

    It may be left and taken up again: an argument list that was read and did not fit begins the next column.
    """

    def __init__(self, column: Iterable[bytes]) -> None:
        self._column = iter(column)
        self._position = 0
        self._left_over: bytes | None = None

    def __iter__(self) -> Iterator[list[bytes]]:
        return self

    def __next__(self) -> list[bytes]:
        chunk: list[bytes] = [] if self._left_over is None else [self._left_over]
        self._left_over = None
        total = sum(map(len, chunk))
        limit = size_at(self._position)
        while len(chunk) < limit:
            arguments = next(self._column, None)
            if arguments is None:
                break
            if chunk and total + len(arguments) > MAX_BYTES_A_BUNDLE:
                self._left_over = arguments
                break
            chunk.append(arguments)
            total += len(arguments)
        if not chunk:
            raise StopIteration
        self._position += len(chunk)
        return chunk


def part(bundle: Bundle, positions: Sequence[int], **changes: object) -> Bundle:
    """Return the jobs at `positions` of a bundle as a bundle of their own, under their own ids."""
    return replace(
        bundle,
        indexes=[bundle.indexes[p] for p in positions],
        arguments=[bundle.arguments[p] for p in positions],
        **changes,  # type: ignore[arg-type]  # fields of Bundle, checked by dataclasses.replace
    )


def outgoing(bundle: Bundle, *, is_successor: bool = False) -> Outgoing:
    """Return a bundle as the frame that the broker gets.

    Raises:
        TooLarge: It is larger than a message may be.
    """
    return Outgoing(bundle.color, bundle.id, encode(bundle), bundle.due, bundle.size, is_successor)
