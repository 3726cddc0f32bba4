"""Taskiq: two worker processes; results in Redis."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from taskiq import AsyncTaskiqTask

from tests.benchmarks.peers.contestants.rabbitmq import delete_queues
from tests.benchmarks.peers.place import Place
from tests.benchmarks.peers.processes import Processes
from tests.benchmarks.peers.protocol import Unsupported
from tests.benchmarks.peers.tasks import on_taskiq as tasks

__all__ = ["Peer"]

_AT_ONCE = 50  # results asked for at the same time; more were no quicker


class Peer:
    """Taskiq lives in an event loop: one runs for the whole session, and each call here enters it once."""

    def __init__(self, place: Place, processes: Processes) -> None:
        self._place = place
        self._processes = processes
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(tasks.broker.startup())

    def start(self) -> None:
        target = "tests.benchmarks.peers.tasks.on_taskiq:broker"
        options = "--workers 2 --log-level WARNING --max-async-tasks 100 --max-prefetch 100"
        self._processes.start([sys.executable, "-m", "taskiq", "worker", target, *options.split()])

    def submit(self, x: int) -> str:
        return str(self._loop.run_until_complete(tasks.noop.kiq(x)).task_id)

    def submit_nap(self, seconds: float) -> str:
        return str(self._loop.run_until_complete(tasks.nap.kiq(seconds)).task_id)

    def submit_bulk(self, count: int) -> list[str]:
        raise Unsupported("kiq sends one")

    def fetch(self, handles: Sequence[Any]) -> list[Any]:
        return self._loop.run_until_complete(self._fetch(handles))

    def wait(self, handles: Sequence[Any]) -> None:
        for id_ in handles:
            self._loop.run_until_complete(self._result(id_, every=0.02))

    def map_fib(self, numbers: Iterable[int], chunk: int | None) -> Iterator[int]:
        raise Unsupported("it has no map")

    def frames_sent(self) -> int | None:
        return None

    def close(self) -> None:
        self._loop.run_until_complete(tasks.broker.shutdown())
        self._loop.close()
        if self._place.broker == "amqp":
            name = self._place.name
            delete_queues(self._place.amqp_for_pika, [name, f"{name}.delay", f"{name}.dead_letter"])

    async def _fetch(self, handles: Sequence[Any]) -> list[Any]:
        values: list[Any] = []
        for start in range(0, len(handles), _AT_ONCE):
            values += await asyncio.gather(*(self._result(id_) for id_ in handles[start : start + _AT_ONCE]))
        return values

    async def _result(self, id_: str, every: float = 0.001) -> Any:
        task: AsyncTaskiqTask[Any] = AsyncTaskiqTask(id_, tasks.broker.result_backend)
        result = await task.wait_result(check_interval=every, timeout=300)
        if result.is_err:
            raise RuntimeError(f"task {id_} failed: {result.error}")
        return result.return_value
