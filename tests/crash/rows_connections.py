"""Rows 18 to 21, 36 and 38 to 40: what happens to connections, whatever the server is."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from queuelib import Dispatcher
from queuelib.errors import BrokerUnavailable, SubmitUnknown
from queuelib.settings import SUBMIT_DEADLINE
from tests.crash.flow import Flow, await_quiet, resubmit, ride_out, submit_until_accepted
from tests.crash.proxy import FaultProxy
from tests.crash.rows import row
from tests.integration.lab import let_pass
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.crash.trial import Trial

_SERVERS = ("redis", "rabbitmq")
_SOON = 5.0  # seconds from the end of a fault to the end of a new job
_FAILURES = 6  # attempts to connect, after which the pauses are the longest
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


@row(19, "half-open connections: nothing comes back, and no end either", brokers=_SERVERS, seconds=10)
def half_open(trial: Trial) -> None:
    """The worker finds out by itself, keeps what it runs where a lease says so, and serves new jobs."""
    proxy = trial.proxy()
    worker = trial.worker()
    gate = trial.lab.gate()
    jobs = trial.submit(4, gate.path)
    trial.await_starts(2)
    robber = trial.worker(BROKER=trial.url_at(None)) if trial.broker == "redis" else None
    muted = proxy.go_mute()
    began = time.monotonic()
    assert muted >= 2, "the worker and this process were connected"
    gate.open()
    after = submit_until_accepted(trial, "after")
    trial.finish(jobs)
    trial.measure("half-open: all done", time.monotonic() - began)
    jobs["after"] = after
    trial.finish(jobs)
    trial.check(jobs, faults=0)
    for one in (worker, robber):
        assert one is None or one.process.poll() is None, one.said


@row(20, "the network is away for half a lease, and then for three", brokers=_SERVERS, seconds=14)
def blackhole(trial: Trial) -> None:
    """For everybody: who comes back first robs nobody. What was sent meanwhile arrives."""
    proxy = trial.proxy()

    def harm() -> None:
        for leases in (0.5, 3.0):
            proxy.hold()
            let_pass(leases * trial.lease)
            proxy.heal()
            let_pass(0.5)

    ride_out(trial, harm, within=_SOON, others=1 if trial.broker == "redis" else 0)


@row(20, "the network of one worker is away for three leases", variant="one", brokers=("redis",), seconds=12)
def lonely_worker(trial: Trial) -> None:
    """Others take what it held once its lease is over; its own outcomes change nothing when it is back."""
    gate = trial.lab.gate("first-gate")
    trial.worker("--name", "direct", "--colors", "yellow")
    lonely_proxy = FaultProxy(trial.server_port, trial.seed)
    with lonely_proxy:
        lonely = trial.worker("--name", "lonely", "--colors", "green", BROKER=trial.url_at(lonely_proxy.port))
        jobs = {label: trial.deeds.mark_green.submit(trial.path, label, gate.path) for label in ("g0", "g1")}
        trial.await_starts(2)
        rescuer = trial.worker("--name", "rescuer", "--colors", "green")
        lonely_proxy.hold()
        began = time.time()
        for label in jobs:
            trial.measure("lost lease", trial.await_again(label, within=10 * trial.lease) - began)
        lonely_proxy.heal()
        gate.open()
        trial.finish(jobs)
        after = trial.submit(4, prefix="after")
        trial.finish(after)
        await_quiet(trial)
        starts = {label: trial.starts(label) for label in (*jobs, *after)}
        assert starts == dict.fromkeys(jobs, 2) | dict.fromkeys(after, 1)
        for one in (lonely, rescuer):
            assert one.process.poll() is None, one.said


@row(21, "a slow network: 30 ms each way and up to 20 more", variant="latency", brokers=_SERVERS, seconds=8)
def latency(trial: Trial) -> None:
    """Everything takes longer, and nothing else happens."""
    proxy = trial.proxy()
    proxy.latency, proxy.jitter = 0.03, 0.02
    _run_all(trial, 40)


@row(21, "a network that passes on pieces of seven bytes", variant="slices", brokers=_SERVERS, seconds=8)
def slices(trial: Trial) -> None:
    """Frames come in pieces, and are put together."""
    proxy = trial.proxy()
    proxy.slice, proxy.jitter = 7, 0.0002
    _run_all(trial, 40)


@row(
    21,
    "connections that are cut in the middle of a frame, again and again",
    variant="bytes",
    brokers=_SERVERS,
    seconds=12,
)
def cut_in_frames(trial: Trial) -> None:
    """Half a message is none; one that was whole is there once."""
    proxy = trial.proxy()
    worker = trial.worker()
    with Flow(trial) as flow:
        for _ in range(12):
            flow.await_jobs(3)
            proxy.cut_after(trial.chance.randrange(1, 900), to_server=trial.chance.random() < 0.5)
        flow.await_jobs(5)
    trial.finish(flow.jobs)
    trial.check(flow.jobs, in_doubt=flow.refused, faults=len(flow.doubted) if trial.broker == "rabbitmq" else 0)
    assert worker.process.poll() is None, worker.said


def _run_all(trial: Trial, count: int) -> None:
    worker = trial.worker()
    with Flow(trial) as flow:
        flow.await_jobs(count)
    jobs = flow.jobs | trial.submit(count)
    trial.finish(jobs)
    trial.check(jobs)
    assert not flow.doubted
    assert not flow.refused
    assert "trying again" not in worker.said, worker.said


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


@row(38, "workers start before their broker does", brokers=_SERVERS, seconds=20, within=240)
def broker_down_at_boot(trial: Trial) -> None:
    """They wait, trying ever more seldom, and consume within five seconds of its start."""
    server = trial.server
    jobs = trial.submit(3)  # RabbitMQ keeps them, Redis its file; both start with work to do
    server.shut_down()
    worker = trial.worker()
    eventually(lambda: worker.said.count("trying again") >= _FAILURES, within=60.0)
    server.start()
    up = time.time()
    trial.measure("start after boot", trial.await_starts(1)[0].start - up)
    trial.finish(jobs)
    trial.check(jobs)
    assert trial.figures["start after boot"][0] < _SOON


@row(40, "no file descriptors left when the connections are cut", brokers=_SERVERS, seconds=10)
def no_descriptors(trial: Trial) -> None:
    """The worker says so, does not spin, keeps what runs, and goes on when there are some."""
    proxy = trial.proxy()
    worker = trial.worker()
    gate = trial.lab.gate()
    jobs = trial.submit(4, gate.path)
    trial.await_starts(2)
    open_ones = len(list(Path(f"/proc/{worker.pid}/fd").iterdir()))
    _, hard = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (1, hard))
    proxy.cut()
    worker.await_word("Too many open files")
    before, began = _cpu_seconds(worker.pid), time.monotonic()
    let_pass(2.0)
    share = (_cpu_seconds(worker.pid) - before) / (time.monotonic() - began)
    trial.measure("CPU share without descriptors", share)
    assert share < 0.3, f"the worker spins: {share:.0%} of a CPU"
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (hard, hard))
    gate.open()
    after = submit_until_accepted(trial, "after")
    trial.finish(jobs | {"after": after})
    trial.check({*jobs, "after"})
    assert worker.process.poll() is None, worker.said
    assert len(list(Path(f"/proc/{worker.pid}/fd").iterdir())) <= open_ones + 2, "descriptors are lost"


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
