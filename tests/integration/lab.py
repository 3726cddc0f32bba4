"""What end-to-end tests work with: a broker, user modules, workers as processes, and histories of what ran."""

from __future__ import annotations

import importlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pika
import pika.exceptions
import redis

from queuelib import broker
from queuelib.ids import new_bundle_id
from queuelib.message import Outgoing
from queuelib_rabbitmq.ladder import Ladder
from queuelib_rabbitmq.transport import parse
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

    from queuelib import Job
    from queuelib.ports import Lane

ROOT = Path(__file__).resolve().parent.parent.parent
APPS = Path(__file__).resolve().parent / "apps"
KINDS = ("sqlite", "redis", "amqp")
_HEARD = "once more to interrupt"  # what a worker says to the first signal
WITHIN = 20.0  # seconds for what takes a tenth of one on an idle machine
READY_WITHIN = 30.0  # seconds for a worker to import its modules on a busy one
COLORS = ("red", "yellow", "green", "now", "later")


class Mark(NamedTuple):
    """A line of a history."""

    what: str
    label: str
    pid: int
    attempt: int
    at: float


@dataclass(frozen=True, slots=True)
class History:
    """A file to which handlers append what they do; what it says needs nobody's word."""

    path: str

    def marks(self, what: str = "") -> list[Mark]:
        """Return its lines in order, all or those of one kind."""
        try:
            text = Path(self.path).read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        whole, _, _ = text.rpartition("\n")  # of a line that is just being written a reader may see the beginning
        rows = [line.split() for line in whole.splitlines()]
        marks = [Mark(kind, label, int(pid), int(attempt), float(at)) for kind, label, pid, attempt, at in rows]
        return [mark for mark in marks if what in {"", mark.what}]

    def labels(self, what: str = "start") -> list[str]:
        """Return the labels in order."""
        return [mark.label for mark in self.marks(what)]

    def count(self, what: str = "start") -> Counter[str]:
        """Count by label."""
        return Counter(self.labels(what))

    def await_start(self, *labels: str, times: int = 1) -> None:
        """Wait until each label has started so many times."""
        eventually(
            lambda: all(self.count()[label] >= times for label in labels),
            within=WITHIN,
            message=f"{labels} started {times} times",
        )


class Gate:
    """A file that handlers wait for."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def open(self) -> None:
        """Let everyone pass, for good."""
        Path(self.path).touch()


@dataclass
class Worker:
    """A `queuelib worker` in a process session of its own."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Pid of the supervisor."""
        return self.process.pid

    @property
    def said(self) -> str:
        """What it wrote to stdout and stderr so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def await_word(self, text: str, within: float = READY_WITHIN) -> None:
        """Wait until it has said something."""
        try:
            eventually(lambda: text in self.said or self.process.poll() is not None, within=within)
            assert text in self.said
        except AssertionError as error:
            msg = f"the worker (status {self.process.poll()}) never said {text!r}; it said:\n{self.said}"
            raise AssertionError(msg) from error

    def await_ready(self) -> None:
        """Wait until it serves."""
        self.await_word(" processes, ")

    def signal(self, number: signal.Signals) -> None:
        """Send one signal to the supervisor alone."""
        self.process.send_signal(number)

    def wait(self, within: float = WITHIN) -> int:
        """Return its exit status once it has ended by itself."""
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            msg = f"the worker has not ended within {within:g} s; it said:\n{self.said}"
            raise AssertionError(msg) from None

    def kill(self) -> None:
        """Kill the supervisor and all that share its session, as when the machine goes."""
        if self.process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """Interrupt what it runs, and return its exit status."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            # Two signals at once would be one to the kernel.
            eventually(lambda: _HEARD in self.said or self.process.poll() is not None, within=10.0)
            self.signal(signal.SIGTERM)
        try:
            return self.process.wait(10.0)
        except subprocess.TimeoutExpired:
            self.kill()
            msg = f"the worker did not stop after two SIGTERM; it said:\n{self.said}"
            raise AssertionError(msg) from None


@dataclass
class Lab:
    """A namespace on a broker, and a client of it in this process.

    Attributes:
        kind: sqlite, redis or amqp.
        url: URL of the broker, which keeps the results as well.
        namespace: Nobody else's.
        folder: Where this test's files are.
        deeds: The user's module, of apps/deeds.py for most tests, imported here and connected to this broker.
    """

    kind: str
    url: str
    namespace: str
    folder: Path
    deeds: Any
    _stack: ExitStack = field(default_factory=ExitStack)
    _processes: list[Worker] = field(default_factory=list)

    @property
    def dispatcher(self) -> Any:
        """The dispatcher of that module."""
        return self.deeds.dispatcher

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a program that works on this broker."""
        paths = os.pathsep.join([str(ROOT), str(ROOT / "backends")])
        return {**os.environ, "BROKER": self.url, "NAMESPACE": self.namespace, "PYTHONPATH": paths}

    def history(self, name: str = "history") -> History:
        """Return a history that only this test writes."""
        return History(str(self.folder / name))

    def gate(self, name: str = "gate", *, is_open: bool = False) -> Gate:
        """Return a gate; it is opened at the end, so that nobody waits for ever."""
        gate = Gate(self.folder / name)
        self._stack.callback(gate.open)
        if is_open:
            gate.open()
        return gate

    def worker(
        self, *options: str, target: str | Path = "deeds.py", inside: Sequence[str] = (), **environment: str
    ) -> Worker:
        """Start a worker, by way of another command if need be; it is stopped at the end."""
        log = self.folder / f"worker-{secrets.token_hex(3)}.log"
        place = APPS / target if str(target).endswith(".py") else target
        command = [*inside, sys.executable, "-m", "queuelib", "worker", str(place), *options]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=APPS,
                env={**self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        worker = Worker(process, log)
        self._processes.append(worker)
        return worker

    def ready_worker(
        self, *options: str, target: str | Path = "deeds.py", inside: Sequence[str] = (), **environment: str
    ) -> Worker:
        """Start a worker and wait until it serves."""
        worker = self.worker(*options, target=target, inside=inside, **environment)
        worker.await_ready()
        return worker

    def start(self, *command: str, **environment: str) -> Worker:
        """Start a Python program of apps/ in a session of its own; it is killed at the end."""
        log = self.folder / f"program-{secrets.token_hex(3)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=APPS,
                env={**self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        program = Worker(process, log)
        self._stack.callback(program.kill)
        return program

    def run(self, *command: str, within: float = 60.0, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a Python program to its end."""
        return subprocess.run(
            [sys.executable, *command],
            cwd=APPS,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=within,
        )

    def queuelib(self, *arguments: str) -> str:
        """Run a command of the command line on this broker and return what it prints."""
        place = ("--broker", self.url, "--namespace", self.namespace)
        done = self.run("-m", "queuelib", *arguments, *place)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def open_lane(self) -> Lane:
        """Open the transport below, closed at the end."""
        settings = broker.settings_for(self.url, self.namespace)
        lane = broker.open_lane(settings, self.namespace, 5.0)
        self._stack.callback(lane.close)
        return lane

    def publish_raw(self, frames: Iterable[bytes], color: str = "yellow") -> None:
        """Put bytes in a queue that no client of ours would send."""
        self.open_lane().publish([Outgoing(color, new_bundle_id(time.time()), frame) for frame in frames], 5.0)

    def close(self) -> None:
        """End what was started here."""
        self._stack.close()
        failures = []
        for worker in self._processes:
            try:
                worker.stop()
            except AssertionError as error:
                failures.append(str(error))
        self.dispatcher.close()
        assert not failures, "\n".join(failures)


def load(name: str, url: str, namespace: str) -> Any:
    """Return a user's module of apps/, connected to a broker; it is the same module object each time."""
    if str(APPS) not in sys.path:
        sys.path.append(str(APPS))
    module = importlib.import_module(name)
    module.dispatcher.configure(broker=url, namespace=namespace)
    return module


def load_deeds(url: str, namespace: str) -> Any:
    """Return apps/deeds.py, connected to a broker."""
    return load("deeds", url, namespace)


@contextmanager
def connected(name: str, lab: Lab) -> Generator[Any]:
    """Yield a user's module of apps/, on the broker of a lab whose own module is another one."""
    module = load(name, lab.url, lab.namespace)
    with closing(module.dispatcher):
        yield module


@contextmanager
def lab_of(name: str, kind: str, url: str, folder: Path) -> Generator[Lab]:
    """Yield a lab of a user's module of apps/, on a namespace of its own."""
    namespace = f"{name}{secrets.token_hex(6)}"
    lab = Lab(kind, url, namespace, folder, load(name, url, namespace))
    try:
        yield lab
    finally:
        lab.close()
        clean(kind, url, namespace)


def is_gone(pid: int) -> bool:
    """Say whether a process has ended; one that nobody has waited for yet counts as gone."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in {"Z", "X"}


def family(pid: int) -> list[int]:
    """Return a process and all its descendants, itself first."""
    found = [pid]
    for one in found:
        try:
            for place in Path(f"/proc/{one}/task").glob("*/children"):
                found += [int(child) for child in place.read_text(encoding="ascii").split()]
        except OSError:  # it ended meanwhile
            continue
    return found


def living(pids: Iterable[int]) -> list[str]:
    """Return the commands of those processes that have not ended."""
    found = []
    for pid in pids:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if not is_gone(pid):
            found.append(f"{pid} {command}")
    return found


def await_gone(pids: Iterable[int], within: float = 5.0) -> None:
    """Wait until these processes have ended."""
    left: list[str] = []

    def is_over() -> bool:
        left[:] = living(pids)
        return not left

    try:
        eventually(is_over, within=within)
    except AssertionError:
        msg = f"still there after {within:g} s: {left}"
        raise AssertionError(msg) from None


def let_pass(seconds: float) -> None:
    """Let time itself pass, where a claim is about time and there is nothing to wait for."""
    end = time.monotonic() + seconds
    eventually(lambda: time.monotonic() >= end, within=seconds + 1.0)


def results(jobs: Iterable[Job[Any]], within: float = 60.0) -> list[Any]:
    """Return the results of jobs in their order, within a time for all."""
    end = time.monotonic() + within
    return [job.result(timeout=max(0.1, end - time.monotonic())) for job in jobs]


def clean(kind: str, url: str, namespace: str) -> None:
    """Remove what a namespace left on a server that others use too."""
    _CLEANERS.get(kind, _nothing)(url, namespace)


def _clean_redis(url: str, namespace: str) -> None:
    with redis.Redis.from_url(url.partition("?")[0]) as client:
        keys = list(client.scan_iter(f"{{{namespace}}}*", count=1000))
        if keys:
            client.delete(*keys)


def plain_connection(url: str) -> pika.BlockingConnection:
    """Connect without any of our own code but the URL's."""
    address = parse(url)
    credentials = pika.PlainCredentials(address.user, address.password.reveal())
    return pika.BlockingConnection(
        pika.ConnectionParameters(address.host, address.port, address.vhost, credentials=credentials)
    )


def _clean_amqp(url: str, namespace: str) -> None:
    with closing(plain_connection(url)) as connection:
        channel = connection.channel()
        for name in (*COLORS, "inputs", "results", "control", "workers", "quarantine"):
            channel.queue_delete(f"{namespace}.{name}")
        try:
            connection.channel().exchange_declare(f"{namespace}.delayed", passive=True)
        except pika.exceptions.ChannelClosedByBroker:
            return  # nothing was ever delayed here
        ladder = Ladder(namespace)
        for level in range(24):
            channel.queue_delete(ladder._name(level))
            channel.exchange_delete(ladder._name(level))
        channel.exchange_delete(f"{namespace}.delayed")


def _nothing(_url: str, _namespace: str) -> None:
    """A file goes with its folder."""


_CLEANERS: Mapping[str, Callable[[str, str], None]] = {"redis": _clean_redis, "amqp": _clean_amqp}
