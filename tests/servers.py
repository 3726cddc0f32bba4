"""Finds or starts the Redis and RabbitMQ that tests run against, and says which way it went.

    python tests/servers.py [--only redis|rabbitmq] -- COMMAND …

runs COMMAND with QUEUELIB_TEST_REDIS_URL and QUEUELIB_TEST_AMQP_URL set and stops what it started afterwards. The ways,
in this order: a URL already in those variables; a container (testcontainers); a process on this machine.
QUEUELIB_TEST_WAY (`containers` or `local`) allows only one of the latter two; QUEUELIB_TEST_IMAGES=local takes the
images that tests/containers/build-images.sh builds instead of the official ones.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import subprocess
import sys
import time
import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

if __package__ in {None, ""}:  # run as a file: its neighbors are found from the repository's root
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from tests import local_servers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from testcontainers.core.container import DockerContainer

Kind = Literal["redis", "rabbitmq"]
KINDS: tuple[Kind, ...] = get_args(Kind)
VARIABLES: dict[Kind, str] = {"redis": "QUEUELIB_TEST_REDIS_URL", "rabbitmq": "QUEUELIB_TEST_AMQP_URL"}
IMAGES: dict[str, dict[Kind, str]] = {
    "official": {"redis": "redis:7", "rabbitmq": "rabbitmq:3"},
    "local": {"redis": "queuelib-test/redis:local", "rabbitmq": "queuelib-test/rabbitmq:local"},
}
CONTAINER_WITHIN = 60  # seconds for the server in it; measured: 0.5 and 8
ENGINE_WITHIN = 3  # seconds for the container engine to answer
HOW_VARIABLE = "QUEUELIB_TEST_SERVERS"  # what was started, for whoever is given only the URLs


class NoServer(Exception):
    """No way to a server works here; the message says why each failed and what to install."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers."""

    kind: Kind
    url: str
    how: str


@contextmanager
def server(kind: Kind) -> Iterator[Server]:
    """Yield a server that answers, stopped afterwards if it was started here.

    Raises:
        NoServer: none was given and none can be started.

    """
    if url := os.environ.get(VARIABLES[kind]):
        yield Server(kind, url, f"given in {VARIABLES[kind]}")
        return
    way, reasons = os.environ.get("QUEUELIB_TEST_WAY", ""), []
    with ExitStack() as stack:
        for name, start in (("containers", _container), ("local", _local)):
            if way not in {"", name}:
                continue
            started = time.monotonic()
            try:
                url, how = stack.enter_context(start(kind))
            except NoServer as error:
                reasons.append(str(error))
                continue
            how += f", up in {time.monotonic() - started:.1f} s" + "".join(f" ({reason})" for reason in reasons)
            yield Server(kind, url, how)
            return
    advice = f"start a container engine, install redis-server and rabbitmq-server, or set {VARIABLES[kind]}"
    msg = f"no {kind} server for the tests: {'; '.join(reasons)}. `make test` prepares one; by hand: {advice}"
    raise NoServer(msg)


def is_required() -> bool:
    """Say whether a missing server is a failure (CI) and not a skip."""
    return os.environ.get("CI", "").lower() == "true" or os.environ.get("QUEUELIB_TEST_REQUIRE") == "1"


@contextmanager
def _container(kind: Kind) -> Iterator[tuple[str, str]]:
    choice = os.environ.get("QUEUELIB_TEST_IMAGES", "official")
    if choice not in IMAGES:
        msg = f"QUEUELIB_TEST_IMAGES is {choice!r}, not one of {', '.join(IMAGES)}"
        raise NoServer(msg)
    if choice == "local":  # testcontainers' reaper is an image of its own, which cannot be pulled here either
        os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"
    image = IMAGES[choice][kind]
    _check_engine(image, is_local=choice == "local")
    os.environ.setdefault("TC_MAX_TRIES", str(CONTAINER_WITHIN))  # read at import
    with warnings.catch_warnings():
        # Its RabbitMQ module waits with a decorator that it has deprecated itself.
        warnings.simplefilter("ignore", DeprecationWarning)
        from testcontainers.community.rabbitmq import RabbitMqContainer  # noqa: PLC0415 - half a second, only when used
        from testcontainers.community.redis import RedisContainer  # noqa: PLC0415
    made = RedisContainer(image) if kind == "redis" else RabbitMqContainer(image)
    try:
        _start(made, image)
        address = f"{made.get_container_host_ip()}:{made.get_exposed_port(made.port)}"
        yield f"redis://{address}/0" if kind == "redis" else f"amqp://guest:guest@{address}//", f"container {image}"
    finally:
        made.stop()
        made.get_docker_client().client.close()


def _start(made: DockerContainer, image: str) -> None:
    try:
        made.start()
    except Exception as error:  # engine, network or the server in it: the message keeps it, and the next way is tried
        wrapped = made.get_wrapped_container()
        logs = wrapped.logs(tail=2).decode(errors="replace").split() if wrapped else ["none"]
        msg = f"the container {image} did not start: {error}; its log ends: {' '.join(logs)}"
        raise NoServer(msg) from error


def _check_engine(image: str, *, is_local: bool) -> None:
    import docker  # noqa: PLC0415 - only when used
    from docker.errors import DockerException, ImageNotFound  # noqa: PLC0415

    client = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # where no engine answers, docker leaves a socket open
        try:
            client = docker.from_env(timeout=ENGINE_WITHIN)
        except DockerException:
            pass
        if client is None:
            gc.collect()
    if client is None:
        msg = "no container engine answers"
        raise NoServer(msg)
    try:
        client.ping()
        try:
            client.images.get(image)
        except ImageNotFound:
            if is_local:
                raise
            client.api.timeout = 300  # seconds for a pull
            client.images.pull(image)
    except (DockerException, OSError) as error:
        hint = (
            "run tests/containers/build-images.sh" if is_local else "QUEUELIB_TEST_IMAGES=local takes images built here"
        )
        msg = f"the container engine has no image {image}: {hint}"
        raise NoServer(msg) from error
    finally:
        client.close()


@contextmanager
def _local(kind: Kind) -> Iterator[tuple[str, str]]:
    find, start = {
        "redis": (local_servers.redis_program, local_servers.local_redis),
        "rabbitmq": (local_servers.rabbitmq_program, local_servers.local_rabbitmq),
    }[kind]
    program = find()
    if program is None:
        msg = f"{kind}-server is not installed"
        raise NoServer(msg)
    with start() as url:
        yield url, f"local process {program}"


def main() -> int:
    """Run a command with servers around it; returns its exit status."""
    parser = argparse.ArgumentParser(prog="tests/servers.py", description="Run COMMAND with Redis and RabbitMQ.")
    parser.add_argument("--only", choices=KINDS, help="start just this one")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="what to run, after --")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _leave)
    environment, told = dict(os.environ), []
    with ExitStack() as stack:
        for kind in (arguments.only,) if arguments.only else KINDS:
            try:
                found = stack.enter_context(server(kind))
            except NoServer as error:
                print(f"servers: {error}", file=sys.stderr)
                return 1
            environment[VARIABLES[kind]] = found.url
            told.append(f"{kind}: {found.how}")
            print(f"servers: {told[-1]}", file=sys.stderr, flush=True)
        environment[HOW_VARIABLE] = "; ".join(told)
        return _run(arguments.command, environment)


def _run(command: list[str], environment: dict[str, str]) -> int:
    process = subprocess.Popen(command, env=environment)

    def forward(signum: int, _frame: FrameType | None) -> None:
        process.send_signal(signum)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, lambda *_: None)  # a terminal has sent it to the command as well
    status = process.wait()
    return status if status >= 0 else 128 - status


def _leave(signum: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signum)


if __name__ == "__main__":
    sys.exit(main())
