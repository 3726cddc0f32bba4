"""What one run came to, in numbers, from the history that its jobs wrote."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from tests.crash.history import Run, check

__all__ = ["Count", "count"]


@dataclass(frozen=True, slots=True)
class Count:
    """What became of the jobs of one run.

    Attributes:
        accepted: How many jobs the system took.
        ran: Of these, how many came to their end at least once.
        lost: Labels of those that did not.
        again: Labels of jobs that were started more often than once and once more for each injected death amid them.
        overlapping: Labels of jobs of which two runs went on at the same time.
        recovered_after: Seconds from the fault until the last of the jobs that it touched had ended; None if one did
            not.
    """

    accepted: int
    ran: int
    lost: list[str]
    again: list[str]
    overlapping: list[str]
    recovered_after: float | None


def count(runs: Iterable[Run], accepted: Collection[str], *, since: float, touched: Collection[str]) -> Count:
    """Count.

    Args:
        runs: The history; the runs of processes that were killed end with them.
        accepted: Labels of the jobs that the system took.
        since: When the fault struck or, for one that goes on for a time, when it was over; as the history's times.
        touched: Labels of the jobs whose recovery is measured.
    """
    by_label: defaultdict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if run.label in accepted:
            by_label[run.label].append(run)
    verdict = check((run for some in by_label.values() for run in some), accepted)
    ends = {
        label: min(run.end for run in some if run.is_finished and run.end is not None)
        for label, some in by_label.items()
        if any(run.is_finished for run in some)
    }
    is_recovered = all(label in ends for label in touched)
    return Count(
        accepted=len(accepted),
        ran=len(ends),
        lost=verdict.lost,
        again=sorted(label for label, some in by_label.items() if len(some) > 1 + sum(map(_died, some))),
        overlapping=verdict.overlapping,
        recovered_after=max((max(0.0, ends[label] - since) for label in touched), default=0.0)
        if is_recovered
        else None,
    )


def _died(run: Run) -> bool:
    return run.end is not None and not run.is_finished
