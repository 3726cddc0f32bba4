"""Rows 52 to 57: clocks that are wrong, and jobs that wait for their time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from queuelib import CancelledError, JobExpired
from tests.crash.rows import row
from tests.integration.lab import let_pass
from tests.waiting import eventually

if TYPE_CHECKING:
    from queuelib import Job
    from tests.crash.trial import Trial

_SERVERS = ("redis", "rabbitmq")  # the clock of SQLite's one machine is everybody's
_EARLY = 0.3  # seconds before its time at which a job counts as started at it
_MIB = 1024**2


# Imported by Python before anything else; libfaketime breaks Python's time.sleep where it leaves the monotonic clock alone.
_CLOCK = """
import os, time
right = time.time

def wrong():
    with open(os.environ["CLOCK_OFFSET"]) as file:
        return right() + float(file.read())

time.time = wrong
"""


@row(52, "a worker's clock is ten minutes ahead", brokers=_SERVERS, seconds=12)
def ahead(trial: Trial) -> None:
    """Leases hold, and what is delayed waits for its time by the server's clock."""
    _skew(trial, 600.0)


@row(52, "a worker's clock is ten minutes behind", variant="behind", brokers=_SERVERS, seconds=12)
def behind(trial: Trial) -> None:
    """As above."""
    _skew(trial, -600.0)


@row(52, "a worker's clock steps back by an hour", variant="step", brokers=_SERVERS, seconds=12)
def step(trial: Trial) -> None:
    """As above."""
    _skew(trial, 0.0, step=-3600.0)


def _skew(trial: Trial, seconds: float, step: float = 0.0) -> None:
    gate, offset = trial.lab.gate(), trial.folder / "offset"
    offset.write_text(str(seconds), encoding="ascii")
    (trial.folder / "sitecustomize.py").write_text(_CLOCK, encoding="ascii")
    path = f"{trial.folder}:{trial.lab.environment['PYTHONPATH']}"
    wrong = trial.worker("--name", "wrong", CLOCK_OFFSET=str(offset), PYTHONPATH=path)
    running = trial.submit(2, gate.path, "r")
    first = trial.await_starts(2)[0].start
    assert abs(first - time.time() - seconds) < 60.0, "its clock is right"
    trial.worker("--name", "right")
    (trial.folder / "next").write_text(str(seconds + step), encoding="ascii")
    (trial.folder / "next").rename(offset)
    submitted = time.time()
    delayed: dict[str, Job[str]] = {
        f"d{i}": trial.deeds.mark.options(delay=2.0).submit(trial.path, f"d{i}") for i in range(6)
    }
    let_pass(3 * trial.lease)
    assert not [run for run in trial.runs() if run.label in running][2:], "it ran again although its worker lives"
    gate.open()
    trial.finish(running)
    trial.finish(delayed, within=20.0)
    for run in trial.runs():
        if run.label in delayed:
            real = min((run.start - shift for shift in (0.0, seconds + step)), key=lambda at: abs(at - time.time()))
            trial.measure("late", real - submitted - 2.0)
            assert real - submitted > 2.0 - _EARLY, f"{run.label} started {submitted + 2.0 - real:.2f} s too early"
    wrong.stop()
    trial.check([*running, *delayed])


@row(56, "three thousand delayed jobs", seconds=20)
def delayed_jobs(trial: Trial) -> None:
    """They wait in the broker: the worker does not grow, and each runs once, when it is due."""
    _delay(trial, 3000, 15.0)


@row(56, "a hundred thousand delayed jobs", variant="long", seconds=200, within=900.0, is_long=True)
def many_delayed_jobs(trial: Trial) -> None:
    """As above."""
    _delay(trial, 100_000, 120.0)


def _delay(trial: Trial, count: int, delay: float) -> None:
    worker = trial.worker()
    trial.finish(trial.submit(200, prefix="w"))
    before = _rss(worker.pid)
    submitted = time.time()
    task = trial.deeds.mark.options(delay=delay)
    labels = [f"d{i}" for i in range(count)]
    jobs = dict(zip(labels, task.submit_many([(trial.path, label) for label in labels]), strict=True))
    trial.measure("submitted", time.time() - submitted)
    assert time.time() - submitted < delay, "the delay is too short for this machine"
    let_pass(1.0)
    grown = _rss(worker.pid) - before
    trial.figures["the worker grew by, in MiB"] = round(grown / _MIB, 1)
    assert grown < 8 * _MIB, grown
    assert len(trial.runs()) == 200, "some started before their time"
    eventually(lambda: len(trial.runs()) >= count + 200, within=delay + 60.0 + count / 200)
    trial.finish(jobs, within=60.0)
    early = [run for run in trial.runs() if run.label in jobs and run.start < submitted + delay - _EARLY]
    assert not early, f"{len(early)} started too early"
    trial.check([*labels, *(f"w{i}" for i in range(200))])


def _rss(pid: int) -> int:
    """Return the resident bytes of a process."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


@row(57, "cancelled and expired while no worker lives and the server dies", seconds=15, within=240.0)
def while_away(trial: Trial) -> None:
    """What was cancelled or has expired never starts, whoever was restarted; everything else runs."""
    if trial.broker != "sqlite":
        assert trial.server is not None  # one of its own
    gate = trial.lab.gate()
    first = trial.worker()
    running = trial.submit(2, gate.path, "r")
    trial.await_starts(2)
    kept, cancelled = trial.submit(5, prefix="k"), trial.submit(5, prefix="c")
    task = trial.deeds.mark.options(expires=1.0)
    expired = [task.submit(trial.path, f"e{i}") for i in range(5)]
    trial.kill_worker(first)
    for job in cancelled.values():
        job.cancel()
    if trial.broker != "sqlite":
        trial.server.kill()
    let_pass(1.5)  # the expiry
    if trial.broker != "sqlite":
        trial.server.start()
    gate.open()
    trial.worker()
    trial.worker()
    trial.finish({**running, **kept})
    for job in cancelled.values():
        with pytest.raises(CancelledError):
            job.result(timeout=30.0)
    for job in expired:
        with pytest.raises(JobExpired):
            job.result(timeout=30.0)
    trial.check([*running, *kept], faults=2)
