"""One contestant on one broker, in a process of its own: `python -m …session ORDER` prints its figures as JSON."""

from __future__ import annotations

import importlib
import json
import sys
import time
import traceback
from dataclasses import dataclass, field
from typing import Any

import redis

from tests.benchmarks.peers import measure
from tests.benchmarks.peers.catalog import ENTRIES
from tests.benchmarks.peers.place import Place
from tests.benchmarks.peers.processes import Processes
from tests.benchmarks.peers.protocol import Contestant

__all__ = ["Order", "run"]


@dataclass(frozen=True, slots=True)
class Order:
    """What one session measures.

    Attributes:
        contestant: Its name.
        kind: `queue`, `map` or `waiting`: each in a session of its own.
        rows: Of a queue session.
        jobs: To drain.
        bulk: To submit at once.
        latencies: How many single jobs are timed.
        items: To map.
        depths: Numbers of waiting jobs to compare.
        window: How many jobs are timed while they wait.
    """

    contestant: str
    kind: str
    rows: list[str] = field(default_factory=list)
    jobs: int = 0
    bulk: int = 0
    latencies: int = 0
    items: int = 0
    depths: list[int] = field(default_factory=list)
    window: int = 0


def run(order: Order, place: Place) -> dict[str, Any]:
    """Measure; what failed is in the figures as `error`, beside what was measured before it."""
    figures: dict[str, Any] = {}
    processes = Processes(place)
    peer: Contestant | None = None
    try:
        module = importlib.import_module(f"tests.benchmarks.peers.contestants.{ENTRIES[order.contestant].module}")
        peer = module.Peer(place, processes)
        assert peer is not None
        for part in _parts(order, place, peer, processes):
            began = time.monotonic()
            figures |= part()
            print(f"    {time.monotonic() - began:.1f} s: {part.__name__}", file=sys.stderr, flush=True)
    except Exception as error:  # noqa: BLE001 - foreign code: whatever it is, it is this contestant's figure
        traceback.print_exc()
        figures["error"] = f"{type(error).__name__}: {error}"[:500]
    finally:
        _end(peer, processes, figures, is_queue=ENTRIES[order.contestant].own_queue)
    return figures


def _parts(order: Order, place: Place, peer: Contestant, processes: Processes) -> list[Any]:
    entry = ENTRIES[order.contestant]

    def start() -> dict[str, Any]:
        figures = measure.start(peer, own_queue=entry.own_queue)
        measure.warm_up(peer, processes)
        return figures if "start" in order.rows else {}

    def drain() -> dict[str, Any]:
        server = redis.Redis.from_url(place.redis) if place.broker == "redis" else None
        figures = measure.drain(peer, processes, order.jobs, server)
        return {name: value for name, value in figures.items() if _row_of(name) in order.rows}

    def memory() -> dict[str, Any]:
        return measure.memory(processes)

    def latency() -> dict[str, Any]:
        return measure.latency(peer, order.latencies)

    def bulk() -> dict[str, Any]:
        return measure.bulk(peer, processes, order.bulk)

    def best_map() -> dict[str, Any]:
        return measure.best_map(peer, order.items, entry.chunks)

    def waiting() -> dict[str, Any]:
        return measure.waiting(peer, processes, order.depths, order.window)

    if order.kind == "map":
        return [start, best_map]
    if order.kind == "waiting":
        return [start, waiting]
    wanted = {
        "memory": memory,
        "latency": latency,
        "drain": drain,
        "bulk": bulk,
    }
    rows = {"drain" if row == "submit" else row for row in order.rows}
    return [start, *(part for row, part in wanted.items() if row in rows)]


def _row_of(figure: str) -> str:
    return "submit" if figure.startswith(("submit", "lpush")) else "drain"


def _end(peer: Contestant | None, processes: Processes, figures: dict[str, Any], *, is_queue: bool) -> None:
    steps = (processes.stop, peer.close if peer is not None else None)
    # Processes that a library started itself are ended by it, or it replaces them and waits for their locks.
    for step in steps if is_queue else reversed(steps):
        try:
            if step is not None:
                step()
        except Exception as error:  # noqa: BLE001 - the figures are there; this is only told
            figures.setdefault("closing_error", f"{type(error).__name__}: {error}"[:300])


def main() -> None:
    """Read the order, measure, print."""
    figures = run(Order(**json.loads(sys.argv[1])), Place.here())
    print(json.dumps(figures), flush=True)  # the last line is what the caller reads


if __name__ == "__main__":
    main()
