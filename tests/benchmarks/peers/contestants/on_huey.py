"""Huey: two process workers, on Redis or on an SQLite file, results in the same place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tests.benchmarks.peers.place import Place
from tests.benchmarks.peers.processes import Processes, program
from tests.benchmarks.peers.protocol import Unsupported
from tests.benchmarks.peers.tasks import on_huey as tasks

__all__ = ["Peer"]


class Peer:
    """Huey reads results one by one, and its map enqueues one by one."""

    def __init__(self, place: Place, processes: Processes) -> None:
        self._place = place
        self._processes = processes

    def start(self) -> None:
        # On SQLite it polls, every 0.1 s and up to 10 s by default: here every 1 to 5 ms. On Redis it blocks.
        options = "--workers 2 --worker-type process --no-periodic --delay 0.001 --max-delay 0.005 --quiet"
        target = "tests.benchmarks.peers.tasks.on_huey.huey"
        self._processes.start([program("huey_consumer"), target, *options.split()])

    def submit(self, x: int) -> str:
        return str(tasks.noop(x).id)

    def submit_nap(self, seconds: float) -> str:
        return str(tasks.nap(seconds).id)

    def submit_bulk(self, count: int) -> list[str]:
        raise Unsupported("its map enqueues one by one")

    def fetch(self, handles: Sequence[Any]) -> list[Any]:
        result = tasks.huey.result
        return [result(id_, blocking=True, timeout=300, backoff=1.0, max_delay=0.001) for id_ in handles]

    def wait(self, handles: Sequence[Any]) -> None:
        for id_ in handles:  # preserved: else reading removes
            tasks.huey.result(id_, blocking=True, timeout=300, backoff=1.0, max_delay=0.01, preserve=True)

    def map_fib(self, numbers: Iterable[int], chunk: int | None) -> Iterator[int]:
        raise Unsupported("its map keeps nothing in bounds and is a loop of single calls")

    def frames_sent(self) -> int | None:
        return None

    def close(self) -> None:
        """Nothing to do: the file goes with its folder, the keys with the database."""
