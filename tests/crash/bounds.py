"""What a great deal of something costs, and that it is bounded: `python -m tests.crash.bounds --delayed 1000000`.

Four trials on each broker: jobs that wait for days (a worker beside them is as quick as with none), such that are
cancelled, failures with long
tracebacks (records and the log stay small), and results that are too large (they fail with the reason). Results are one
JSON file; `table` makes Markdown of it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from queuelib.broker import open_lane, settings_for
from tests.crash.rows import BROKERS
from tests.crash.soak import measure, server_figures, versions, write_record
from tests.crash.trial import Trial

__all__ = ["main", "table"]

DELAY = 10 * 24 * 3600.0  # seconds; RabbitMQ can wait 19 days in one go
A_CALL = 10_000  # jobs of one submit_many
ROUNDS = 100  # of whatever is timed
MOST_SLOWER = 5.0  # times as long with all the waiting jobs as with none
AT_LEAST = 0.005  # seconds, below which nothing counts as slow: the machine's own noise
MOST_GROWN = 25.0  # MiB: a client remembers up to 200,000 bundles of its own, and no more
RECORD_BYTES = 256 * 1024  # of a failure: a message, a traceback and arguments of 64 KiB each
LOG_LINES = 20
TOO_LARGE, LARGE = 17 * 1024**2, 15 * 1024**2  # bytes; the limit is 16 MiB


class Bounds:
    """The trials on one broker."""

    def __init__(self, broker: str, seed: int, folder: Path) -> None:
        self.trial = Trial(broker, seed, 15.0, folder)
        self.errors: list[str] = []
        if broker != "sqlite":
            _ = self.trial.server
        self.lab = self.trial.lab
        self.app: Any = importlib.import_module("soaked")
        self.app.dispatcher.configure(broker=self.trial.url, namespace=self.lab.namespace)
        self.worker = self.lab.ready_worker("--processes", "2", target="soaked.py", TALLY="/dev/null", BEGAN="0")

    def close(self) -> None:
        """End what was started."""
        self.app.dispatcher.close()
        self.trial.close()

    def state(self) -> dict[str, Any]:
        """Return the RSS of client and worker in MiB, and what the server keeps."""
        rss = {
            name: (measure(pid) or (0.0, 0.0))[1]
            for name, pid in (("client", int(Path("/proc/self").resolve().name)), ("worker", self.worker.pid))
        }
        return {**rss, "server": server_figures(self.trial)}

    def promptness(self) -> dict[str, float]:
        """Return the medians, in ms, of taking, of renewing, and of a job from `submit` to `result`."""
        with closing(open_lane(settings_for(self.trial.url, self.lab.namespace), self.lab.namespace, 5.0)) as lane:
            lane.take({"yellow": 1})  # where they wait; none of them is due
            take = _median(lambda: lane.take({"yellow": 1}))
            renew = _median(lane.renew)
        job = _median(lambda: self.app.wait_long.submit(1).result(timeout=60))
        return {"take": take, "renew": renew, "job": job}

    def delayed(self, count: int, seconds: float) -> dict[str, Any]:
        """Let jobs wait for days; a worker takes and renews as before."""
        self.promptness()  # opens what is opened on first use
        before, quick = self.state(), self.promptness()
        began = time.monotonic()
        task = self.app.wait_long.options(delay=DELAY)
        made = 0
        slowest = 0.0
        while made < count and time.monotonic() - began < seconds:
            start = time.monotonic()
            task.submit_many([(number,) for number in range(made, min(count, made + A_CALL))])
            slowest = max(slowest, time.monotonic() - start)
            made = min(count, made + A_CALL)
        took = time.monotonic() - began
        after, then = self.state(), self.promptness()
        for name, value in then.items():
            if value > max(quick[name] * MOST_SLOWER, AT_LEAST * 1000):
                self.errors.append(
                    f"{name} takes {value:.2f} ms beside {made:,} waiting jobs, {quick[name]:.2f} before"
                )
        for who in ("client", "worker"):
            if (growth := after[who] - before[who]) > MOST_GROWN + made / 1_000_000:
                self.errors.append(f"the {who} grew by {growth:.1f} MiB with {made:,} waiting jobs")
        return {
            "jobs": made, "seconds": round(took, 1), "slowest_call": round(slowest, 2), "calls_of": A_CALL,
            "before": before, "after": after, "ms_before": quick, "ms_after": then,
        }  # fmt: skip

    def failures(self, count: int, frames: int) -> dict[str, Any]:
        """Let jobs raise from far below; what is kept of each is bounded, and the worker does not log each."""
        explode, results = self.app.explode, self.app.dispatcher.open_results()
        lines, before = self.worker.said.count("\n"), self.state()
        huge = explode.submit(0, 800, 10_000_000)
        huge.wait(60)
        largest = len(results.fetch([huge.key])[0].body)
        began = time.monotonic()
        sizes: list[int] = []
        odd = 0
        for start in range(0, count, 1000):
            jobs = explode.submit_many([(number, frames, 100) for number in range(start, min(count, start + 1000))])
            for number, job in enumerate(jobs, start):
                error = job.exception(timeout=120)
                odd += not (isinstance(error, ValueError) and str(error).startswith(f"{number} "))
            sizes += [
                len(record.body) for record in results.fetch([job.key for job in jobs[:10]]) if record is not None
            ]
        took, said = time.monotonic() - began, self.worker.said.count("\n") - lines
        if odd:
            self.errors.append(f"{odd} of {count} failures were not what was raised")
        if max([largest, *sizes]) > RECORD_BYTES:
            self.errors.append(f"a failure is kept in {max([largest, *sizes])} bytes")
        if said > LOG_LINES:
            self.errors.append(f"the worker wrote {said} lines about {count} failures")
        return {
            "jobs": count, "seconds": round(took, 1), "frames": frames, "record_bytes": round(median(sizes)),
            "largest_record_bytes": largest, "log_lines": said, "before": before, "after": self.state(),
        }  # fmt: skip

    def cancelled(self, count: int) -> dict[str, Any]:
        """Cancel jobs that wait for days; the worker learns of each and is as prompt as before."""
        task, results = self.app.wait_long.options(delay=DELAY), self.app.dispatcher.open_results()
        before, quick = self.state(), self.promptness()
        began = time.monotonic()
        for start in range(0, count, A_CALL):
            jobs = task.submit_many([(number,) for number in range(start, min(count, start + A_CALL))])
            results.cancel([job.key for job in jobs])
        took = time.monotonic() - began
        then, after = self.promptness(), self.state()
        if then["job"] > max(quick["job"] * MOST_SLOWER, AT_LEAST * 1000):
            self.errors.append(
                f"a job takes {then['job']:.2f} ms after {count:,} were cancelled, {quick['job']:.2f} before"
            )
        return {
            "jobs": count, "seconds": round(took, 1), "before": before, "after": after, "ms_before": quick, "ms_after": then,
        }  # fmt: skip

    def large(self) -> dict[str, Any]:
        """Return results at the limit; the one above it fails and says why, and its worker goes on."""
        began = time.monotonic()
        error = self.app.make_bytes.submit(TOO_LARGE).exception(timeout=120)
        refused = time.monotonic() - began
        text = f"{type(error).__name__}: {error}"
        if error is None or "16" not in text:
            self.errors.append(f"a result of {TOO_LARGE} bytes ended with {text!r}")
        value = self.app.make_bytes.submit(LARGE).result(timeout=120)
        if len(value) != LARGE:
            self.errors.append(f"a result of {LARGE} bytes came back with {len(value)}")
        return {"bytes": TOO_LARGE, "error": text[:300], "seconds": round(refused, 2), "state": self.state()}


def _median(action: Callable[[], object]) -> float:
    """Return the median of the milliseconds that something takes."""
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        action()
        took.append((time.perf_counter() - began) * 1000)
    return round(median(took), 3)


def table(record: Mapping[str, Any]) -> list[str]:
    """Return a record as lines of Markdown."""
    lines = [
        "| broker | waiting jobs | seconds | client, MiB | worker, MiB | take, ms | renew, ms | a job, ms | server |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in record["runs"]:
        if found := run.get("delayed"):
            before, after = found["before"], found["after"]
            times = [f"{found['ms_before'][name]:g}, {found['ms_after'][name]:g}" for name in ("take", "renew", "job")]
            sizes = [f"{before[who]:.0f}, {after[who]:.0f}" for who in ("client", "worker")]
            cells = [run["broker"], f"{found['jobs']:,}", f"{found['seconds']:,.0f}", *sizes, *times]
            lines.append(f"| {' | '.join(cells)} | {_text(before['server'])}; then {_text(after['server'])} |")
    for run in record["runs"]:
        if found := run.get("cancelled"):
            before, after = found["before"], found["after"]
            grown = f"{after['worker']:.0f} MiB, {before['worker']:.0f} before"
            slower = f"{found['ms_after']['job']:g} ms, {found['ms_before']['job']:g} before"
            lines += [
                "",
                f"{run['broker']}: {found['jobs']:,} jobs cancelled; then the worker has {grown}; a job takes {slower}.",
            ]
    lines += [
        "",
        "| broker | failures | seconds | bytes kept of one | of the largest | lines of log | a result of 17 MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in record["runs"]:
        found, large = run.get("failures"), run.get("large")
        if found and large:
            cells = [
                run["broker"], f"{found['jobs']:,}", f"{found['seconds']:,.0f}", f"{found['record_bytes']:,}",
                f"{found['largest_record_bytes']:,}", str(found["log_lines"]), large["error"],
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    lines += [f"\nNot as promised on {run['broker']}: {error}" for run in record["runs"] for error in run["errors"]]
    return lines


def _text(figures: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in figures.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; return 0 if all of it held."""
    parser = argparse.ArgumentParser(prog="tests.crash.bounds", description=__doc__)
    parser.add_argument("--brokers", default=",".join(BROKERS))
    parser.add_argument("--delayed", type=int, default=1_000_000, help="jobs that wait")
    parser.add_argument(
        "--most-minutes", type=float, default=600.0, help="submit nothing after so long, on each broker"
    )
    parser.add_argument("--failures", type=int, default=100_000, help="jobs that raise")
    parser.add_argument("--cancelled", type=int, default=100_000, help="jobs that wait and are cancelled")
    parser.add_argument("--frames", type=int, default=40, help="of their tracebacks")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", type=Path, help="write the result to this file, adding to what is there")
    wishes = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    record: dict[str, Any] = {"program": "tests.crash.bounds", "runs": []}
    if wishes.record and wishes.record.exists():
        record = json.loads(wishes.record.read_text(encoding="utf-8"))
    record |= {"versions": versions()}
    failed = 0
    for broker in wishes.brokers.split(","):
        folder = Path(tempfile.mkdtemp(prefix="queuelib-bounds-"))
        command = (
            f"python -m tests.crash.bounds --brokers {broker} --delayed {wishes.delayed} --failures {wishes.failures}"
        )
        run: dict[str, Any] = {"command": command, "date": datetime.now(UTC).date().isoformat(), "broker": broker}
        bounds = Bounds(broker, wishes.seed, folder)
        try:
            run["large"] = bounds.large()
            run["failures"] = bounds.failures(wishes.failures, wishes.frames)
            run["cancelled"] = bounds.cancelled(wishes.cancelled)
            run["delayed"] = bounds.delayed(wishes.delayed, wishes.most_minutes * 60)
        finally:
            run["errors"] = bounds.errors
            bounds.close()
            shutil.rmtree(folder, ignore_errors=True)
        record["runs"] = [*(old for old in record["runs"] if old["broker"] != broker), run]
        failed += bool(run["errors"])
        if wishes.record:
            write_record(wishes.record, record)
        print("\n".join(table({**record, "runs": [run]})), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
