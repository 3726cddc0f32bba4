"""Bars, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Chart", "Panel", "draw"]

_WIDTH = 8.0  # inches
_BAR = 0.27
_HEAD = 0.75
_OURS, _OTHERS = "#2c6fbb", "#b0b7bf"
_STYLE = {"svg.hashsalt": "bench-peers", "font.size": 9}  # the salt: the same record gives the same file


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars with a scale of their own.

    Attributes:
        title: Above them, with the unit.
        values: By name.
        ours: What names start with whose bars stand out.
    """

    title: str
    values: dict[str, float]
    ours: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Panels below each other in one file.

    Attributes:
        name: Of the file.
        alt: What it shows, for who cannot see it.
        panels: From top to bottom.
    """

    name: str
    alt: str
    panels: Sequence[Panel]


def draw(chart: Chart, path: Path) -> None:
    """Write a chart to a file."""
    import matplotlib as mpl  # noqa: PLC0415 - to look at a record, and to test its page, needs none
    from matplotlib.figure import Figure  # noqa: PLC0415

    mpl.rcParams.update(_STYLE)
    panels = chart.panels
    heights = [_HEAD + _BAR * len(panel.values) for panel in panels]
    figure = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
    axes = figure.subplots(len(panels), squeeze=False, height_ratios=heights)
    for (axis,), panel in zip(axes, panels, strict=True):
        pairs = sorted(panel.values.items(), key=lambda pair: pair[1])
        colors = [_OURS if name.startswith(panel.ours) else _OTHERS for name, _ in pairs]
        bars = axis.barh([name for name, _ in pairs], [value for _, value in pairs], color=colors)
        axis.bar_label(bars, labels=[f"{float(f'{value:.3g}'):,.0f}" for _, value in pairs], padding=3)
        axis.set_title(panel.title, loc="left", fontweight="bold")
        axis.set_xlim(0, 1.15 * pairs[-1][1])
        axis.xaxis.set_visible(False)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
    figure.savefig(path, format="svg", metadata={"Date": None})
