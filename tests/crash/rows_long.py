"""Row 31: jobs that run for longer than RabbitMQ lets a message be in hand, its `consumer_timeout`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.crash.rows import row
from tests.integration.lab import let_pass

if TYPE_CHECKING:
    from queuelib import Job
    from tests.crash.trial import Trial

_LIMIT = 60  # seconds: the server's; it looks once a minute, so that 60 to 120 s pass before it takes a message back
_LENGTH = 300.0  # seconds of the job
_SHORT_LIMIT, _LOOK_EVERY, _SHORT_LENGTH = 4.0, 0.5, 16.0  # seconds: the same in small


@row(31, "a job of 5 minutes, consumer_timeout 1 minute", brokers=["rabbitmq"], within=480, seconds=315, is_long=True)
def longer_than_the_limit(trial: Trial) -> None:
    """The job starts once, though a second worker is there to take what the server takes back."""
    jobs = _run_long(trial, said=_LIMIT)
    assert trial.starts("j0") == 1
    trial.finish(jobs)
    trial.check(jobs)


@row(
    31,
    "the same, and the worker was told of another limit: what the fault is",
    variant="untold",
    brokers=["rabbitmq"],
    within=480,
    seconds=315,
    is_long=True,
)
def longer_than_the_limit_untold(trial: Trial) -> None:
    """The server takes the message back and the second worker starts the job; both workers go on, nothing is lost."""
    jobs = _run_long(trial, said=100_000)
    assert trial.starts("j0") > 1
    trial.finish(jobs)
    assert {run.label for run in trial.runs() if run.is_finished} == set(jobs)


@row(31, "the same in small: consumer_timeout 4 s", variant="small", brokers=["rabbitmq"], seconds=35)
def longer_than_a_small_limit(trial: Trial) -> None:
    """The job starts once; the server never complained."""
    _set_limit(trial, _SHORT_LIMIT, _LOOK_EVERY)
    trial.options = [f"consumer_timeout={_SHORT_LIMIT:g}"]
    jobs = _run_beside_a_second(trial, _SHORT_LENGTH)
    assert trial.starts("j0") == 1
    trial.finish(jobs)
    trial.check(jobs)


@row(31, "a worker learns the limit", variant="learned", brokers=["rabbitmq"], seconds=45)
def learned_limit(trial: Trial) -> None:
    """What the server takes back for being late is taken again and answered for by the run that goes on; then never."""
    _set_limit(trial, _SHORT_LIMIT, _LOOK_EVERY)
    gate = trial.lab.gate()
    worker = trial.worker()
    jobs = trial.submit(1, gate.path)
    trial.await_starts(1)
    worker.await_word("406")
    worker.await_word("consumer_timeout=4")
    let_pass(2 * _SHORT_LENGTH)
    assert worker.said.count("406") == 1, worker.said
    gate.open()
    trial.finish(jobs)
    trial.check(jobs)


@row(31, "kill -9 of the server while jobs have moved", variant="server", brokers=["rabbitmq"], seconds=40)
def server_killed_after_a_move(trial: Trial) -> None:
    """What has moved is on the server's disk: it comes again, and the runs that go on answer for it."""
    server = trial.server
    trial.options = ["consumer_timeout=4"]
    gate = trial.lab.gate()
    trial.worker(processes=4)
    jobs = trial.submit(2, gate.path)
    trial.await_starts(2)
    let_pass(4.0 + 2.0 * trial.chance.random())
    server.kill()
    server.start()
    let_pass(12.0)  # a worker tries again after 10 s at most
    more = trial.submit(1, prefix="after")
    trial.finish(more)
    gate.open()
    trial.finish(jobs)
    trial.check({**jobs, **more})


def _set_limit(trial: Trial, limit: float, look_every: float) -> None:
    for name, seconds in (("consumer_timeout", limit), ("channel_tick_interval", look_every)):
        trial.server.ctl("eval", f"application:set_env(rabbit, {name}, {seconds * 1000:.0f}).")


def _run_long(trial: Trial, *, said: int) -> dict[str, Job[str]]:
    _set_limit(trial, _LIMIT, 60.0)
    trial.options = [f"consumer_timeout={said}"]
    return _run_beside_a_second(trial, _LENGTH)


def _run_beside_a_second(trial: Trial, seconds: float) -> dict[str, Job[str]]:
    gate = trial.lab.gate()
    trial.worker("--name", "first", processes=1)
    jobs = trial.submit(1, gate.path)
    trial.await_starts(1)
    trial.worker("--name", "second", processes=1)
    let_pass(seconds)
    gate.open()
    return jobs


@row(31, "kill -9 of a worker whose jobs have moved", variant="killed", brokers=["rabbitmq"], seconds=12)
def killed_after_a_move(trial: Trial) -> None:
    """What has moved to the worker's own queue starts again elsewhere as soon as anything else does."""
    trial.options = ["consumer_timeout=4"]
    gate = trial.lab.gate()
    first = trial.worker("--name", "first")
    jobs = trial.submit(2, gate.path)
    trial.await_starts(2)
    trial.worker("--name", "second")
    let_pass(4.0 + 4.0 * trial.chance.random())  # one move or two, and perhaps just now
    killed = trial.kill_worker(first)
    for label in jobs:
        again = trial.await_again(label, within=30.0) - killed
        trial.measure("worker death", again)
        assert again < 2.0, f"{label} started again after {again:.2f} s"
    gate.open()
    trial.finish(jobs)
    trial.check(jobs, faults=len(jobs))
