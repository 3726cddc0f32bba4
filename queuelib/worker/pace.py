"""How long jobs take here, measured, and what follows from it: how much to take and how much to hand over at once."""

from __future__ import annotations

__all__ = ["Pace"]

_SMOOTHING = 0.2  # weight of the newest run
QUICK = 0.020  # seconds; slower tasks, and those not yet known, are handed over one by one
HAND_AHEAD = 0.050  # seconds of work that a child may have before it
MOST_HANDED = 256
MOST_BYTES_AHEAD = 64 * 1024  # what a busy child has not read must fit into its socket's buffer (208 KiB on Linux)
TAKE_AHEAD = 0.100  # seconds of work a color that wait in this worker
MOST_TAKEN = 2000


class Pace:
    """Smoothed run times in seconds, by task and by color."""

    def __init__(self) -> None:
        self._tasks: dict[str, float] = {}
        self._colors: dict[str, float] = {}
        self._bundle_sizes: dict[str, float] = {}

    def ran(self, task: str, color: str, elapsed: float) -> None:
        """Note one run."""
        self._tasks[task] = _smooth(self._tasks.get(task), elapsed)
        self._colors[color] = _smooth(self._colors.get(color), elapsed)

    def took(self, color: str, jobs: int) -> None:
        """Note the size of one bundle."""
        self._bundle_sizes[color] = _smooth(self._bundle_sizes.get(color), float(jobs))

    def estimate(self, task: str) -> float | None:
        """Return the expected run time of a task that is known to be quick, else None."""
        known = self._tasks.get(task)
        return known if known is not None and known < QUICK else None

    def room(self, color: str, waiting: int, free: int, children: int) -> int:
        """Return how many more bundles of a color to take.

        Args:
            color: The color.
            waiting: Its jobs that wait here already.
            free: Children that are idle or will be within milliseconds: a worker hoards nothing behind slow jobs.
            children: All children.
        """
        known = self._colors.get(color)
        jobs = free if known is None or known >= QUICK else max(free, int(TAKE_AHEAD / max(known, 1e-5)) * children)
        missing = min(jobs, MOST_TAKEN) - waiting
        if missing <= 0:
            return 0
        return max(1, int(missing / max(1.0, self._bundle_sizes.get(color, 1.0))))


def _smooth(old: float | None, new: float) -> float:
    return new if old is None else old + _SMOOTHING * (new - old)
