"""A worker beside this program: `with dispatcher.workers():` starts one as a process and waits until it is ready."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from io import FileIO
from typing import NamedTuple, Protocol
from weakref import WeakSet

from queuelib import naming, plugins
from queuelib.color import Palette
from queuelib.errors import ConfigurationError, WorkerError
from queuelib.polling import is_readable
from queuelib.signing import Keyring
from queuelib.task import Definition

__all__ = ["Size", "workers"]


class Served(Protocol):
    """What a worker beside a program must know of its dispatcher."""

    definitions: dict[str, Definition]
    palette: Palette
    keep: float

    @property
    def broker_url(self) -> str:
        """URL of the broker."""
        ...

    @property
    def results_url(self) -> str:
        """URL of the result backend."""
        ...

    @property
    def namespace(self) -> str:
        """Prefix of all names."""
        ...

    @property
    def keys(self) -> Keyring | None:
        """Who signs."""
        ...


_START_WITHIN = 60.0  # seconds; importing a scientist's modules takes a while on a cold disk
_LEAVE_AFTER = 10.0  # seconds that running jobs get when the block ends

_owners: WeakSet[FileIO] = WeakSet()  # ends of pipes whose closing tells a worker that its owner has gone


class Size(NamedTuple):
    """How many jobs a worker runs at a time.

    Attributes:
        processes: Child processes.
        threads: Jobs that each of them runs at a time.
        asynchronous: Jobs of coroutines in one more process; 0: as all others.
    """

    processes: int
    threads: int = 1
    asynchronous: int = 0


def workers(dispatcher: Served, size: Size, name: str, *, may_unpickle: bool = False) -> AbstractContextManager[None]:
    """Return the context in which a worker serves a dispatcher's tasks, and runs pickled calls if it may."""
    if not dispatcher.definitions and not may_unpickle:
        msg = "this dispatcher has no tasks yet: define some with @dispatcher.task before workers()"
        raise ConfigurationError(msg)
    if plugins.scheme_of(dispatcher.broker_url) == "memory":
        # Looked up by name: the client must not depend on the worker.
        threads = importlib.import_module("queuelib.worker.threads")
        context: AbstractContextManager[None] = threads.workers(dispatcher, size, name, may_unpickle=may_unpickle)
        return context
    return _process(dispatcher, size, name, may_unpickle=may_unpickle)


@contextmanager
def _process(dispatcher: Served, size: Size, name: str, *, may_unpickle: bool) -> Generator[None]:
    targets = sorted({_target(d.function or d.message_class) for d in dispatcher.definitions.values()})
    owner_read, owner_write = os.pipe()
    owner = os.fdopen(owner_write, "wb", buffering=0)
    _owners.add(owner)
    report_read, report_write = os.pipe()
    beside = {
        "owner": owner_read,
        "report": report_write,
        "folders": [os.path.abspath(path) for path in sys.path],  # noqa: PTH100 - "" means the current folder
        "tasks": sorted(dispatcher.definitions),
        "bare": {
            "palette": [(color.name, color.priority, color.share) for color in dispatcher.palette.colors],
            "default": dispatcher.palette.default,
            "taking": dispatcher.palette.taking,
            "keep": dispatcher.keep,
        },
        "configure": {
            "broker": dispatcher.broker_url,
            "results": dispatcher.results_url,
            "namespace": dispatcher.namespace,
            **({} if dispatcher.keys is None else {"key": dispatcher.keys.secret.reveal()}),
        },
    }
    command = [sys.executable, "-P", "-m", "queuelib", "worker", *targets, "--quiet"]
    command += ["--processes", str(size.processes), "--threads", str(size.threads), "--async", str(size.asynchronous)]
    command += ["--grace", str(_LEAVE_AFTER), *(["--name", name] if name else [])]
    command += ["--allow-pickle"] if may_unpickle else []
    environment = {**os.environ, "QUEUELIB_BESIDE": json.dumps(beside)}
    naming.make_importable(environment)
    worker = subprocess.Popen(
        command, pass_fds=[owner_read, report_write], env=environment, start_new_session=True, stdin=subprocess.DEVNULL
    )
    os.close(owner_read)
    os.close(report_write)
    try:
        _await_ready(worker, report_read)
        yield
    finally:
        owner.close()
        os.close(report_read)
        _end(worker)


def _await_ready(worker: subprocess.Popen[bytes], fd: int) -> None:
    said = b""
    end = time.monotonic() + _START_WITHIN
    while not said.endswith(b"\n"):
        if not is_readable(fd, max(0.0, end - time.monotonic())):
            msg = f"the worker (pid {worker.pid}) was not ready within {_START_WITHIN:g} s"
            raise WorkerError(msg)
        data = os.read(fd, 65536)
        if not data:
            msg = f"the worker ended with status {worker.wait()} before it was ready"
            raise WorkerError(msg)
        said += data
    report = json.loads(said)
    if "error" in report:
        raise WorkerError(report["error"])


def _end(worker: subprocess.Popen[bytes]) -> None:
    """The worker drains because its owner's pipe has closed; one that does not is interrupted."""
    try:
        worker.wait(_LEAVE_AFTER + 2.0)
    except subprocess.TimeoutExpired:
        worker.send_signal(signal.SIGTERM)
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(5.0)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def _target(thing: object) -> str:
    path = naming.file_of(thing)
    if path is None:
        msg = f"{thing!r} is defined in a notebook or at a prompt, where no worker can import it from: move it to a .py file"
        raise WorkerError(msg)
    module = getattr(thing, "__module__", "")
    return str(path) if module == "__main__" else str(module)


def _disown() -> None:
    for owner in _owners:
        owner.close()  # a forked child is no owner: it may live on when the program has ended


os.register_at_fork(after_in_child=_disown)
