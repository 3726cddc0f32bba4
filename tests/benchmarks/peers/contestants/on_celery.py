"""Celery: the prefork pool of two, results in Redis."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from celery.result import AsyncResult

from tests.benchmarks.peers.contestants.rabbitmq import delete_queues
from tests.benchmarks.peers.place import Place
from tests.benchmarks.peers.processes import Processes
from tests.benchmarks.peers.protocol import Unsupported
from tests.benchmarks.peers.tasks import on_celery as tasks

__all__ = ["Peer"]


class Peer:
    """Celery has no bulk submit, and its `map` runs in one task."""

    def __init__(self, place: Place, processes: Processes) -> None:
        self._place = place
        self._processes = processes

    def start(self) -> None:
        command = "worker --pool prefork --concurrency 2 --without-gossip --without-mingle --without-heartbeat"
        self._processes.start(
            [
                *(sys.executable, "-m", "celery", "-A", "tests.benchmarks.peers.tasks.on_celery", *command.split()),
                *("--loglevel", "WARNING", "--hostname", f"{self._place.name}@bench"),
            ]
        )

    def submit(self, x: int) -> str:
        return str(tasks.noop.apply_async((x,)).id)

    def submit_nap(self, seconds: float) -> str:
        return str(tasks.nap.apply_async((seconds,)).id)

    def submit_bulk(self, count: int) -> list[str]:
        raise Unsupported("a group sends its tasks one by one")

    def fetch(self, handles: Sequence[Any]) -> list[Any]:
        if len(handles) == 1:  # woken by what the worker publishes, the quickest way for one
            return [AsyncResult(handles[0], app=tasks.app).get(timeout=120)]
        # One MGET asks for many, the quickest way for many; for what is missing it asks again.
        backend = tasks.app.backend
        end = time.monotonic() + 300
        found: dict[Any, Any] = {}
        while len(found) < len(handles):
            missing = [id_ for id_ in handles if id_ not in found]
            for id_, value in zip(missing, backend.mget([backend.get_key_for_task(i) for i in missing]), strict=True):
                if value:
                    found[id_] = backend.decode_result(value)["result"]
            if time.monotonic() > end:
                raise TimeoutError
            if len(found) < len(handles):
                time.sleep(0.005)
        return [found[id_] for id_ in handles]

    def wait(self, handles: Sequence[Any]) -> None:
        self.fetch(handles)

    def map_fib(self, numbers: Iterable[int], chunk: int | None) -> Iterator[int]:
        raise Unsupported("its map runs in one task")

    def frames_sent(self) -> int | None:
        return None

    def close(self) -> None:
        if self._place.broker == "amqp":
            delete_queues(self._place.amqp_for_pika, [self._place.name])
