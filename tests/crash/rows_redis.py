"""Rows 18 to 28 and 37 on Redis: what a Redis server does to those who rely on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.crash.flow import ride_out
from tests.crash.rows import row
from tests.integration.lab import let_pass

if TYPE_CHECKING:
    from tests.crash.own_servers import OwnRedis
    from tests.crash.trial import Trial

_REDIS = ("redis",)
_SOON = 5.0  # seconds from the server's return to the end of a new job


@row(18, "CLIENT KILL of everybody, again and again, while jobs flow", variant="client-kill", brokers=_REDIS, seconds=6)
def client_kill(trial: Trial) -> None:
    """Nothing is lost and nothing runs twice."""
    server = trial.server

    def harm() -> None:
        with server.client() as client:
            for _ in range(30):
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                let_pass(0.1 * trial.chance.random())

    ride_out(trial, harm, within=_SOON)


@row(22, "Redis shut down and started again a second later", variant="shutdown", brokers=_REDIS, seconds=8)
def shut_down(trial: Trial) -> None:
    """Workers stay, keep what they run, and go on."""
    server = trial.server
    ride_out(trial, lambda: _restart(server, 1.0), within=_SOON)


@row(22, "Redis killed with -9 and started again a second later", variant="kill", brokers=_REDIS, seconds=8)
def killed(trial: Trial) -> None:
    """With an append-only file nothing that was accepted is lost."""
    server = trial.server
    ride_out(trial, lambda: _restart(server, 1.0, is_kill=True), within=_SOON)


@row(22, "Redis killed with -9 and away for six leases", variant="away", brokers=_REDIS, seconds=18)
def killed_for_long(trial: Trial) -> None:
    """No lease outlives that; still nobody is robbed who lives."""
    server = trial.server
    ride_out(trial, lambda: _restart(server, 6 * trial.lease, is_kill=True), within=_SOON, others=1)


def _restart(server: OwnRedis, away: float, *, is_kill: bool = False) -> None:
    if is_kill:
        server.kill()
    else:
        server.shut_down()
    let_pass(away)
    server.start()
