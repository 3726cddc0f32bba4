"""Functions with known minima, by which an optimizer can be judged; everything is minimized.

The formulas, bounds and minima of the real ones are those of Surjanovic and Bingham, "Virtual Library of Simulation
Experiments: Test Functions and Datasets" (sfu.ca/~ssurjano/optimization.html), which names the originals given below.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["OBJECTIVES", "Objective", "Points", "Values", "find_objective"]

Points = NDArray[np.float64]
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Objective:
    """A function to minimize.

    Attributes:
        name: What users call it.
        function: Maps `points: (n, d) float64, a row per individual` to `(n,) float64`.
        lower: Least value of each coordinate.
        upper: Greatest value of each coordinate.
        minimum: Its least value.
        minimum_at: Each coordinate of the point that has it.
        is_binary: Coordinates are 0.0 or 1.0 and nothing between.
        min_dimensions: Fewest coordinates for which it is defined.
    """

    name: str
    function: Callable[[Points], Values]
    lower: float
    upper: float
    minimum: float
    minimum_at: float
    is_binary: bool = False
    min_dimensions: int = 1

    @property
    def width(self) -> float:
        """Length of the range of each coordinate."""
        return self.upper - self.lower

    def at(self, genome: Sequence[float]) -> float:
        """Return the value at one point.

        Example:
            >>> find_objective("sphere").at([3.0, 4.0])
            25.0
        """
        return float(self.function(np.array([genome], dtype=np.float64))[0])


def find_objective(name: str) -> Objective:
    """Return the objective called `name`.

    Raises:
        ValueError: There is none; the message suggests the nearest name and lists all.
    """
    try:
        return OBJECTIVES[name]
    except KeyError:
        near = get_close_matches(name, OBJECTIVES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        msg = f"there is no domain {name!r}; {hint}known: {', '.join(OBJECTIVES)}"
        raise ValueError(msg) from None


def _sphere(x: Points) -> Values:
    """Sum of squares; De Jong (1975), function 1."""
    return np.asarray((x * x).sum(axis=1), dtype=np.float64)


def _rastrigin(x: Points) -> Values:
    """10 d + sum of x^2 - 10 cos(2 pi x): about 11**d local minima; Rastrigin (1974)."""
    return np.asarray((x * x + 10.0 * (1.0 - np.cos(2.0 * math.pi * x))).sum(axis=1), dtype=np.float64)


def _rosenbrock(x: Points) -> Values:
    """Sum of 100 (x[i+1] - x[i]^2)^2 + (1 - x[i])^2: a curved valley; Rosenbrock (1960)."""
    head, tail = x[:, :-1], x[:, 1:]
    return np.asarray((100.0 * (tail - head * head) ** 2 + (1.0 - head) ** 2).sum(axis=1), dtype=np.float64)


def _ackley(x: Points) -> Values:
    """Flat far out, one deep hole at 0; Ackley (1987). Rounding leaves 4.4e-16 at its minimum."""
    far = -20.0 * np.exp(-0.2 * np.sqrt((x * x).mean(axis=1)))
    return np.asarray(far - np.exp(np.cos(2.0 * math.pi * x).mean(axis=1)) + 20.0 + math.e, dtype=np.float64)


def _onemax(x: Points) -> Values:
    """Count the zeros among the bits, so that less is better; Schaffer and Eshelman (1991)."""
    return np.asarray((x < 0.5).sum(axis=1), dtype=np.float64)  # noqa: PLR2004 - halfway between the two bits


OBJECTIVES = {
    objective.name: objective
    for objective in (
        Objective("sphere", _sphere, -5.12, 5.12, minimum=0.0, minimum_at=0.0),
        Objective("rastrigin", _rastrigin, -5.12, 5.12, minimum=0.0, minimum_at=0.0),
        Objective("rosenbrock", _rosenbrock, -5.0, 10.0, minimum=0.0, minimum_at=1.0, min_dimensions=2),
        Objective("ackley", _ackley, -32.768, 32.768, minimum=0.0, minimum_at=0.0),
        Objective("onemax", _onemax, 0.0, 1.0, minimum=0.0, minimum_at=1.0, is_binary=True),
    )
}
