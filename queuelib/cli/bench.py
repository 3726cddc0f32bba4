"""`queuelib bench`: how fast this machine and this broker are, in the product's own words."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from queuelib.settings import mask

if TYPE_CHECKING:
    from rich.table import Table

    from queuelib.cli.figures import Figures

__all__ = ["bench"]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table.

    Attributes:
        figure: Its name in the JSON object, which ends with its unit.
        what: In the table.
        unit: Behind the value.
    """

    figure: str
    what: str
    unit: str


_ROWS = (
    Row("submit_us", "submit, one by one, each accepted by the broker", "µs"),
    Row("drain_per_s", "drain of jobs that were submitted one by one", "jobs/s"),
    Row("read_per_s", "results read by id", "results/s"),
    Row("submit_many_per_s", "submit_many", "jobs/s"),
    Row("latency_p50_ms", "submit to result on idle workers, median", "ms"),
    Row("latency_p99_ms", "the same, 99th percentile", "ms"),
    Row("map_per_s", "map of fib(12) over a generator, in order", "items/s"),
    Row("map_messages_share", "broker messages an item of the map", ""),
    Row("map_growth_mib", "growth of this process in the map", "MiB"),
    Row("few_waiting_per_s", "jobs done while 1,000 wait", "jobs/s"),
    Row("many_waiting_per_s", "jobs done while as many wait as asked for", "jobs/s"),
    Row("start_s", "start of a worker to the first result", "s"),
    Row("worker_mib", "memory of the idle worker, all processes", "MiB"),
    Row("import_ms", "from queuelib import Dispatcher", "ms"),
)


@click.command()
@click.argument("url", required=False)
@click.option("--broker", metavar="URL", help="The same as URL.")
@click.option("--results", metavar="URL", help="Default: $QUEUELIB_RESULTS, else the broker.")
@click.option("--processes", "-p", type=click.IntRange(1, 64), default=2, show_default=True, help="Children.")
@click.option("--jobs", type=click.IntRange(100), default=20_000, show_default=True, help="Jobs to submit and drain.")
@click.option("--items", type=click.IntRange(100), default=100_000, show_default=True, help="Items to map.")
@click.option("--latencies", type=click.IntRange(10), default=1000, show_default=True, help="Jobs timed one by one.")
@click.option("--waiting", type=click.IntRange(1000), help="Also time jobs while so many wait; takes a while.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def bench(
    *,
    url: str | None,
    broker: str | None,
    results: str | None,
    processes: int,
    jobs: int,
    items: int,
    latencies: int,
    waiting: int | None,
    as_json: bool,
) -> None:
    """Measure submitting, draining, mapping and latency on a broker, with jobs that do nothing.

    URL is the broker's: $QUEUELIB_BROKER if it is left out, else a temporary SQLite file.

    \b
        queuelib bench                                      # this machine, nothing to install
        queuelib bench redis://localhost/0
        queuelib bench amqp://localhost// --results redis://localhost/0
        queuelib bench redis://localhost/0 --jobs 2000 --json > today.json

    Every job is typed, has an id and a stored result, and is delivered at least once. It starts a worker of its own
    beside it and uses the namespace "bench", so that jobs of others are not touched. A second or third run is quicker
    than the first on a cold machine: compare medians, on a machine that does nothing else, and ratios rather than rates.

    The drain's jobs are submitted one by one, each in a broker message of its own, while the worker is held back; its
    clock goes from letting the worker go to the last result that is stored. On memory:// the worker is threads of this
    process and cannot be held back: there the clock starts with the first submit.

    How other task queues do on the same work: docs/benchmarks.md, and `make bench-peers` in a checkout.
    """  # noqa: D301 - click reads the character \b, which a raw string has not
    if url and broker and url != broker:
        msg = "give the broker once: as URL or as --broker"
        raise click.UsageError(msg)
    from rich.console import Console  # noqa: PLC0415 - 0.05 s, which a worker need not wait for

    from queuelib.cli.figures import Amounts, measure  # noqa: PLC0415
    from queuelib.workloads.noop import dispatcher  # noqa: PLC0415

    with (
        tempfile.TemporaryDirectory(prefix="queuelib-bench-", ignore_cleanup_errors=True) as folder,
        Console(stderr=True).status("…") as status,
    ):
        place = url or broker or os.environ.get("QUEUELIB_BROKER") or f"sqlite:///{folder}/bench.db"
        dispatcher.configure(broker=place, results=results or os.environ.get("QUEUELIB_RESULTS") or place)
        try:
            figures = measure(dispatcher, processes, Amounts(jobs, items, latencies, waiting or 0), status.update)
        finally:
            dispatcher.close()
    facts = {
        "broker": mask(place),
        "results": mask(dispatcher.results_url),
        "processes": processes,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "jobs": jobs,
        "items": items,
    }
    if as_json:
        click.echo(json.dumps({**facts, **figures}))
    else:
        Console().print(_table(f"{facts['broker']}, {processes} processes, Python {facts['python']}", figures))


def _table(title: str, figures: Figures) -> Table:
    from rich.table import Table  # noqa: PLC0415

    table = Table("what", "figure", "", title=title)
    table.columns[1].justify = "right"
    for row in _ROWS:
        if row.figure in figures:
            table.add_row(row.what, _text(figures[row.figure]), row.unit)
    return table


def _text(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits are more than it is worth
