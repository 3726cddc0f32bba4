"""What a worker was asked to do."""

from __future__ import annotations

from dataclasses import dataclass

from queuelib.color import Palette
from queuelib.settings import UNKNOWN_PATIENCE

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """The orders of one worker.

    Attributes:
        name: Name of the worker.
        colors: Colors it serves.
        palette: All colors.
        processes: Number of children.
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
    burst: bool = False
    max_jobs: int | None = None
    max_memory: int | None = None
    isolate: bool = False
    patience: float = UNKNOWN_PATIENCE
    grace: float | None = None
