"""How long jobs take here, measured, and what follows from it: how much to take and how much to hand over at once."""

from __future__ import annotations

from queuelib.bundle import MAX_BYTES_A_BUNDLE, MAX_JOBS_A_BUNDLE, QUICK, TARGET

__all__ = ["HAND_AHEAD", "MOST_BYTES_AHEAD", "MOST_HANDED", "QUICK", "Mix", "Pace"]

_RARE = 0.02  # a share below which a kind is not expected
_SMOOTHING = 0.2  # weight of the newest run
HAND_AHEAD = TARGET  # seconds of work that a child may have before it: a bundle goes to it whole
MOST_HANDED = MAX_JOBS_A_BUNDLE  # jobs that a child has and did not report; the ring of outcomes has room for them
MOST_BYTES_AHEAD = MAX_BYTES_A_BUNDLE  # what a busy child has not read must fit into its socket's buffer (208 KiB)
TAKE_AHEAD = 0.100  # seconds of work a color that wait in this worker
MOST_TAKEN = 2 * MAX_JOBS_A_BUNDLE  # jobs
MOST_DELIVERIES = 1000  # of one take


class Pace:
    """Smoothed run times in seconds, by task and by color."""

    def __init__(self) -> None:
        self._tasks: dict[str, float] = {}
        self._colors: dict[str, float] = {}
        self._bundle_sizes: dict[str, float] = {}

    def ran(self, task: str, color: str, elapsed: float, count: int = 1) -> None:
        """Note some runs, by the mean of the seconds that they took."""
        weight = _SMOOTHING if count == 1 else 1.0 - (1.0 - _SMOOTHING) ** count
        self._tasks[task] = _smooth(self._tasks.get(task), elapsed, weight)
        self._colors[color] = _smooth(self._colors.get(color), elapsed, weight)

    def took(self, color: str, jobs: float) -> None:
        """Note the mean size of some bundles."""
        self._bundle_sizes[color] = _smooth(self._bundle_sizes.get(color), jobs, _SMOOTHING)

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
        return max(1, min(MOST_DELIVERIES, int(missing / max(1.0, self._bundle_sizes.get(color, 1.0)))))


class Mix:
    """How many of the messages of each color are of coroutines, where these have children of their own."""

    def __init__(self) -> None:
        self._shares: dict[str, float] = {}

    def took(self, color: str, *, is_coroutine: bool) -> None:
        """Note a message."""
        self._shares[color] = _smooth(self._shares.get(color), float(is_coroutine), _SMOOTHING)

    def room(self, color: str, rooms: tuple[int, int], shelves: tuple[int, int]) -> int:
        """Return how many more messages of a color to take, of whichever kind they turn out to be.

        So many that neither kind is likely to come in larger number than there is room for, since what is taken and
        cannot start is kept from other workers. But where one kind has room and the other has none, some are kept: what
        may start is perhaps behind them.

        Args:
            color: The color.
            rooms: How many there is room for of plain functions, and of coroutines.
            shelves: How many more of each may be kept.
        """
        share = self._shares.get(color, 0.5)
        expected = [room / part for room, part in zip(rooms, (1.0 - share, share), strict=True) if part > _RARE]
        least = int(min(expected))
        kept = min((shelf for room, shelf in zip(rooms, shelves, strict=True) if not room), default=1)
        return max(least, min(max(rooms), kept))


def _smooth(old: float | None, new: float, weight: float) -> float:
    return new if old is None else old + weight * (new - old)
