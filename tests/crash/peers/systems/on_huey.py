"""Huey: two processes."""

from __future__ import annotations

from typing import Any

from tests.benchmarks.peers.place import Place
from tests.benchmarks.peers.processes import program
from tests.crash.peers.tasks import on_huey as tasks
from tests.crash.peers.work import Job

__all__ = ["Peer"]


class Peer:
    def __init__(self, place: Place) -> None:
        pass  # the tasks' module knows it

    def command(self, group: str, redis_url: str) -> list[str]:
        target = "tests.crash.peers.tasks.on_huey.huey"
        return [program("huey_consumer"), target, "--workers", "2", "--worker-type", "process"]

    def submit(self, job: Job) -> Any:
        return tasks.work(job.label, job.seconds, job.is_poison)

    def state(self, handle: Any) -> str:
        if self.result(handle) is not None:
            return "result"
        return "queued" if any(task.id == handle.id for task in tasks.huey.pending()) else "gone"

    def result(self, handle: Any) -> str | None:
        value = handle.get(preserve=True)
        return None if value is None else str(value)

    def close(self) -> None:
        tasks.huey.storage.conn.close()
