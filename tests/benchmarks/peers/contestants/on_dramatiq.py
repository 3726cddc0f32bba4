"""Dramatiq: two processes of one thread, results in Redis."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import dramatiq

from tests.benchmarks.peers.contestants.rabbitmq import delete_queues
from tests.benchmarks.peers.place import Place
from tests.benchmarks.peers.processes import Processes
from tests.benchmarks.peers.protocol import Unsupported
from tests.benchmarks.peers.tasks import on_dramatiq as tasks

__all__ = ["Peer"]

_OPTIONS = "--processes 2 --threads 1 --skip-logging"
_AHEAD = 64  # messages a process holds; with its default, 2 a thread, it drains Redis at a sixth of the rate


class Peer:
    """Dramatiq reads results one by one; a group only sends its messages one after the other."""

    def __init__(self, place: Place, processes: Processes) -> None:
        self._place = place
        self._processes = processes

    def start(self) -> None:
        command = [sys.executable, "-m", "dramatiq", "tests.benchmarks.peers.tasks.on_dramatiq", *_OPTIONS.split()]
        self._processes.start(["env", f"dramatiq_queue_prefetch={_AHEAD}", *command])

    def submit(self, x: int) -> tuple[str, str]:
        return "noop", tasks.noop.send(x).message_id

    def submit_nap(self, seconds: float) -> tuple[str, str]:
        return "nap", tasks.nap.send(seconds).message_id

    def submit_bulk(self, count: int) -> list[str]:
        raise Unsupported("a group sends its messages one by one")

    def fetch(self, handles: Sequence[Any]) -> list[Any]:
        return [self._result(actor, id_) for actor, id_ in handles]  # blocks in Redis, woken by it

    def wait(self, handles: Sequence[Any]) -> None:
        self.fetch(handles)  # blocks in Redis

    def map_fib(self, numbers: Iterable[int], chunk: int | None) -> Iterator[int]:
        raise Unsupported("it has no map")

    def frames_sent(self) -> int | None:
        return None

    def close(self) -> None:
        tasks.broker.close()
        if self._place.broker == "amqp":
            names = [f"{tasks.QUEUE}{suffix}" for suffix in ("", ".DQ", ".XQ")]
            delete_queues(self._place.amqp_for_pika, names)

    def _result(self, actor: str, id_: str) -> Any:
        # The key of a result is made of the queue, the actor and the id.
        message: dramatiq.Message[Any] = dramatiq.Message(
            queue_name=tasks.QUEUE, actor_name=actor, args=(), kwargs={}, options={}, message_id=id_
        )
        return tasks.results.get_result(message, block=True, timeout=300_000)
