"""Rows 18 to 28 and 37 on Redis: what a Redis server does to those who rely on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from queuelib.errors import BrokerFull, BrokerUnavailable, QueuelibError
from tests.crash import history
from tests.crash.flow import await_quiet, ride_out, submit_until_accepted
from tests.crash.own_servers import OwnRedis
from tests.crash.rows import row
from tests.integration.lab import let_pass
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.crash.trial import Trial

_REDIS = ("redis",)
_PASSWORD = "canary-3f9c"
_STORM = 60.0  # connections a second; two workers try at most every tenth of a second at this lease, with two each
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


@row(23, "a Redis without an append-only file is killed with -9", brokers=_REDIS, seconds=10)
def without_file(trial: Trial) -> None:
    """A worker says at its start that this is a risk. Afterwards it goes on; what waited is lost, what ran has ended."""
    server = trial.use(OwnRedis(trial.folder, ("--appendonly", "no")))
    gate = trial.lab.gate()
    worker = trial.worker()
    worker.await_word("writes no append-only file")
    jobs = trial.submit(6, gate.path)
    running = {run.label for run in trial.await_starts(2)}
    server.kill()
    server.start()
    gate.open()
    after = submit_until_accepted(trial, "after")
    trial.finish({"after": after} | {label: jobs[label] for label in running})
    await_quiet(trial)
    verdict = history.check(trial.runs(), [*jobs, "after"])
    assert verdict == history.Verdict([label for label in jobs if label not in running], [], [], [])
    trial.figures["lost, as said"] = len(verdict.lost)
    assert worker.process.poll() is None, worker.said


@row(24, "the server answers nobody for three leases: CLIENT PAUSE ALL", variant="pause", brokers=_REDIS, seconds=12)
def pause(trial: Trial) -> None:
    """All leases end meanwhile; afterwards nobody is robbed who lives, and nobody storms the server."""
    _stall(trial, "ALL")


@row(
    24,
    "the server writes nothing for three leases: CLIENT PAUSE WRITE",
    variant="pause-write",
    brokers=_REDIS,
    seconds=12,
)
def pause_writes(trial: Trial) -> None:
    """The same."""
    _stall(trial, "WRITE")


@row(24, "the server is stopped by SIGSTOP for three leases", variant="stop", brokers=_REDIS, seconds=12)
def stop(trial: Trial) -> None:
    """The same."""
    _stall(trial, "")


def _stall(trial: Trial, what: str) -> None:
    server = trial.server
    seconds = 3 * trial.lease

    def harm() -> None:
        before = _connections(server)
        if what:
            with server.client() as client:
                client.execute_command("CLIENT", "PAUSE", int(seconds * 1000), what)
            let_pass(seconds)
        else:
            server.freeze()
            let_pass(seconds)
            server.thaw()
        let_pass(trial.lease)
        made = (_connections(server) - before) / (seconds + trial.lease)
        trial.measure("connections a second, of two workers and a client", made)
        assert made < _STORM, f"{made:.0f} connections a second"

    ride_out(trial, harm, within=_SOON, others=1)


def _connections(server: OwnRedis) -> int:
    with server.client() as client:
        return int(client.info("stats")["total_connections_received"])


@row(25, "no memory left: maxmemory", brokers=_REDIS, seconds=10)
def out_of_memory(trial: Trial) -> None:
    """Submitting raises BrokerFull; what runs is kept and written when there is room."""
    server = trial.server

    def harm() -> None:
        with server.client() as client:
            client.config_set("maxmemory", 1)
            with pytest.raises(BrokerFull, match="out of memory"):
                trial.deeds.mark.submit(trial.path, "refused")
            let_pass(3 * trial.lease)
            client.config_set("maxmemory", 0)

    ride_out(trial, harm, within=_SOON, others=1)


@row(26, "the server becomes a replica that may not be written", variant="replica", brokers=_REDIS, seconds=10)
def read_only(trial: Trial) -> None:
    """Workers wait, keep what runs, and go on when it is the master again."""
    server = trial.server

    def harm() -> None:
        with server.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
            with pytest.raises(BrokerUnavailable, match="read-only|read only"):
                trial.deeds.mark.submit(trial.path, "refused")
            let_pass(3 * trial.lease)
            client.execute_command("REPLICAOF", "NO", "ONE")

    ride_out(trial, harm, within=_SOON, others=1)


@row(26, "the server has fewer replicas than it must have", variant="replicas", brokers=_REDIS, seconds=10)
def too_few_replicas(trial: Trial) -> None:
    """The same."""
    server = trial.server

    def harm() -> None:
        with server.client() as client:
            client.config_set("min-replicas-to-write", 1)
            with pytest.raises(BrokerUnavailable, match="replicas"):
                trial.deeds.mark.submit(trial.path, "refused")
            let_pass(3 * trial.lease)
            client.config_set("min-replicas-to-write", 0)

    ride_out(trial, harm, within=_SOON, others=1)


@row(27, "the server cannot write its snapshot, and refuses to write anything", brokers=_REDIS, seconds=12)
def cannot_save(trial: Trial) -> None:
    """Submitting raises BrokerFull; what runs is kept and written when the disk can be written."""
    server = trial.use(OwnRedis(trial.folder, ("--enable-protected-configs", "yes")))

    def harm() -> None:
        with server.client() as client:
            client.config_set("dir", "/proc")
            client.config_set("save", "3600 1")
            client.bgsave()
            eventually(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", within=20.0)
            with pytest.raises(BrokerFull, match="MISCONF"):
                trial.deeds.mark.submit(trial.path, "refused")
            let_pass(3 * trial.lease)
            client.config_set("dir", str(server.folder))
            client.bgsave()
            eventually(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "ok", within=20.0)

    ride_out(trial, harm, within=_SOON, others=1)


@row(28, "SCRIPT FLUSH, again and again, while jobs flow", variant="scripts", brokers=_REDIS, seconds=7)
def scripts_flushed(trial: Trial) -> None:
    """Scripts are sent again, by clients and workers."""
    server = trial.server

    def harm() -> None:
        with server.client() as client:
            for _ in range(30):
                client.script_flush("SYNC")
                let_pass(0.1 * trial.chance.random())

    ride_out(trial, harm, within=_SOON)


@row(28, "a server that may evict keys", variant="eviction", brokers=_REDIS, seconds=5)
def eviction(trial: Trial) -> None:
    """A worker says at its start what that means."""
    trial.use(OwnRedis(trial.folder, ("--maxmemory-policy", "allkeys-lru", "--maxmemory", "100mb")))
    trial.worker().await_word("has maxmemory-policy allkeys-lru")
    jobs = trial.submit(4)
    trial.finish(jobs)
    trial.check(jobs)


@row(28, "FLUSHDB while jobs run and wait", variant="flush", brokers=_REDIS, seconds=8)
def flushed(trial: Trial) -> None:
    """What waited is gone; what ran ends, and its results are kept. Worker and client go on."""
    server = trial.server
    gate = trial.lab.gate()
    worker = trial.worker()
    jobs = trial.submit(6, gate.path)
    running = {run.label for run in trial.await_starts(2)}
    with server.client() as client:
        client.flushdb()
    gate.open()
    after = submit_until_accepted(trial, "after")
    trial.finish({"after": after} | {label: jobs[label] for label in running})
    await_quiet(trial)
    verdict = history.check(trial.runs(), [*jobs, "after"])
    assert verdict == ([label for label in jobs if label not in running], [], [], [])
    assert worker.process.poll() is None, worker.said


@row(37, "the password is changed while jobs run, and changed back", variant="acl", brokers=_REDIS, seconds=12)
def credentials_revoked(trial: Trial) -> None:
    """The worker tries again until it may, and no log says the password."""
    server = trial.server
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "crash", "on", f">{_PASSWORD}", "~*", "&*", "+@all")
    trial.log_in("crash", _PASSWORD)

    def harm() -> None:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "crash", "off")
            client.execute_command("CLIENT", "KILL", "USER", "crash")
            with pytest.raises(QueuelibError) as caught:
                trial.deeds.mark.submit(trial.path, "refused")
            assert _PASSWORD not in str(caught.value)
            let_pass(3 * trial.lease)
            client.execute_command("ACL", "SETUSER", "crash", "on")

    ride_out(trial, harm, within=_SOON, others=1)
    for log in trial.folder.glob("worker-*.log"):
        text = log.read_text(encoding="utf-8", errors="replace")
        assert _PASSWORD not in text, log
        assert "refused the connection" in text, log
