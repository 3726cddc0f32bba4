"""`queuelib demo`: the workloads, with workers beside them, progress, and what was found."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from queuelib.dispatcher import Dispatcher
from queuelib.errors import ConfigurationError

__all__ = ["demo"]

_DOMAINS = ("sphere", "rastrigin", "rosenbrock", "ackley", "onemax")  # numpy is only imported to run one
_OnDone = Callable[[int, int], object]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def demo() -> None:
    """Run a workload from end to end, with workers beside it.

    The same program runs on the embedded file, on Redis and on RabbitMQ: only --broker differs.
    """


def _options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."),
        click.option("--processes", "-p", type=click.IntRange(1, 64), default=2, show_default=True, help="Children."),
        click.option("--results", metavar="URL", help="Result backend, if not the broker itself."),
        click.option("--broker", metavar="URL", help="Broker; default: $QUEUELIB_BROKER, else a temporary file."),
    ):
        command = option(command)
    return command


@demo.command()
@_options
@click.option(
    "--domain", type=click.Choice(_DOMAINS), default="rastrigin", show_default=True, help="What is minimized."
)
@click.option(
    "--generations", type=click.IntRange(1), default=120, show_default=True, help="How many follow the first one."
)
@click.option("--population", type=click.IntRange(4), default=40, show_default=True, help="Genomes in each.")
def ga(domain: str, generations: int, population: int, **shared: Any) -> None:
    """Minimize a function with a genetic algorithm: each genome is a job, results in order."""
    genetic = _workload("genetic")

    def run(*, serial: bool, on_done: _OnDone) -> Any:
        return genetic.run(domain, generations=generations, population=population, serial=serial, on_done=on_done)

    total = genetic.planned_evaluations(population, generations)
    stage = Stage(genetic.dispatcher, **shared)
    found = stage.play("evaluations", total, run)
    stage.report(
        found.to_dict(),
        f"best of {domain}: {found.best_value:.6g} (known optimum {found.optimum:g}) after {found.evaluations} evaluations\n"
        f"best of each generation, logarithmic: {_sparkline([row.best for row in found.history])}",
    )


@demo.command()
@_options
@click.option("--points", type=click.IntRange(1000), default=300_000_000, show_default=True, help="Points in all.")
@click.option("--groups", type=click.IntRange(1), default=200, show_default=True, help="Jobs they are shared among.")
def pi(points: int, groups: int, **shared: Any) -> None:
    """Estimate pi by Monte Carlo in groups, with the standard error."""
    monte_carlo = _workload("monte_carlo")

    def run(*, serial: bool, on_done: _OnDone) -> Any:
        return monte_carlo.run(points=points, groups=groups, serial=serial, on_done=on_done)

    stage = Stage(monte_carlo.dispatcher, **shared)
    found = stage.play("groups", groups, run)
    z = "" if found.z is None else f"; {abs(found.z):.2f} standard errors from the known value"
    stage.report(found.to_dict(), f"pi = {found.value:.6f} +/- {found.standard_error:.6f}{z} {found.reference:.6f}")


@demo.command()
@_options
@click.option("--count", type=click.IntRange(1), default=3000, show_default=True, help="Number of jobs.")
@click.option("--n", type=click.IntRange(0, 30), default=18, show_default=True, help="Each job computes F(n).")
@click.option("--ids", type=click.Path(dir_okay=False), help="File to save the ids to; default: a temporary one.")
def fibonacci(count: int, n: int, ids: str | None, **shared: Any) -> None:
    """Run recursive Fibonacci jobs over three colors on workers w1 and w2; another process collects the results."""
    workload = _workload("fibonacci")
    stage = Stage(workload.dispatcher, **shared)

    def run(*, serial: bool, on_done: _OnDone) -> Any:
        if serial:
            return workload.run(count=count, n=n, serial=True, on_done=on_done).to_dict()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(ids) if ids else Path(folder) / "ids.txt"
            workload.submit_all(count, n, path)
            return _collect_elsewhere(path, count, n, stage, on_done)

    found = stage.play("jobs", count, run, names=("w1", "w2"))
    by_worker: Counter[str] = Counter()
    for shares in found["by_color"].values():
        by_worker.update(shares)
    stage.ran_by = by_worker
    wrong = f", {found['wrong']} wrong" if found["wrong"] else ""
    stage.report(
        found, f"F({n}) = {found['value']} by {count} jobs{wrong}; collected by another process from their ids"
    )


@dataclass
class Stage:
    """A run of one workload: workers beside it, a bar, the serial run for comparison, and the report."""

    dispatcher: Dispatcher
    broker: str | None
    results: str | None
    processes: int
    as_json: bool
    ran_by: Counter[str] = field(default_factory=Counter[str])
    seconds: float = 0.0
    serial_seconds: float = 0.0
    is_same: bool = False

    def play(self, what: str, total: int, run: Callable[..., Any], *, names: tuple[str, ...] = ("",)) -> Any:
        """Run the workload on workers and then serially; return what the workers found."""
        self.dispatcher.events.add(self._note)
        with self._place():
            with contextlib.ExitStack() as stack:
                for number, name in enumerate(names):
                    share = self.processes // len(names) + (number < self.processes % len(names))
                    stack.enter_context(self.dispatcher.workers(processes=max(1, share), name=name))
                started = time.perf_counter()
                with self._bar(f"{self.processes} processes", what, total) as on_done:
                    found = run(serial=False, on_done=on_done)
                self.seconds = time.perf_counter() - started
            started = time.perf_counter()
            with self._bar("one process, no broker", what, total) as on_done:
                alone = run(serial=True, on_done=on_done)
            self.serial_seconds = time.perf_counter() - started
        self.is_same = _bits(alone) == _bits(found)
        return found

    def report(self, found: Mapping[str, Any], text: str) -> None:
        """Print what was found, and how."""
        speed_up = self.serial_seconds / self.seconds if self.seconds else 0.0
        if self.as_json:
            figures = {
                "found": dict(found),
                "seconds": self.seconds,
                "serial_seconds": self.serial_seconds,
                "speed_up": speed_up,
                "same_as_serial": self.is_same,
                "ran_by": dict(self.ran_by),
                "processes": self.processes,
            }
            click.echo(json.dumps(figures))
            return
        click.echo(text)
        click.echo(
            f"{self.seconds:.1f} s with {self.processes} processes, {self.serial_seconds:.1f} s in one: "
            f"{speed_up:.2f} times as fast; {'the same bits' if self.is_same else 'NOT the same'} as the serial run"
        )
        done = ", ".join(f"{name} {count}" for name, count in sorted(self.ran_by.items()))
        click.echo(f"who did what: {done}")

    def _note(self, name: str, facts: Mapping[str, Any]) -> None:
        if name == "result":
            self.ran_by[facts["ran_by"]] += 1

    @contextlib.contextmanager
    def _place(self) -> Generator[None]:
        """Connect to the broker asked for, else to a file that goes away afterwards."""
        import os  # noqa: PLC0415

        with tempfile.TemporaryDirectory(prefix="queuelib-demo-", ignore_cleanup_errors=True) as folder:
            broker = self.broker or os.environ.get("QUEUELIB_BROKER") or f"sqlite:///{folder}/demo.db"
            self.dispatcher.configure(broker=broker, results=self.results or os.environ.get("QUEUELIB_RESULTS"))
            try:
                yield
            finally:
                self.dispatcher.close()

    @contextlib.contextmanager
    def _bar(self, label: str, what: str, total: int) -> Generator[_OnDone]:
        from rich import progress as bars  # noqa: PLC0415 - 0.05 s, which a worker need not wait for
        from rich.console import Console  # noqa: PLC0415

        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[what]}, {task.fields[failed]} failed, {task.fields[rate]:.0f}/s"),
            bars.TimeRemainingColumn(),
        )
        started = time.perf_counter()
        with bars.Progress(*columns, console=Console(stderr=True), disable=self.as_json) as progress:
            bar = progress.add_task(label, total=total, what=what, failed=0, rate=0.0)

            def on_done(done: int, failed: int) -> None:
                rate = done / max(1e-9, time.perf_counter() - started)
                progress.update(bar, completed=done, failed=failed, rate=rate)

            yield on_done


def _collect_elsewhere(path: Path, count: int, n: int, stage: Stage, on_done: _OnDone) -> dict[str, Any]:
    """Have another process collect the results of the ids in a file."""
    dispatcher = stage.dispatcher
    order = {
        "ids": str(path),
        "count": count,
        "n": n,
        "broker": dispatcher.broker_url,
        "results": dispatcher.results_url,
        "namespace": dispatcher.namespace,
    }
    command = [sys.executable, "-m", "queuelib.workloads.fibonacci", json.dumps(order)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as collector:
        last: dict[str, Any] = {}
        for line in collector.stdout or ():
            last = json.loads(line)
            if "done" in last:
                on_done(last["done"], last["failed"])
    if collector.returncode:
        msg = f"the collecting process ended with status {collector.returncode}"
        raise ConfigurationError(msg)
    return last


def _workload(name: str) -> Any:
    """Import a workload; numpy comes with an extra."""
    import importlib  # noqa: PLC0415

    try:
        return importlib.import_module(f"queuelib.workloads.{name}")
    except ModuleNotFoundError as error:
        if error.name != "numpy":
            raise
        msg = 'this demo needs numpy: pip install "queuelib-kombu[science]"'
        raise ConfigurationError(msg) from error


def _sparkline(values: Sequence[float], width: int = 60) -> str:
    """Return a line of blocks, one for every so many values, as high as the logarithm of the least of them."""
    step = -(-len(values) // width)
    lows = [min(values[start : start + step]) for start in range(0, len(values), step)]
    heights = [math.log10(max(low, 1e-12)) for low in lows]
    span = (max(heights) - min(heights)) or 1.0
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (height - min(heights)) / span)] for height in heights)


def _bits(found: Any) -> str:
    figures = dict(found if isinstance(found, Mapping) else found.to_dict())
    figures.pop("by_color", None)  # who did what differs from run to run, and is meant to
    return json.dumps(figures, sort_keys=True)
