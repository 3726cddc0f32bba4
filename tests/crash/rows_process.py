"""Rows 1 to 17: the death of processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.crash.rows import row

if TYPE_CHECKING:
    from tests.crash.trial import Trial


@row(1, "kill -9 of a whole worker while its jobs run, with a second worker there", seconds=8)
def whole_worker(trial: Trial) -> None:
    """What ran starts again on the other worker, soon; what was done or had not started runs once."""
    gate = trial.lab.gate()
    first = trial.worker("--name", "first")
    jobs = trial.submit(12, gate.path)
    struck = {run.label for run in trial.await_starts(2)}
    trial.worker("--name", "second")
    killed = trial.kill_worker(first)
    gate.open()
    for label in struck:
        trial.measure("worker death", trial.await_again(label, within=30.0) - killed)
    trial.finish(jobs)
    trial.check(jobs, faults=len(struck))


@row(2, "kill -9 of one child while its job runs", seconds=6)
def one_child(trial: Trial) -> None:
    """Its job starts again within a second, its siblings' go on, and there are as many children as before."""
    gate = trial.lab.gate()
    trial.worker()
    jobs = trial.submit(6, gate.path)
    victim = trial.chance.choice(trial.await_starts(2)[:2])
    killed = trial.kill_child(victim.pid)
    again = trial.await_again(victim.label, within=10.0) - killed
    trial.measure("child death", again)
    assert again < 1.0, f"its job started again after {again:.2f} s"
    gate.open()
    trial.finish(jobs)
    trial.check(jobs, faults=1)
    assert len({run.pid for run in trial.runs()}) == 3
