"""The floor's worker: takes messages from a Redis list in batches, hands them to two children, stores their answers.

It is what one would write in an afternoon for this one job: no retries, no checks, no priorities, no second worker, and
what it has taken is lost when it is killed.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import signal
import sys
from typing import Any

import msgpack
import redis

from tests.benchmarks.peers import work
from tests.benchmarks.peers.place import Place

BATCH = 128  # messages a pipe carries at a time; 64 to 512 measured alike
AHEAD = 2  # batches that a child has before it answers the first: it never waits for the feeder
HANDLERS = {"noop": work.noop, "nap": work.nap, "fib": work.fib}


def queue_of(place: Place) -> str:
    """Return the key of the list of messages."""
    return f"{place.name}:queue"


def results_of(place: Place) -> str:
    """Return the key of the hash of results."""
    return f"{place.name}:results"


def serve(place: Place) -> None:
    """Run until the process is ended."""
    pipes = [_child() for _ in range(2)]
    client = redis.Redis.from_url(place.redis)
    queue, results = queue_of(place), results_of(place)
    ahead = dict.fromkeys(pipes, 0)
    while True:
        free = [pipe for pipe in pipes if ahead[pipe] < AHEAD]
        # Blocks only while nothing is under way: else the children's answers have to be stored.
        for pipe, batch in zip(free, _take(client, queue, len(free), idle=not any(ahead.values())), strict=False):
            pipe.send_bytes(msgpack.packb(batch))
            ahead[pipe] += 1
        busy = [pipe for pipe in pipes if ahead[pipe]]
        answered: list[Any] = multiprocessing.connection.wait(busy, 0.001) if busy else []
        if answered:
            answers: dict[Any, Any] = {}
            for pipe in answered:
                answers.update(msgpack.unpackb(pipe.recv_bytes()))
                ahead[pipe] -= 1
            client.hset(results, mapping=answers)


def _take(client: Any, queue: str, count: int, *, idle: bool) -> list[list[bytes]]:
    """Take up to a batch of messages for each child that is free; small batches while few wait, so that both work."""
    if not count:
        return []
    messages: list[bytes] = client.rpop(queue, BATCH * count) or []
    if not messages and idle:
        found = client.brpop([queue], timeout=1)
        messages = [found[1]] if found else []
    size = max(1, -(-len(messages) // count))
    return [messages[start : start + size] for start in range(0, len(messages), size)]


def _child() -> Any:
    here, there = multiprocessing.get_context("fork").Pipe()
    multiprocessing.get_context("fork").Process(target=_run, args=(there,), daemon=True).start()
    return here


def _run(pipe: Any) -> None:
    while True:
        answers = {}
        for message in msgpack.unpackb(pipe.recv_bytes()):
            id_, name, argument = msgpack.unpackb(message)
            answers[id_] = msgpack.packb(HANDLERS[name](argument))
        pipe.send_bytes(msgpack.packb(answers))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    serve(Place.here())
