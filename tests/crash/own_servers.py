"""Servers that a row may stop, kill, starve and start again, on ports that stay theirs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pika
import redis

from tests import local_servers
from tests.integration.lab import let_pass
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["OwnRabbit", "OwnRedis"]

_COORDINATED = 8.0  # seconds


class _Own:
    """A server process in a session of its own."""

    def __init__(self, folder: Path, name: str, ports: int) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        self.log = self.folder / f"{name}.log"
        self.ports = local_servers.free_ports(ports)
        self.port = self.ports[0]
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """Of the server."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start it with the data it had, and wait until it answers."""
        self.launch()
        self.await_ready()

    def launch(self) -> None:
        """Start it and do not wait."""
        raise NotImplementedError

    def await_ready(self) -> None:
        """Wait until it answers."""
        raise NotImplementedError

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def shut_down(self) -> None:
        """End it politely, with what it holds saved."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(60)
        self.process = None

    def freeze(self) -> None:
        """Stop it with SIGSTOP: connections stay, nobody answers."""
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.killpg(self.pid, signal.SIGCONT)

    def _spawn(self, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as output:
            return subprocess.Popen(
                local_servers.tied(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environment),
                start_new_session=True,
            )


class OwnRedis(_Own):
    """A Redis with an append-only file.

    Args:
        folder: Where its data go.
        options: Further arguments of redis-server.
    """

    def __init__(
        self, folder: Path, options: Sequence[str] = ("--appendonly", "yes", "--appendfsync", "everysec")
    ) -> None:
        super().__init__(folder, "redis", 1)
        self.options = options

    def launch(self) -> None:
        """Start it and do not wait."""
        program = local_servers.redis_program()
        assert program is not None, "redis-server is not installed"
        command = [
            program,
            "--port",
            str(self.port),
            "--bind",
            local_servers.HOST,
            "--save",
            "",
            "--dir",
            str(self.folder),
        ]
        self.process = self._spawn([*command, *self.options], {"PATH": os.defpath})

    def await_ready(self) -> None:
        """Wait until it answers."""
        assert self.process is not None
        local_servers.ready(
            self.process, self.log, lambda: local_servers.answers_redis(self.port), within=local_servers.REDIS_WITHIN
        )

    def client(self) -> redis.Redis:
        """Return a connection for orders such as CLIENT KILL and CONFIG SET."""
        return redis.Redis(local_servers.HOST, self.port, protocol=2)


class OwnRabbit(_Own):
    """A RabbitMQ node with a port mapper of its own.

    Args:
        folder: Where its data go.
        settings: Further lines of rabbitmq.conf.
    """

    def __init__(self, folder: Path, settings: Sequence[str] = ()) -> None:
        super().__init__(folder, "rabbitmq", 3)
        port, distribution, mapper = self.ports
        self.environment = local_servers.rabbitmq_environment(
            self.folder, port=port, distribution=distribution, mapper=mapper
        )
        with (self.folder / "rabbitmq.conf").open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in settings)
        self._mapper: subprocess.Popen[bytes] | None = None
        self._first_stream = 0.0

    def __exit__(self, *_: object) -> None:
        super().kill()
        if self._mapper is not None:
            self._mapper.kill()
            self._mapper.wait()

    def launch(self) -> None:
        """Start it and do not wait."""
        program, epmd = local_servers.rabbitmq_program(), shutil.which("epmd")
        assert program is not None and epmd is not None, "rabbitmq-server is not installed"  # noqa: PT018
        if self._mapper is None:
            self._mapper = self._spawn([epmd, "-port", str(self.ports[2])], self.environment)
        self.process = self._spawn([program], self.environment)

    def await_ready(self) -> None:
        """Wait until it answers."""
        assert self.process is not None
        local_servers.ready(
            self.process, self.log, lambda: local_servers.answers_amqp(self.port), within=local_servers.RABBITMQ_WITHIN
        )
        if not self._first_stream:
            with closing(
                pika.BlockingConnection(pika.ConnectionParameters(local_servers.HOST, self.port))
            ) as connection:
                connection.channel().queue_declare("first", durable=True, arguments={"x-queue-type": "stream"})
            self._first_stream = time.monotonic()

    def kill(self) -> None:
        """End it with SIGKILL, some seconds after its first stream at the earliest.

        RabbitMQ 3.10 killed within about three seconds of a node's first stream does not start its stream coordinator
        again, and all streams stay down; eight later it does. Nothing of ours can mend that.
        """
        let_pass(max(0.0, self._first_stream + _COORDINATED - time.monotonic()))
        super().kill()

    def ctl(self, *arguments: str, within: float = 60.0) -> str:
        """Run rabbitmqctl on this node and return what it prints."""
        program = Path(local_servers.RABBITMQ_PROGRAMS[0]).with_name("rabbitmqctl")
        done = subprocess.run(
            [str(program), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=within,
        )
        assert done.returncode == 0, done.stderr or done.stdout
        return done.stdout

    def await_connections(self, count: int, within: float = 30.0) -> None:
        """Wait until so many clients are connected."""
        eventually(lambda: len(self.ctl("-q", "list_connections", "pid").split()) >= count, within=within)
