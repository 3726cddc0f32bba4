"""Worker processes of a session: started, frozen, thawed, weighed and ended, whoever's they are.

Freezing is SIGSTOP to each process of the tree. It is the one way of holding workers back that every contestant has: a
worker that was frozen is ready and idle, and none of it can run before it is thawed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

from tests.benchmarks.peers.place import ROOT, Place

__all__ = ["Processes", "program"]

_ENDS_WITHIN = 5.0  # seconds after SIGTERM, then SIGKILL: nothing of the session is kept


class Processes:
    """The workers of one session."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._started: list[subprocess.Popen[bytes]] = []
        self._adopted: set[int] = set()
        self.log = Path(place.folder) / "workers.log"

    def start(self, command: Sequence[str]) -> None:
        """Start a worker; what it prints goes to the session's log."""
        with self.log.open("ab") as output:
            self._started.append(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=self._place.environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            )

    def adopt(self, pids: Iterable[int]) -> None:
        """Count processes that a library started itself among the workers."""
        self._adopted.update(pids)

    def pids(self) -> list[int]:
        """List the workers' processes and all of their descendants."""
        found: dict[int, None] = {}
        for pid in (*(process.pid for process in self._started), *self._adopted):
            with contextlib.suppress(psutil.NoSuchProcess):
                root = psutil.Process(pid)
                found |= dict.fromkeys((pid, *(child.pid for child in root.children(recursive=True))))
        return list(found)

    def freeze(self) -> None:
        """Stop every process where it is; parents first, so that none can be replaced meanwhile."""
        stopped: set[int] = set()
        while new := [pid for pid in self.pids() if pid not in stopped]:
            for pid in new:
                _send(pid, signal.SIGSTOP)
            stopped.update(new)

    def thaw(self) -> None:
        """Let every process go on; children first, so that no parent finds one silent."""
        for pid in reversed(self.pids()):
            _send(pid, signal.SIGCONT)

    def pss_mib(self) -> float:
        """Return the memory of all processes, shared pages divided among those that share them."""
        return sum(_pss_kib(pid) for pid in self.pids()) / 1024

    def check(self) -> None:
        """Raise if a worker has ended by itself."""
        for process in self._started:
            if process.poll() is not None:
                tail = " | ".join(self.log.read_text(errors="replace").splitlines()[-6:])
                raise RuntimeError(f"a worker ended with status {process.returncode}: {tail}")

    def stop(self) -> None:
        """End every process."""
        pids = self.pids()
        self.thaw()
        for process in self._started:
            _send(process.pid, signal.SIGTERM)
        end = time.monotonic() + _ENDS_WITHIN
        while time.monotonic() < end and any(process.poll() is None for process in self._started):
            time.sleep(0.02)
        for pid in {*pids, *self.pids()} - {os.getpid()}:
            _send(pid, signal.SIGKILL)
        for process in self._started:
            process.wait()


def program(name: str) -> str:
    """Return the path of a program that was installed beside this Python."""
    return str(Path(sys.executable).parent / name)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _pss_kib(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
