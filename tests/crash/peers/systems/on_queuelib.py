"""queuelib: a worker with two children."""

from __future__ import annotations

import sys
from typing import Any

from tests.benchmarks.peers.place import Place
from tests.crash.peers.tasks import on_queuelib as tasks
from tests.crash.peers.work import Job

__all__ = ["Peer"]


class Peer:
    def __init__(self, place: Place) -> None:
        pass  # the tasks' module knows it

    def command(self, group: str, redis_url: str) -> list[str]:
        target = "tests/crash/peers/tasks/on_queuelib.py:dispatcher"
        return [sys.executable, "-m", "queuelib", "worker", target, "--processes", "2"]

    def submit(self, job: Job) -> Any:
        return tasks.work.submit(job.label, job.seconds, job.is_poison)

    def state(self, handle: Any) -> str:
        return str(handle.state)

    def result(self, handle: Any) -> str | None:
        return str(handle.result(timeout=1)) if self.state(handle) == "succeeded" else None

    def close(self) -> None:
        tasks.dispatcher.close()
