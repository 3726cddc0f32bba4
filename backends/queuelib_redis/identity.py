"""Who a taker is: host, process and its start, so that others on the host see at once that the process is gone."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["is_gone", "own_identity"]

_PROC = Path("/proc")


def own_identity() -> str:
    """Return `boot id|pid namespace|pid|start time`; empty where the system does not tell, and only leases count."""
    place = _place()
    started = _started(os.getpid())
    return f"{place}|{os.getpid()}|{started}" if place and started else ""


def is_gone(identity: str) -> bool:
    """Return whether this is a process of this host and pid namespace that does not run any more."""
    place, _, process = identity.rpartition("|")[0].rpartition("|")
    if not place or place != _place() or not process.isdigit():
        return False
    return _started(int(process)) != identity.rpartition("|")[2]


def _place() -> str:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot}|{(_PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Return when a process was started, in ticks since boot; empty if it does not run."""
    try:
        text = (_PROC / str(pid) / "stat").read_text("utf-8", errors="replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return "" if fields[0] in {"Z", "X"} else fields[19]
