"""Celery: the prefork pool of two, results in Redis."""

from __future__ import annotations

import sys
from typing import Any

from tests.benchmarks.peers.place import Place
from tests.crash.peers.tasks import on_celery as tasks
from tests.crash.peers.work import Job

__all__ = ["Peer"]


class Peer:
    def __init__(self, place: Place) -> None:
        self._place = place

    def command(self, group: str, redis_url: str) -> list[str]:
        return [
            *(sys.executable, "-m", "celery", "-A", "tests.crash.peers.tasks.on_celery", "worker"),
            *("--concurrency", "2", "--loglevel", "INFO", "--hostname", f"{group}@{self._place.name}"),
        ]

    def submit(self, job: Job) -> Any:
        return tasks.work.apply_async((job.label, job.seconds, job.is_poison))

    def state(self, handle: Any) -> str:
        return str(handle.state)

    def result(self, handle: Any) -> str | None:
        return str(handle.result) if handle.state == "SUCCESS" else None

    def close(self) -> None:
        tasks.app.close()
