"""Rows 18 to 21, 36 and 38 to 40: what happens to connections, whatever the server is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from queuelib import Dispatcher
from queuelib.errors import BrokerUnavailable, SubmitUnknown
from queuelib.settings import SUBMIT_DEADLINE
from tests.crash.flow import Flow, await_quiet, resubmit
from tests.crash.rows import row
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.crash.trial import Trial

_SERVERS = ("redis", "rabbitmq")
_LATE = 0.5  # seconds beyond a deadline on a busy machine


@row(18, "connections cut at random while jobs flow, by FIN and by RST", brokers=_SERVERS, seconds=8)
def cut_connections(trial: Trial) -> None:
    """Every accepted job runs once; what was in doubt and submitted again may run twice on RabbitMQ."""
    proxy = trial.proxy()
    worker = trial.worker()
    with Flow(trial) as flow:
        cuts = 0
        for _ in range(15):
            flow.await_jobs(trial.chance.randrange(3, 12))
            cuts += proxy.cut(reset=trial.chance.random() < 0.5)
        flow.await_jobs(5)
    trial.figures["cuts"] = cuts
    trial.finish(flow.jobs)
    trial.check(flow.jobs, in_doubt=flow.refused, faults=len(flow.doubted) if trial.broker == "rabbitmq" else 0)
    assert worker.process.poll() is None, worker.said


@row(36, "a job is submitted, and the answer never comes", brokers=_SERVERS, seconds=6)
def lost_confirmation(trial: Trial) -> None:
    """The error carries its id and its frame; submitted again with them, it is one job with one result."""
    proxy = trial.proxy()
    trial.worker(BROKER=trial.url_at(None))
    jobs = trial.submit(1, prefix="first")
    trial.finish(jobs)
    for number in range(5):
        label = f"doubt{number}"
        proxy.cut_reply_to(label.encode(), then_refuse=True)
        with pytest.raises(SubmitUnknown) as caught:
            trial.deeds.mark.submit(trial.path, label)
        assert (len(caught.value.ids), len(caught.value.frames), caught.value.accepted) == (1, 1, ())
        proxy.heal()
        jobs[label] = resubmit(trial.deeds.dispatcher, caught.value)
        assert jobs[label].id == caught.value.ids[0]
    if trial.broker == "redis":  # where a bundle is accepted once, a lost answer alone is no error
        proxy.cut_reply_to(b"again")
        jobs |= trial.submit(1, prefix="again")
    trial.finish(jobs)
    await_quiet(trial)
    trial.check(jobs, faults=5 if trial.broker == "rabbitmq" else 0)


@row(
    39,
    "submit while the broker is away: refused, silent from the start, silent since the last job",
    brokers=_SERVERS,
    seconds=16,
)
def submit_in_vain(trial: Trial) -> None:
    """It raises within its deadline, 5 s by default and 1 s where that was said; afterwards it works again."""
    proxy = trial.proxy()
    for deadline in (SUBMIT_DEADLINE, 1.0):
        own = {} if deadline == SUBMIT_DEADLINE else {"submit_deadline": deadline}
        dispatcher = Dispatcher(trial.url, namespace=trial.lab.namespace, **own)
        task = dispatcher.task(name=f"row39.{trial.broker}.{deadline:g}")(_nothing)
        proxy.refuses = True
        _fails_within(trial, task, deadline, "refused")
        proxy.heal()
        proxy.hold()
        _fails_within(trial, task, deadline, "silent")
        proxy.heal()
        proxy.cut()
        _await_accepted(task)
        proxy.hold()
        _fails_within(trial, task, deadline, "silent since")
        proxy.heal()
        _await_accepted(task)
        dispatcher.close()


def _nothing() -> None:
    """Nobody runs it."""


def _fails_within(trial: Trial, task: Any, deadline: float, how: str) -> None:
    began = time.monotonic()
    with pytest.raises((BrokerUnavailable, SubmitUnknown)):
        task.submit()
    took = time.monotonic() - began
    trial.measure(f"{how}, deadline {deadline:g} s", took)
    assert took < deadline + _LATE, f"{how}: it raised after {took:.2f} s instead of {deadline:g} s"


def _await_accepted(task: Any) -> None:
    said = [""]

    def is_accepted() -> bool:
        try:
            task.submit()
        except (BrokerUnavailable, SubmitUnknown) as error:
            said.append(str(error))
            return False
        return True

    try:
        eventually(is_accepted, within=10.0)
    except AssertionError as error:
        msg = f"not accepted within 10 s: {said[-1]}"
        raise AssertionError(msg) from error
