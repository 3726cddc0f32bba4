"""concurrent.futures: a ProcessPoolExecutor of two; no broker, and nothing outlives the client."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tests.benchmarks.peers import work
from tests.benchmarks.peers.place import Place
from tests.benchmarks.peers.processes import Processes
from tests.benchmarks.peers.protocol import Unsupported

__all__ = ["Peer"]


class Peer:
    """Its map reads the whole generator before it runs anything."""

    def __init__(self, place: Place, processes: Processes) -> None:
        self._place = place
        self._processes = processes

    def start(self) -> None:
        context = multiprocessing.get_context("fork")
        self._executor = concurrent.futures.ProcessPoolExecutor(2, mp_context=context)
        self._executor.submit(work.noop, 0).result()  # its processes are started by the first job
        self._processes.adopt(child.pid for child in multiprocessing.active_children() if child.pid is not None)

    def submit(self, x: int) -> Any:
        return self._executor.submit(work.noop, x)

    def submit_nap(self, seconds: float) -> Any:
        return self._executor.submit(work.nap, seconds)

    def submit_bulk(self, count: int) -> Sequence[Any]:
        raise Unsupported("it has no way for many but its map")

    def fetch(self, handles: Sequence[Any]) -> list[Any]:
        return [handle.result(300) for handle in handles]

    def wait(self, handles: Sequence[Any]) -> None:
        concurrent.futures.wait(handles, timeout=300)

    def map_fib(self, numbers: Iterable[int], chunk: int | None) -> Iterator[int]:
        return self._executor.map(work.fib, numbers, chunksize=chunk or 1)

    def frames_sent(self) -> int | None:
        return None

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
