"""What a row works with: a broker, workers of its own, a history, a seeded source of chance, and figures to report."""

from __future__ import annotations

import os
import random
import secrets
import signal
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from queuelib import JobQuarantined
from queuelib.errors import BrokerUnavailable
from tests.crash import history
from tests.crash.own_servers import OwnRabbit, OwnRedis
from tests.crash.proxy import FaultProxy
from tests.integration.lab import Lab, Worker, clean, family, load_deeds
from tests.servers import VARIABLES, Kind
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from queuelib import Job

__all__ = ["Trial"]

OwnServer = TypeVar("OwnServer", OwnRedis, OwnRabbit)
_KINDS = {"sqlite": "sqlite", "redis": "redis", "rabbitmq": "amqp"}  # as the lab calls them
DEFAULT_LEASE = 15.0
_PATIENCE = 60.0  # seconds


class Trial:
    """One row on one broker with one seed.

    Attributes:
        broker: sqlite, redis or rabbitmq.
        seed: What `chance` was made from; the same seed makes the same schedule.
        chance: The source of randomness for what is done to whom.
        chance_of_jobs: A second one, for threads that submit meanwhile.
        lease: Seconds of the lease on Redis; other durations are given in leases.
        folder: Where its files are.
        figures: What it measured, by name: lists of seconds, counts.
        options: Further options of the URL on RabbitMQ, `name=value`; to be said before `lab` and workers.
    """

    def __init__(self, broker: str, seed: int, lease: float, folder: Path) -> None:
        self.broker = broker
        self.seed = seed
        self.chance = random.Random(f"{seed} {broker}")
        self.chance_of_jobs = random.Random(f"{seed} jobs")
        self.lease = lease
        self.folder = folder
        self.figures: dict[str, Any] = {}
        self.options: list[str] = []
        self.path = str(folder / "history")
        self._stack = ExitStack()
        self._lab: Lab | None = None
        self._server: OwnRedis | OwnRabbit | None = None
        self._url = ""

    # The broker.

    @property
    def server(self) -> Any:
        """A server of this row's own, which it may harm: `OwnRedis` or `OwnRabbit`; ask before `lab` and workers."""
        if self._server is None:
            assert self._lab is None, "the lab was opened on the shared server"
            if self.broker == "redis":
                self.use(OwnRedis(self.folder))
            else:
                self.use(OwnRabbit(self.folder))
        return self._server

    def use(self, server: OwnServer) -> OwnServer:
        """Start a server with settings of its own as this row's server; ask before `lab` and workers."""
        assert self._server is None
        assert self._lab is None
        self._server = self._stack.enter_context(server)
        return server

    def log_in(self, user: str, password: str) -> None:
        """Let the lab and all workers log in as somebody; call it before `lab`."""
        assert self._lab is None
        self._url = self.url.replace("guest:guest@", "").replace("://", f"://{user}:{password}@", 1)

    @property
    def url(self) -> str:
        """URL of the broker, with the options of this trial."""
        if not self._url:
            self._url = self.url_at(self._server.port if self._server is not None else None)
        return self._url

    def go_through(self, port: int) -> None:
        """Let the lab and all workers reach the server through a port of 127.0.0.1; call it before `lab`."""
        assert self._lab is None
        self._url = self.url_at(port)

    def keep_in(self, folder: Path) -> None:
        """Let the file of SQLite be in another folder; call it before `lab`."""
        assert self._lab is None
        self._url = f"sqlite:///{folder}/jobs.db"

    def proxy(self) -> FaultProxy:
        """Put a proxy before the server, for the lab and all workers, and return it; call it before `lab`."""
        proxy = self._stack.enter_context(FaultProxy(self.server_port, self.seed))
        self.go_through(proxy.port)
        return proxy

    def url_at(self, port: int | None) -> str:
        """Return the URL of the broker by another port of 127.0.0.1; None for the one it has."""
        if self.broker == "sqlite":
            return f"sqlite:///{self.folder}/jobs.db"
        kind: Kind = "redis" if self.broker == "redis" else "rabbitmq"
        base = os.environ.get(VARIABLES[kind], "")
        if self._server is not None:
            base = f"redis://127.0.0.1:{port}/0" if kind == "redis" else f"amqp://guest:guest@127.0.0.1:{port}//"
        elif port is not None:
            parts = urlsplit(base)
            login = parts.netloc.rpartition("@")[0]
            base = base.replace(parts.netloc, f"{login}@127.0.0.1:{port}" if login else f"127.0.0.1:{port}", 1)
        if kind == "redis":
            return f"{base}?lease={self.lease:g}"
        return f"{base}?{'&'.join([f'heartbeat={self.heartbeat:g}', *self.options])}"

    @property
    def server_port(self) -> int:
        """Port of the server on 127.0.0.1, for a proxy before it."""
        if self._server is not None:
            return self._server.port
        port = urlsplit(os.environ[VARIABLES["redis" if self.broker == "redis" else "rabbitmq"]]).port
        assert port is not None, "the URL of the shared server names no port"
        return port

    @property
    def heartbeat(self) -> float:
        """Seconds between heartbeats on RabbitMQ: 20 at the default lease, and shorter with it."""
        return max(1, round(20 * self.lease / DEFAULT_LEASE))

    # Clients, workers, jobs.

    @property
    def lab(self) -> Lab:
        """A namespace on the broker, a client in this process (`lab.deeds`, `lab.dispatcher`), and starters of workers."""
        if self._lab is None:
            namespace = f"crash{secrets.token_hex(4)}"
            self._lab = Lab(_KINDS[self.broker], self.url, namespace, self.folder, load_deeds(self.url, namespace))
        return self._lab

    @property
    def deeds(self) -> Any:
        """The user's module (tests/integration/apps/deeds.py), connected to this broker."""
        return self.lab.deeds

    def worker(
        self,
        *options: str,
        processes: int = 2,
        target: str | Path = "deeds.py",
        inside: Sequence[str] = (),
        **environment: str,
    ) -> Worker:
        """Start a worker, by way of another command if need be, and wait until it serves; it is stopped at the end."""
        count = ("--processes", str(processes))
        return self.lab.ready_worker(*count, *options, target=target, inside=inside, **environment)

    def be_patient(self) -> None:
        """Let submissions wait for a server that has too much to do: how long they take is not what is tried."""
        self.lab.dispatcher.producer._deadline = _PATIENCE

    def submit(self, count: int, gate: str = "", prefix: str = "j") -> dict[str, Job[str]]:
        """Submit `mark` jobs (start, wait for the gate file, finish); return them by label."""
        labels = [f"{prefix}{i}" for i in range(count)]
        jobs = self.deeds.mark.submit_many([(self.path, label, gate) for label in labels])
        return dict(zip(labels, jobs, strict=True))

    # What ran.

    def runs(self) -> list[history.Run]:
        """Return what ran so far."""
        return history.read(self.path)

    def starts(self, label: str) -> int:
        """Count the starts of a label."""
        return sum(run.label == label for run in self.runs())

    def await_starts(self, count: int, within: float = 30.0) -> list[history.Run]:
        """Wait until so many runs have started, of whatever jobs; return them."""
        eventually(lambda: len(self.runs()) >= count, within=within, message=f"{count} starts")
        return self.runs()

    def await_again(self, label: str, within: float) -> float:
        """Wait until a job has started a second time; return when, in wall time."""
        eventually(lambda: self.starts(label) > 1, within=within, message=f"{label} started again")
        return [run for run in self.runs() if run.label == label][1].start

    # Faults.

    def kill_child(self, pid: int) -> float:
        """Kill one process with SIGKILL, note it, and return the time."""
        history.note_kill(self.path, [pid])
        os.kill(pid, signal.SIGKILL)
        return time.time()

    def kill_worker(self, worker: Worker) -> float:
        """Kill a worker and its children with SIGKILL, note it, and return the time."""
        history.note_kill(self.path, family(worker.pid))
        killed = time.time()
        worker.kill()
        return killed

    def children(self, worker: Worker) -> list[int]:
        """Return the pids of the processes of a worker that run handlers."""
        return [pid for pid in family(worker.pid)[1:] if _parent(pid) == worker.pid and not _leads_session(pid)]

    def freeze(self, worker: Worker) -> list[int]:
        """Stop a worker and all that it started with SIGSTOP; return their pids."""
        pids = family(worker.pid)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        return pids

    def thaw(self, pids: Iterable[int]) -> None:
        """Let processes go on; those that are gone are left out."""
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    # The end.

    def measure(self, name: str, seconds: float) -> None:
        """Report a duration in seconds."""
        self.figures.setdefault(name, []).append(round(seconds, 3))

    def finish(self, jobs: Mapping[str, Job[str]], within: float = 60.0) -> None:
        """Wait until every job has succeeded with its own label.

        Raises:
            AssertionError: One has not, or with another value; the message counts and names some.
        """
        end = time.monotonic() + within
        wrong: list[str] = []
        for label, job in jobs.items():
            try:
                value = _result(job, end)
                if value != label:
                    wrong.append(f"{label} gave {value!r}")
            except Exception as error:  # noqa: BLE001 - every way not to succeed is reported alike
                wrong.append(f"{label}: {type(error).__name__}: {error}")
        assert not wrong, f"{len(wrong)} of {len(jobs)} jobs did not succeed: {wrong[:5]}"

    def finish_or_retry(self, jobs: Mapping[str, Job[str]], within: float = 60.0) -> int:
        """Wait as `finish` does, but retry by hand what was set aside because three processes died under it.

        Returns:
            How many that were.
        """
        end = time.monotonic() + within
        struck: set[str] = set()
        for label, job in jobs.items():
            try:
                assert job.result(timeout=max(0.05, end - time.monotonic())) == label
            except JobQuarantined as error:
                if "died while they ran it" not in str(error):
                    raise
                struck.add(label)
        if struck:
            items = self.lab.queuelib("failed", "ls", "--json").splitlines()
            assert len(items) == len(struck)
            self.lab.queuelib("failed", "retry", "--all")
            done: Callable[[], bool] = lambda: {run.label for run in self.runs() if run.is_finished} >= struck  # noqa: E731
            eventually(done, within=within, message="what was set aside and retried ran")
        return len(struck)

    def check(
        self,
        accepted: Iterable[str],
        *,
        in_doubt: Iterable[str] = (),
        unfinished: Iterable[str] = (),
        faults: int = 0,
    ) -> None:
        """Hold the history against what was accepted; see `history.check`."""
        runs = self.runs()
        verdict = history.check(runs, accepted, in_doubt=in_doubt, unfinished=unfinished, faults=faults)
        self.figures["runs"] = len(runs)
        assert verdict.is_clean, str(verdict)

    def close(self) -> None:
        """End what was started here and remove what it left on a shared server."""
        lab = self._lab
        try:
            if lab is not None:
                lab.close()
                if self._server is None:
                    clean(lab.kind, self.url_at(None), lab.namespace)
        finally:
            self._stack.close()


def _result(job: Job[str], end: float) -> str:
    """Return a result; ask again where only the connection was lost over which it was asked for."""
    while True:
        try:
            return job.result(timeout=max(0.05, end - time.monotonic()))
        except BrokerUnavailable:
            if time.monotonic() > end:
                raise
        time.sleep(0.05)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _leads_session(pid: int) -> bool:
    """Whether it is the template, which forks the children of a worker into its own session."""
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return True
