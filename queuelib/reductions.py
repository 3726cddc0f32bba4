"""Named ways to join many values to one, in steps: sums, extremes, means, variances, the largest few.

Each is three functions: what a step makes of values, what a later step makes of such parts, and what is left in the end. All
are told which values come first, and give the same bits for the same values cut in the same places. Arrays are joined
element by element.

Means and variances are joined by the formula of T. F. Chan, G. H. Golub and R. J. LeVeque, "Updating Formulae and a Pairwise
Algorithm for Computing Sample Variances" (Stanford STAN-CS-79-773, 1979), equations 2.1a and 2.1b, which does not lose
the digits that the difference of two large sums loses.
"""

from __future__ import annotations

import functools
import heapq
import math
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, cast

from queuelib.errors import ConfigurationError

__all__ = ["NAMES", "Name", "TopK", "reduced", "topk"]

Name = Literal["sum", "min", "max", "mean", "variance"]


@dataclass(frozen=True, slots=True)
class TopK:
    """The `k` largest values, or the smallest; `topk` makes one."""

    k: int
    smallest: bool = False


def topk(k: int, *, smallest: bool = False) -> TopK:
    """Return a reduction to the `k` largest values, largest first; of equal ones those that came first.

    Values are compared as they are: numbers, texts, or lists, of which the first element that differs decides.

    Args:
        k: How many, at least 1; all if there are fewer.
        smallest: The smallest instead, smallest first.

    Raises:
        ConfigurationError: It is no positive integer.

    Example:
        >>> topk(3)
        TopK(k=3, smallest=False)
    """
    given = cast("object", k)  # of whoever has no type checker
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        msg = f"topk takes a positive number of values to keep, not {given!r}"
        raise ConfigurationError(msg)
    return TopK(k, smallest)


def reduced(items: Sequence[Any], how: str, count: int, *, is_first: bool, is_last: bool) -> Any:
    """Return what one step makes of its items.

    Args:
        items: Values, in the first step; else what such steps returned, in order.
        how: One of `NAMES`.
        count: For `top` and `bottom`: how many.
        is_first: Whether the items are values.
        is_last: Whether what is returned is the result.

    Raises:
        ValueError: There are too few values; they are no numbers where numbers are needed; no reduction is called so.
    """
    if how not in _WAYS:
        msg = f"no reduction is called {how!r}; there are {', '.join(NAMES)}"
        raise ValueError(msg)
    make, join, finish = _WAYS[how]
    part = (make if is_first else join)(items, count)
    return finish(part) if is_last else part


def _sum(items: Sequence[Any], _: int = 0) -> Any:
    """Return a sum: exact of integers, the float next to the exact sum of floats, in order of all else."""
    kinds = set(map(type, items))
    if float in kinds and kinds <= {float, int, bool}:
        try:
            return math.fsum(items)
        except (OverflowError, ValueError):  # infinities of both signs, or beyond the largest float on the way
            return sum(items)
    return functools.reduce(operator.add, items) if items else 0


def _min(items: Sequence[Any], _: int) -> Any:
    return _extreme(items, min, "minimum")


def _max(items: Sequence[Any], _: int) -> Any:
    return _extreme(items, max, "maximum")


def _extreme(items: Sequence[Any], choose: Callable[[Sequence[Any]], Any], of_arrays: str) -> Any:
    """Return the first of the smallest or largest; where one is NaN, that."""
    if not items:
        msg = f"there is no {of_arrays} of no values"
        raise ValueError(msg)
    numpy = sys.modules.get("numpy")
    if numpy is not None and any(isinstance(item, numpy.ndarray) for item in items):
        return functools.reduce(getattr(numpy, of_arrays), items)
    not_a_number = next((item for item in items if isinstance(item, float) and math.isnan(item)), None)
    return choose(items) if not_a_number is None else not_a_number


def _moments(items: Sequence[Any], _: int) -> list[Any]:
    """Return number, mean, and sum of the squares of the differences from it."""
    if not items:
        return [0, 0.0, 0.0]
    mean = _sum(items) / len(items)
    return [len(items), mean, _sum([(item - mean) * (item - mean) for item in items])]


def _joined_moments(parts: Sequence[Any], _: int) -> list[Any]:
    count, mean, squares = 0, 0.0, 0.0
    for more, other_mean, other_squares in parts:
        if not count or not more:
            count, mean, squares = (more, other_mean, other_squares) if more else (count, mean, squares)
            continue
        both, apart = count + more, other_mean - mean
        mean = mean + apart * more / both
        squares = squares + other_squares + apart * apart * count * more / both
        count = both
    return [count, mean, squares]


def _mean(part: Sequence[Any]) -> Any:
    count, mean, _ = part
    if not count:
        msg = "there is no mean of no values"
        raise ValueError(msg)
    return mean


def _variance(part: Sequence[Any]) -> Any:
    count, _, squares = part
    if count < 2:  # noqa: PLR2004 - one value does not vary
        msg = f"a sample's variance takes two values at the least, and not {count}"
        raise ValueError(msg)
    return squares / (count - 1)


def _top(items: Sequence[Any], count: int) -> list[Any]:
    return heapq.nlargest(count, items)  # which keeps the order of equal ones


def _bottom(items: Sequence[Any], count: int) -> list[Any]:
    return heapq.nsmallest(count, items)


def _itself(part: Any) -> Any:
    return part


_WAYS: Mapping[
    str, tuple[Callable[[Sequence[Any], int], Any], Callable[[Sequence[Any], int], Any], Callable[[Any], Any]]
] = {
    "sum": (_sum, _sum, _itself),
    "min": (_min, _min, _itself),
    "max": (_max, _max, _itself),
    "mean": (_moments, _joined_moments, _mean),
    "variance": (_moments, _joined_moments, _variance),
    "top": (_top, lambda parts, count: _top(list(chain.from_iterable(parts)), count), _itself),
    "bottom": (_bottom, lambda parts, count: _bottom(list(chain.from_iterable(parts)), count), _itself),
}
NAMES = tuple(_WAYS)
