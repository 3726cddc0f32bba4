"""The faults, numbered as in the catalogue."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import redis

from tests.crash.history import note_kill
from tests.crash.peers.stage import Stage
from tests.crash.peers.work import Job, history_of
from tests.crash.proxy import FaultProxy

__all__ = ["FREEZE", "INJECT", "Aftermath"]

FREEZE = 90.0  # seconds of row 13: longer than any lease or heartbeat here, Celery's default excepted
DOWN = 3.0  # seconds of row 22
RESTARTS = 10  # of a worker that ends by itself
_LONG = 120.0  # seconds of a job that is to be killed
_STARTS_WITHIN = 30.0
_SETTLED = ("quarantined", "failed", "FAILURE")


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What a fault leaves to be judged.

    Attributes:
        since: When it struck, or was over.
        touched: Labels of the jobs whose recovery is measured.
        left_out: Labels of jobs that are not meant to end.
        facts: Further things seen, for the table's last column.
    """

    since: float
    touched: Collection[str]
    left_out: Collection[str] = ()
    facts: list[str] = field(default_factory=list)


def kill_worker(stage: Stage) -> Aftermath:
    """Row 1."""
    worker = stage.start_serving("A")
    stage.submit(Job("long-0", _LONG), Job("long-1", _LONG))
    # A worker that takes ahead may keep the second behind the first.
    _require(stage.until(lambda: stage.run_of("long-0"), within=_STARTS_WITHIN), "the job has not started")
    stage.until(lambda: stage.run_of("long-1"), within=2)
    stage.start_serving("B")
    since = stage.struck()
    worker.kill(history_of(stage.place.folder))
    stage.drain(since)
    return Aftermath(since, stage.handles)


def kill_child(stage: Stage) -> Aftermath:
    """Row 2."""
    stage.start_serving("A", restarts=RESTARTS)
    stage.submit(Job("long", _LONG))
    _require(stage.until(lambda: stage.run_of("long"), within=_STARTS_WITHIN), "the job has not started")
    stage.submit(Job("sibling", 5), *(Job(f"quick-{number}") for number in range(4)))
    stage.until(lambda: stage.run_of("sibling"), within=2)
    victim = stage.run_of("long")
    assert victim is not None
    since = stage.struck()
    note_kill(history_of(stage.place.folder), [victim.pid])
    os.kill(victim.pid, signal.SIGKILL)
    stage.drain(since)
    return Aftermath(since, ["long"])


def kill_with_reply_in_flight(stage: Stage) -> Aftermath:
    """Row 3."""
    worker = stage.start_serving("A")
    stage.drain(time.time())
    worker.freeze_at_once(worker.pids())
    stage.submit(Job("message"))  # within the second for which Celery's and Huey's workers wait in Redis at a time
    time.sleep(0.5)  # the server has written its reply long before
    since = stage.struck()
    worker.kill(history_of(stage.place.folder))
    stage.start("B")
    stage.drain(since)
    return Aftermath(since, ["message"])


def poison(stage: Stage) -> Aftermath:
    """Row 9."""
    innocents = [f"innocent-{number}" for number in range(20)]
    stage.submit(*(Job(label, 0.1) for label in innocents[:10]))
    stage.submit(Job("poison", is_poison=True))
    stage.submit(*(Job(label, 0.1) for label in innocents[10:]))
    worker = stage.start("A", restarts=RESTARTS)
    _require(stage.until(lambda: stage.run_of("poison"), within=60), "the poison has not started")
    since = stage.struck()

    def is_over() -> bool:
        is_settled = stage.peer.state(stage.handles["poison"]) in _SETTLED
        return (is_settled and set(innocents) <= stage.finished()) or worker.exits > RESTARTS

    def look() -> bool:
        time.sleep(0.4)  # a state is a round trip
        return is_over()

    stage.until(look, within=stage.wait)
    starts = sum(run.label == "poison" for run in stage.runs())
    facts = [f"the poison was started {starts} times", f"it is {stage.peer.state(stage.handles['poison'])!r}"]
    if worker.exits > RESTARTS:
        facts.append("all restarts were used up")
    return Aftermath(since, innocents, ["poison"], facts)


def freeze_worker(stage: Stage) -> Aftermath:
    """Row 13."""
    stage.start_serving("A")
    stage.start_serving("B")
    stage.drain(time.time())
    stage.submit(Job("long", 5))
    _require(stage.until(lambda: stage.run_of("long"), within=_STARTS_WITHIN), "the job has not started")
    first = stage.run_of("long")
    assert first is not None
    since = stage.struck()
    worker = stage.group_of(first.pid)
    worker.freeze()
    time.sleep(FREEZE)
    early = stage.peer.result(stage.handles["long"])
    worker.thaw()
    thawed = time.time()
    stage.until(lambda: all(run.end for run in stage.runs() if run.label == "long"), within=20)
    stage.drain(thawed)
    late = stage.peer.result(stage.handles["long"])
    runs = [run for run in stage.runs() if run.label == "long"]
    facts = [f"{len(runs)} run{'s' * (len(runs) > 1)}"]
    if early is None:
        facts.append("nobody ran it meanwhile" if len(runs) == 1 else "no result while it was frozen")
    else:
        facts.append("the first result stands" if late == early else "the late result replaced the first")
    facts.append(f"in the end it is {stage.peer.state(stage.handles['long'])!r}")
    return Aftermath(since, ["long"], facts=facts)


def kill_connections(stage: Stage) -> Aftermath:
    """Row 18."""
    assert stage.redis is not None
    stage.start_serving("A", restarts=RESTARTS)
    labels = [f"job-{number}" for number in range(200)]
    is_over = threading.Event()
    kills: list[float] = []

    def kill(client: redis.Redis) -> None:
        while not is_over.wait(stage.chance.uniform(0.1, 0.6)):
            client.client_kill_filter(_type="normal", skipme=True)
            kills.append(time.time())

    since = stage.struck()
    with stage.redis.client() as client:
        killer = threading.Thread(target=kill, args=(client,))
        killer.start()
        for label in labels:
            stage.submit(Job(label))
            time.sleep(0.01)
        stage.until(lambda: set(stage.handles) <= stage.finished(), within=10)
        is_over.set()
        killer.join()
    stage.drain(time.time())
    facts = [f"{len(stage.in_doubt)} submissions raised"] if stage.in_doubt else []
    return Aftermath(max(kills, default=since), stage.handles, facts=facts)


def go_half_open(stage: Stage) -> Aftermath:
    """Row 19."""
    assert stage.redis is not None
    proxy = stage.stack.enter_context(FaultProxy(stage.redis.port))
    stage.start_serving("A", restarts=RESTARTS, redis_url=f"redis://127.0.0.1:{proxy.port}/0")
    stage.drain(time.time())
    since = stage.struck()
    _require(proxy.go_mute(), "the worker has no connection")
    stage.submit(*(Job(f"job-{number}") for number in range(5)))
    stage.drain(since)
    return Aftermath(since, [f"job-{number}" for number in range(5)])


def restart_redis(stage: Stage) -> Aftermath:
    """Row 22."""
    assert stage.redis is not None
    stage.start_serving("A", restarts=RESTARTS)
    stage.submit(*(Job(f"job-{number}", 0.2) for number in range(40)))
    time.sleep(1.0)  # so that the file has what was accepted
    stage.until(lambda: len(stage.finished()) >= 10, within=_STARTS_WITHIN)
    stage.struck()
    if stage.number % 2:
        stage.redis.shut_down()
    else:
        stage.redis.kill()
    time.sleep(DOWN)
    stage.redis.start()
    since = time.time()
    stage.drain(since)
    return Aftermath(since, stage.handles)


INJECT: dict[int, Callable[[Stage], Aftermath]] = {
    1: kill_worker,
    2: kill_child,
    3: kill_with_reply_in_flight,
    9: poison,
    13: freeze_worker,
    18: kill_connections,
    19: go_half_open,
    22: restart_redis,
}


def _require(is_so: object, what: str) -> None:
    if not is_so:
        raise RuntimeError(what)
