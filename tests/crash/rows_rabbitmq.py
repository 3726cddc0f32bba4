"""Rows 18, 29, 30 and 32 to 37 on RabbitMQ: what a RabbitMQ server does to those who rely on it."""

from __future__ import annotations

import time
from contextlib import closing, contextmanager
from signal import SIGCONT, SIGSTOP
from typing import TYPE_CHECKING, Any

import pika
import pytest

from queuelib.errors import BrokerUnavailable, QueuelibError, SubmitUnknown
from tests.crash.flow import await_quiet, ride_out, submit_until_accepted
from tests.crash.rows import row
from tests.integration.lab import let_pass

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.crash.trial import Trial

_RABBITMQ = ("rabbitmq",)
_LONG = 300.0  # seconds; a server of its own needs up to a minute to start on a busy machine
_LATE = 1.0  # seconds beyond a deadline on a busy machine
_PASSWORD = "canary-7b1e"
_SOON = 10.0  # seconds from the server's return to the end of a new job


@row(18, "close_all_connections while jobs flow", variant="close-all", brokers=_RABBITMQ, within=_LONG, seconds=25)
def close_all(trial: Trial) -> None:
    """Nothing is lost; a worker that is alone runs nothing twice."""
    server = trial.server

    def harm() -> None:
        for _ in range(3):
            server.ctl("close_all_connections", "crash row 18")
            let_pass(trial.chance.random())

    ride_out(trial, harm, within=_SOON)


@row(29, "rabbitmqctl stop_app and start_app", variant="stop-app", brokers=_RABBITMQ, within=_LONG, seconds=30)
def stop_app(trial: Trial) -> None:
    """Whatever was confirmed is there; the worker declares, consumes and goes on by itself."""
    server = trial.server

    def harm() -> None:
        server.ctl("stop_app")
        let_pass(1.0)
        server.ctl("start_app")

    ride_out(trial, harm, within=_SOON)


@row(
    29,
    "RabbitMQ killed with -9 and started again a second later",
    variant="kill",
    brokers=_RABBITMQ,
    within=_LONG,
    seconds=35,
)
def killed(trial: Trial) -> None:
    """Whatever was confirmed is there; what ran while the server was away ends once."""
    server = trial.server

    def harm() -> None:
        server.kill()
        let_pass(1.0)
        server.start()

    ride_out(trial, harm, within=_SOON)


@row(30, "the alarm for memory", variant="memory", brokers=_RABBITMQ, within=_LONG, seconds=35)
def memory_alarm(trial: Trial) -> None:
    """Submitting raises within its deadline; afterwards nothing is lost, and the worker has run nothing twice."""
    _raise_alarm(trial, ("set_vm_memory_high_watermark", "0.00001"), ("set_vm_memory_high_watermark", "0.6"))


@row(30, "the alarm for disk space", variant="disk", brokers=_RABBITMQ, within=_LONG, seconds=35)
def disk_alarm(trial: Trial) -> None:
    """The same."""
    _raise_alarm(trial, ("set_disk_free_limit", "900GB"), ("set_disk_free_limit", "1MB"))


def _raise_alarm(trial: Trial, on: tuple[str, ...], off: tuple[str, ...]) -> None:
    server = trial.server

    def harm() -> None:
        server.ctl(*on)
        began = time.monotonic()
        with pytest.raises((SubmitUnknown, BrokerUnavailable)):
            trial.deeds.mark.submit(trial.path, "alarm")
        took = time.monotonic() - began
        trial.measure("submit raises", took)
        assert took < 5.0 + _LATE
        let_pass(2 * trial.heartbeat)
        server.ctl(*off)

    ride_out(trial, harm, within=_SOON, in_doubt=["alarm"])


@row(32, "a worker is frozen for four heartbeats while its jobs run", variant="frozen", brokers=_RABBITMQ, seconds=16)
def missed_heartbeats(trial: Trial) -> None:
    """The server gives its jobs out again; they come back to this worker, whose runs answer for them."""
    gate = trial.lab.gate()
    worker = trial.worker()
    jobs = trial.submit(6, gate.path)
    trial.await_starts(2)
    worker.signal(SIGSTOP)
    let_pass(4 * trial.heartbeat)
    worker.signal(SIGCONT)
    thawed = time.monotonic()
    jobs["after"] = submit_until_accepted(trial, "after")
    gate.open()
    trial.finish(jobs)
    trial.measure("resume", time.monotonic() - thawed)
    trial.check(jobs)
    assert worker.process.poll() is None, worker.said


@row(32, "jobs that keep every CPU busy for six heartbeats", variant="busy", brokers=_RABBITMQ, seconds=18)
def busy_heartbeats(trial: Trial) -> None:
    """The connection lives: it is not theirs to keep."""
    gate = trial.lab.gate()
    worker = trial.worker()
    jobs = {f"busy{i}": trial.deeds.grind.submit(trial.path, f"busy{i}", gate.path) for i in range(2)}
    trial.await_starts(2)
    let_pass(6 * trial.heartbeat)
    gate.open()
    trial.finish(jobs)
    trial.check(jobs)
    assert "trying again" not in worker.said, worker.said


@row(33, "the server ends all connections and takes no new ones", brokers=_RABBITMQ, within=_LONG, seconds=40)
def no_listeners(trial: Trial) -> None:
    """Who submits is told at once; the worker tries again until it may."""
    server = trial.server

    def harm() -> None:
        server.ctl("suspend_listeners")
        server.ctl("close_all_connections", "crash row 33")
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            trial.deeds.mark.submit(trial.path, "refused")
        trial.measure("submit raises", time.monotonic() - began)
        let_pass(3.0)
        server.ctl("resume_listeners")

    ride_out(trial, harm, within=_SOON)


@row(34, "the queue is deleted under its consumer", variant="deleted", brokers=_RABBITMQ, seconds=8)
def queue_deleted(trial: Trial) -> None:
    """It is declared again, and consumed again; what ran ends."""
    gate = trial.lab.gate()
    worker = trial.worker()
    jobs = trial.submit(2, gate.path)
    trial.await_starts(2)
    with _channel(trial) as channel:
        channel.queue_delete(f"{trial.lab.namespace}.yellow")
    deleted = time.monotonic()
    gate.open()
    trial.finish(jobs)
    after = {"after": submit_until_accepted(trial, "after")}
    trial.finish(after)
    trial.measure("resume", time.monotonic() - deleted)
    trial.check({**jobs, **after})
    assert worker.process.poll() is None, worker.said


@row(34, "a queue of this name exists, of another type", variant="arguments", brokers=_RABBITMQ, seconds=4)
def other_arguments(trial: Trial) -> None:
    """The worker ends, and says which queue and what differs."""
    queue = f"{trial.lab.namespace}.yellow"
    with _channel(trial) as channel:
        channel.queue_declare(queue, durable=True, arguments={"x-max-length": 10})
    worker = trial.lab.worker("--processes", "1")
    assert worker.wait() == 1
    assert queue in worker.said
    assert "inequivalent arg" in worker.said
    assert "Traceback" not in worker.said


@row(35, "a job is submitted to a queue that was deleted", brokers=_RABBITMQ, seconds=6)
def unroutable(trial: Trial) -> None:
    """It is declared again, and the job is there: a yes is a yes."""
    trial.submit(1, prefix="lost")  # with the queue; this client knows then that it was declared
    with _channel(trial) as channel:
        channel.queue_delete(f"{trial.lab.namespace}.yellow")
    jobs = trial.submit(3)
    jobs["one"] = trial.deeds.mark.submit(trial.path, "one")
    trial.worker()
    trial.finish(jobs)
    await_quiet(trial)
    trial.check(jobs)


@row(
    37,
    "the password is changed while jobs run, and changed back",
    variant="password",
    brokers=_RABBITMQ,
    within=_LONG,
    seconds=45,
)
def password_changed(trial: Trial) -> None:
    """The worker tries again until it may, and no log says the password."""
    server = trial.server
    server.ctl("add_user", "crash", _PASSWORD)
    server.ctl("set_permissions", "crash", ".*", ".*", ".*")
    trial.log_in("crash", _PASSWORD)

    def harm() -> None:
        server.ctl("change_password", "crash", "another")
        server.ctl("close_all_connections", "crash row 37")
        with pytest.raises(QueuelibError) as caught:
            trial.deeds.mark.submit(trial.path, "refused")
        assert _PASSWORD not in str(caught.value)
        let_pass(3.0)
        server.ctl("change_password", "crash", _PASSWORD)

    ride_out(trial, harm, within=_SOON)
    for log in trial.folder.glob("worker-*.log"):
        text = log.read_text(encoding="utf-8", errors="replace")
        assert _PASSWORD not in text, log
        assert "refused the connection" in text, log


@contextmanager
def _channel(trial: Trial) -> Generator[Any, None, None]:
    """Open a channel of pika's, to do to queues what an operator does."""
    parameters = pika.URLParameters(trial.url_at(None).partition("?")[0].removesuffix("//") + "/%2F")
    with closing(pika.BlockingConnection(parameters)) as connection:
        yield connection.channel()
