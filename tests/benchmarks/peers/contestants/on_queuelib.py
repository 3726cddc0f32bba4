"""queuelib, by its public names and its command line."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tests.benchmarks.peers.contestants.rabbitmq import delete_queues
from tests.benchmarks.peers.place import Place
from tests.benchmarks.peers.processes import Processes
from tests.benchmarks.peers.tasks import on_queuelib as tasks

__all__ = ["Peer"]

_COLORS_AND_OTHERS = ("red", "yellow", "green", "results", "control", "workers", "quarantine")


class Peer:
    """Results are kept by the broker's own server; everything else is the default."""

    def __init__(self, place: Place, processes: Processes) -> None:
        self._place = place
        self._processes = processes
        self._frames = 0
        self._count_frames()

    def start(self) -> None:
        target = "tests/benchmarks/peers/tasks/on_queuelib.py:dispatcher"
        self._processes.start([sys.executable, "-m", "queuelib", "worker", target, "--processes", "2", "--quiet"])

    def submit(self, x: int) -> str:
        return tasks.noop.submit(x).id

    def submit_nap(self, seconds: float) -> str:
        return tasks.nap.submit(seconds).id

    def submit_bulk(self, count: int) -> list[str]:
        # The ids are the handles elsewhere; made from the jobs they are part of what is timed.
        return [job.id for job in tasks.noop.submit_many((i,) for i in range(count))]

    def fetch(self, handles: Sequence[Any]) -> list[Any]:
        return tasks.dispatcher.gather([tasks.dispatcher.job(id_) for id_ in handles], timeout=300)

    def wait(self, handles: Sequence[Any]) -> None:
        self.fetch(handles)

    def map_fib(self, numbers: Iterable[int], chunk: int | None) -> Iterator[int]:
        return tasks.fib.map(numbers)

    def frames_sent(self) -> int | None:
        return self._frames

    def close(self) -> None:
        tasks.dispatcher.close()
        if self._place.broker == "amqp":
            delete_queues(self._place.amqp_for_pika, [f"{self._place.name}.{name}" for name in _COLORS_AND_OTHERS])

    def _count_frames(self) -> None:
        """Count what goes to the broker where all of it goes through: in the `publish` of the dispatcher's producer."""
        publish = tasks.dispatcher.producer.publish

        def counting(frames: Sequence[Any]) -> None:
            self._frames += len(frames)
            publish(frames)

        tasks.dispatcher.producer.publish = counting  # type: ignore[method-assign] # for this one object, to count
