"""The tasks that every worker knows besides its user's: one, a step of a named reduction."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from queuelib.reductions import reduced
from queuelib.task import Definition

__all__ = ["REDUCE", "TASKS", "definition_of"]

REDUCE: Final = "queuelib.reduce"
TASKS: Final = frozenset({REDUCE})


def definition_of(name: str) -> Definition | None:
    """Return the task of this name, or None if it is none of these."""
    return _reduce() if name == REDUCE else None


@lru_cache(maxsize=1)
def _reduce() -> Definition:
    from queuelib.schema import Schema  # noqa: PLC0415 - msgspec, unneeded by a program without tasks

    return Definition(REDUCE, Schema.of_function(_step, name=REDUCE), function=_step)


def _step(items: list[Any], how: str, count: int, is_first: bool, is_last: bool) -> Any:  # noqa: FBT001 - arguments of a job
    """Join values; see `queuelib.reductions.reduced`."""
    return reduced(items, how, count, is_first=is_first, is_last=is_last)
