"""Which sessions a run has, in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.peers.catalog import BROKERS, ROWS
from tests.benchmarks.peers.protocol import Entry
from tests.benchmarks.peers.session import Order

__all__ = ["Scale", "Step", "plan"]

_QUEUE_ROWS = ("start", "memory", "latency", "submit", "drain", "bulk")


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured.

    Attributes:
        rounds: Runs of each session; medians are reported.
        jobs: To submit one by one and to drain.
        latencies: Single jobs whose time from submit to result is taken.
        items: To map.
        deep: Jobs that wait, against 1,000.
        window: How many jobs are timed while others wait.
    """

    rounds: int
    jobs: int
    latencies: int
    items: int
    deep: int
    window: int = 10_000


@dataclass(frozen=True, slots=True)
class Step:
    """One session: a contestant on a broker, once.

    Attributes:
        key: Names it in the record, so that a run that was broken off goes on where it stopped.
        broker: Where.
        round: Counted from 1.
        order: What the session measures.
        variant: Of the contestant.
        within: Seconds after which it is given up.
    """

    key: str
    broker: str
    round: int
    order: Order
    variant: str
    within: float


def plan(entries: Sequence[Entry], brokers: Sequence[str], rows: Sequence[str], scale: Scale) -> Iterator[Step]:
    """Yield the sessions: on each broker one of every contestant, then the next of every contestant, and so on."""
    for broker in (name for name in BROKERS if name in brokers):
        present = [entry for entry in entries if broker in entry.brokers]
        for round_ in range(1, scale.rounds + 1):
            for entry in present:
                for order in _orders(entry, rows, scale, round_):
                    key = f"{broker}/{entry.name}/{order.kind}/{round_}"
                    yield Step(key, broker, round_, order, entry.variant, _within(order))


def _orders(entry: Entry, rows: Sequence[str], scale: Scale, round_: int) -> Iterator[Order]:
    wanted = [row for row in _QUEUE_ROWS if row in rows]
    if wanted and entry.queues:
        jobs = int(scale.jobs * entry.share)
        yield Order(entry.name, "queue", rows=wanted, jobs=jobs, bulk=jobs, latencies=_share(scale.latencies, entry))
    if "map" in rows and entry.maps:
        yield Order(entry.name, "map", items=scale.items)
    # Filling a queue takes minutes, and both sides of the ratio are taken in one session: once is enough.
    if "waiting" in rows and entry.module == "on_queuelib" and round_ == 1:
        yield Order(entry.name, "waiting", depths=[1000, scale.deep], window=scale.window)


def _share(count: int, entry: Entry) -> int:
    return max(100, int(count * entry.share))


def _within(order: Order) -> float:
    """Return a limit that no session which works comes near."""
    amounts: dict[str, Any] = {"queue": order.jobs / 50, "map": order.items / 500, "waiting": sum(order.depths) / 2000}
    return 120.0 + float(amounts[order.kind])


assert set(_QUEUE_ROWS) < set(ROWS)
