"""Jobs that do nothing, to measure everything else."""

from __future__ import annotations

from queuelib import Dispatcher

__all__ = ["dispatcher", "noop"]

dispatcher = Dispatcher(namespace="bench")


@dispatcher.task(name="bench.noop")
def noop(x: int) -> int:
    """Return `x`."""
    return x
