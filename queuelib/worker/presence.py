"""Tells clients that this worker lives and what it serves, again and again, and at last that it is gone."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from queuelib.clock import Clock
from queuelib.ports import WorkerInfo

if TYPE_CHECKING:
    from queuelib.worker.line import Line
    from queuelib.worker.plan import Plan

__all__ = ["Presence"]

_EVERY = 5.0  # seconds
_FOR = 15.0  # seconds for which it is believed: three chances


class Presence:
    """One worker, as clients see it.

    Args:
        line: The connection.
        plan: Its name, its colors, how many children it has.
        tasks: Wire names of what it runs.
        clock: The clocks.
    """

    def __init__(self, line: Line, plan: Plan, tasks: Sequence[str], clock: Clock) -> None:
        self._line = line
        self._plan = plan
        self._tasks = tuple(tasks)
        self._clock = clock
        self._told_at = float("-inf")

    def tell(self) -> None:
        """Announce it."""
        self._announce(_FOR)

    def tell_in_time(self, now: float) -> None:
        """Announce it, unless this was done a moment ago.

        Args:
            now: Monotonic time.
        """
        if now - self._told_at >= _EVERY:
            self._told_at = now
            self._announce(_FOR)

    def end(self) -> None:
        """Announce that it is gone."""
        self._announce(0.0)

    def _announce(self, lifetime: float) -> None:
        plan, pid = self._plan, os.getpid()
        host, colors = socket.gethostname(), tuple(plan.colors)
        info = WorkerInfo(plan.name, host, pid, colors, self._tasks, self._clock.wall(), plan.processes)
        self._line.ask(self._line.link.results.announce, info, lifetime)
