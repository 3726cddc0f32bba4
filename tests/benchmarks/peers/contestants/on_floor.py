"""The floor: raw redis-py, pipes and msgpack, two processes, no framework."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgpack
import redis

from tests.benchmarks.peers.place import Place
from tests.benchmarks.peers.processes import Processes
from tests.benchmarks.peers.protocol import Unsupported
from tests.benchmarks.peers.tasks import on_floor as tasks

__all__ = ["Peer"]

_AT_A_TIME = 1000  # messages of one LPUSH in bulk


class Peer:
    """Ids of sixteen random bytes, an LPUSH a job, and one HMGET for many results."""

    def __init__(self, place: Place, processes: Processes) -> None:
        self._processes = processes
        self._redis = redis.Redis.from_url(place.redis)
        self._queue, self._results = tasks.queue_of(place), tasks.results_of(place)

    def start(self) -> None:
        self._processes.start([sys.executable, "-m", "tests.benchmarks.peers.tasks.on_floor"])

    def submit(self, x: int) -> bytes:
        id_ = os.urandom(16)
        self._redis.lpush(self._queue, msgpack.packb((id_, "noop", x)))
        return id_

    def submit_nap(self, seconds: float) -> bytes:
        id_ = os.urandom(16)
        self._redis.lpush(self._queue, msgpack.packb((id_, "nap", seconds)))
        return id_

    def submit_bulk(self, count: int) -> list[bytes]:
        ids = [os.urandom(16) for _ in range(count)]
        for start in range(0, count, _AT_A_TIME):
            numbers = range(start, min(count, start + _AT_A_TIME))
            self._redis.lpush(self._queue, *(msgpack.packb((ids[i], "noop", i)) for i in numbers))
        return ids

    def fetch(self, handles: Sequence[Any]) -> list[Any]:
        found: dict[Any, Any] = {}
        missing, pause = list(handles), 0.0002 if len(handles) == 1 else 0.002
        while missing:
            values = self._redis.hmget(self._results, missing)
            found |= {id_: msgpack.unpackb(value) for id_, value in zip(missing, values, strict=True) if value}
            missing = [id_ for id_ in missing if id_ not in found]
            if missing:
                time.sleep(pause)
        return [found[id_] for id_ in handles]

    def wait(self, handles: Sequence[Any]) -> None:
        while not all(self._redis.hmget(self._results, handles)):
            time.sleep(0.001)

    def map_fib(self, numbers: Iterable[int], chunk: int | None) -> Iterator[int]:
        raise Unsupported("the floor is for the drain")

    def frames_sent(self) -> int | None:
        return None

    def close(self) -> None:
        self._redis.close()
