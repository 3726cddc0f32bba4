"""A long run with a fault every minute, in which nothing may grow: `python -m tests.crash.soak --jobs 1000000`.

A client submits and collects quick jobs, of which one in twenty raises; a worker with two children runs them; children,
the worker and the broker are killed in turn. Memory, descriptors and threads of every process, and what the server
keeps, are sampled by the number of jobs. What may be said of it at the end is in `verdict`. Results are one JSON file;
`table` makes Markdown of it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from queuelib import plugins
from tests.crash.rows import BROKERS
from tests.crash.trial import Trial
from tests.integration.apps.soaked import KEEP, PROGRESS, ROW, ending
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.integration.lab import Worker

__all__ = ["main", "measure", "server_figures", "slope", "table", "versions", "write_record"]

MOST_GROWTH = 1.0  # MiB for 100,000 jobs
FEWEST_JOBS = 100_000  # of a judged life of a process: in shorter ones the steps of allocators outweigh everything
_SLACK_DESCRIPTORS = 2  # a socket may be opened while another is closed
_FEWEST_SAMPLES = 5
_SETTLED = 0.2  # share of a life in which caches fill and modules are imported
# What a client remembers of its own jobs is full by then. On RabbitMQ, twice 64 MiB of outcomes by its own count (270 MiB in all,
# measured), only if jobs travel alone, as they do on a busy machine; a quick one is still filling it and fails for that.
CLIENT_FILLS = {"sqlite": 250_000, "redis": 250_000, "rabbitmq": 500_000}  # jobs
_SAMPLES_KEPT = 50  # of each role in each run, in the record
_ROLES = ("client", "supervisor", "template", "child")
_LOOK_EVERY = 0.1  # seconds between two looks at the client's progress
_QUIET_AFTER = 180.0  # seconds without progress after which a run is given up
_FORGOTTEN_WITHIN = 240.0  # seconds after the end until the server has forgotten all of it; outcomes are kept for 120
_EMPTY_WITHIN = 60.0  # seconds after the end
_FIXED_KEYS = 8  # of a namespace, however many jobs it had: a counter, its workers and their leases
_MIB = 1024 * 1024


@dataclass
class Sample:
    """What one process had when so many jobs were done: MiB, counts."""

    role: str
    pid: int
    jobs: int
    pss: float
    rss: float
    descriptors: int
    threads: int


@dataclass
class Fault:
    """What was killed: from when, until when jobs ended again; seconds since the beginning."""

    kind: str
    at: float
    until: float
    jobs: int


@dataclass
class Wishes:
    """What one run is asked for."""

    broker: str
    jobs: int
    every: float
    in_flight: int
    rate: float
    seed: int
    lease: float
    seconds: float


@dataclass
class Soak:
    """One run on one broker."""

    wishes: Wishes
    folder: Path
    samples: list[Sample] = field(default_factory=list)
    server: list[dict[str, Any]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    collected: int = 0
    log_lines: int = 0

    def run(self) -> dict[str, Any]:
        """Do it, and return its part of the record."""
        self.trial = Trial(self.wishes.broker, self.wishes.seed, self.wishes.lease, self.folder)
        try:
            if self.wishes.broker != "sqlite":
                _ = self.trial.server
            return self._run()
        finally:
            self.trial.close()

    def _run(self) -> dict[str, Any]:
        self.began_at = time.time()
        self.environment = {"TALLY": str(self.folder / "tally"), "BEGAN": repr(self.began_at)}
        self.worker = self._start_worker()
        self.worker.await_ready()
        baseline = self._server()
        self._serve(self.wishes)
        seconds = self._now()
        report_at = self.folder / "report.json"
        told = json.loads(report_at.read_text(encoding="utf-8")) if report_at.exists() else {}
        ended = self._server()
        rested = self._await_forgotten(baseline)
        self.log_lines += self.worker.said.count("\n")
        jobs = min(self.wishes.jobs, told.get("accepted", self.wishes.jobs))
        tally = check_tally(self.folder / "tally", jobs, self.faults, told.get("in_doubt", 0))
        processes = judge(self.samples, self.wishes.broker)
        self.errors += verdict(jobs, told, tally, processes)
        return self._figures(jobs, seconds) | {
            "client": told,
            "tally": tally,
            "processes": processes,
            "server": {"baseline": baseline, "ended": ended, "forgotten": rested, "samples": _thin(self.server)},
            "errors": self.errors,
        }

    def _figures(self, jobs: int, seconds: float) -> dict[str, Any]:
        return {
            "broker": self.wishes.broker,
            "jobs": jobs,
            "collected": self.collected,
            "seed": self.wishes.seed,
            "lease": self.wishes.lease,
            "in_flight": self.wishes.in_flight,
            "rate": self.wishes.rate,
            "seconds": round(seconds, 1),
            "faults": [[f.kind, round(f.at, 1), round(f.until, 1), f.jobs] for f in self.faults],
            "log_lines": self.log_lines,
            "samples": [
                row for role in _ROLES for row in _thin([_row(one) for one in self.samples if one.role == role])
            ],
        }

    def _save(self) -> None:
        """Write what is known so far beside the history: what a run that is ended early has measured is not lost."""
        part = self._figures(self.wishes.jobs, self._now())
        part |= {"processes": judge(self.samples, self.wishes.broker), "server": {"samples": _thin(self.server)}}
        write_record(self.folder / "so-far.json", part)

    # The run.

    def _now(self) -> float:
        return time.time() - self.began_at

    def _start_worker(self) -> Worker:
        return self.trial.lab.worker("--processes", "2", target="soaked.py", **self.environment)

    def _serve(self, wishes: Wishes) -> None:
        place = self.folder / "progress"
        place.write_bytes(PROGRESS.pack(0, 0))
        orders = {
            "jobs": wishes.jobs, "in_flight": wishes.in_flight, "rate": wishes.rate, "seed": wishes.seed, "seconds": wishes.seconds,
            "progress": str(place), "report": str(self.folder / "report.json"),
        }  # fmt: skip
        client = self.trial.lab.start("soaked.py", json.dumps(orders), **self.environment)
        step = min(10_000, max(200, wishes.jobs // 200))
        next_sample, next_fault = step, self._now() + wishes.every
        moved_at = time.monotonic()
        said_at = 0.0
        while client.process.poll() is None:
            time.sleep(_LOOK_EVERY)
            collected = PROGRESS.unpack(place.read_bytes())[1]
            if collected != self.collected:
                self._note_recovery()
                moved_at = time.monotonic()
            self.collected = collected
            if time.monotonic() - moved_at > _QUIET_AFTER:
                self.errors.append(f"no job ended for {_QUIET_AFTER:g} s, after {collected}")
                break
            if collected >= next_sample:
                next_sample = collected - collected % step + step
                self._sample(client.pid)
            if time.monotonic() - said_at > 30.0:
                said_at = time.monotonic()
                self._save()
                print(
                    f"{self._now():7.0f} s {wishes.broker}: {collected:,} jobs, {len(self.faults)} faults", flush=True
                )
            is_half_way = not self.faults and collected >= wishes.jobs // 2
            if (self._now() >= next_fault or is_half_way) and 0 < collected < wishes.jobs:
                self._strike()
                next_fault = self._now() + wishes.every
                moved_at = time.monotonic()
        self.collected = PROGRESS.unpack(place.read_bytes())[1]
        self._note_recovery()
        if client.process.poll() != 0:
            self.errors.append(f"the client: {client.process.poll()}: {client.said[-1000:]}")

    def _note_recovery(self) -> None:
        if self.faults and not self.faults[-1].until:
            self.faults[-1].until = self._now()

    def _strike(self) -> None:
        kinds = ["worker", "child"] if self.wishes.broker == "sqlite" else ["worker", "child", "broker"]
        kind = kinds[len(self.faults) % len(kinds)]
        children: list[int] = []
        if kind == "child":  # there is none yet while the worker starts
            children = eventually(lambda: children_of(self.worker.pid)[1:], within=_QUIET_AFTER)
        fault = Fault(kind, self._now(), 0.0, self.collected)
        if kind == "child":
            os.kill(self.trial.chance.choice(children), signal.SIGKILL)
        elif kind == "worker":
            self.worker.kill()
            self.log_lines += self.worker.said.count("\n")
            self.worker = self._start_worker()
        else:
            self.trial.server.kill()
            self.trial.server.start()
        self.faults.append(fault)

    # What is measured.

    def _sample(self, client: int) -> None:
        children = children_of(self.worker.pid)
        roles = [("client", client), ("supervisor", self.worker.pid)]
        roles += [("template" if i == 0 else "child", pid) for i, pid in enumerate(children)]
        for role, pid in roles:
            found = measure(pid)
            if found is not None:
                self.samples.append(Sample(role, pid, self.collected, *found))
        self.server.append({"jobs": self.collected, **self._server()})

    def _server(self) -> dict[str, Any]:
        return server_figures(self.trial)

    def _queues(self) -> dict[str, int]:
        """Return the messages in each queue and stream of RabbitMQ, as its own tool counts them."""
        lines = self.trial.server.ctl("-q", "list_queues", "name", "messages", "--no-table-headers").splitlines()
        rows = [line.split("\t") for line in lines if "\t" in line]
        return {name.rpartition(".")[2]: int(count or 0) for name, count in rows}

    def _waiting(self) -> dict[str, int]:
        """Return the colors' queues that are not empty."""
        return {name: count for name, count in self._queues().items() if count and name in {"red", "yellow", "green"}}

    def _await_forgotten(self, baseline: Mapping[str, Any]) -> dict[str, Any]:
        """Wait until the server keeps no more than before the first job; return what it keeps then."""
        if self.wishes.broker == "rabbitmq":
            try:  # what was submitted again, in doubt, comes last, and nobody waits for it
                eventually(lambda: not self._waiting(), within=_EMPTY_WITHIN)
            except AssertionError:
                self.errors.append(f"messages are left: {self._waiting()}")
            return {**self._server(), "queues": self._queues()}
        what = "keys" if self.wishes.broker == "redis" else "rows"
        began = time.monotonic()
        backend = plugins.backend_for(self.trial.url).results(self.trial.url, self.trial.lab.namespace, KEEP)
        while (now := self._server())[what] > baseline[what] + _FIXED_KEYS:
            if time.monotonic() - began > _FORGOTTEN_WITHIN:
                self.errors.append(f"{now[what]:g} {what} are left, {baseline[what]:g} were there before")
                break
            backend.store([])  # old outcomes in SQLite are deleted by whoever stores
            time.sleep(1.0)
        backend.close()
        if what == "keys":
            with self.trial.server.client() as client:
                now["names"] = sorted(key.decode(errors="replace").partition(":")[2] for key in client.keys()[:50])
        return {**now, "seconds": round(time.monotonic() - began, 1)}


# Processes and servers, as the kernel and they themselves know them.


def children_of(pid: int) -> list[int]:
    """Return the children of a process, in the order of their births: a worker's first one is its template."""
    born: list[tuple[int, int]] = []
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    for child in found:
        try:
            fields = Path(f"/proc/{child}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        born.append((int(fields[19]), int(child)))
    return [child for _, child in sorted(born)]


def measure(pid: int) -> tuple[float, float, int, int] | None:
    """Return PSS and RSS in MiB, descriptors and threads of a process; None if it has gone."""
    folder = Path(f"/proc/{pid}")
    try:
        lines = (folder / "smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        descriptors = len(list((folder / "fd").iterdir()))
        threads = len(list((folder / "task").iterdir()))
    except (OSError, IndexError, ValueError):
        return None
    return (round(sizes["Pss"] / 1024, 2), round(sizes["Rss"] / 1024, 2), descriptors, threads) if sizes else None


def server_figures(trial: Trial) -> dict[str, Any]:
    """Return what the server of a trial keeps: keys, rows, MiB."""
    if trial.broker == "sqlite":
        return _sqlite_figures(trial.folder / "jobs.db")
    server = trial.server
    memory = measure(server.pid)
    figures: dict[str, Any] = {"rss": memory[1] if memory else 0.0}
    if trial.broker == "redis":
        with server.client() as client:
            info = client.info()
            figures |= {
                "keys": client.dbsize(),
                "used": _mib(info["used_memory"]),
                "aof": _mib(info["aof_current_size"]),
            }
        return figures
    files = [path for path in server.folder.rglob("*") if path.is_file()]
    figures["disk"] = _mib(sum(path.stat().st_size for path in files if path.exists()))
    return figures


def _sqlite_figures(path: Path) -> dict[str, Any]:
    sizes = [one.stat().st_size for one in (path, Path(f"{path}-wal")) if one.exists()]
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        counts = [
            connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]  # noqa: S608 - constants
            for name in ("message", "outcome", "span", "bundle")
        ]
    connection.close()
    return {"file": _mib(sum(sizes)), "rows": sum(counts), "messages": counts[0]}


# What may be said at the end.


def slope(lives: Iterable[Sequence[tuple[int, float]]], fills: int = 0) -> float | None:
    """Return the growth for 100,000 jobs, by the median over pairs of points of the same life that lie far apart.

    Args:
        lives: For each process that had the role: (jobs, MiB) in order. The first fifth is left out, and so are lives
            of which fewer than 100,000 jobs can be judged.
        fills: Jobs at the beginning of a life that are left out besides, because caches with a bound fill in them.

    Returns:
        MiB for 100,000 jobs; None where no life was long enough.
    """
    slopes: list[float] = []
    for life in lives:
        if not life:
            continue
        points = [point for point in life[int(len(life) * _SETTLED) :] if point[0] - life[0][0] >= fills]
        if not points or life[-1][0] - (points[0][0] if fills else life[0][0]) < FEWEST_JOBS:
            continue
        apart = (points[-1][0] - points[0][0]) / 3
        slopes += [
            (later[1] - earlier[1]) / (later[0] - earlier[0]) * 100_000
            for earlier, later in combinations(points, 2)
            if later[0] - earlier[0] >= apart
        ]
    return round(median(slopes), 3) if slopes else None


def judge(samples: Iterable[Sample], broker: str) -> dict[str, dict[str, Any]]:
    """Say of each role how its memory grew, and of what descriptors and threads it had."""
    by_role: defaultdict[str, defaultdict[int, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        by_role[sample.role][sample.pid].append(sample)
    found: dict[str, dict[str, Any]] = {}
    for role, by_pid in by_role.items():
        lives = list(by_pid.values())
        everything = [sample for life in lives for sample in life]
        fills = CLIENT_FILLS[broker] if role == "client" else 0
        found[role] = {
            "processes": len(lives),
            "longest_life": max(life[-1].jobs - life[0].jobs for life in lives),
            "pss_growth": slope(([(one.jobs, one.pss) for one in life] for life in lives), fills),
            "rss_growth": slope(([(one.jobs, one.rss) for one in life] for life in lives), fills),
            "pss": [min(one.pss for one in everything), max(one.pss for one in everything)],
            "rss": [min(one.rss for one in everything), max(one.rss for one in everything)],
            "descriptors": [min(one.descriptors for one in everything), max(one.descriptors for one in everything)],
            "threads": [min(one.threads for one in everything), max(one.threads for one in everything)],
            "has_more_descriptors": any(_grew([one.descriptors for one in life]) for life in lives),
            "has_more_threads": any(_grew([one.threads for one in life]) for life in lives),
        }
    return found


def _grew(counts: Sequence[int]) -> bool:
    """Whether the fewest of the last third are more than the most of the first, by more than chance.

    The first samples of a life are of its start, when nothing is open yet.
    """
    third = len(counts) // 3
    return third >= _FEWEST_SAMPLES and min(counts[-third:]) > max(counts[:third]) + _SLACK_DESCRIPTORS


def check_tally(path: Path, jobs: int, faults: Sequence[Fault], in_doubt: int) -> dict[str, Any]:
    """Hold the starts against the jobs: each at least once, and more often only over a fault.

    A second start of the same attempt is explained if a fault lies between it and the first one. On a broker that
    cannot know a message again, one for each submission in doubt is explained as well.
    """
    first: dict[tuple[int, int], int] = {}
    again: list[tuple[int, int, int, int]] = []  # number, attempt, when first, when again
    count = 0
    for number, at, _, attempt in ROW.iter_unpack(path.read_bytes() if path.exists() else b""):
        count += 1
        if (number, attempt) in first:
            again.append((number, attempt, first[number, attempt], at))
        else:
            first[number, attempt] = at
    unexplained = [
        one
        for one in again
        if not any(one[2] <= fault.until * 1000 + 1000 and one[3] >= fault.at * 1000 for fault in faults)
    ]
    wanted = jobs + sum(ending(number) == "retried" for number in range(jobs))
    return {
        "starts": count,
        "expected": wanted,
        "again": len(again),
        "unexplained": max(0, len(unexplained) - in_doubt),
        "never": jobs - len({number for number, _ in first}),
        "examples": unexplained[:5],
        "after_faults": [_again_after(at, faults, again) for at in range(len(faults))],
    }


def _again_after(at: int, faults: Sequence[Fault], again: Sequence[tuple[int, int, int, int]]) -> list[Any]:
    """Return the kind of a fault, how many jobs started again before the next one, and for how many seconds they did."""
    end = faults[at + 1].at if at + 1 < len(faults) else float("inf")
    times = [one[3] / 1000 - faults[at].at for one in again if faults[at].at <= one[3] / 1000 < end]
    return [faults[at].kind, len(times), round(max(times, default=0.0), 1)]


def verdict(
    jobs: int, told: Mapping[str, Any], tally: Mapping[str, Any], processes: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Say what is wrong, a line each."""
    wrong: list[str] = []
    if not told or told["collected"] != jobs or told["lost"] or told["twice"] or told["wrong"]:
        wrong.append(f"outcomes: {dict(told)}")
    if tally["unexplained"] or tally["never"]:
        wrong.append(f"starts: {dict(tally)}")
    for role, figures in processes.items():
        growth = figures["rss_growth"]
        if growth is not None and growth >= MOST_GROWTH:
            wrong.append(f"{role} grew by {growth:g} MiB for 100,000 jobs")
        wrong += [f"{role} has ever more {what}" for what in ("descriptors", "threads") if figures[f"has_more_{what}"]]
    return wrong


# The record, and its page.


def table(record: Mapping[str, Any]) -> list[str]:
    """Return a record as lines of Markdown."""
    lines = [
        "| broker | jobs | seconds | faults | starts again | lost | process | growth once caches are full, MiB for 100,000 jobs | RSS, MiB | descriptors |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in record["runs"]:
        client, tally = run["client"], run["tally"]
        about = [
            run["broker"], f"{run['collected']:,}", f"{run['seconds']:,.0f}", str(len(run["faults"])),
            f"{tally['again']:,}", str(client.get("lost", "?")),
        ]  # fmt: skip
        for role, figures in run["processes"].items():
            growth = figures["rss_growth"]
            cells = [
                *about,
                role,
                "not judged: no life was long enough" if growth is None else f"{growth:.2f}",
                f"{figures['rss'][0]:.0f} to {figures['rss'][1]:.0f}",
                f"{figures['descriptors'][0]} to {figures['descriptors'][1]}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
            about = [""] * len(about)
    for run in record["runs"]:
        server = run["server"]
        kept = [f"{name} {_short(server[name])}" for name in ("baseline", "ended", "forgotten")]
        lines += ["", f"The server of {run['broker']}: {'; '.join(kept)}."]
        lines += [f"Not as promised on {run['broker']}: {error}" for error in run["errors"]]
    return lines


def _short(figures: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in figures.items() if not isinstance(value, dict | list))


def versions() -> dict[str, str]:
    """Return the versions of what took part."""
    import redis  # noqa: PLC0415 - only here

    programs = {"redis": ("redis-server", "--version")}
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version, "redis-py": redis.__version__}
    for name, command in programs.items():
        if shutil.which(command[0]):
            text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            found[name] = next((word[2:] for word in text.split() if word.startswith("v=")), text.strip())
    nodes = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"))
    if nodes:
        found["rabbitmq"] = nodes[-1].name.rpartition("-")[2]
    return found


def _mib(size: float) -> float:
    return round(size / _MIB, 2)


def _row(sample: Sample) -> list[Any]:
    return [
        sample.role, sample.pid, sample.jobs, sample.pss, sample.rss, sample.descriptors, sample.threads
    ]  # fmt: skip


def _thin(rows: Sequence[Any]) -> list[Any]:
    """Return so many of the samples, or up to twice as many, evenly."""
    step = max(1, len(rows) // _SAMPLES_KEPT)
    return list(rows[::step])


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record, the samples one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; return 0 if all of it held."""
    parser = argparse.ArgumentParser(prog="tests.crash.soak", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--brokers", default=",".join(BROKERS))
    parser.add_argument("--minutes-between-faults", type=float, default=1.0)
    parser.add_argument("--in-flight", type=int, default=10_000, help="jobs submitted and not collected")
    parser.add_argument("--rate", type=float, default=0.0, help="at most so many jobs a second; 0: as fast as they go")
    parser.add_argument(
        "--most-minutes", type=float, default=600.0, help="submit nothing after so long, on each broker"
    )
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--lease", type=float, default=15.0, help="seconds of the lease on Redis (default 15)")
    parser.add_argument("--record", type=Path, help="write the result to this file, adding to what is there")
    parser.add_argument("--keep", action="store_true", help="keep the folders")
    wishes = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    record: dict[str, Any] = {"program": "tests.crash.soak", "runs": []}
    if wishes.record and wishes.record.exists():
        record = json.loads(wishes.record.read_text(encoding="utf-8"))
    record |= {"versions": versions(), "processors": os.cpu_count()}
    failed = 0
    for broker in wishes.brokers.split(","):
        folder = Path(tempfile.mkdtemp(prefix="queuelib-soak-"))
        one = Wishes(
            broker, wishes.jobs, wishes.minutes_between_faults * 60, wishes.in_flight, wishes.rate, wishes.seed, wishes.lease, wishes.most_minutes * 60)  # fmt: skip
        command = (
            f"python -m tests.crash.soak --jobs {one.jobs} --brokers {broker} --seed {one.seed} --rate {one.rate:g} "
            f"--minutes-between-faults {wishes.minutes_between_faults:g} --most-minutes {wishes.most_minutes:g}"
        )
        run = {"command": command, "date": datetime.now(UTC).date().isoformat(), **Soak(one, folder).run()}
        record["runs"] = [*(old for old in record["runs"] if old["broker"] != broker), run]
        failed += bool(run["errors"])
        if wishes.record:
            write_record(wishes.record, record)
        print("\n".join(table({**record, "runs": [run]})), flush=True)
        if wishes.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
