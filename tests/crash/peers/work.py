"""What the jobs of all systems do: write down that they start, work or kill, write down that they finish.

The history is a file to which each process appends whole lines, so nobody's word is needed for it.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.peers.place import Place
from tests.crash.peers.group import GROUP, kill_own_group

__all__ = ["Job", "has_served", "history_of", "work"]

_STEP = 0.05  # seconds: a process that was frozen goes on with what was left, as one that computes would
_AGAIN = 0.2  # seconds that a second run takes at most: it is only to be seen


@dataclass(frozen=True, slots=True)
class Job:
    """One job.

    Attributes:
        label: Its own name in the history.
        seconds: How long it works when it runs for the first time.
        is_poison: Whether it kills its whole worker instead.
    """

    label: str
    seconds: float = 0.02
    is_poison: bool = False


def history_of(folder: str | Path) -> Path:
    """Return the file that the jobs of a run write to."""
    return Path(folder) / "history"


def has_served(folder: str | Path, group: str) -> bool:
    """Say whether a group of workers has run a job yet."""
    return _served(folder, group).exists()


def work(label: str, seconds: float, is_poison: bool) -> str:  # noqa: FBT001 - a call as it travels: by position
    """Run one job; returns the number of the process, so that of two runs' results it can be told which stands."""
    folder = Place.here().folder
    history = history_of(folder)
    ran_before = f"start {label} " in (history.read_text(encoding="utf-8") if history.exists() else "")
    _append(history, "start", label)
    _served(folder, os.environ[GROUP]).touch()
    if is_poison:
        kill_own_group(folder, history)
    for _ in range(round((min(seconds, _AGAIN) if ran_before else seconds) / _STEP) or 1):
        time.sleep(min(_STEP, seconds))
    _append(history, "finish", label)
    return str(os.getpid())


def _served(folder: str | Path, group: str) -> Path:
    return Path(folder) / f"served-{group}"


def _append(history: Path, what: str, label: str) -> None:
    descriptor = os.open(history, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{what} {label} {os.getpid()} 0 {time.time():.6f}\n".encode())
    os.close(descriptor)
