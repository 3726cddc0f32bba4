"""Dask distributed: its scheduler in the client's process, two worker processes of one thread; no broker."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import dask
import distributed
import psutil
from distributed import Client, LocalCluster

from tests.benchmarks.peers import work
from tests.benchmarks.peers.place import Place
from tests.benchmarks.peers.processes import Processes

__all__ = ["Peer"]

_ROUND = 8  # batches of the map that are submitted at a time


class Peer:
    """Futures are the handles: a result is held by the worker until its last future goes."""

    def __init__(self, place: Place, processes: Processes) -> None:
        self._processes = processes
        # Frozen workers are silent: the scheduler must not give them up meanwhile.
        dask.config.set({"distributed.scheduler.worker-ttl": None, "temporary-directory": place.folder})

    def start(self) -> None:
        before = {child.pid for child in psutil.Process(os.getpid()).children(recursive=True)}
        self._cluster = LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
        self._client = Client(self._cluster)
        after = {child.pid for child in psutil.Process(os.getpid()).children(recursive=True)}
        self._processes.adopt(after - before)

    def submit(self, x: int) -> Any:
        return self._client.submit(work.noop, x, pure=False)

    def submit_nap(self, seconds: float) -> Any:
        return self._client.submit(work.nap, seconds, pure=False)

    def submit_bulk(self, count: int) -> Sequence[Any]:
        return self._client.map(work.noop, range(count), pure=False)  # type: ignore[no-any-return]

    def fetch(self, handles: Sequence[Any]) -> list[Any]:
        if len(handles) == 1:
            return [handles[0].result(timeout=120)]
        return self._client.gather(list(handles))  # type: ignore[no-any-return]

    def wait(self, handles: Sequence[Any]) -> None:
        distributed.wait(handles, timeout=300)

    def map_fib(self, numbers: Iterable[int], chunk: int | None) -> Iterator[int]:
        # Its manual's advice for small tasks: make a task of many.
        iterator = iter(numbers)
        batches = iter(lambda: list(itertools.islice(iterator, chunk or 1)), [])
        waiting: list[Any] = []
        while some := list(itertools.islice(batches, _ROUND)):  # one round runs while the one before is read
            waiting.append(self._client.map(work.fib_all, some, pure=False))
            if len(waiting) > 1:
                yield from itertools.chain.from_iterable(self._client.gather(waiting.pop(0)))
        for futures in waiting:
            yield from itertools.chain.from_iterable(self._client.gather(futures))

    def frames_sent(self) -> int | None:
        return None

    def close(self) -> None:
        self._client.close()
        self._cluster.close()
