"""Dramatiq: two processes of one thread."""

from __future__ import annotations

import sys
from typing import Any

from dramatiq.results import ResultMissing

from tests.benchmarks.peers.place import Place
from tests.crash.peers.tasks import on_dramatiq as tasks
from tests.crash.peers.work import Job

__all__ = ["Peer"]


class Peer:
    def __init__(self, place: Place) -> None:
        pass  # the tasks' module knows it

    def command(self, group: str, redis_url: str) -> list[str]:
        target = "tests.crash.peers.tasks.on_dramatiq"
        return [sys.executable, "-m", "dramatiq", target, "--processes", "2", "--threads", "1"]

    def submit(self, job: Job) -> Any:
        return tasks.work.send(job.label, job.seconds, job.is_poison)

    def state(self, handle: Any) -> str:
        return "no result" if self.result(handle) is None else "result"

    def result(self, handle: Any) -> str | None:
        try:
            return str(handle.get_result(backend=tasks.results))
        except ResultMissing:
            return None

    def close(self) -> None:
        tasks.broker.close()
