"""Row 4, all of it: every fault point, struck in every way, on every broker."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from queuelib.faults import POINTS
from queuelib.worker.watchdog import STILL_FOR, STUCK
from tests.crash.rows import row
from tests.integration.lab import let_pass
from tests.waiting import eventually

if TYPE_CHECKING:
    from queuelib import Job
    from tests.crash.trial import Trial
    from tests.integration.lab import Worker

_ELSEWHERE = "after_value"  # passed with large results only: tests/integration/test_large.py
_WORKER_POINTS = [name for name, where in POINTS.items() if not where.startswith("client") and name != _ELSEWHERE]
_CHILD_POINTS = [name for name in _WORKER_POINTS if POINTS[name].startswith("child")]
_PER_STRIKE = 24  # jobs that one worker can have run without having written it: quick ones of 20 ms


@row(4, "a worker for each fault point, which ends there", variant="exit", seconds=25, within=240)
def points_exit(trial: Trial) -> None:
    """Whoever ends where: every job gets done, and only what was in flight there starts again."""
    _strike_all(trial, "exit")


@row(4, "a worker for each fault point, killed there by SIGKILL to its group", variant="kill", seconds=25, within=240)
def points_kill(trial: Trial) -> None:
    """The same without a status."""
    _strike_all(trial, "kill")


@row(
    4,
    "a worker for each fault point, where an error is raised that nobody expects",
    variant="raise",
    seconds=25,
    within=240,
)
def points_raise(trial: Trial) -> None:
    """It ends with the error and gives back what it had."""
    _strike_all(trial, "raise")


@row(4, "a worker for each fault point, which hangs there for a moment", variant="sleep", seconds=25, within=240)
def points_sleep(trial: Trial) -> None:
    """Nothing starts a second time: everybody still has what is theirs."""
    _strike_all(trial, "sleep", f":{trial.lease / 3:g}")


@row(
    4,
    "a worker's loop stands still for good, amid jobs that it took and started none of",
    variant="stuck",
    seconds=75,
    within=180,
    is_long=True,
)
def points_stuck(trial: Trial) -> None:
    """Its watchdog ends it with its own status, and each job starts once, elsewhere."""
    stuck = trial.lab.worker("-p", "1", QUEUELIB_FAULT="after_take:1:sleep:600")
    stuck.await_ready()
    jobs = trial.submit(20)
    eventually(lambda: _strikes(stuck, "after_take"), within=30.0)
    struck = time.monotonic()
    trial.worker()
    status = stuck.wait(STILL_FOR + 30.0)
    trial.measure("ended by its watchdog", time.monotonic() - struck)
    assert status == STUCK, stuck.said
    trial.finish(jobs)
    trial.check(jobs, faults=0)


@row(4, "a client ends, or fails, when its job was accepted and it does not know", variant="client", seconds=15)
def points_client(trial: Trial) -> None:
    """What the broker accepted runs once, whether the client knows or not."""
    trial.worker()
    accepted: list[str] = []
    in_doubt: list[str] = []
    for what in ("exit", "kill", "raise", "sleep:0.2"):
        prefix = f"{what[:4]}-"
        fault = f"after_publish:3:{what}"
        client = trial.lab.start("submits.py", trial.path, "6", prefix, QUEUELIB_FAULT=fault)
        status = client.wait(60.0)
        said = [line for line in client.said.splitlines() if line.startswith(prefix)]
        assert status == {"exit": 9, "kill": -9}.get(what, 0), client.said
        assert len(said) == {"exit": 2, "kill": 2, "raise": 5}.get(what, 6), client.said
        accepted += said
        in_doubt += [] if what.startswith("sleep") else [f"{prefix}2"]
    every = {*accepted, *in_doubt}
    eventually(lambda: {run.label for run in trial.runs() if run.is_finished} >= every, within=30.0)
    let_pass(trial.lease)
    trial.check(every)


def _strike_all(trial: Trial, what: str, how_long: str = "") -> None:
    trial.be_patient()
    workers = {}
    for name in _WORKER_POINTS:
        # Each child counts for itself: at its first job each would die, and the job be set aside.
        times = 3 if name in _CHILD_POINTS else 1
        workers[name] = trial.lab.worker("-p", "1", QUEUELIB_FAULT=f"{name}:{times}:{what}{how_long}")
    jobs: dict[str, Job[str]] = {}
    missing = list(_WORKER_POINTS)
    while missing:
        assert len(jobs) < 3000, f"not struck: {missing}"
        jobs |= _feed(trial, len(jobs))
        let_pass(0.3)
        missing = [name for name in missing if not _strikes(workers[name], name)]
    trial.worker()
    set_aside = trial.finish_or_retry(jobs, within=90.0)  # with so many dying, three may die under one job
    _await_ends(workers, what)
    strikes = {name: _strikes(worker, name) for name, worker in workers.items()}
    trial.figures |= {"strikes": strikes, "set aside": set_aside}
    of_children = sum(strikes[name] for name in _CHILD_POINTS)
    faults = 0 if what == "sleep" else of_children + _PER_STRIKE * (sum(strikes.values()) - of_children)
    trial.check(jobs, faults=faults + set_aside)
    assert what != "sleep" or not set_aside


def _feed(trial: Trial, first: int) -> dict[str, Job[str]]:
    """Submit jobs of all kinds: quick, slow enough for the socket, and one that is retried."""
    deeds, path = trial.deeds, trial.path
    quick = [f"q{first + i}" for i in range(12)]
    slow = [f"s{first + i}" for i in range(12)]
    again = [f"t{first + i}" for i in range(6)]
    jobs = dict(zip(quick, deeds.mark.submit_many([(path, label) for label in quick]), strict=True))
    jobs |= dict(zip(slow, deeds.mark_for.submit_many([(path, label, 0.025) for label in slow]), strict=True))
    jobs |= dict(zip(again, deeds.twice.submit_many([(path, label) for label in again]), strict=True))
    return jobs


def _strikes(worker: Worker, name: str) -> int:
    return worker.said.count(f"fault point {name} passed")


def _await_ends(workers: dict[str, Worker], what: str) -> None:
    """Wait until those have ended whose supervisor was struck; with which status."""
    if what == "sleep":
        return
    for name, worker in workers.items():
        if name not in _CHILD_POINTS:
            assert worker.wait(30.0) == {"exit": 9, "kill": -9, "raise": 1}[what], worker.said
