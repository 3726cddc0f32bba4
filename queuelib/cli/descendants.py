"""The processes below this one: held back, let go, weighed. Linux only, as workers are."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Generator
from pathlib import Path

__all__ = ["descendants", "held", "pss_mib"]


def descendants() -> list[int]:
    """List the processes below this one, parents before their children."""
    parents = dict(_parents())
    found = [os.getpid()]
    for pid in found:  # grows meanwhile
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


@contextlib.contextmanager
def held() -> Generator[None]:
    """Hold every descendant back while the block lasts: none of it runs, and none of it notices."""
    stopped: list[int] = []
    try:
        while fresh := [pid for pid in descendants() if pid not in stopped]:  # who was forking has one more
            for pid in fresh:
                _send(pid, signal.SIGSTOP)
            stopped += fresh
        yield
    finally:
        for pid in reversed(stopped):
            _send(pid, signal.SIGCONT)


def pss_mib() -> float:
    """Return the memory of all descendants in MiB, pages that several share divided among these."""
    return sum(_pss_kib(pid) for pid in descendants()) / 1024


def _parents() -> Generator[tuple[int, int]]:
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            state = (folder / "stat").read_text().rpartition(")")[2].split()  # the name before it may have spaces
            yield int(folder.name), int(state[1])


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _pss_kib(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0
