"""Rows 41 to 45: the SQLite file."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from queuelib import BrokerUnavailable
from queuelib.settings import SUBMIT_DEADLINE
from tests.crash.rows import row
from tests.integration.lab import let_pass
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.crash.trial import Trial
    from tests.integration.lab import Worker

_ONLY = ("sqlite",)
_SEEN_WITHIN = 3.0  # seconds until others have taken what a dead process of this host held; 2 on an idle machine
# Takes what there is, without running it, and stays.
_TAKER = """
import os, time
from queuelib import broker
settings = broker.settings_for(os.environ["BROKER"], os.environ["NAMESPACE"])
lane = broker.open_lane(settings, os.environ["NAMESPACE"], 5.0)
print("taken", len(lane.take({"yellow": 100})), flush=True)
time.sleep(600)
"""
_HOLDER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
connection.execute("ROLLBACK")
"""
_FORKS = """
import os, sys
import deeds

def work(name):
    labels = [f"{name}x{i}" for i in range(50)]
    jobs = [deeds.mark.submit(sys.argv[1], label) for label in labels]
    assert [job.result(timeout=30) for job in jobs] == labels
    print("done", name, flush=True)

assert deeds.square.submit(3).result(timeout=30) == 9  # so that there is a connection
pids = []
for number in range(4):
    pid = os.fork()
    if not pid:
        work(f"child{number}")
        os._exit(0)
    pids.append(pid)
work("parent")
for pid in pids:
    assert os.waitpid(pid, 0)[1] == 0
"""

# Children are forked while threads submit, and submit when their parent has closed; strangers open and close the file.
_LEFT_ALONE = """
import os, signal, subprocess, sys, threading
import deeds

def submit(name):
    jobs = [deeds.mark.submit(sys.argv[1], f"{name}x{i}") for i in range(50)]
    assert [job.state for job in jobs] == ["queued"] * 50
    print("done", name, flush=True)

submit("first")
closed, close = os.pipe()
threads = [threading.Thread(target=submit, args=(f"thread{number}",)) for number in range(2)]
for thread in threads:
    thread.start()
pids = []
for number in range(4):
    pid = os.fork()
    if not pid:
        signal.alarm(60)
        os.close(close)
        os.read(closed, 1)
        submit(f"child{number}")
        deeds.dispatcher.close()
        os._exit(0)
    pids.append(pid)
for thread in threads:
    thread.join()
deeds.dispatcher.close()
os.close(close)
count = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM message').fetchone()"
for pid in pids:
    subprocess.run([sys.executable, "-c", count, sys.argv[2]], check=True)
    assert os.waitpid(pid, 0)[1] == 0
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


@row(42, "another program keeps the file locked for 3 s", brokers=_ONLY, seconds=8)
def locked(trial: Trial) -> None:
    """Whoever writes waits; nothing fails and nothing runs twice."""
    _lock(trial, 3.0)
    began = time.monotonic()
    jobs = trial.submit(5, prefix="meanwhile")
    trial.measure("submit waited", time.monotonic() - began)
    trial.finish(jobs)
    trial.finish({f"r{i}": trial.lab.dispatcher.job(job) for i, job in enumerate(_ids(trial))})
    trial.check([*jobs, "r0", "r1"])


@row(42, "another program keeps the file locked for 30 s", variant="long", brokers=_ONLY, seconds=45, is_long=True)
def locked_long(trial: Trial) -> None:
    """Submit raises within its deadline; the worker lives, keeps what it claimed, and writes it down afterwards."""
    holder = _lock(trial, 30.0)
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable, match="locked"):
        trial.submit(1, prefix="refused")
    trial.measure("submit raised", time.monotonic() - began)
    assert time.monotonic() - began < SUBMIT_DEADLINE + 2.0
    second = trial.lab.worker("--processes", "2", "--name", "second")
    assert holder.wait(60.0) == 0
    trial.finish({f"r{i}": trial.lab.dispatcher.job(job) for i, job in enumerate(_ids(trial))})
    jobs = trial.submit(5)
    trial.finish(jobs)
    assert second.process.poll() is None, second.said
    trial.check([*jobs, "r0", "r1"])


def _lock(trial: Trial, seconds: float) -> Worker:
    """Lock the file while two jobs run, let these finish meanwhile, and return who holds the lock."""
    gate = trial.lab.gate()
    trial.worker()
    jobs = trial.submit(2, gate.path, "r")
    (trial.folder / "ids").write_text("\n".join(job.id for job in jobs.values()), encoding="ascii")
    trial.await_starts(2)
    holder = trial.lab.start("-c", _HOLDER, f"{trial.folder}/jobs.db", str(seconds))
    holder.await_word("locked")
    gate.open()
    return holder


def _ids(trial: Trial) -> list[str]:
    return (trial.folder / "ids").read_text(encoding="ascii").split()


@row(43, "a full disk of 40 MB", brokers=_ONLY, seconds=10, needs_root=True)
def full_disk(trial: Trial) -> None:
    """Submit raises; what was accepted runs, and its end can be written although the disk is full; the file is whole."""
    small = trial.folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(small)], check=True)
    try:
        trial.keep_in(small)
        gate = trial.lab.gate()
        worker = trial.worker()
        running = trial.submit(2, gate.path, "r")
        trial.await_starts(2)
        large = []
        with pytest.raises(BrokerUnavailable, match="disk is full"):
            while True:
                large.append(trial.deeds.size_of.submit(bytes(100_000)))
        trial.figures["accepted of 100 kB each"] = len(large)
        gate.open()
        trial.finish(running)
        assert [job.result(timeout=60.0) for job in large] == [100_000] * len(large)
        trial.finish(after := trial.submit(5))
        check_integrity(trial, small)
        trial.check([*running, *after])
        worker.stop()
        trial.lab.dispatcher.close()
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


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


@row(45, "a program that forks after it has used its dispatcher", brokers=_ONLY, seconds=6)
def forked(trial: Trial) -> None:
    """Parent and children go on, each with a connection of its own; the file stays whole."""
    trial.worker()
    program = trial.lab.start("-c", _FORKS, trial.path)
    assert program.wait(60.0) == 0, program.said
    assert program.said.count("done") == 5, program.said
    check_integrity(trial)
    trial.check([f"{name}x{i}" for name in ("parent", *(f"child{n}" for n in range(4))) for i in range(50)])


@row(45, "a program forks beside its threads, and closes", variant="closed", brokers=_ONLY, seconds=8)
def forked_and_closed(trial: Trial) -> None:
    """No child hangs, and what it submits when its parent has closed is in the file that others see."""
    trial.deeds.dispatcher.close()  # nobody else has the file open
    program = trial.lab.start("-c", _LEFT_ALONE, trial.path, f"{trial.folder}/jobs.db")
    assert program.wait(120.0) == 0, program.said
    names = ("first", "thread0", "thread1", *(f"child{n}" for n in range(4)))
    assert program.said.count("done") == len(names), program.said
    check_integrity(trial)
    trial.worker("--burst").wait(60.0)
    trial.check([f"{name}x{i}" for name in names for i in range(50)])


@row(45, "the file is replaced while it is in use", variant="replaced", brokers=_ONLY, seconds=8)
def replaced(trial: Trial) -> None:
    """Nobody writes to a file that nobody finds: submit raises, the worker says so, and both go on when it is back."""
    worker = trial.worker()
    trial.finish(trial.submit(5, prefix="before"))
    place, away = trial.folder / "jobs.db", trial.folder / "away"
    away.mkdir()
    names = [name for name in (place, Path(f"{place}-wal"), Path(f"{place}-shm")) if name.exists()]
    for name in names:
        name.rename(away / name.name)
    with pytest.raises(BrokerUnavailable, match="replaced"):
        trial.submit(1, prefix="refused")
    worker.await_word("replaced", within=10.0)
    for name in names:
        (away / name.name).rename(name)
    jobs = trial.submit(5)
    trial.finish(jobs)
    check_integrity(trial)
    trial.check([*jobs, *(f"before{i}" for i in range(5))])


def check_integrity(trial: Trial, folder: Path | None = None) -> None:
    """See that the database is whole."""
    connection = sqlite3.connect(f"file:{folder or trial.folder}/jobs.db?mode=ro", uri=True)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    finally:
        connection.close()
