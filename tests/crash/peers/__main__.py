"""`python -m tests.crash.peers`: inject each fault into each system, several times, and record what became of the jobs.

Each run is a process with a server of its own. Runs wait far more than they work, so that many go side by side.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tests import local_servers
from tests.benchmarks.peers.machine import machine
from tests.benchmarks.peers.place import ROOT
from tests.crash.peers.catalog import FAULTS, SYSTEMS
from tests.crash.peers.group import processes_with
from tests.crash.peers.record import sum_up, updated
from tests.crash.peers.table import table

_TOKEN = "CRASH_PEERS_TOKEN"  # in the environment of every process of this command, so that none outlives it
_PAUSE = 1.5  # seconds between two runs' starts: dozens of workers that boot at once would only slow each other down
_SPARE = 300.0  # seconds that a run may take besides waiting for what is lost; the longest, row 13, takes 130
_LONGEST_FIRST = (13, 9)


@dataclass(frozen=True, slots=True)
class _Run:
    row: int
    system: str
    number: int


class _Runner:
    """Starts runs, not too many at once, and ends them all when it is told to."""

    def __init__(self, options: argparse.Namespace, amqp: str) -> None:
        self._options = options
        self._amqp = amqp
        self._running: set[subprocess.Popen[str]] = set()
        self._is_over = False

    def measure(self, run: _Run) -> dict[str, Any] | str:
        """Return what came of a run, or why nothing did; one that came to nothing is made once more."""
        result = self._measure(run)
        return self._measure(run) if isinstance(result, str) else result

    def _measure(self, run: _Run) -> dict[str, Any] | str:
        name = f"crash-{run.system}-{run.row}-{run.number}"
        options = self._options
        command = [
            *(sys.executable, "-m", "tests.crash.peers.session", "--row", str(run.row), "--system", run.system),
            *("--number", str(run.number), "--seed", options.seed, "--wait", str(options.wait), "--name", name),
            *(("--amqp", self._amqp) if SYSTEMS[run.system].broker == "amqp" else ()),
        ]
        if self._is_over:
            return "broken off"
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._running.add(process)
        try:
            told, complaint = process.communicate(timeout=options.wait + _SPARE)
        except subprocess.TimeoutExpired:
            process.terminate()
            told, complaint = process.communicate()
            return "it took too long: " + complaint[-300:]
        finally:
            self._running.discard(process)
        for line in reversed(told.splitlines()):
            with contextlib.suppress(ValueError):
                found: dict[str, Any] = json.loads(line)
                return found
        return (complaint.strip().splitlines() or [f"status {process.returncode}"])[-1]

    def end(self) -> None:
        """End all runs."""
        self._is_over = True
        for process in list(self._running):
            process.terminate()


def main() -> int:
    """Run; the exit status is 1 if a run came to no result."""
    options = _options()
    os.environ[_TOKEN] = secrets.token_hex(8)
    os.environ["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(ROOT / "backends")))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    runs = _plan(options)
    print(f"{len(runs)} runs, {options.parallel} at a time, seed {options.seed}", flush=True)
    with ExitStack() as stack:
        stack.callback(_sweep)
        needs_amqp = any(SYSTEMS[run.system].broker == "amqp" for run in runs)
        amqp = stack.enter_context(local_servers.local_rabbitmq()) if needs_amqp else ""
        found: dict[_Run, dict[str, Any] | str] = {}
        try:
            _measure(_Runner(options, amqp), runs, options.parallel, found)
        finally:
            record = _record(options, runs, found, amqp)
            # What was broken off is kept, and does not replace what is published.
            is_whole = len(found) == len(runs)
            if options.update and is_whole:
                record = updated(json.loads(options.record.read_text(encoding="utf-8")), record)
            _write(record, options.record if is_whole else options.record.with_suffix(".part.json"))
    print("\n".join(table(record)))
    return 1 if any(result["broken"] for result in record["results"]) else 0


def _write(record: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.crash.peers",
        description="Inject the same faults into queuelib and into its peers, and record what became of the jobs.",
    )
    parser.add_argument("--runs", type=int, default=5, help="of each fault on each system (default: 5)")
    parser.add_argument("--rows", type=_names(FAULTS, int), default=list(FAULTS), metavar="NUMBER,NUMBER")
    parser.add_argument(
        "--systems",
        type=_names(SYSTEMS, str),
        default=list(SYSTEMS),
        metavar="NAME,NAME",
        help=f"of: {', '.join(SYSTEMS)}",
    )
    parser.add_argument("--wait", type=float, default=150.0, help="seconds until a job counts as lost (default: 150)")
    parser.add_argument("--parallel", type=int, default=24, help="runs at a time (default: 24)")
    parser.add_argument("--seed", default=secrets.token_hex(4))
    parser.add_argument(
        "--record", type=Path, default=ROOT / "docs" / "reliability" / f"peers-{dt.datetime.now(dt.UTC):%Y-%m-%d}.json"
    )
    parser.add_argument(
        "--update", action="store_true", help="measure some rows and systems anew: the rest of --record is kept"
    )
    return parser.parse_args()


def _names(known: Any, kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    def parse(text: str) -> list[Any]:
        try:
            wanted = [kind(name) for name in text.split(",")]
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a list") from None
        if unknown := [name for name in wanted if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(map(str, known))}")
        return wanted

    return parse


def _plan(options: argparse.Namespace) -> list[_Run]:
    """List the runs: the longest first, else the systems by turns, so that all meet the same load."""
    rows = sorted(options.rows, key=lambda row: (_LONGEST_FIRST.index(row) if row in _LONGEST_FIRST else 9, row))
    return [
        _Run(row, system, number)
        for row in rows
        for number in range(options.runs)
        for system in options.systems
        if row in SYSTEMS[system].rows
    ]


def _measure(runner: _Runner, runs: Sequence[_Run], parallel: int, found: dict[_Run, dict[str, Any] | str]) -> None:
    """Fill `found` in."""
    began = time.monotonic()
    with ThreadPoolExecutor(parallel) as pool:
        try:
            futures = {pool.submit(runner.measure, run): run for run in _slowly(runs, parallel)}
            for future in as_completed(futures):
                run, result = futures[future], future.result()
                found[run] = result
                what = result if isinstance(result, str) else f"lost {len(result['lost'])} of {result['accepted']}"
                at = time.monotonic() - began
                print(f"{at:5.0f} s {len(found):3}/{len(runs)} row {run.row:2} {run.system:18} {what}", flush=True)
        finally:
            runner.end()
            pool.shutdown(cancel_futures=True)


def _slowly(runs: Sequence[_Run], parallel: int) -> Iterator[_Run]:
    for number, run in enumerate(runs):
        if number < parallel:
            time.sleep(_PAUSE)
        yield run


def _record(
    options: argparse.Namespace, runs: Sequence[_Run], found: dict[_Run, dict[str, Any] | str], amqp: str
) -> dict[str, Any]:
    results = []
    for row in options.rows:
        for system in options.systems:
            ours = [found[run] for run in runs if (run.row, run.system) == (row, system) and run in found]
            if ours:
                good = [one for one in ours if not isinstance(one, str)]
                results.append(sum_up(row, system, good, broken=len(ours) - len(good)))
    names = {name for system in options.systems for name in SYSTEMS[system].distributions}
    servers = {"redis": f"Redis {_redis_version()}, append-only file, flushed every second"}
    if amqp:
        servers["amqp"] = "RabbitMQ " + _rabbitmq_version(amqp)
    return {
        "date": f"{dt.datetime.now(dt.UTC):%Y-%m-%d}",
        "machine": machine(),
        "versions": {name: metadata.version(name) for name in sorted(names | {"redis"})},
        "servers": servers,
        "seed": options.seed,
        "wait": options.wait,
        "runs": options.runs,
        "parallel": options.parallel,
        "faults": {str(row): FAULTS[row] for row in sorted(options.rows)},
        "systems": {
            name: {**asdict(SYSTEMS[name]), "version": _version(SYSTEMS[name].distributions[0])}
            for name in SYSTEMS
            if name in options.systems
        },
        "results": results,
        "broken": {f"{run.row}/{run.system}/{run.number}": why for run, why in found.items() if isinstance(why, str)},
    }


def _version(distribution: str) -> str:
    # queuelib is measured as it lies here, and the record has its commit.
    return "" if distribution == "queuelib-kombu" else metadata.version(distribution)


def _redis_version() -> str:
    program = local_servers.redis_program()
    assert program is not None
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return next(word.removeprefix("v=") for word in told.split() if word.startswith("v="))


def _rabbitmq_version(url: str) -> str:
    import pika  # noqa: PLC0415 - only where it is used

    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(url[:-1] + "%2F"))) as connection:
        return str(connection._impl.server_properties["version"])


def _sweep() -> None:
    """End what a run that was killed has left."""
    for pid in processes_with({_TOKEN: os.environ[_TOKEN]}):
        if pid != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
