"""Rows 10 and 16: jobs flow while processes are killed all the time."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Self

from queuelib import JobQuarantined
from tests.crash import history
from tests.crash.rows import row
from tests.integration.lab import let_pass
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuelib import Job
    from tests.crash.trial import Trial
    from tests.integration.lab import Worker

_WORKERS = 2
_PROCESSES = 3
_PER_WORKER_KILL = 60  # jobs that it can have run without having written it, with the rest of the machine busy as well


@row(10, "kill -9 of a random worker or child every 0.2 to 2 s for 8 s, 2,000 jobs", seconds=25)
def storm(trial: Trial) -> None:
    """Everything accepted gets done, nothing runs twice at a time."""
    _storm(trial, seconds=8.0, count=2_000, lot=100)


@row(10, "the same for 5 minutes, 100,000 jobs", variant="full", seconds=420, within=1500, is_long=True)
def long_storm(trial: Trial) -> None:
    """The same, for longer."""
    _storm(trial, seconds=300.0, count=100_000, lot=250)


@row(16, "children that run one job each, and are killed while they come and go; 300 jobs", seconds=12)
def recycling(trial: Trial) -> None:
    """Nothing is lost, and the worker keeps up."""
    _recycle(trial, count=300)


@row(16, "the same with 2,000 jobs", variant="full", seconds=60, within=300, is_long=True)
def long_recycling(trial: Trial) -> None:
    """The same, for longer."""
    _recycle(trial, count=2_000)


class _Killer:
    """Kills a random worker or child now and then, and starts workers again."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.kills = {"worker": 0, "child": 0}
        self.workers: list[Worker] = []
        self.failure: BaseException | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self.workers = [self.trial.worker(processes=_PROCESSES) for _ in range(_WORKERS)]
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            while not self._is_over.wait(self.trial.chance.uniform(0.2, 2.0)):
                self._kill_one()
            for worker in self.workers:
                worker.await_ready()
        except BaseException as failure:  # noqa: BLE001 - told to the row at its end
            self.failure = failure

    def _kill_one(self) -> None:
        trial, chance = self.trial, self.trial.chance
        place = chance.randrange(_WORKERS)
        worker = self.workers[place]
        status = worker.process.poll()
        assert status is None, f"a worker ended by itself with {status}: {worker.said}"
        children = trial.children(worker)
        if children and chance.random() < 0.7:
            victim = chance.choice(children)
            history.note_kill(trial.path, [victim])
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                return
            self.kills["child"] += 1
        else:
            trial.kill_worker(worker)
            self.kills["worker"] += 1
            self.workers[place] = trial.lab.worker("--processes", str(_PROCESSES))


def _storm(trial: Trial, *, seconds: float, count: int, lot: int) -> None:
    jobs: dict[str, Job[str]] = {}
    every = seconds * lot / count
    with _Killer(trial) as killer:
        began = time.monotonic()
        while len(jobs) < count:
            jobs |= _lot(trial, len(jobs), lot)
            let_pass(max(0.0, began + every * len(jobs) / lot - time.monotonic()))
        let_pass(max(0.0, began + seconds - time.monotonic()))
        took = time.monotonic() - began
    set_aside = _retry_set_aside(trial, jobs)
    drained = time.monotonic() - began - took
    runs = trial.runs()
    kills = killer.kills["child"] + killer.kills["worker"]
    trial.figures |= {
        "jobs": len(jobs), "kills of workers": killer.kills["worker"], "kills of children": killer.kills["child"],
        "starts": len(runs), "set aside": set_aside, "submitted within": round(took, 1), "drained in": round(drained, 1),
    }  # fmt: skip
    assert kills >= seconds / 3
    # A child's death strikes the job that it ran; a worker's also what had ended and was not written yet.
    trial.check(jobs, faults=killer.kills["child"] + 3 * set_aside + _PER_WORKER_KILL * killer.kills["worker"])


def _lot(trial: Trial, first: int, count: int) -> dict[str, Job[str]]:
    """Submit jobs of 1 to 5 ms, and one in a hundred of 200 ms."""
    chance = trial.chance_of_jobs
    rows = [
        (trial.path, f"j{first + i}", 0.2 if chance.random() < 0.01 else chance.uniform(0.001, 0.005))
        for i in range(count)
    ]
    return dict(zip([row[1] for row in rows], trial.deeds.mark_for.submit_many(rows), strict=True))


def _retry_set_aside(trial: Trial, jobs: dict[str, Job[str]]) -> int:
    """Wait for every job; those under which three processes were killed by chance are retried by hand, as is promised."""
    limit = time.monotonic() + 120.0 + len(jobs) / 100
    struck: list[str] = []
    for label, job in jobs.items():
        try:
            assert job.result(timeout=max(0.1, limit - time.monotonic())) == label
        except JobQuarantined:
            assert trial.starts(label) >= 3, f"{label} was set aside without three starts"
            struck.append(label)
    if struck:
        items = [json.loads(line) for line in trial.lab.queuelib("failed", "ls", "--json").splitlines()]
        assert len(items) == len(struck)
        trial.lab.queuelib("failed", "retry", "--all")
        eventually(lambda: _finished(trial) >= set(struck), within=30.0, message="what was set aside ran")
    return len(struck)


def _finished(trial: Trial) -> set[str]:
    return {run.label for run in trial.runs() if run.is_finished}


def _recycle(trial: Trial, *, count: int) -> None:
    worker = trial.worker("--max-jobs", "1")
    labels = [f"j{i}" for i in range(count)]
    began = time.monotonic()
    jobs = dict(zip(labels, trial.deeds.mark.submit_many([(trial.path, label) for label in labels]), strict=True))
    kills = 0
    for _ in _until_finished(jobs):
        children = trial.children(worker)
        if children and kills < count // 30:
            victim = trial.chance.choice(children)
            history.note_kill(trial.path, [victim])
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                continue
            kills += 1
    seconds = time.monotonic() - began
    trial.figures |= {"jobs": count, "kills of children": kills, "jobs a second": round(count / seconds, 1)}
    trial.finish(jobs)
    trial.check(jobs, faults=kills)
    assert kills
    assert worker.process.poll() is None


def _until_finished(jobs: dict[str, Job[str]]) -> Iterator[None]:
    last = list(jobs.values())[-1]
    while not last.wait(timeout=0.1):
        yield
    for job in jobs.values():
        job.wait(timeout=60.0)
