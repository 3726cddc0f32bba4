"""Named reductions: in steps they give what one look at all values gives, and always the same bits."""

from __future__ import annotations

import heapq
import math
import statistics
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuelib.errors import ConfigurationError
from queuelib.reductions import TopK, reduced, topk
from tests.unit.fakes import quick

FLOATS = st.floats(-1e6, 1e6)


def in_steps(values: list[Any], how: str, count: int = 0, fan: int = 3) -> Any:
    """Return what steps of a small fan make of values."""
    level, is_first = values, True
    while len(level) > fan:
        cuts = [level[at : at + fan] for at in range(0, len(level), fan)]
        level, is_first = [reduced(cut, how, count, is_first=is_first, is_last=False) for cut in cuts], False
    return reduced(level, how, count, is_first=is_first, is_last=True)


@quick
@given(values=st.lists(st.integers(), min_size=1, max_size=40))
def test_integers(values: list[int]) -> None:
    """Sums and extremes of integers are exact."""
    assert in_steps(values, "sum") == sum(values)
    assert in_steps(values, "min") == min(values)
    assert in_steps(values, "max") == max(values)


@quick
@given(values=st.lists(FLOATS, min_size=2, max_size=40))
def test_floats(values: list[float]) -> None:
    """Sums, means and variances are those of exact arithmetic, but for the last digits; they lose none to cancellation."""
    exact = [Fraction(value) for value in values]
    mean = sum(exact) / len(exact)
    size = max(map(abs, values))
    assert in_steps(values, "sum") == pytest.approx(float(sum(exact)), abs=1e-14 * size * len(values))
    assert in_steps(values, "mean") == pytest.approx(float(mean), abs=1e-14 * size)
    variance = float(sum((value - mean) ** 2 for value in exact) / (len(exact) - 1))
    assert in_steps(values, "variance") == pytest.approx(variance, rel=1e-9, abs=1e-9)
    assert in_steps(values, "sum") == in_steps(values, "sum")


def test_a_small_variance_of_large_values() -> None:
    """The textbook formula has no digit of it left; Chan's has nine."""
    values = [1e9 + value for value in (4.0, 7.0, 13.0, 16.0)] * 100
    assert in_steps(values, "variance") == pytest.approx(statistics.variance(values), rel=1e-9)


@quick
@given(values=st.lists(st.tuples(st.integers(0, 5), st.integers()).map(list), max_size=30), k=st.integers(1, 8))
def test_the_largest_few(values: list[list[int]], k: int) -> None:
    """They are those of a sort; of equal ones the first."""
    numbers = [value[0] for value in values]
    assert in_steps(numbers, "top", k) == sorted(numbers, reverse=True)[:k]
    assert in_steps(numbers, "bottom", k) == sorted(numbers)[:k]
    assert in_steps(values, "top", k) == heapq.nlargest(k, values)


def test_arrays() -> None:
    """They are joined element by element."""
    rows = [np.arange(4.0).reshape(2, 2) * scale for scale in range(1, 11)]
    stacked = np.stack(rows)
    assert np.array_equal(in_steps(rows, "sum"), stacked.sum(axis=0))
    assert np.array_equal(in_steps(rows, "min"), stacked.min(axis=0))
    assert np.array_equal(in_steps(rows, "max"), stacked.max(axis=0))
    assert np.allclose(in_steps(rows, "mean"), stacked.mean(axis=0), rtol=1e-15)
    assert np.allclose(in_steps(rows, "variance"), stacked.var(axis=0, ddof=1), rtol=1e-14)


def test_odd_numbers() -> None:
    """Infinities, NaN, fractions and truth values do what they do elsewhere."""
    inf, nan = math.inf, math.nan
    assert math.isnan(in_steps([inf, 1.0, -inf, 2.0], "sum"))
    assert in_steps([1e308, 1e308, -1e308, -1e308], "sum", fan=4) == inf
    assert math.isnan(in_steps([3.0, nan, 1.0, 2.0], "min"))
    assert math.isnan(in_steps([3.0, 5.0, 1.0, nan], "max"))
    assert in_steps([Fraction(1, 3)] * 6, "sum") == 2
    assert in_steps([True, False, True, True], "sum") == 3
    assert in_steps([True, 0.5], "sum") == 1.5


@pytest.mark.parametrize("how", ["min", "max", "mean"])
def test_no_values(how: str) -> None:
    """Only a sum and the largest few of nothing are something."""
    assert in_steps([], "sum") == 0
    assert in_steps([], "top", 3) == []
    with pytest.raises(ValueError, match="of no values"):
        in_steps([], how)


def test_one_value_does_not_vary() -> None:
    """As `statistics.variance` says, too."""
    with pytest.raises(ValueError, match="two values"):
        in_steps([1.0], "variance")


def test_no_such_reduction() -> None:
    """A newer client may know more."""
    with pytest.raises(ValueError, match="no reduction is called 'median'"):
        in_steps([1.0], "median")


@pytest.mark.parametrize("k", [0, -1, 1.5, "2", None, True])
def test_topk_takes_a_positive_integer(k: Any) -> None:
    """Everything else is refused where it is written."""
    with pytest.raises(ConfigurationError, match="positive number"):
        topk(k)
    assert topk(2, smallest=True) == TopK(2, smallest=True)
