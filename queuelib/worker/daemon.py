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
from dataclasses import dataclass, field
from typing import Any

from queuelib.clock import SYSTEM
from queuelib.color import Color, Palette
from queuelib.errors import ConfigurationError, QueuelibError, WorkerError
from queuelib.settings import UNKNOWN_PATIENCE, mask
from queuelib.worker.crew import TemplateCrew
from queuelib.worker.link import Link
from queuelib.worker.plan import Plan
from queuelib.worker.supervisor import Supervisor
from queuelib.worker.watchdog import Watchdog

__all__ = ["Beside", "Wishes", "palette_from", "plan_for", "run"]

_GARBAGE_EVERY = 20_000  # objects more than before
_log = logging.getLogger("queuelib.worker")


@dataclass(frozen=True)
class Wishes:
    """What the command line asked for; see `queuelib worker --help`."""

    targets: Sequence[str]
    colors: Sequence[str] = ()
    processes: int | None = None
    name: str = ""
    burst: bool = False
    max_jobs: int | None = None
    max_memory: int | None = None
    isolate: bool = False
    patience: float = UNKNOWN_PATIENCE
    grace: float | None = None


@dataclass(frozen=True)
class Beside:
    """What a program that starts a worker beside itself tells it.

    Attributes:
        owner: Descriptor of a pipe that closes when the program ends.
        report: Descriptor to which the worker writes one line of JSON when it is ready or has failed.
        folders: The program's sys.path.
        tasks: Tasks that the worker must know.
        configure: Broker, results, namespace and keys.
    """

    owner: int
    report: int
    folders: Sequence[str] = ()
    tasks: Sequence[str] = ()
    configure: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


def run(wishes: Wishes, beside: Beside | None = None) -> int:
    """Run a worker in this process until it is told to stop.

    Returns:
        The exit status: 0 after a stop, 1 if it could not start or go on; 70 comes from the watchdog.
    """
    name = wishes.name or f"{socket.gethostname()}-{uuid.uuid4().hex[:6]}"
    try:
        supervisor = _start(wishes, beside, name)
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


def _start(wishes: Wishes, beside: Beside | None, name: str) -> Supervisor:
    crew = TemplateCrew(
        {
            "targets": list(wishes.targets),
            "folders": list(beside.folders) if beside else [],
            "tasks": list(beside.tasks) if beside else [],
            "configure": dict(beside.configure) if beside else {},
            "worker": name,
        }
    )
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
    _listen_to_signals(supervisor)
    if beside:
        supervisor.watch(beside.owner)
    where = mask(manifest["broker"])
    text = f"worker {name}: {len(manifest['tasks'])} tasks, {plan.processes} processes, {', '.join(plan.colors)} on {where}"

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
    return Plan(
        name=name,
        colors=colors,
        palette=palette,
        processes=processes,
        burst=wishes.burst,
        max_jobs=wishes.max_jobs,
        max_memory=wishes.max_memory,
        isolate=wishes.isolate,
        patience=wishes.patience,
        grace=wishes.grace,
    )


def palette_from(manifest: Mapping[str, Any]) -> Palette:
    """Return the palette that a template described."""
    colors = [Color(*fields) for fields in manifest["palette"]]
    return Palette(colors, default=manifest["default"], taking=manifest["taking"])


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
