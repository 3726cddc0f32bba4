"""A worker as its operator sees it: a command, the processes that come of it, and somebody who starts it again.

Killing a group means that all of its processes end at once, as on a machine that dies: they are stopped first, parents
before children, so that none of them acts on the death of another.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from tests.benchmarks.peers.place import ROOT
from tests.crash.history import note_kill

__all__ = ["GROUP", "Group", "kill_own_group", "processes_with"]

GROUP = "CRASH_PEERS_GROUP"  # in the environment of all processes of a group: its name
_RESTARTS_AFTER = 1.0  # seconds after a worker's end, as a service manager would
_ENDS_WITHIN = 3.0  # seconds after SIGTERM; then SIGKILL


class Group:
    """One worker.

    Args:
        name: Of the group, within its run.
        command: Starts it.
        environment: Of its processes.
        folder: Of the run.
        restarts: How often it is started again when it ends without having been stopped.

    Attributes:
        exits: How often it has ended without having been stopped.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: str, *, restarts: int = 0
    ) -> None:
        self.name = name
        self.exits = 0
        self.log = Path(folder) / f"worker-{name}.log"
        self._command = command
        self._environment = {**environment, GROUP: name}
        self._folder = folder
        self._restarts = restarts
        self._is_over = threading.Event()
        self._process = self._start()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    @property
    def is_alive(self) -> bool:
        """Whether the process that was started has not ended."""
        return self._process.poll() is None

    def pids(self) -> list[int]:
        """List its processes: what was started, and its descendants, also those that have lost their parents."""
        mark = {GROUP: self.name, "BENCH_PEERS_FOLDER": self._folder}
        return list(dict.fromkeys((*_tree(self._process.pid), *processes_with(mark))))

    def freeze(self) -> list[int]:
        """Stop every process where it is; returns them."""
        return _freeze(self.pids)

    def freeze_at_once(self, pids: Sequence[int]) -> None:
        """Stop these processes, listed before, within a moment: a listing takes longer than some wait in Redis."""
        for pid in pids:
            _send(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let every process go on; children first."""
        for pid in reversed(self.pids()):
            _send(pid, signal.SIGCONT)

    def kill(self, history: Path) -> None:
        """End all processes at once, for good, and write their deaths down."""
        self._is_over.set()
        self._keeper.join()
        pids = self.freeze()
        note_kill(history, pids)  # before: they do nothing any more, and others may take over at once
        for pid in pids:
            _send(pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """End it politely, then by force."""
        self._is_over.set()
        self._keeper.join()
        self.thaw()
        _send(self._process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDS_WITHIN)
        for pid in self.pids():
            _send(pid, signal.SIGKILL)
        self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        _root_of(self._folder, self.name).write_text(str(process.pid), encoding="ascii")
        return process

    def _keep(self) -> None:
        while not self._is_over.wait(0.05):
            if self._process.poll() is None:
                continue
            self.exits += 1
            if self.exits > self._restarts or self._is_over.wait(_RESTARTS_AFTER):
                return
            for pid in self.pids():  # a service manager leaves nothing of the old one
                _send(pid, signal.SIGKILL)
            self._process = self._start()


def kill_own_group(folder: str | Path, history: Path) -> None:
    """End the group of the calling process, itself last."""
    root = int(_root_of(folder, os.environ[GROUP]).read_text(encoding="ascii"))
    mark = {GROUP: os.environ[GROUP], "BENCH_PEERS_FOLDER": str(folder)}
    me = os.getpid()
    pids = _freeze(lambda: [pid for pid in dict.fromkeys((*_tree(root), *processes_with(mark))) if pid != me])
    note_kill(history, [me, *pids])
    for pid in pids:
        _send(pid, signal.SIGKILL)
    os.kill(me, signal.SIGKILL)
    time.sleep(60)  # never returns


def processes_with(mark: Mapping[str, str]) -> list[int]:
    """List the processes that were started with these variables in their environment."""
    wanted = {f"{name}={value}".encode() for name, value in mark.items()}
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted <= set(path.read_bytes().split(b"\0")):
                found.append(int(path.parent.name))
    return found


def _root_of(folder: str | Path, group: str) -> Path:
    return Path(folder) / f"root-{group}"


def _tree(pid: int) -> list[int]:
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        return [pid, *(child.pid for child in root.children(recursive=True))]
    return []


def _freeze(list_pids: Callable[[], list[int]]) -> list[int]:
    stopped: dict[int, None] = {}
    while new := [pid for pid in list_pids() if pid not in stopped]:  # what was forked meanwhile
        for pid in new:
            _send(pid, signal.SIGSTOP)
        stopped |= dict.fromkeys(new)
    return list(stopped)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
