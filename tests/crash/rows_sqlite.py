"""Rows 41 to 45: the SQLite file."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.crash.rows import row
from tests.integration.lab import let_pass
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.crash.trial import Trial

_ONLY = ("sqlite",)
_SEEN_WITHIN = 2.0  # seconds until others have taken what a dead process of this host held
# Takes what there is, without running it, and stays.
_TAKER = """
import os, time
from queuelib import broker
settings = broker.settings_for(os.environ["BROKER"], os.environ["NAMESPACE"])
lane = broker.open_lane(settings, os.environ["NAMESPACE"], 5.0)
print("taken", len(lane.take({"yellow": 100})), flush=True)
time.sleep(600)
"""


@row(41, "a consumer killed after it claimed, before it ran anything", brokers=_ONLY, seconds=6)
def claimed(trial: Trial) -> None:
    """Within two seconds a worker has them; nothing counts as started twice."""
    jobs = trial.submit(20)
    taker = trial.lab.start("-c", _TAKER)
    taker.await_word("taken 20")
    trial.worker()
    taker.kill()
    killed = time.time()
    trial.await_starts(1, within=10.0)
    trial.measure("claims of the dead", trial.runs()[0].start - killed)
    assert trial.runs()[0].start - killed < _SEEN_WITHIN
    trial.finish(jobs)
    trial.check(jobs)


@row(41, "a worker killed with jobs that run and jobs that it claimed", variant="worker", brokers=_ONLY, seconds=6)
def worker_with_claims(trial: Trial) -> None:
    """Within two seconds another has all of it; what had not started starts once."""
    gate = trial.lab.gate()
    first = trial.worker("--name", "first")
    trial.finish(trial.submit(200, prefix="w"))  # it learns that they are quick, and fetches many at once
    running = trial.submit(2, gate.path, "r")
    struck = {run.label for run in trial.await_starts(202)[200:]}
    jobs = {**running, **trial.submit(50)}
    let_pass(0.3)  # in which it fetches of these what it wants
    trial.worker("--name", "second")
    killed = trial.kill_worker(first)
    for label in struck:
        again = trial.await_again(label, within=10.0) - killed
        trial.measure("worker death", again)
        assert again < _SEEN_WITHIN
    gate.open()
    trial.finish(jobs)
    trial.check([*jobs, *(f"w{i}" for i in range(200))], faults=len(struck))


@row(44, "eight writers killed with -9 in a loop for 5 s", brokers=_ONLY, seconds=12)
def storm(trial: Trial) -> None:
    """The file stays whole, and every job that was accepted runs once."""
    _storm(trial, 5.0)


@row(44, "eight writers killed with -9 in a loop for 60 s", variant="long", brokers=_ONLY, seconds=80, is_long=True)
def long_storm(trial: Trial) -> None:
    """As above."""
    _storm(trial, 60.0)


def _storm(trial: Trial, seconds: float) -> None:
    trial.worker()
    log = trial.folder / "writers"
    program = trial.lab.start("-m", "tests.crash.writers", "8", trial.path, str(log))
    eventually(lambda: len(_words(log, "ok")) > 8, within=20.0)
    end, kills = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        pid = int(trial.chance.choice(_words(log, "born")[-8:]))
        try:
            os.kill(pid, signal.SIGKILL)
            kills += 1
        except ProcessLookupError:
            pass  # killed already, and its successor has not said so yet
        time.sleep(trial.chance.uniform(0.01, 0.1))
    program.kill()
    accepted, tried = _words(log, "ok"), _words(log, "try")
    trial.figures |= {"kills": kills, "accepted": len(accepted), "in doubt": len(tried) - len(accepted)}
    assert kills > seconds  # or it was no storm
    wanted = set(accepted)
    eventually(lambda: wanted <= {run.label for run in trial.runs() if run.is_finished}, within=60.0)
    check_integrity(trial)
    trial.check(accepted, in_doubt=tried)


def _words(log: Path, what: str) -> list[str]:
    """Return the second words of the lines that begin with `what`, without one that is being written."""
    lines = log.read_text(encoding="ascii").splitlines() if log.exists() else []
    return [fields[1] for fields in (line.split() for line in lines) if len(fields) == 2 and fields[0] == what]


def check_integrity(trial: Trial) -> None:
    """See that the database is whole."""
    connection = sqlite3.connect(f"file:{trial.folder}/jobs.db?mode=ro", uri=True)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    finally:
        connection.close()
