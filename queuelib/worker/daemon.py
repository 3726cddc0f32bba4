"""A worker as a process: signals, the handshake with a program that started it, exit codes."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import socket
import uuid
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from queuelib.clock import SYSTEM
from queuelib.errors import ConfigurationError, QueuelibError, WorkerError
from queuelib.large import Store
from queuelib.settings import UNKNOWN_PATIENCE, mask
from queuelib.worker import process
from queuelib.worker.cache import Cache, usual_folder
from queuelib.worker.crew import TemplateCrew
from queuelib.worker.fetch import Fetcher
from queuelib.worker.link import Link
from queuelib.worker.plan import Plan, palette_from
from queuelib.worker.supervisor import Supervisor
from queuelib.worker.watchdog import Watchdog

__all__ = ["Beside", "Wishes", "plan_for", "run"]

_MOST_LANES = 200  # of one process: each costs the supervisor four file descriptors, and 1,024 are usual
_GARBAGE_EVERY = 20_000  # objects more than before
_log = logging.getLogger("queuelib.worker")


@dataclass(frozen=True)
class Wishes:
    """What the command line asked for; see `queuelib worker --help`."""

    targets: Sequence[str]
    colors: Sequence[str] = ()
    processes: int | None = None
    threads: int = 1
    asynchronous: int = 0
    name: str = ""
    burst: bool = False
    max_jobs: int | None = None
    max_memory: int | None = None
    isolate: bool = False
    patience: float = UNKNOWN_PATIENCE
    grace: float | None = None
    may_unpickle: bool = False


@dataclass(frozen=True)
class Beside:
    """What a program that starts a worker beside itself tells it.

    Attributes:
        owner: Descriptor of a pipe that closes when the program ends.
        report: Descriptor to which the worker writes one line of JSON when it is ready or has failed.
        folders: The program's sys.path.
        tasks: Tasks that the worker must know.
        configure: Broker, results, namespace and keys.
        bare: What a dispatcher without tasks is made with: colors, as a manifest has them, and the time to keep results.
    """

    owner: int
    report: int
    folders: Sequence[str] = ()
    tasks: Sequence[str] = ()
    configure: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    bare: Mapping[str, Any] = field(default_factory=dict[str, Any])


def run(wishes: Wishes, beside: Beside | None = None) -> int:
    """Run a worker in this process until it is told to stop.

    Returns:
        The exit status: 0 after a stop, 1 if it could not start or go on; 70 comes from the watchdog.
    """
    with closing(Fetcher(Cache(usual_folder()))) as fetcher:
        return _run(wishes, beside, fetcher)


def _run(wishes: Wishes, beside: Beside | None, fetcher: Fetcher) -> int:
    name = wishes.name or f"{socket.gethostname()}-{uuid.uuid4().hex[:6]}"
    try:
        supervisor = _start(wishes, beside, name, fetcher)
    except QueuelibError as error:
        _log.error("%s", error)
        _tell(beside, {"error": str(error)})
        return 1
    gc.freeze()
    gc.set_threshold(_GARBAGE_EVERY)  # its objects are many and short-lived, and refer to each other in no circles
    try:
        with Watchdog(supervisor):
            supervisor.run()
    except QueuelibError as error:
        _log.error("%s", error)
        _tell(beside, {"error": str(error)})
        return 1
    _log.info("worker %s ended; %d jobs", name, supervisor.finished)
    return 0


def _start(wishes: Wishes, beside: Beside | None, name: str, fetcher: Fetcher) -> Supervisor:
    crew = TemplateCrew(
        {
            "targets": list(wishes.targets),
            "folders": list(beside.folders) if beside else [],
            "tasks": list(beside.tasks) if beside else [],
            "configure": dict(beside.configure) if beside else {},
            "bare": dict(beside.bare) if beside else {},
            "worker": name,
            "cache": str(usual_folder()),
            "may_unpickle": wishes.may_unpickle,
        },
        fetcher.door,
    )
    process.raise_fd_limit()  # no earlier: the children have that of before
    manifest = crew.manifest
    missing = sorted(set(beside.tasks) - set(manifest["tasks"])) if beside else []
    if missing:
        crew.close()
        msg = f"the worker does not find these tasks of this program: {', '.join(missing)}. Define them in a module it can import"
        raise WorkerError(msg)
    try:
        plan = plan_for(wishes, manifest, name)
        place = manifest["broker"], manifest["results"], manifest["namespace"], manifest["keep"]
        link = Link(*place, SYSTEM, crew.keys)
    except QueuelibError:
        crew.close()
        raise
    supervisor = Supervisor(crew, link, plan)
    store = Store(link.open_blobs, link.keep, lambda: link.results.capabilities.large_apart)
    fetcher.start(link.open_blobs, store, supervisor.read_state(link.open_memos))
    _listen_to_signals(supervisor)
    if beside:
        supervisor.watch(beside.owner)
    where = mask(manifest["broker"])
    known = f"{len(manifest['tasks']) - 1} tasks{' and pickled calls' if wishes.may_unpickle else ''}"
    text = f"worker {name}: {known}, {plan.processes} processes, {', '.join(plan.colors)} on {where}"

    def ready() -> None:
        _log.info("%s", text)
        _tell(beside, {"ready": name, "pid": os.getpid()})

    supervisor.on_ready = ready
    return supervisor


def plan_for(wishes: Wishes, manifest: Mapping[str, Any], name: str) -> Plan:
    """Return the plan of a worker.

    Raises:
        ConfigurationError: A color is not in the palette, or a number makes no sense.
    """
    palette = palette_from(manifest)
    colors = tuple(palette.require(color) for color in wishes.colors) or palette.names
    processes = wishes.processes if wishes.processes is not None else len(os.sched_getaffinity(0))
    if not 0 < processes <= 1000:  # noqa: PLR2004 - children have a slot each in shared memory
        msg = f"a worker has 1 to 1000 processes, not {processes}"
        raise ConfigurationError(msg)
    lanes = max(wishes.threads, wishes.asynchronous)
    if not (wishes.threads >= 1 and wishes.asynchronous >= 0 and lanes <= _MOST_LANES):
        msg = f"a process runs 1 to {_MOST_LANES} jobs at a time, not {lanes}"
        raise ConfigurationError(msg)
    if wishes.isolate and lanes > 1:
        msg = "a process of its own for each job (--isolate) has no threads, and no event loop that others share"
        raise ConfigurationError(msg)
    coroutines = frozenset(manifest["coroutines"]) if wishes.asynchronous else frozenset[str]()
    return Plan(
        name=name,
        colors=colors,
        palette=palette,
        processes=processes,
        threads=wishes.threads,
        asynchronous=wishes.asynchronous if coroutines else 0,
        coroutines=coroutines,
        burst=wishes.burst,
        max_jobs=wishes.max_jobs,
        max_memory=wishes.max_memory,
        isolate=wishes.isolate,
        patience=wishes.patience,
        grace=wishes.grace,
    )


def _listen_to_signals(supervisor: Supervisor) -> None:
    def stop(number: int, _: object) -> None:
        first = "finishing what runs; once more to interrupt it" if not supervisor.is_stopping else "interrupting"
        _log.info("%s: %s", signal.Signals(number).name, first)
        supervisor.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # so that a select is interrupted; deaths come by pidfd
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the terminal it was started from may go


def _tell(beside: Beside | None, report: Mapping[str, Any]) -> None:
    if beside is None:
        return
    try:
        os.write(beside.report, json.dumps(report).encode() + b"\n")
    except OSError:
        pass  # the program that started us has gone, and the owner's pipe says so as well
