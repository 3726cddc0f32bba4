"""Finds threads, child processes and file descriptors that a test left behind. Linux only: it reads /proc.

Elsewhere only threads are seen.
"""

from __future__ import annotations

import gc
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from tests.waiting import eventually

MARK = "QUEUELIB_TEST_RUN"  # in the environment of whatever a test starts, so that orphans are recognized
SETTLE = 3.0  # seconds given to what is already ending: a killed child's pipes, a joined pool's threads
_PROC = Path("/proc")

# Started once per process by the standard library on first use, and kept by design until it exits.
_ALLOWED_CHILDREN = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
_ALLOWED_THREADS = (
    "execnet",  # pytest-xdist's channel to its controller
    "pytest_timeout",  # pytest-timeout's timer, where signals cannot be used
)
_ALLOWED_TARGETS = ("/dev/urandom",)  # kept open by OpenSSL and by Python itself


@dataclass(frozen=True, slots=True)
class Held:
    """What this process holds at one moment."""

    threads: frozenset[threading.Thread]
    children: frozenset[int]
    descriptors: frozenset[int]


def held() -> Held:
    """Take stock of this process."""
    return Held(frozenset(threading.enumerate()), frozenset(_children()), frozenset(_descriptors()))


def leaked(before: Held, *, within: float = SETTLE) -> list[str]:
    """Say what is held now and was not held `before`, a line each; empty once all of it is gone."""
    if not _difference(before):
        return []
    gc.collect()  # what only a reference cycle keeps open is not a leak
    try:
        eventually(lambda: not _difference(before), within=within)
    except AssertionError:
        return _difference(before)
    return []


def orphans(mark: str) -> list[str]:
    """Name the processes, not this one, that carry `mark` in their environment: started by a test and still alive."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for folder in _PROC.glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # ended meanwhile, or another user's
            continue
        pid = int(folder.name)
        if wanted in environment and pid != os.getpid() and not _is_allowed_child(pid):
            found.append(f"process {pid}: {_command(pid)}")
    return found


def _difference(before: Held) -> list[str]:
    now = held()
    threads = [
        f"thread {thread.name!r}{' (daemon)' if thread.daemon else ''}"
        for thread in now.threads - before.threads
        if thread.is_alive() and not thread.name.startswith(_ALLOWED_THREADS)
    ]
    children = [
        f"child process {pid}: {_command(pid)}" for pid in now.children - before.children if not _is_allowed_child(pid)
    ]
    has_allowed_child = len(children) < len(now.children - before.children)
    descriptors = [
        f"file descriptor {number}: {target}"
        for number, target in ((number, _target(number)) for number in sorted(now.descriptors - before.descriptors))
        if target is not None
        and target not in _ALLOWED_TARGETS
        and not (has_allowed_child and target.startswith("pipe:"))
    ]
    return [*threads, *children, *descriptors]


def _children() -> list[int]:
    pids: list[int] = []
    for task in _PROC.glob("self/task/*/children"):
        try:
            pids += [int(pid) for pid in task.read_text().split()]
        except OSError:  # the thread ended meanwhile
            continue
    return pids


def _descriptors() -> list[int]:
    try:
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208 - called before and after each test
    except FileNotFoundError:
        return []
    return [number for number in numbers if _target(number) is not None]  # without the listing's own


def _target(number: int) -> str | None:
    try:
        return os.readlink(f"/proc/self/fd/{number}")  # noqa: PTH115 - "pipe:[7]" is no path
    except OSError:  # closed meanwhile
        return None


def _command(pid: int) -> str:
    try:
        text = (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "(gone)"
    return text or "(ended, never waited for)"


def _is_allowed_child(pid: int) -> bool:
    return any(name in _command(pid) for name in _ALLOWED_CHILDREN)
