"""Monte Carlo in groups: each group of trials is a job, and the fan-in merges (n, mean, M2) of the groups in order.

Every group draws from a stream named by its number, and groups are merged by number, so the serial loop and any
number of workers give the same estimate, bit for bit.

    >>> estimate = pi(200_000, groups=4, root_seed=1, serial=True)
    >>> abs(estimate.value - estimate.reference) < 4 * estimate.standard_error
    True
"""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from queuelib import Dispatcher
from queuelib.workloads.ordered import Here, in_order
from queuelib.workloads.streams import stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from queuelib.workloads.ordered import Pending

__all__ = [
    "Estimate",
    "Moments",
    "black_scholes",
    "dispatcher",
    "european_option",
    "option_group",
    "pi",
    "pi_group",
    "run",
]

CHUNK = 1 << 15  # trials at a time: two float64 arrays of them, 512 KiB together, stay in the cache

Kind = Literal["call", "put"]

dispatcher = Dispatcher(namespace="demo-pi")


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean and sum of squared deviations from the mean: all that an estimate needs of its trials.

    Example:
        >>> Moments.of([1.0, 2.0]).merge(Moments.of([6.0]))
        Moments(n=3, mean=3.0, m2=14.0)
    """

    n: int = 0
    mean: float = 0.0
    m2: float = 0.0

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray[Any, np.dtype[np.float64]]) -> Moments:
        """Return the moments of `values: (n,) float64`, which may be empty."""
        array = np.asarray(values, dtype=np.float64)
        if not array.size:
            return cls()
        mean = float(array.mean())
        return cls(array.size, mean, float(((array - mean) ** 2).sum()))

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both samples together.

        The pairwise update of Chan, Golub and LeVeque (1979), "Updating formulae and a pairwise algorithm for
        computing sample variances", Stanford STAN-CS-79-773, equation 2.1; it never subtracts two large sums.
        """
        if not self.n or not other.n:
            return self if self.n else other
        n = self.n + other.n
        delta = other.mean - self.mean
        return Moments(
            n,
            self.mean + delta * (other.n / n),
            self.m2 + other.m2 + delta * delta * (self.n / n * other.n),
        )

    @property
    def standard_error(self) -> float:
        """Estimated standard deviation of the mean; infinite below two trials."""
        if self.n < 2:  # noqa: PLR2004 - one value shows no spread
            return math.inf
        return math.sqrt(self.m2 / (self.n - 1) / self.n)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a simulation found, beside what it should find.

    Attributes:
        value: The estimate.
        standard_error: Its estimated standard deviation; falls as one over the square root of `n`.
        n: Number of trials.
        reference: The exact value.
        z: Distance from it in standard errors, beyond 4 once in 16,000 honest runs; None where the trials so far
            show no spread to measure it by.
    """

    value: float
    standard_error: float
    n: int
    reference: float
    z: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, ready for JSON: a standard error that is not finite becomes None."""
        finite = self.standard_error if math.isfinite(self.standard_error) else None
        return asdict(self) | {"standard_error": finite}


def run(
    *,
    points: int = 600_000_000,
    groups: int = 200,
    root_seed: int = 20260101,
    serial: bool = False,
    on_group: Callable[[int, Estimate], object] | None = None,
    on_done: Callable[[int, int], object] | None = None,
) -> Estimate:
    """Run the demonstration: `pi`, with enough points to keep a core busy for some seconds."""
    return pi(points, groups=groups, root_seed=root_seed, serial=serial, on_group=on_group, on_done=on_done)


def pi(
    points: int,
    *,
    groups: int,
    root_seed: int,
    serial: bool = False,
    on_group: Callable[[int, Estimate], object] | None = None,
    on_done: Callable[[int, int], object] | None = None,
) -> Estimate:
    """Estimate pi by the share of random points of the unit square that lie within the quarter circle.

    Args:
        points: In all groups together; the standard error is 1.642 / sqrt(points).
        groups: Number of jobs; no more than points.
        root_seed: Same seed and groups, same bits, serial or not.
        serial: Simulate here, without any broker.
        on_group: Called after each group, in order, with the number of groups and the estimate so far.
        on_done: Called after each group, in order, with the numbers of groups done and failed.

    Raises:
        ValueError: Not `1 <= groups <= points`.
        Exception: What the first failing group raised; groups that have not started are cancelled.
    """
    arguments = [(size, root_seed, group) for group, size in enumerate(_split(points, groups))]
    jobs: Sequence[Pending[tuple[int, float, float]]]
    jobs = [Here(partial(_pi_moments, *each)) for each in arguments] if serial else pi_group.submit_many(arguments)
    return _fan_in(jobs, math.pi, on_group, on_done)


def european_option(  # noqa: PLR0917 - the contract has six terms
    spot: float,
    strike: float,
    rate: float,
    volatility: float,
    maturity: float,
    kind: Kind = "call",
    *,
    paths: int,
    groups: int,
    root_seed: int,
    serial: bool = False,
    on_group: Callable[[int, Estimate], object] | None = None,
    on_done: Callable[[int, int], object] | None = None,
) -> Estimate:
    """Estimate the price of a European option under geometric Brownian motion.

    Args:
        spot: Price of the underlying now, above 0.
        strike: Price at which it may be bought (`call`) or sold (`put`) at maturity, above 0.
        rate: Riskless rate a year, continuously compounded, as a fraction.
        volatility: A year, as a fraction, above 0.
        maturity: In years, above 0.
        kind: `call` or `put`.
        paths: In all groups together.
        groups: Number of jobs; no more than paths.
        root_seed: Same seed and groups, same bits, serial or not.
        serial: Simulate here, without any broker.
        on_group: Called after each group, in order, with the number of groups and the estimate so far.
        on_done: Called after each group, in order, with the numbers of groups done and failed.

    Raises:
        ValueError: A term or number outside its range.
        Exception: What the first failing group raised; groups that have not started are cancelled.

    Example:
        >>> estimate = european_option(100, 100, 0.05, 0.2, 1, paths=10_000, groups=2, root_seed=1, serial=True)
        >>> round(estimate.reference, 6)
        10.450584
    """
    terms = (float(spot), float(strike), float(rate), float(volatility), float(maturity), kind)
    reference = black_scholes(*terms)
    arguments = [(*terms, size, root_seed, group) for group, size in enumerate(_split(paths, groups))]
    jobs: Sequence[Pending[tuple[int, float, float]]]
    jobs = [Here(partial(_option_moments, *each)) for each in arguments]
    if not serial:
        jobs = option_group.submit_many(arguments)
    return _fan_in(jobs, reference, on_group, on_done)


def black_scholes(  # noqa: PLR0917 - the contract has six terms
    spot: float, strike: float, rate: float, volatility: float, maturity: float, kind: Kind = "call"
) -> float:
    """Return the exact price of a European option without dividends.

    Black and Scholes (1973), "The Pricing of Options and Corporate Liabilities", J. Political Economy 81, equation 13;
    the put by put-call parity's closed form. The terms are those of `european_option`.

    Raises:
        ValueError: An unknown kind, or a term outside its range.

    Example:
        >>> round(black_scholes(42, 40, 0.10, 0.20, 0.5), 4)  # Hull, "Options, Futures, and Other Derivatives"
        4.7594
    """
    if kind not in ("call", "put"):
        msg = f"kind is 'call' or 'put', not {kind!r}"
        raise ValueError(msg)
    if not (math.isfinite(rate) and all(0 < term < math.inf for term in (spot, strike, volatility, maturity))):
        terms = f"{spot=}, {strike=}, {rate=}, {volatility=}, {maturity=}"
        msg = f"all terms are finite, and spot, strike, volatility and maturity above 0, not {terms}"
        raise ValueError(msg)
    spread = volatility * math.sqrt(maturity)
    d1 = (math.log(spot / strike) + (rate + volatility**2 / 2) * maturity) / spread
    sign = 1.0 if kind == "call" else -1.0
    owed = strike * math.exp(-rate * maturity)
    return sign * (spot * _normal_cdf(sign * d1) - owed * _normal_cdf(sign * (d1 - spread)))


@dispatcher.task(color="yellow", name="monte_carlo.pi_group")
def pi_group(points: int, root_seed: int, group: int) -> tuple[int, float, float]:
    """Throw one group of points; return n, mean and M2 of 4 for each hit and 0 for each miss."""
    return _pi_moments(points, root_seed, group)


@dispatcher.task(color="yellow", name="monte_carlo.option_group")
def option_group(  # noqa: PLR0917 - the contract has six terms
    spot: float,
    strike: float,
    rate: float,
    volatility: float,
    maturity: float,
    kind: Kind,
    paths: int,
    root_seed: int,
    group: int,
) -> tuple[int, float, float]:
    """Simulate one group of paths; return n, mean and M2 of the discounted payoff."""
    return _option_moments(spot, strike, rate, volatility, maturity, kind, paths, root_seed, group)


def _pi_moments(points: int, root_seed: int, group: int) -> tuple[int, float, float]:
    draws = stream(root_seed, group)
    x, y = np.empty((2, min(CHUNK, points)))
    hits = 0
    for size in _chunks(points):
        x, y = x[:size], y[:size]  # only the last chunk is shorter
        draws.random(out=x)
        draws.random(out=y)
        np.multiply(x, x, out=x)
        np.multiply(y, y, out=y)
        np.add(x, y, out=x)
        hits += int(np.count_nonzero(x < 1.0))
    return points, 4.0 * hits / points, 16.0 * (hits * (points - hits) / points)


def _option_moments(  # noqa: PLR0917 - the contract has six terms
    spot: float,
    strike: float,
    rate: float,
    volatility: float,
    maturity: float,
    kind: Kind,
    paths: int,
    root_seed: int,
    group: int,
) -> tuple[int, float, float]:
    """Draw the price at maturity at once: its distribution is known exactly, so no time step adds a bias."""
    draws = stream(root_seed, group)
    sign = 1.0 if kind == "call" else -1.0
    drift, spread = (rate - volatility**2 / 2) * maturity, volatility * math.sqrt(maturity)
    total = Moments()
    for size in _chunks(paths):
        final = spot * np.exp(drift + spread * draws.standard_normal(size))
        payoff = math.exp(-rate * maturity) * np.maximum(sign * (final - strike), 0.0)
        total = total.merge(Moments.of(payoff))
    return total.n, total.mean, total.m2


def _fan_in(
    jobs: Sequence[Pending[tuple[int, float, float]]],
    reference: float,
    on_group: Callable[[int, Estimate], object] | None,
    on_done: Callable[[int, int], object] | None,
) -> Estimate:
    total = Moments()
    with closing(in_order(jobs, on_done=on_done)) as parts:
        for done, (n, mean, m2) in enumerate(parts, 1):
            total = total.merge(Moments(n, mean, m2))
            if on_group is not None:
                on_group(done, _estimate(total, reference))
    return _estimate(total, reference)


def _estimate(total: Moments, reference: float) -> Estimate:
    error = total.standard_error
    z = (total.mean - reference) / error if 0 < error < math.inf else None
    return Estimate(total.mean, error, total.n, reference, z)


def _split(trials: int, groups: int) -> list[int]:
    """Return sizes of `groups` groups that differ by one at most, the larger ones first."""
    if not 1 <= groups <= trials:
        msg = f"{trials} trials cannot be split into {groups} groups: each needs one trial or more"
        raise ValueError(msg)
    size, larger = divmod(trials, groups)
    return [size + (group < larger) for group in range(groups)]


def _chunks(trials: int) -> Iterator[int]:
    for start in range(0, trials, CHUNK):
        yield min(CHUNK, trials - start)


def _normal_cdf(x: float) -> float:
    return 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))
