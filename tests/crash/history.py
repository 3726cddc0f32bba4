"""What ran, by the jobs' own word, and what may be said of it: lost, unexpected, overlapping, started too often.

Handlers append a line at each start and finish to a file opened with O_APPEND, in one write each; whoever kills a
process appends a line as well. No broker, worker or client has a part in it.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Run", "Verdict", "check", "note_kill", "note_lost", "read"]

_NOW_AND_EVER = float("inf")


@dataclass(slots=True)
class Run:
    """One run of a job.

    Attributes:
        label: The job's own name in the history.
        pid: Of the process that ran it.
        attempt: As the handler was told.
        start: Wall time in seconds.
        end: When it finished, or when its process was killed; None where it has neither finished nor was seen to die.
        is_finished: Whether it came to its end.
    """

    label: str
    pid: int
    attempt: int
    start: float
    end: float | None = None
    is_finished: bool = False


class Verdict(NamedTuple):
    """What is wrong, by label; all empty when the promise held.

    Attributes:
        lost: Accepted and never finished.
        unexpected: Ran, and nobody submitted it.
        overlapping: Two runs at the same time.
        repeated: Started more often than the faults explain, all jobs together: the labels that started again.
    """

    lost: list[str]
    unexpected: list[str]
    overlapping: list[str]
    repeated: list[str]

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not any(self)

    def __str__(self) -> str:
        parts = [f"{name}: {len(some)} {some[:5]}" for name, some in zip(self._fields, self, strict=True) if some]
        return "; ".join(parts) or "clean"


def note_kill(path: str | Path, pids: Iterable[int]) -> None:
    """Append that these processes are killed now: their unfinished runs end here."""
    _append(path, "kill", pids)


def note_lost(path: str | Path, pids: Iterable[int]) -> None:
    """Append that these processes lose now what they hold: their unfinished runs do not count from here on."""
    _append(path, "lost", pids)


def _append(path: str | Path, what: str, pids: Iterable[int]) -> None:
    lines = "".join(f"{what} - {pid} 0 {time.time():.6f}\n" for pid in pids)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, lines.encode())
    os.close(descriptor)


def read(path: str | Path) -> list[Run]:
    """Return the runs in the order of their starts; a last line cut short by a kill is left out."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    made = _Reader()
    for line in text.splitlines():
        fields = line.split()
        if len(fields) == 5:
            made.add(fields[0], fields[1], int(fields[2]), int(fields[3]), float(fields[4]))
    return made.runs


class _Reader:
    def __init__(self) -> None:
        self.runs: list[Run] = []
        self._running: dict[tuple[int, str], Run] = {}
        self._lost: dict[int, float] = {}  # when a process lost what it held

    def add(self, what: str, label: str, pid: int, attempt: int, at: float) -> None:
        """Read one line."""
        if what == "start":
            run = self._running[pid, label] = Run(label, pid, attempt, at)
            self.runs.append(run)
        elif what == "finish":
            run = self._running.pop((pid, label))
            if pid not in self._lost or run.start > self._lost[pid]:
                run.end, run.is_finished = at, True
        elif what in {"kill", "lost"}:
            if what == "lost":
                self._lost[pid] = at
            for run in self._running.values():  # noted just before it happens: they may still finish
                if run.pid == pid and run.end is None:
                    run.end = at


def check(
    runs: Iterable[Run],
    accepted: Iterable[str],
    *,
    in_doubt: Iterable[str] = (),
    unfinished: Iterable[str] = (),
    faults: int = 0,
) -> Verdict:
    """Say what is wrong with a history.

    Args:
        runs: All runs.
        accepted: Labels whose submission was answered with yes.
        in_doubt: Labels whose submission had no answer: they may run or not.
        unfinished: Labels that are meant to end otherwise (quarantined, cancelled, failed for good).
        faults: How many jobs may have been started once more: one for each job that a fault may have struck.
    """
    by_label: defaultdict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_label[run.label].append(run)
    wanted, meant_otherwise = set(accepted), set(unfinished)
    finished = {label for label, some in by_label.items() if any(run.is_finished for run in some)}
    again = [label for label, some in by_label.items() if len(some) > 1]
    extra = sum(len(by_label[label]) - 1 for label in again)
    return Verdict(
        lost=sorted(wanted - finished - meant_otherwise),
        unexpected=sorted(set(by_label) - wanted - set(in_doubt)),
        overlapping=sorted(label for label in again if _overlap(by_label[label])),
        repeated=sorted(again) if extra > faults else [],
    )


def _overlap(runs: list[Run]) -> bool:
    """Whether one began before another ended; a run of which nobody saw the end was over when it began."""
    spans = sorted((run.start, run.start if run.end is None else run.end) for run in runs)
    return any(later[0] < earlier[1] for earlier, later in zip(spans, spans[1:], strict=False))
