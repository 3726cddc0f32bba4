"""Rows 18, 29, 30 and 32 to 37 on RabbitMQ: what a RabbitMQ server does to those who rely on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.crash.flow import ride_out
from tests.crash.rows import row
from tests.integration.lab import let_pass

if TYPE_CHECKING:
    from tests.crash.trial import Trial

_RABBITMQ = ("rabbitmq",)
_SOON = 10.0  # seconds from the server's return to the end of a new job


@row(18, "close_all_connections while jobs flow", variant="close-all", brokers=_RABBITMQ, seconds=25)
def close_all(trial: Trial) -> None:
    """Nothing is lost; a worker that is alone runs nothing twice."""
    server = trial.server

    def harm() -> None:
        for _ in range(3):
            server.ctl("close_all_connections", "crash row 18")
            let_pass(trial.chance.random())

    ride_out(trial, harm, within=_SOON)


@row(29, "rabbitmqctl stop_app and start_app", variant="stop-app", brokers=_RABBITMQ, seconds=30)
def stop_app(trial: Trial) -> None:
    """Whatever was confirmed is there; the worker declares, consumes and goes on by itself."""
    server = trial.server

    def harm() -> None:
        server.ctl("stop_app")
        let_pass(1.0)
        server.ctl("start_app")

    ride_out(trial, harm, within=_SOON)


@row(29, "RabbitMQ killed with -9 and started again a second later", variant="kill", brokers=_RABBITMQ, seconds=35)
def killed(trial: Trial) -> None:
    """Whatever was confirmed is there; what ran while the server was away ends once."""
    server = trial.server

    def harm() -> None:
        server.kill()
        let_pass(1.0)
        server.start()

    ride_out(trial, harm, within=_SOON)
