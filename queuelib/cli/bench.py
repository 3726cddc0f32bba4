"""`queuelib bench`: how fast this machine and this broker are, in the product's own words."""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from queuelib.settings import mask

__all__ = ["bench"]

_LATENCIES = 300


@click.command()
@click.option("--broker", metavar="URL", help="Default: $QUEUELIB_BROKER, else a temporary file.")
@click.option("--results", metavar="URL", help="Default: $QUEUELIB_RESULTS, else the broker.")
@click.option("--processes", "-p", type=click.IntRange(1, 64), default=2, show_default=True, help="Children.")
@click.option("--jobs", type=click.IntRange(100), default=20_000, show_default=True, help="Jobs to drain.")
@click.option("--items", type=click.IntRange(100), default=100_000, show_default=True, help="Items to map.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def bench(*, broker: str | None, results: str | None, processes: int, jobs: int, items: int, as_json: bool) -> None:
    """Measure submitting, draining, mapping and latency with jobs that do nothing.

    Every job is typed, has an id and a stored result, and is delivered at least once. `drain` is of jobs that were
    submitted one by one, each in a broker message of its own, with their results read by id.
    """
    from queuelib.workloads import noop  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="queuelib-bench-", ignore_cleanup_errors=True) as folder:
        url = broker or os.environ.get("QUEUELIB_BROKER") or f"sqlite:///{folder}/bench.db"
        noop.dispatcher.configure(broker=url, results=results or os.environ.get("QUEUELIB_RESULTS"))
        figures = _measure(noop.dispatcher, noop.noop, processes, jobs, items)
        noop.dispatcher.close()
    facts = {"broker": mask(url), "processes": processes, "python": platform.python_version(), "cpus": os.cpu_count()}
    if as_json:
        click.echo(json.dumps({**facts, **figures}))
        return
    table = Table("figure", "value", title=f"{facts['broker']}, {processes} processes, Python {facts['python']}")
    for name, (value, unit) in _rows(figures).items():
        table.add_row(name, f"{value:,.2f} {unit}" if value < 100 else f"{value:,.0f} {unit}")  # noqa: PLR2004
    Console().print(table)


def _measure(dispatcher: Any, noop: Any, processes: int, jobs: int, items: int) -> dict[str, float]:
    few = max(100, jobs // 20)
    figures: dict[str, float] = {}
    noop.submit(0)  # connect
    took, _ = _timed(lambda: [noop.submit(i) for i in range(few)])
    figures["submit_per_s"] = few / took
    took, batch = _timed(lambda: noop.submit_many([(i,) for i in range(jobs)]))
    figures["submit_many_per_s"] = jobs / took
    with dispatcher.workers(processes=processes):
        dispatcher.gather(batch)
    waiting = [noop.submit(i) for i in range(jobs)]
    with dispatcher.workers(processes=processes):
        took, _ = _timed(lambda: dispatcher.gather(waiting))
        figures["drain_per_s"] = jobs / took
        took, _ = _timed(lambda: sum(1 for _ in noop.map(range(items))))
        figures["map_per_s"] = items / took
        figures["map_s"] = took
        latencies = sorted(_timed(lambda i=i: noop.submit(i).result())[0] for i in range(_LATENCIES))  # type: ignore[misc]
    figures["latency_p50_ms"] = statistics.median(latencies) * 1e3
    figures["latency_p99_ms"] = latencies[int(0.99 * _LATENCIES)] * 1e3
    return figures


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    value = work()
    return time.perf_counter() - started, value


def _rows(figures: dict[str, float]) -> dict[str, tuple[float, str]]:
    return {
        "submit, one by one": (figures["submit_per_s"], "/s"),
        "submit_many": (figures["submit_many_per_s"], "/s"),
        "drain, submitted one by one": (figures["drain_per_s"], "/s"),
        "map": (figures["map_per_s"], "/s"),
        "submit to result, median": (figures["latency_p50_ms"], "ms"),
        "submit to result, 99th percentile": (figures["latency_p99_ms"], "ms"),
    }
