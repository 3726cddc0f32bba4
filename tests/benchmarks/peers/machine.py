"""What a record says about where it was made: machine, servers, versions."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from contextlib import closing
from importlib import metadata
from pathlib import Path

import pika
import redis

from tests.benchmarks.peers.place import ROOT
from tests.benchmarks.peers.protocol import Entry

__all__ = ["machine", "servers", "versions"]


def machine() -> dict[str, str | int | float]:
    """Describe the machine."""
    return {
        "cpu": _cpu(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "system": _system(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "queuelib_commit": _commit(),
    }


def servers(redis_url: str, amqp_url: str) -> dict[str, str]:
    """Ask each server that is used for its version."""
    found: dict[str, str] = {}
    if redis_url:
        with redis.Redis.from_url(redis_url) as client:
            info = client.info()
        saves = "kept in memory only" if not info["aof_enabled"] and not _saves(redis_url) else "with persistence"
        found["redis"] = f"{info['redis_version']}, {saves}"
    if amqp_url:
        with closing(pika.BlockingConnection(pika.URLParameters(amqp_url))) as connection:
            properties = connection._impl.server_properties
        found["amqp"] = f"RabbitMQ {properties['version']}, {properties['platform']}"
    return found


def versions(entries: Iterable[Entry]) -> dict[str, str]:
    """Return the versions of what the contestants consist of, as installed here."""
    found: dict[str, str] = {}
    for name in {name: None for entry in entries for name in entry.distributions}:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return dict(sorted(found.items()))


def _cpu() -> str:
    names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return names[0] if names else platform.machine()


def _system() -> str:
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    return platform.platform()


def _commit() -> str:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return ""

    def said(*command: str) -> str:
        return subprocess.run([git, "-C", ROOT, *command], capture_output=True, text=True, check=False).stdout.strip()

    # Records are tracked, too: only changes of what is measured, and of what measures, are told.
    is_dirty = said("status", "--porcelain", "--", "queuelib", "backends", "tests/benchmarks")
    return said("rev-parse", "--short", "HEAD") + ("-dirty" if is_dirty else "")


def _saves(redis_url: str) -> bool:
    with redis.Redis.from_url(redis_url) as client:
        return bool(client.config_get("save").get("save"))
