"""One run's stage: a server of its own, workers, jobs, and the history that they write."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from tests.benchmarks.peers.place import Place
from tests.crash.history import Run, read
from tests.crash.own_servers import OwnRedis
from tests.crash.peers.group import Group
from tests.crash.peers.protocol import Peer
from tests.crash.peers.work import Job, has_served, history_of

__all__ = ["Stage"]

_LOOKS_EVERY = 0.1  # seconds
_QUIET = 4.0  # seconds without anything new after the last job's end: what is run once more shows itself by then
_PROGRESS = 20.0  # seconds: whoever has ended a job within them is still working its queue off, and is waited for
_BOOTS_WITHIN = 60.0  # seconds, on a machine where dozens boot at once
_WARNS = re.compile(
    r"error|warn|exception|traceback|lost|time[sd]? ?out|terminated|died|dead|killed|unexpected", re.IGNORECASE
)


@dataclass
class Stage:
    """Where a fault is injected, and by what means.

    Attributes:
        place: Of the run.
        peer: The system.
        redis: Its server; None on other brokers.
        wait: Seconds after a fault for which a job may take to end before it counts as lost.
        number: Of the run among those of its row, from 0.
        chance: Where randomness comes from.
        stack: What has to be ended with the run.
        handles: Of all jobs that were accepted, by label.
        in_doubt: Labels of jobs whose submission raised.
        groups: All workers.
    """

    place: Place
    peer: Peer
    redis: OwnRedis | None
    wait: float
    number: int
    chance: random.Random
    stack: ExitStack
    handles: dict[str, Any] = field(default_factory=dict)
    in_doubt: list[str] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    _logged: dict[str, int] = field(default_factory=dict)

    def start(self, name: str, *, restarts: int = 0, redis_url: str = "") -> Group:
        """Start a worker of two processes; `redis_url` where it reaches Redis another way."""
        url = redis_url or self.place.redis
        environment = replace(self.place, redis=url).environment()
        group = Group(name, self.peer.command(name, url), environment, self.place.folder, restarts=restarts)
        self.groups.append(group)
        self.stack.callback(group.stop)
        return group

    def start_serving(self, name: str, *, restarts: int = 0, redis_url: str = "") -> Group:
        """Start a worker, and wait until it has run a job of those that are submitted for this purpose."""
        group = self.start(name, restarts=restarts, redis_url=redis_url)
        end = time.monotonic() + _BOOTS_WITHIN
        for number in range(int(_BOOTS_WITHIN)):
            self.submit(Job(f"probe-{name}-{number}"))
            if self.until(lambda: has_served(self.place.folder, name), within=min(5.0, end - time.monotonic())):
                return group
        raise RuntimeError(f"worker {name} has run nothing: {group.log.read_text(errors='replace')[-2000:]}")

    def submit(self, *jobs: Job) -> None:
        """Submit jobs; those whose submission raises are in doubt."""
        for job in jobs:
            try:
                self.handles[job.label] = self.peer.submit(job)
            except Exception:  # noqa: BLE001 - whatever a client raises while its connections are killed
                self.in_doubt.append(job.label)

    def runs(self) -> list[Run]:
        """Read the history."""
        return read(history_of(self.place.folder))

    def run_of(self, label: str) -> Run | None:
        """Return a job's first run."""
        return next((run for run in self.runs() if run.label == label), None)

    def finished(self) -> set[str]:
        """Return the labels of the jobs that have ended."""
        return {run.label for run in self.runs() if run.is_finished}

    def group_of(self, pid: int) -> Group:
        """Return the worker that a process belongs to."""
        return next(group for group in self.groups if pid in group.pids())

    def until(self, condition: Callable[[], object], *, within: float) -> bool:
        """Wait until something holds; False if it does not within so many seconds."""
        end = time.monotonic() + within
        while not condition():
            if time.monotonic() >= end:
                return False
            time.sleep(_LOOKS_EVERY)
        return True

    def struck(self) -> float:
        """Remember where the workers' logs end, and return the time."""
        self._logged = {group.name: group.log.stat().st_size for group in self.groups}
        return time.time()

    def has_warned(self) -> bool:
        """Whether a worker that was there when the fault struck has logged anything like a warning since."""
        for group in self.groups:
            if group.name not in self._logged:
                continue
            with group.log.open("rb") as file:
                file.seek(self._logged[group.name])
                if _WARNS.search(file.read().decode(errors="replace")):
                    return True
        return False

    def drain(self, since: float, labels: set[str] | None = None) -> None:
        """Wait until all jobs have ended and nothing new was heard, or for as long as the run is to wait."""
        wanted = set(self.handles) if labels is None else labels
        while True:
            runs = self.runs()
            latest = max((run.end or run.start for run in runs), default=0.0)
            is_done = wanted <= {run.label for run in runs if run.is_finished}
            now = time.time()
            if is_done and now > max(latest, since) + _QUIET:
                return
            if not is_done and now > max(since + self.wait, latest + _PROGRESS):
                return
            time.sleep(_LOOKS_EVERY)
