"""Colors and palettes: what is refused, and which color starts next."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuelib.color import DEFAULT_PALETTE, Color, Palette, choose
from queuelib.errors import ConfigurationError
from tests.unit.fakes import quick

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping


def starts(palette: Palette, waiting: Iterable[Collection[str]]) -> list[str | None]:
    """Return which color starts at each step, where `waiting` says what waits then."""
    owed: Mapping[str, float] = {}
    chosen = []
    for names in waiting:
        color, owed = choose(palette, names, owed)
        chosen.append(color)
    return chosen


@st.composite
def palettes(draw: st.DrawFn) -> Palette:
    """A palette of two to six colors whose shares add up to anything up to one half."""
    weights = draw(st.lists(st.integers(0, 40), min_size=1, max_size=5))
    total = draw(st.sampled_from([0.5, 0.35, 0.1]))
    scale = total / (sum(weights) or 1)
    lower = [Color(f"c{rank}", -rank, weight * scale) for rank, weight in enumerate(weights, 1)]
    return Palette([Color("c0", 0), *lower])


@st.composite
def palettes_with_waiting(draw: st.DrawFn) -> tuple[Palette, list[set[str]]]:
    """A palette, and what waits at each of many steps."""
    palette = draw(palettes())
    return palette, draw(st.lists(st.sets(st.sampled_from(palette.names)), max_size=60))


class TestWeighted:
    """The default way of taking."""

    @quick
    @given(case=palettes_with_waiting())
    def test_red_starts_among_the_next_two(self, case: tuple[Palette, list[set[str]]]) -> None:
        """Of two starts during which the most urgent color of the palette waits, one at least is its own."""
        palette, waiting = case
        steps = list(zip(waiting, starts(palette, waiting), strict=True))
        for (before, first), (after, second) in pairwise(steps):
            if "c0" in before and "c0" in after:
                assert "c0" in {first, second}

    @quick
    @given(case=palettes_with_waiting())
    def test_two_owed_starts_never_follow_each_other(self, case: tuple[Palette, list[set[str]]]) -> None:
        """Whatever comes and goes, of two starts in a row one is that of the most urgent color that waits then."""
        palette, waiting = case
        was_owed = False
        for names, color in zip(waiting, starts(palette, waiting), strict=True):
            if not names:
                assert color is None
                continue
            assert color in names
            is_owed = color != min(names)
            assert not (is_owed and was_owed)
            was_owed = is_owed

    @quick
    @given(palette=palettes())
    def test_each_lower_color_gets_at_least_its_share(self, palette: Palette) -> None:
        """In the long run no color that always waits falls behind its share by more than a start a color."""
        count = 400
        started = Counter(starts(palette, [palette.names] * count))
        for color in palette.colors[1:]:
            assert color.share is not None
            assert started[color.name] >= color.share * count - len(palette.colors)

    def test_the_last_color_keeps_its_share_below_one_that_is_often_owed(self) -> None:
        """What a color earns while another is owed as well is not lost: it is short of nothing after 3,000 starts."""
        palette = Palette([Color("red", 9), Color("yellow", 5, 0.1114), Color("green", 1, 0.3886)])
        started = Counter(starts(palette, [palette.names] * 3000))
        assert started["green"] >= 0.3886 * 3000 - 3
        assert started["yellow"] >= 0.1114 * 3000 - 3

    def test_the_default_shares_are_a_quarter_and_a_tenth(self) -> None:
        """Under the default palette yellow gets one start in four, green one in ten, and red the rest."""
        started = Counter(starts(DEFAULT_PALETTE, [DEFAULT_PALETTE.names] * 1000))
        assert started["yellow"] == pytest.approx(250, abs=2)
        assert started["green"] == pytest.approx(100, abs=2)

    def test_a_color_alone_always_starts(self) -> None:
        """Shares bind nobody who waits alone."""
        assert starts(DEFAULT_PALETTE, [{"green"}] * 5) == ["green"] * 5

    def test_nothing_waits(self) -> None:
        """Without a job ready nothing is chosen, and what was owed stays."""
        assert choose(DEFAULT_PALETTE, (), {"green": 0.5}) == (None, {"green": 0.5})

    def test_a_color_of_share_zero_waits_for_the_others(self) -> None:
        """It starts only when nothing more urgent waits."""
        palette = Palette([Color("now", 2), Color("idle", 1, 0.0)])
        assert starts(palette, [palette.names] * 200) == ["now"] * 200


def test_strict_takes_the_most_urgent() -> None:
    """A lower color starts only when nothing above it waits."""
    palette = Palette(DEFAULT_PALETTE, taking="strict")
    assert starts(palette, [palette.names] * 50) == ["red"] * 50
    assert starts(palette, [{"yellow", "green"}, {"green"}]) == ["yellow", "green"]


class TestPalette:
    """What makes one."""

    def test_most_urgent_first(self) -> None:
        """The order in which colors are given does not matter."""
        assert Palette([Color("low", 1), Color("high", 9), Color("mid", 5)]).names == ("high", "mid", "low")

    @pytest.mark.parametrize(
        ("names", "default"), [(["a"], "a"), (["a", "b"], "b"), (["a", "b", "c"], "b"), (["a", "b", "c", "d"], "c")]
    )
    def test_the_default_is_the_middle_one(self, names: list[str], default: str) -> None:
        """A task that names no color gets the middle one, the lower of two."""
        assert Palette([Color(name, -rank) for rank, name in enumerate(names)]).default == default

    def test_a_default_of_ones_own(self) -> None:
        """Any color of the palette may be the default, and no other."""
        assert Palette(DEFAULT_PALETTE, default="red").default == "red"
        with pytest.raises(ConfigurationError, match=r"no color 'blue' in this palette; it has red, yellow, green"):
            Palette(DEFAULT_PALETTE, default="blue")

    @pytest.mark.parametrize("name", ["", "a b", "a/b", "rot\n", "é", "x" * 65, "\0last"])
    def test_a_name_must_do_for_a_queue(self, name: str) -> None:
        """Queues are named after colors, on every broker."""
        with pytest.raises(ConfigurationError, match="a color's name is 1 to 64 letters"):
            Palette([Color(name, 1)])

    @pytest.mark.parametrize("name", ["x" * 64, "a.b_c-D9", "-"])
    def test_names_that_do(self, name: str) -> None:
        """Letters, digits, dots, lines and dashes, up to 64 of them."""
        assert name in Palette([Color(name, 1)])

    @pytest.mark.parametrize("colors", [[Color("a", 2), Color("a", 1)], [Color("a", 1), Color("b", 1)]])
    def test_neither_a_name_nor_a_priority_twice(self, colors: list[Color]) -> None:
        """Two colors that cannot be told apart are refused."""
        with pytest.raises(ConfigurationError, match="two colors share a name or a priority"):
            Palette(colors)

    def test_a_palette_needs_a_color(self) -> None:
        """An empty one is refused."""
        with pytest.raises(ConfigurationError, match="at least one color"):
            Palette([])

    @pytest.mark.parametrize("shares", [(0.51,), (0.3, 0.21), (0.5, None)])
    def test_shares_beyond_one_half(self, shares: tuple[float | None, ...]) -> None:
        """More than every other start cannot be owed: nothing would be left of urgency."""
        with pytest.raises(ConfigurationError, match=r"at most 0\.5 leaves room above"):
            Palette([Color("top", 9), *(Color(f"c{n}", -n, share) for n, share in enumerate(shares))])

    @pytest.mark.parametrize("share", [-0.01, math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("is_top", [True, False])
    def test_a_share_is_a_part_of_the_starts(self, share: float, is_top: bool) -> None:  # noqa: FBT001 - a parameter
        """Below zero, infinite or not a number is refused, for the top color as well."""
        colors = [Color("odd", 9 if is_top else 1, share), Color("other", 5)]
        with pytest.raises(ConfigurationError, match="share"):
            Palette(colors)

    def test_half_in_many_parts_is_still_half(self) -> None:
        """Rounding does not refuse shares that add up to one half on paper."""
        lower = [Color(f"c{n}", -n - 1, 0.1) for n in range(5)]
        assert len(Palette([Color("top", 9), *lower]).colors) == 6

    def test_taking_has_two_ways(self) -> None:
        """Any other word is refused."""
        wrong: Any = "fair"
        with pytest.raises(ConfigurationError, match="'weighted' or 'strict', not 'fair'"):
            Palette(DEFAULT_PALETTE, taking=wrong)

    def test_require_lists_what_there_is(self) -> None:
        """A color that is there comes back; another one is an error that names those that are."""
        assert DEFAULT_PALETTE.require("green") == "green"
        with pytest.raises(ConfigurationError, match="it has red, yellow, green"):
            DEFAULT_PALETTE.require("pink")
