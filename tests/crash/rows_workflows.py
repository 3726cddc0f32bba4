"""Rows 6 and 48: jobs that wait for others, when whoever lets them go on dies, and when one of many ends badly."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

from queuelib import CancelledError, JobExpired, JobQuarantined, chain
from queuelib.errors import InputError
from tests.crash.rows import row
from tests.integration.lab import let_pass
from tests.waiting import eventually

if TYPE_CHECKING:
    from queuelib import Job
    from tests.crash.trial import Trial

_POINTS = ("before_settle", "after_result", "after_successor", "before_ack", "after_settle")
_CHAINS, _STEPS = 6, 5
_PER_STRIKE = 24  # jobs that one worker can have run without having written it: quick ones of 20 ms
_MEMBERS = 100
_ENDS_WITHIN = 60.0  # seconds


@row(6, "a worker killed between a step's result and the release of the next, at each point", seconds=40, within=300)
def next_step(trial: Trial) -> None:
    """Every step runs, and none more often than once and once more for each death."""
    expected: list[str] = []
    for number, name in enumerate(_POINTS):
        what = trial.chance.choice(("exit", "kill"))
        # Not the first time always: then it is the first step's result, and hardly ever a release.
        times = trial.chance.randint(1, 4)
        jobs: dict[str, Job[Any]] = {}
        for index in range(_CHAINS):
            label = f"{number}c{index}"
            jobs[label], labels = _submit_chain(trial, label)
            expected += labels
        struck = trial.lab.worker("-p", "1", QUEUELIB_FAULT=f"{name}:{times}:{what}")
        status = struck.wait(60.0)
        assert status == (9 if what == "exit" else -9), struck.said
        assert f"fault point {name} passed" in struck.said
        healer = trial.worker(processes=1)
        began = time.monotonic()
        trial.finish(jobs)
        trial.measure("ended after the next worker was ready", time.monotonic() - began)
        healer.signal(signal.SIGTERM)
        assert healer.wait(30.0) == 0, healer.said
    trial.check(expected, faults=_PER_STRIKE * len(_POINTS))
    most = max(trial.starts(label) for label in expected)
    trial.figures["most starts of a step"] = most
    assert most <= 2, "a step of one chain saw one death only"


@row(48, "one of 100 members is set aside", variant="quarantined", seconds=8)
def member_quarantined(trial: Trial) -> None:
    """The callback fails and says which member it was."""
    trial.worker()
    at = trial.chance.randrange(_MEMBERS)
    labels = [f"m{i}" for i in range(_MEMBERS)]
    rows: list[tuple[Any, ...]] = [(trial.path, label) for label in labels]
    rows[at] = (trial.path, labels[at], "kill", 99)
    members = trial.deeds.deed.submit_many(rows)
    callback = _callback(trial, members)
    assert isinstance(members[at].exception(timeout=_ENDS_WITHIN), JobQuarantined)
    began = time.monotonic()
    error = callback.exception(timeout=_ENDS_WITHIN)
    trial.measure("ended after its member", time.monotonic() - began)
    assert isinstance(error, InputError), repr(error)
    assert members[at].id in str(error)
    _finish_but(trial, members, at)
    trial.check(labels, unfinished=[labels[at]], faults=2)


@row(48, "one of 100 members is cancelled", variant="cancelled", seconds=8)
def member_cancelled(trial: Trial) -> None:
    """The callback is cancelled as well."""
    gate = trial.lab.gate()
    trial.worker()
    at = trial.chance.randrange(50, _MEMBERS)
    members = list(trial.submit(_MEMBERS, gate.path, "m").values())
    callback = _callback(trial, members)
    trial.await_starts(2)
    members[at].cancel()
    let_pass(0.2)  # workers read cancel marks every 20 ms
    gate.open()
    assert isinstance(members[at].exception(timeout=_ENDS_WITHIN), CancelledError)
    began = time.monotonic()
    error = callback.exception(timeout=_ENDS_WITHIN)
    trial.measure("ended after its member", time.monotonic() - began)
    assert isinstance(error, CancelledError), repr(error)
    _finish_but(trial, members, at)
    trial.check({f"m{i}" for i in range(_MEMBERS)} - {f"m{at}"}, faults=0)


@row(48, "one of 100 members expires", variant="expired", seconds=8)
def member_expired(trial: Trial) -> None:
    """The callback has expired as well."""
    gate = trial.lab.gate()
    trial.worker()
    at = trial.chance.randrange(50, _MEMBERS)
    members = list(trial.submit(_MEMBERS - 1, gate.path, "m").values())
    trial.await_starts(2)
    members.insert(at, trial.deeds.mark.options(expires=0.2).submit(trial.path, "late"))
    callback = _callback(trial, members)
    let_pass(0.4)
    gate.open()
    assert isinstance(members[at].exception(timeout=_ENDS_WITHIN), JobExpired)
    began = time.monotonic()
    error = callback.exception(timeout=_ENDS_WITHIN)
    trial.measure("ended after its member", time.monotonic() - began)
    assert isinstance(error, JobExpired), repr(error)
    _finish_but(trial, members, at)
    trial.check([f"m{i}" for i in range(_MEMBERS - 1)], faults=0)


@row(48, "the worker of some of 100 members, which holds the callback, is killed", variant="killed", seconds=15)
def member_killed(trial: Trial) -> None:
    """The callback runs once, with all results in their order."""
    gate = trial.lab.gate()
    first = trial.worker("--name", "first")
    open_ones = trial.chance.randrange(10, 60)
    members = list(trial.submit(open_ones, prefix="a").values())
    members += trial.submit(_MEMBERS - open_ones, gate.path, "b").values()
    callback = _callback(trial, members)
    trial.await_starts(open_ones + 2)
    ready = trial.lab.open_lane()
    eventually(lambda: ready.waiting(["inputs"]) == {"inputs": 0}, within=30.0, message="the callback is in hand")
    let_pass(trial.chance.uniform(0.0, 1.0))
    trial.worker("--name", "second")
    trial.kill_worker(first)
    killed = time.monotonic()
    gate.open()
    labels = [f"a{i}" for i in range(open_ones)] + [f"b{i}" for i in range(_MEMBERS - open_ones)]
    assert callback.result(timeout=_ENDS_WITHIN) == labels
    trial.measure("callback after the kill", time.monotonic() - killed)
    assert trial.starts("callback") == 1
    trial.check([*labels, "callback"], faults=_PER_STRIKE)


def _submit_chain(trial: Trial, label: str) -> tuple[Job[Any], list[str]]:
    """Submit calls that hand a label on; return the job of the last one, and the labels of all."""
    gather = trial.deeds.gather
    labels = [f"{label}s{step}" for step in range(_STEPS)]
    first, *others = labels
    steps = [gather.s(label, trial.path, first), *[gather.s(trial.path, other) for other in others]]
    return chain(*steps).submit(), labels


def _callback(trial: Trial, members: list[Job[Any]]) -> Job[Any]:
    job: Job[Any] = trial.deeds.gather.submit(members, trial.path, "callback")
    return job


def _finish_but(trial: Trial, members: list[Job[Any]], at: int) -> None:
    """Wait until all other members have ended, and see that the callback never started."""
    for place, member in enumerate(members):
        assert place == at or member.exception(timeout=_ENDS_WITHIN) is None
    assert trial.starts("callback") == 0
