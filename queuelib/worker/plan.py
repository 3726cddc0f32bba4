"""What a worker was asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from queuelib.color import Color, Palette
from queuelib.settings import UNKNOWN_PATIENCE

__all__ = ["Plan", "palette_from"]


@dataclass(frozen=True)
class Plan:
    """The orders of one worker.

    Attributes:
        name: Name of the worker.
        colors: Colors it serves.
        palette: All colors.
        processes: Number of child processes.
        threads: How many jobs each of them runs at a time.
        asynchronous: How many jobs of coroutines run at a time, in a process of their own; 0: they run as any other.
        coroutines: Names of the tasks that are coroutines, where these have a process of their own.
        burst: End when nothing is left to do.
        max_jobs: Replace a child after so many jobs; None for never.
        max_memory: Replace a child that has more resident bytes after a job; None for never.
        isolate: One child a job.
        patience: Seconds until an unknown task is set aside.
        grace: Seconds for running jobs to finish after the first signal; None for no limit.
    """

    name: str
    colors: tuple[str, ...]
    palette: Palette
    processes: int
    threads: int = 1
    asynchronous: int = 0
    coroutines: frozenset[str] = frozenset()
    burst: bool = False
    max_jobs: int | None = None
    max_memory: int | None = None
    isolate: bool = False
    patience: float = UNKNOWN_PATIENCE
    grace: float | None = None


def palette_from(manifest: Mapping[str, Any]) -> Palette:
    """Return the palette that another process described."""
    colors = [Color(*fields) for fields in manifest["palette"]]
    return Palette(colors, default=manifest["default"], taking=manifest["taking"])
