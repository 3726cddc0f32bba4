"""RQ: two workers that run jobs in their own process, results in Redis streams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import redis
import rq
from rq.job import Job
from rq.results import Result

from tests.benchmarks.peers.place import Place
from tests.benchmarks.peers.processes import Processes, program
from tests.benchmarks.peers.protocol import Unsupported
from tests.benchmarks.peers.tasks import on_rq as tasks

__all__ = ["Peer"]


class Peer:
    """SimpleWorker, because the default forks a process for each job and is several times slower."""

    def __init__(self, place: Place, processes: Processes) -> None:
        self._place = place
        self._processes = processes
        # Waiting for a result blocks in Redis for longer than redis-py's own limit for a reply.
        self._redis = redis.Redis.from_url(place.redis, socket_timeout=None)
        self._queue = rq.Queue(place.name, connection=self._redis)

    def start(self) -> None:
        for _ in range(2):
            self._processes.start(
                [
                    *(program("rq"), "worker", "--url", self._place.redis, "--worker-class", "rq.SimpleWorker"),
                    *("--quiet", "--disable-job-desc-logging", self._place.name),
                ]
            )

    def submit(self, x: int) -> str:
        return str(self._queue.enqueue(tasks.noop, x).id)

    def submit_nap(self, seconds: float) -> str:
        return str(self._queue.enqueue(tasks.nap, seconds).id)

    def submit_bulk(self, count: int) -> list[str]:
        data = [rq.Queue.prepare_data(tasks.noop, (i,)) for i in range(count)]
        return [str(job.id) for job in self._queue.enqueue_many(data)]

    def fetch(self, handles: Sequence[Any]) -> list[Any]:
        return [self._result(id_) for id_ in handles]  # blocks in Redis, woken by it

    def wait(self, handles: Sequence[Any]) -> None:
        self.fetch(handles)  # blocks in Redis

    def map_fib(self, numbers: Iterable[int], chunk: int | None) -> Iterator[int]:
        raise Unsupported("it has no map")

    def frames_sent(self) -> int | None:
        return None

    def close(self) -> None:
        self._redis.close()

    def _result(self, id_: str) -> Any:
        job = Job(id_, connection=self._redis)  # by the id alone: fetching the whole job first would cost as much again
        result = job.latest_result(timeout=120)
        if result is None or result.type is not Result.Type.SUCCESSFUL:
            raise RuntimeError(f"job {id_} has the result {result}")
        return result.return_value
