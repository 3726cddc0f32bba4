"""Starts throw-away Redis and RabbitMQ processes on free ports, for machines without a container engine.

It ends only what it started, by process group; no epmd daemon outlives it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pika
import pika.exceptions
import redis

from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

HOST = "127.0.0.1"
REDIS_WITHIN = 10.0  # seconds; measured: 0.1
RABBITMQ_WITHIN = 90.0  # seconds; measured: 5 to 8 on two idle cores
# Debian's /usr/sbin/rabbitmq-server switches to the user rabbitmq; this is the script behind it.
RABBITMQ_PROGRAMS = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "/opt/homebrew/sbin/rabbitmq-server")


def redis_program() -> str | None:
    """Find the Redis server, or None."""
    return shutil.which("redis-server")


def rabbitmq_program() -> str | None:
    """Find the RabbitMQ server and the port mapper it needs, or None."""
    program = next((path for path in RABBITMQ_PROGRAMS if os.access(path, os.X_OK)), None)
    return program if shutil.which("epmd") else None


@contextmanager
def local_redis() -> Iterator[str]:
    """Run a Redis without persistence; yields its URL."""
    program = redis_program()
    assert program is not None
    with _folder() as folder:
        (port,) = free_ports(1)
        command = [program, "--port", str(port), "--bind", HOST, "--save", "", "--dir", str(folder)]
        with _process(command, folder / "redis.log", {"PATH": os.defpath}) as process:
            ready(process, folder / "redis.log", lambda: answers_redis(port), within=REDIS_WITHIN)
            yield f"redis://{HOST}:{port}/0"


@contextmanager
def local_rabbitmq() -> Iterator[str]:
    """Run a RabbitMQ node with a home, a cookie, a port mapper and a data folder of its own; yields its URL."""
    program, epmd = rabbitmq_program(), shutil.which("epmd")
    assert program is not None
    assert epmd is not None
    with _folder() as folder, ExitStack() as stack:
        port, distribution, mapper = free_ports(3)
        environment = rabbitmq_environment(folder, port=port, distribution=distribution, mapper=mapper)
        # The node would start an epmd daemon of its own if none answered here; that one would outlive it.
        stack.enter_context(_process([epmd, "-port", str(mapper)], folder / "epmd.log", environment))
        process = stack.enter_context(_process([program], folder / "rabbitmq.log", environment))
        ready(process, folder / "rabbitmq.log", lambda: answers_amqp(port), within=RABBITMQ_WITHIN)
        yield f"amqp://guest:guest@{HOST}:{port}//"


def rabbitmq_environment(folder: Path, *, port: int, distribution: int, mapper: int) -> dict[str, str]:
    """Write a node's settings into a folder and return the environment it runs in."""
    (folder / "rabbitmq.conf").write_text(f"listeners.tcp.default = {HOST}:{port}\n")
    (folder / "enabled_plugins").write_text("[].\n")
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),  # the cookie is written here
        "ERL_EPMD_PORT": str(mapper),
        "ERL_EPMD_ADDRESS": HOST,
        "RABBITMQ_NODENAME": f"queuelib-{port}@localhost",
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",  # not the machine's own settings
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RUNNING_UNDER_SYSTEMD": "true",  # the script then becomes the node instead of watching over it
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",  # an idle node must not spin
    }


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="queuelib-test-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def tied(command: Sequence[str]) -> list[str]:
    """Return a command that ends when the process that starts it is killed, where the system can do that."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--", *command] if setpriv else list(command)


@contextmanager
def _process(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            tied(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        # Not a polite end: nothing in it is kept, and RabbitMQ takes seconds for one.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ready(process: subprocess.Popen[bytes], log: Path, answers: Callable[[], bool], *, within: float) -> None:
    """Wait until a server answers; raise RuntimeError with the end of its log if it does not."""
    try:
        eventually(lambda: answers() or process.poll() is not None, within=within, message=f"{log.stem} answers")
        assert process.poll() is None, f"{log.stem} ended with {process.returncode}"
    except AssertionError as error:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        msg = f"{error}; its log ends:\n{tail}"
        raise RuntimeError(msg) from error


def answers_redis(port: int) -> bool:
    """Say whether a Redis answers on a port."""
    with redis.Redis(HOST, port, socket_timeout=1.0) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


def answers_amqp(port: int) -> bool:
    """Say whether a broker answers on a port."""
    with socket.socket() as probe:  # pika logs each refused attempt at length
        probe.settimeout(1.0)
        if probe.connect_ex((HOST, port)):
            return False
    try:
        pika.BlockingConnection(
            pika.ConnectionParameters(HOST, port, connection_attempts=1, socket_timeout=2.0),
        ).close()
    except (pika.exceptions.AMQPError, OSError):
        return False
    return True


def free_ports(count: int) -> list[int]:
    """Return ports that nobody uses now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [probe.getsockname()[1] for probe in probes]
