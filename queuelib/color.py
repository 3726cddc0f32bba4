"""Colors: named priorities, each with a queue of its own, and the one function that chooses which starts next."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from queuelib.errors import ConfigurationError
from queuelib.message import INPUTS

__all__ = ["DEFAULT_PALETTE", "Color", "Palette", "choose"]

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_DEFAULT_SHARES = (0.25, 0.10, 0.05, 0.025, 0.0125)  # by rank below the first; their sum stays under MAX_SHARES
MAX_SHARES = 0.5


@dataclass(frozen=True, slots=True)
class Color:
    """A named priority.

    Attributes:
        name: 1 to 64 letters, digits, `_`, `.` or `-`; the queue is named after it.
        priority: The higher starts first.
        share: Share of the starts that is guaranteed to it while more urgent colors wait, 0 to 0.5;
            None for the default of its rank.
    """

    name: str
    priority: int
    share: float | None = None


@dataclass(frozen=True)
class Palette:
    """The colors of a dispatcher, most urgent first.

    Args:
        colors: Two colors never share a name or a priority.
        default: Color of tasks that name none; the middle one unless said otherwise.
        taking: `weighted` guarantees every color its share; `strict` always takes the most urgent.

    Raises:
        ConfigurationError: A name is unusable or used twice, or the shares together exceed one half.

    Example:
        >>> palette = Palette([Color("now", 9), Color("later", 1)], default="later")
        >>> palette.names
        ('now', 'later')
    """

    colors: tuple[Color, ...]
    default: str
    taking: Literal["weighted", "strict"]

    def __init__(
        self, colors: Iterable[Color], *, default: str | None = None, taking: Literal["weighted", "strict"] = "weighted"
    ) -> None:
        ranked = sorted(colors, key=lambda color: -color.priority)
        object.__setattr__(self, "colors", tuple(_with_shares(ranked)))
        object.__setattr__(self, "default", default or (ranked[len(ranked) // 2].name if ranked else ""))
        object.__setattr__(self, "taking", taking)
        self._check()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the colors, most urgent first."""
        return tuple(color.name for color in self.colors)

    def __iter__(self) -> Iterator[Color]:
        return iter(self.colors)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def require(self, name: str) -> str:
        """Return `name`.

        Raises:
            ConfigurationError: The palette has no such color; the message lists those it has.
        """
        if name not in self.names:
            msg = f"there is no color {name!r} in this palette; it has {', '.join(self.names)}"
            raise ConfigurationError(msg)
        return name

    def _check(self) -> None:
        if not self.colors:
            msg = "a palette needs at least one color"
            raise ConfigurationError(msg)
        for color in self.colors:
            if not NAME.match(color.name):
                msg = f"a color's name is 1 to 64 letters, digits, '_', '.' or '-', not {color.name!r}"
                raise ConfigurationError(msg)
            if color.name == INPUTS:
                msg = f"no color can be called {INPUTS!r}: that is the queue of what waits for results of other jobs"
                raise ConfigurationError(msg)
        if len(set(self.names)) < len(self.colors) or len({color.priority for color in self.colors}) < len(self.colors):
            msg = f"two colors share a name or a priority: {', '.join(f'{c.name} {c.priority}' for c in self.colors)}"
            raise ConfigurationError(msg)
        for color in self.colors:
            if not 0.0 <= (color.share or 0.0) < math.inf:
                msg = f"the share of {color.name} is a part of the starts, zero or more, not {color.share!r}"
                raise ConfigurationError(msg)
        shares = sum(color.share or 0.0 for color in self.colors[1:])
        if shares > MAX_SHARES + 1e-9:
            msg = f"the guaranteed shares of the lower colors add up to {shares:g}; at most {MAX_SHARES} leaves room above"
            raise ConfigurationError(msg)
        if self.taking not in ("weighted", "strict"):
            msg = f"taking is 'weighted' or 'strict', not {self.taking!r}"
            raise ConfigurationError(msg)
        self.require(self.default)


def choose(
    palette: Palette, waiting: Collection[str], owed: Mapping[str, float]
) -> tuple[str | None, Mapping[str, float]]:
    """Choose the color of the next start.

    The most urgent waiting color starts, except that each lower one earns its share with every start it waits
    through and, once it has earned a whole one, goes first. Two such owed starts never follow each other while a
    more urgent color waits, so the most urgent color always starts among the next two.

    Args:
        palette: The colors and the way of taking.
        waiting: Names of colors that have a job ready.
        owed: What the last call returned; empty at first.

    Returns:
        The color's name, or None if nothing waits, and what is owed now.
    """
    ranked = [color for color in palette.colors if color.name in waiting]
    if not ranked:
        return None, owed
    first = ranked[0]
    if len(ranked) == 1 or palette.taking == "strict":
        return first.name, {}
    chosen = first
    if not owed.get(_LAST_WAS_OWED):
        chosen = next((c for c in ranked[1:] if owed.get(c.name, 0.0) + 1e-9 >= 1.0), first)
    # Several may be owed a start at once, and only every other start pays one: a color earns one for each at the most.
    most = float(len(palette.colors))
    credit = {c.name: min(most, owed.get(c.name, 0.0) + (c.share or 0.0)) for c in ranked[1:]}
    if chosen is not first:
        credit[chosen.name] -= 1.0
        credit[_LAST_WAS_OWED] = 1.0
    return chosen.name, credit


_LAST_WAS_OWED = "\0last"  # no color can have this name


def _with_shares(ranked: list[Color]) -> Iterator[Color]:
    for rank, color in enumerate(ranked):
        share = color.share
        if share is None:
            share = _DEFAULT_SHARES[rank - 1] if 0 < rank <= len(_DEFAULT_SHARES) else 0.0
        yield Color(color.name, color.priority, share)


DEFAULT_PALETTE = Palette([Color("red", 9), Color("yellow", 5), Color("green", 1)], default="yellow")
