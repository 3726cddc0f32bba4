"""RQ: its pool of two workers."""

from __future__ import annotations

from typing import Any

import redis
import rq

from tests.benchmarks.peers.place import Place
from tests.benchmarks.peers.processes import program
from tests.crash.peers.tasks import on_rq as tasks
from tests.crash.peers.work import Job

__all__ = ["Peer"]


class Peer:
    def __init__(self, place: Place) -> None:
        self._name = place.name
        self._redis = redis.Redis.from_url(place.redis)
        self._queue = rq.Queue(place.name, connection=self._redis)

    def command(self, group: str, redis_url: str) -> list[str]:
        return [program("rq"), "worker-pool", "--url", redis_url, "--num-workers", "2", self._name]

    def submit(self, job: Job) -> Any:
        # Retry is what its manual offers for jobs that fail, and those whose worker died count as such.
        return self._queue.enqueue(tasks.work, job.label, job.seconds, job.is_poison, retry=rq.Retry(max=3))

    def state(self, handle: Any) -> str:
        return str(handle.get_status(refresh=True).value)

    def result(self, handle: Any) -> str | None:
        handle.refresh()
        value = handle.return_value()
        return None if value is None else str(value)

    def close(self) -> None:
        self._redis.close()
