"""multiprocessing.Pool of two: no broker, and nothing outlives the client."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import psutil

from tests.benchmarks.peers import work
from tests.benchmarks.peers.place import Place
from tests.benchmarks.peers.processes import Processes
from tests.benchmarks.peers.protocol import Unsupported

__all__ = ["Peer"]


class Peer:
    """Each job an `apply_async` of its own; the objects it returns are the handles."""

    def __init__(self, place: Place, processes: Processes) -> None:
        self._processes = processes

    def start(self) -> None:
        before = {child.pid for child in psutil.Process().children(recursive=True)}
        self._pool = multiprocessing.get_context("fork").Pool(2)
        self._processes.adopt({child.pid for child in psutil.Process().children(recursive=True)} - before)

    def submit(self, x: int) -> Any:
        return self._pool.apply_async(work.noop, (x,))

    def submit_nap(self, seconds: float) -> Any:
        return self._pool.apply_async(work.nap, (seconds,))

    def submit_bulk(self, count: int) -> Sequence[Any]:
        raise Unsupported("map_async only keeps the list, for its thread to send")

    def fetch(self, handles: Sequence[Any]) -> list[Any]:
        return [handle.get(300) for handle in handles]

    def wait(self, handles: Sequence[Any]) -> None:
        for handle in handles:
            handle.wait(300)

    def map_fib(self, numbers: Iterable[int], chunk: int | None) -> Iterator[int]:
        return self._pool.imap(work.fib, numbers, chunk or 1)

    def frames_sent(self) -> int | None:
        return None

    def close(self) -> None:
        self._pool.terminate()
        self._pool.join()
