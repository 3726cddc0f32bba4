"""Variants of rows for tasks with promises of their own: `at_most_once`, `exclusive`, and handlers that ask for their lease."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from queuelib import JobLost
from tests.crash.history import note_kill
from tests.crash.proxy import FaultProxy
from tests.crash.rows import row
from tests.integration.lab import is_gone
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.crash.trial import Trial


@row(1, "kill -9 of a worker amid a job that must not start twice", variant="once", seconds=8)
def once_whole_worker(trial: Trial) -> None:
    """It ends with JobLost on the next worker; what had not started runs, once."""
    gate = trial.lab.gate()
    first = trial.worker("--name", "first", processes=1)
    rows = [(trial.path, f"o{i}", gate.path) for i in range(4)]
    jobs = trial.deeds.once.submit_many(rows)
    (running,) = trial.await_starts(1)
    trial.kill_worker(first)
    trial.worker("--name", "second", processes=1)
    gate.open()
    lost = {row[1]: job.exception(timeout=40.0) for row, job in zip(rows, jobs, strict=True)}
    assert isinstance(lost.pop(running.label), JobLost)
    assert set(lost.values()) == {None}, lost
    trial.check([row[1] for row in rows], unfinished=[running.label])


@row(2, "kill -9 of a child amid a job that must not start twice", variant="once", seconds=6)
def once_child(trial: Trial) -> None:
    """It ends with JobLost, at once and without a second start."""
    trial.worker()
    job = trial.deeds.once.submit(trial.path, "o", how="kill")
    assert isinstance(job.exception(timeout=20.0), JobLost)
    trial.check(["o"], unfinished=["o"])


@row(58, "a second signal amid a job that must not start twice", variant="once", seconds=6)
def once_interrupted(trial: Trial) -> None:
    """It has started, so it ends with JobLost although nobody died."""
    gate = trial.lab.gate()
    worker = trial.worker()
    job = trial.deeds.once.submit(trial.path, "o", gate.path)
    trial.await_starts(1)
    worker.stop()
    assert isinstance(job.exception(timeout=20.0), JobLost)
    trial.check(["o"], unfinished=["o"])


@row(58, "a second signal amid a job that puts things in order", variant="shutdown", seconds=8)
def told_to_end(trial: Trial) -> None:
    """Its handler sees Shutdown, and the job runs again elsewhere, as its first attempt."""
    gate = trial.lab.gate()
    worker = trial.worker()
    job = trial.deeds.tidy.submit(trial.path, "t", gate.path)
    trial.await_starts(1)
    assert worker.stop() == 0
    assert len(trial.lab.history().marks("tidied")) == 1
    trial.worker()
    gate.open()
    trial.finish({"t": job})
    assert [run.attempt for run in trial.runs()] == [1, 1]
    trial.check(["t"], faults=1)


@row(
    20,
    "cut off for longer than the lease, amid an exclusive job",
    variant="exclusive",
    brokers=("redis", "rabbitmq"),
    seconds=15,
)
def exclusive_cut_off(trial: Trial) -> None:
    """It is killed before another worker may start it: never two at a time."""
    gate = trial.lab.gate()
    with FaultProxy(trial.server_port, trial.seed) as proxy:
        job = _cut_off(trial, proxy, trial.deeds.alone, gate.path)
        first = trial.runs()[0]
        eventually(lambda: is_gone(first.pid), within=30.0, message="the first run was killed")
        note_kill(trial.path, [first.pid])
        trial.measure("killed after", time.time() - first.start)
        trial.await_again("job", within=60.0)
        gate.open()
        trial.finish({"job": job})
        trial.check(["job"], faults=1)
        assert not trial.runs()[0].is_finished


@row(
    20,
    "cut off for longer than the lease, amid a job that asks for its lease",
    variant="lost",
    brokers=("redis", "rabbitmq"),
    seconds=15,
)
def lost_lease(trial: Trial) -> None:
    """Its handler is told once the worker knows: when it is back in touch, or when its connection has ended."""
    gate = trial.lab.gate()
    with FaultProxy(trial.server_port, trial.seed) as proxy:
        job = _cut_off(trial, proxy, trial.deeds.watchful, gate.path)
        trial.await_again("job", within=60.0)
        proxy.refuses = False
        proxy.cut()
        history = trial.lab.history()
        eventually(lambda: history.marks("lost"), within=30.0, message="the first run learned that its lease is lost")
        gate.open()
        trial.finish({"job": job})
        assert len(history.marks("start")) == 2


def _cut_off(trial: Trial, proxy: FaultProxy, task: Any, gate: str) -> Any:
    """Have a job run on a worker behind a proxy, cut that one off, and start another worker."""
    trial.worker("--name", "first", BROKER=trial.url_at(proxy.port))
    job = task.submit(trial.path, "job", gate)
    trial.await_starts(1)
    proxy.refuses = True
    proxy.go_mute()
    trial.worker("--name", "second")
    return job
