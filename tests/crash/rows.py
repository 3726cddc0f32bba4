"""The register of rows: what is tried under which number, on which brokers, and what cannot be tried yet and why."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tests.crash

if TYPE_CHECKING:
    from tests.crash.trial import Trial

__all__ = ["BROKERS", "LATER", "QUICK", "Row", "all_rows", "row"]

BROKERS = ("sqlite", "redis", "rabbitmq")
QUICK: tuple[int, ...] = (1, 2, 3, 4, 5, 8, 9, 10, 13, 14, 18, 22, 29, 36, 39, 41, 44, 50, 51, 58, 61, 62)
LATER = {
    53: "schedules are not built yet",
    54: "schedules are not built yet",
    55: "schedules are not built yet",
    63: "rate limits are not built yet",
    64: "a program of its own: make soak",
}
_rows: dict[tuple[int, str], Row] = {}


@dataclass(frozen=True)
class Row:
    """One fault of the catalogue, or one way of it.

    Attributes:
        number: Its number in the catalogue.
        variant: Which way of it; empty if there is one.
        title: What is done to whom.
        brokers: Where it makes sense.
        run: Does it, and raises AssertionError where the promise does not hold.
        within: Seconds after which it counts as hung.
        seconds: About how long it takes, to start long ones first.
        alone: Whether nothing else may run beside it, because it measures or needs the whole machine.
        is_long: Whether it is left out unless asked for by number or `--full`.
        needs_root: Whether it needs root.
    """

    number: int
    variant: str
    title: str
    brokers: Sequence[str]
    run: Callable[[Trial], None]
    within: float
    seconds: float
    alone: bool
    is_long: bool
    needs_root: bool

    @property
    def name(self) -> str:
        """Number and variant."""
        return f"{self.number}{'-' if self.variant else ''}{self.variant}"


def row(
    number: int,
    title: str,
    *,
    variant: str = "",
    brokers: Sequence[str] = BROKERS,
    within: float = 120.0,
    seconds: float = 10.0,
    alone: bool = False,
    is_long: bool = False,
    needs_root: bool = False,
) -> Callable[[Callable[[Trial], None]], Callable[[Trial], None]]:
    """Enter a function as a row; see `Row` for what is given."""

    def enter(run: Callable[[Trial], None]) -> Callable[[Trial], None]:
        made = Row(number, variant, title, brokers, run, within, seconds, alone, is_long, needs_root)
        if (number, variant) in _rows:
            msg = f"row {made.name} stands twice"
            raise ValueError(msg)
        _rows[number, variant] = made
        return run

    return enter


def all_rows() -> list[Row]:
    """Return every row, in the order of numbers, from all modules `rows_*` of this package."""
    for module in pkgutil.iter_modules(tests.crash.__path__):
        if module.name.startswith("rows_"):
            importlib.import_module(f"tests.crash.{module.name}")
    return [_rows[key] for key in sorted(_rows)]
