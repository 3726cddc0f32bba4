"""`python -m tests.benchmarks.peers`: run the sessions one after the other, record them, write the report."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import redis

from tests.benchmarks.peers import report
from tests.benchmarks.peers.catalog import BROKERS, ENTRIES, ROWS
from tests.benchmarks.peers.machine import machine, servers, versions
from tests.benchmarks.peers.place import ROOT, Place
from tests.benchmarks.peers.plan import Scale, Step, plan
from tests.benchmarks.peers.protocol import Entry
from tests.benchmarks.peers.record import Record

DEFAULT = Scale(rounds=3, jobs=20_000, latencies=1000, items=200_000, deep=1_000_000)
QUICK = Scale(rounds=1, jobs=1000, latencies=100, items=10_000, deep=10_000)
FULL = Scale(rounds=5, jobs=20_000, latencies=1000, items=1_000_000, deep=1_000_000)
NOTES = ROOT / "docs" / "benchmarks" / "notes.md"
_OURS = "bench-peers"  # a key that says that a Redis database may be emptied
_IMPORTS = 5
_TELL = "    "


def main() -> int:
    """Run; the exit status is 1 if a session failed."""
    options = _options()
    scale = _scale(options)
    entries = [ENTRIES[name] for name in options.only or ENTRIES]
    path = options.record or _folder(options, scale) / f"{dt.datetime.now(dt.UTC):%Y-%m-%d}.json"
    failed = 0
    if options.report:
        record = Record.read(options.record or max(NOTES.parent.glob("*.json")))
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        record, failed = _measure(path, entries, options, scale)
    for written in report.write(record, NOTES):
        print(f"wrote {written}")
    return 1 if failed else 0


def _folder(options: argparse.Namespace, scale: Scale) -> Path:
    """Return where the record goes: what was only tried, or is a part, must not replace what is published."""
    everything = (None, BROKERS, ROWS)
    is_whole = (options.only, options.brokers, options.rows) == everything and scale in {DEFAULT, FULL}
    return ROOT / ("docs" if is_whole else "build") / "benchmarks"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.peers",
        description="Run the same work on queuelib and on its peers, record it, and write docs/benchmarks.md.",
        epilog="The servers are those of QUEUELIB_TEST_REDIS_URL (an empty database) and QUEUELIB_TEST_AMQP_URL. "
        "A run that was broken off goes on where it stopped when it is started again on the same day, or with the "
        "same --record; a finished one is measured anew. The page is written beside the record's folder.",
    )
    parser.add_argument("--only", type=_names(ENTRIES), metavar="NAME,NAME", help=f"of: {', '.join(ENTRIES)}")
    parser.add_argument(
        "--brokers", type=_names(BROKERS), default=BROKERS, metavar="NAME,NAME", help=f"of: {', '.join(BROKERS)}"
    )
    parser.add_argument("--rows", type=_names(ROWS), default=ROWS, metavar="NAME,NAME", help=f"of: {', '.join(ROWS)}")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--quick", action="store_true", help="one round of little work, to see that everything runs")
    amount.add_argument("--full", action="store_true", help="five rounds, and a million items to map")
    parser.add_argument("--rounds", type=int, help="runs of each session")
    parser.add_argument("--jobs", type=int, help="jobs to drain; slow contestants get a fifth")
    parser.add_argument("--items", type=int, help="items to map")
    parser.add_argument("--deep", type=int, help="jobs that wait, against 1,000")
    parser.add_argument(
        "--record",
        type=Path,
        help="the JSON file; default: docs/benchmarks/<today>.json, and build/benchmarks/<today>.json for a part",
    )
    parser.add_argument(
        "--report", action="store_true", help="measure nothing: write the page from the record; default: the newest"
    )
    return parser.parse_args()


def _names(known: Sequence[str] | dict[str, Entry]) -> Any:
    def read(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of: {', '.join(known)}")
        return names

    return read


def _scale(options: argparse.Namespace) -> Scale:
    base = QUICK if options.quick else FULL if options.full else DEFAULT
    given = {name: getattr(options, name) for name in ("rounds", "jobs", "items", "deep")}
    return Scale(**{**asdict(base), **{name: value for name, value in given.items() if value is not None}})


def _measure(path: Path, entries: Sequence[Entry], options: argparse.Namespace, scale: Scale) -> tuple[Record, int]:
    redis_url, amqp_url = (os.environ.get(f"QUEUELIB_TEST_{name}_URL", "") for name in ("REDIS", "AMQP"))
    steps = list(plan(entries, options.brokers, options.rows, scale))
    used = {step.broker for step in steps}
    # Celery, Dramatiq and Taskiq keep their results in Redis when RabbitMQ is the broker.
    for name, url in (("QUEUELIB_TEST_REDIS_URL", redis_url), ("QUEUELIB_TEST_AMQP_URL", amqp_url)):
        if not url and ("amqp" in used or ("redis" in used and "REDIS" in name)):
            sys.exit(f"{name} is not set; `make bench-peers` starts servers, --brokers sqlite,none needs none")
    _claim(redis_url)
    about = {
        "scale": asdict(scale),
        "machine": machine(),
        "servers": servers(
            redis_url if used & {"redis", "amqp"} else "",
            Place("amqp", "", amqp_url, "", "").amqp_for_pika if "amqp" in used else "",
        ),
        "versions": versions(entries),
    }
    record = Record.go_on(path, about)
    began_at = {"started": f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC", "load_before": round(os.getloadavg()[0], 2)}
    record.facts["about"] = {**began_at, **about}
    began = time.monotonic()
    if "import" in options.rows:
        _time_imports(record, entries)
    failed = 0
    for number, step in enumerate(steps, 1):
        order = asdict(step.order)
        if record.has(step.key):
            continue
        _say(f"[{number}/{len(steps)}, {time.monotonic() - began:.0f} s] {step.key}")
        started = time.monotonic()
        figures = _session(step, redis_url, amqp_url)
        failed += "error" in figures
        record.keep(step.key, order, figures, time.monotonic() - started)
        _say(f"{_TELL}{_short(figures)}")
    if not failed:  # else the next run goes on with what failed
        record.facts["about"]["seconds"] = round(time.monotonic() - began)
    record.write()
    return record, failed


def _session(step: Step, redis_url: str, amqp_url: str) -> dict[str, Any]:
    """Run a session in a process of its own; whatever becomes of it, nothing of it goes on running."""
    with tempfile.TemporaryDirectory(prefix="bench-peers-", ignore_cleanup_errors=True) as folder:
        place = Place(step.broker, redis_url, amqp_url, folder, f"bp{secrets.token_hex(4)}", step.variant)
        command = [sys.executable, "-m", f"{__package__}.session", json.dumps(asdict(step.order))]
        with (Path(folder) / "session.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=place.environment(), stdout=subprocess.PIPE, stderr=log, text=True
            )
        try:
            output, _ = process.communicate(timeout=step.within)
            return dict(json.loads(output.splitlines()[-1]))
        except subprocess.TimeoutExpired:
            return {"error": f"nothing after {step.within:.0f} s"}
        except (IndexError, ValueError):
            tail = (Path(folder) / "session.log").read_text(errors="replace").splitlines()[-3:]
            return {"error": f"status {process.returncode}: {' | '.join(tail)}"[:500]}
        finally:
            _end(process, folder)
            _empty(redis_url)


def _end(process: subprocess.Popen[str], folder: str) -> None:
    """End the session and every worker of it: those, too, whose parent is gone, known by the folder they were told."""
    for other in _told(folder):
        with contextlib.suppress(psutil.NoSuchProcess):
            other.kill()
    process.kill()
    process.wait()


def _told(folder: str) -> Iterator[psutil.Process]:
    for other in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if other.environ().get("BENCH_PEERS_FOLDER") == folder:
                yield other


def _claim(redis_url: str) -> None:
    if not redis_url:
        return
    with redis.Redis.from_url(redis_url) as client:
        if client.dbsize() and not client.exists(_OURS):
            sys.exit("the Redis database is not empty; the sessions empty it: give one that nothing else uses")
        client.set(_OURS, "this database is emptied by tests/benchmarks/peers")


def _empty(redis_url: str) -> None:
    if redis_url:
        with redis.Redis.from_url(redis_url) as client:
            client.flushdb()
            client.set(_OURS, "this database is emptied by tests/benchmarks/peers")


def _time_imports(record: Record, entries: Sequence[Entry]) -> None:
    """Time the statement beyond an empty program, of each package in turn, again and again."""
    names = [name for name in dict.fromkeys(entry.imports for entry in entries) if name not in record.facts["imports"]]
    if not names:
        return
    _say("imports")
    times: dict[str, list[float]] = {name: [] for name in ("", *names)}
    for _ in range(_IMPORTS + 1):  # the first fills the file cache and writes the byte code
        for name, taken in times.items():
            taken.append(_import_s(name))
    bare = statistics.median(times[""][1:])
    record.facts["imports"] |= {name: (statistics.median(times[name][1:]) - bare) * 1e3 for name in names}
    record.write()


def _import_s(statement: str) -> float:
    environment = Place("none", "", "", "", "").environment()
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement or "pass"], cwd=ROOT, env=environment, check=True)
    return time.perf_counter() - began


def _short(figures: dict[str, Any]) -> str:
    if "error" in figures:
        return str(figures["error"])
    return ", ".join(
        f"{name} {value:,.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
