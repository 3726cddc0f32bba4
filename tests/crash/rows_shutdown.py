"""Rows 58 to 61: workers that are told to end, and deploys."""

from __future__ import annotations

import signal
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgpack

from queuelib import Dispatcher, JobQuarantined, body
from queuelib.envelope import encode
from queuelib.ids import new_bundle_id, parse_job_id
from queuelib.message import Bundle
from tests.crash import history
from tests.crash.rows import row
from tests.integration.lab import let_pass
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from queuelib import Job
    from tests.crash.trial import Trial
    from tests.integration.lab import Gate

_END = 10.0  # seconds that a worker may take beyond its grace


@row(58, "SIGTERM with jobs that run and jobs that were fetched", variant="term", seconds=6)
def drained_by_term(trial: Trial) -> None:
    """What runs finishes, what was fetched runs at once elsewhere, each once; status 0."""
    _drain(trial, signal.SIGTERM)


@row(58, "SIGINT with jobs that run and jobs that were fetched", variant="int", seconds=6)
def drained_by_int(trial: Trial) -> None:
    """Ctrl-C does what SIGTERM does."""
    _drain(trial, signal.SIGINT)


def _drain(trial: Trial, number: signal.Signals) -> None:
    gate = trial.lab.gate()
    first = trial.worker("--name", "first")
    warm = trial.submit(200, prefix="w")  # it learns that they are quick, and fetches many at once
    trial.finish(warm)
    running = trial.submit(2, gate.path, "r")
    trial.await_starts(202)
    fetched = trial.submit(100, prefix="f")
    let_pass(0.3)  # in which it fetches of these what it wants
    first.signal(number)
    first.await_word("once more")
    told = time.time()
    trial.worker("--name", "second")
    trial.finish(fetched, within=30.0)
    assert not any(run.is_finished for run in trial.runs() if run.label in running)
    starts = [run.start for run in trial.runs() if run.label in fetched]
    trial.measure("given back and started", max(starts) - told)
    gate.open()
    assert first.wait() == 0, first.said
    trial.finish(running)
    trial.check({**warm, **running, **fetched})


@row(58, "two signals, four times over: what runs is interrupted", variant="twice", seconds=12)
def interrupted(trial: Trial) -> None:
    """It goes back uncounted: no start mark, no attempt, and no death however often it happens; status 0."""
    gate = trial.lab.gate()
    jobs = trial.submit(8, gate.path)
    pairs = [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)]
    struck: list[str] = []
    for times, (first, second) in enumerate([*pairs, pairs[0]]):
        worker = trial.worker()
        runs = trial.await_starts(2 * times + 2)
        struck += [run.label for run in runs[2 * times :]]
        if trial.chance.random() < 0.5:
            eventually(lambda: any(job.state == "running" for job in jobs.values()), within=10.0)
        worker.signal(first)
        worker.await_word("once more")
        began = time.monotonic()
        worker.signal(second)
        assert worker.wait() == 0, worker.said
        trial.measure("ended after the second signal", time.monotonic() - began)
        trial.kill_worker(worker)  # it has ended; this notes that its children's runs are over
        _check_uncounted(trial, jobs.values())
    gate.open()
    trial.worker()
    trial.finish(jobs)
    trial.check(jobs, faults=len(struck))
    assert {run.attempt for run in trial.runs()} == {1}


@row(58, "--grace runs out", variant="grace", seconds=6)
def grace(trial: Trial) -> None:
    """One signal is enough: what still runs then is interrupted, goes back uncounted and runs elsewhere; status 0."""
    gate = trial.lab.gate()
    jobs = trial.submit(2, gate.path)
    worker = trial.worker("--grace", "1s")
    trial.await_starts(2)
    began = time.monotonic()
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0, worker.said
    took = time.monotonic() - began
    trial.measure("ended, with a grace of 1 s", took)
    assert 1.0 <= took < 1.0 + _END
    trial.kill_worker(worker)
    _check_uncounted(trial, jobs.values())
    gate.open()
    trial.worker()
    trial.finish(jobs)
    trial.check(jobs, faults=2)


def _check_uncounted(trial: Trial, jobs: Iterable[Job[Any]]) -> None:
    """See that no stored record says of a job that it was started."""
    keys = [parse_job_id(job.id) for job in jobs]
    for record in trial.lab.dispatcher.open_results().fetch(keys):
        if record is not None:
            assert record.state == "queued", record
            assert body.starts_in(record.body) == 0, record


# Deploys.


@row(61, "a task that only newer workers know, submitted before they come", seconds=12)
def newer_task(trial: Trial) -> None:
    """Older workers give it back, as often as they meet it; a newer one runs it, once and uncounted."""
    older = trial.worker("--unknown-for", "40s")
    job = _newer(trial, "new")
    older.await_word("goes back")
    others = trial.submit(20)
    trial.finish(others)
    trial.worker("--unknown-for", "40s", NEWER="1")
    older.stop()
    began = time.monotonic()
    assert job.result(timeout=30.0) == "new"
    trial.measure("run by a newer worker", time.monotonic() - began)
    trial.check([*others, "new"])
    assert trial.lab.queuelib("failed", "ls", "--json") == ""


@row(61, "a task and an envelope version that no worker knows", variant="aside", seconds=12)
def nobody_knows(trial: Trial) -> None:
    """Both are given back until --unknown-for is over, then set aside with the reason; other jobs run all the while."""
    patience = 4.0
    worker = trial.worker("--unknown-for", f"{patience:g}s")
    job = _newer(trial, "new")
    frame: Any = msgpack.packb([99, None, None, encode(_bundle())])
    trial.lab.publish_raw([frame])
    began = time.monotonic()
    jobs = trial.submit(20)
    trial.finish(jobs)
    eventually(lambda: worker.said.count("goes back") >= 2, within=10.0)
    error = job.exception(timeout=patience + 20.0)
    assert isinstance(error, JobQuarantined), error
    trial.measure("set aside", time.monotonic() - began)
    assert "newer.mark" in str(error)
    results = trial.lab.dispatcher.open_results()
    eventually(lambda: len(results.quarantined()) == 2, within=10.0)
    items = results.quarantined()
    assert any(item.frame == frame and "99" in item.reason for item in items), items
    trial.check(jobs)


def _newer(trial: Trial, label: str) -> Job[str]:
    other = Dispatcher(trial.url, namespace=trial.lab.namespace)

    @other.task(name="newer.mark")
    def newer_mark(path: str, label: str) -> str:
        return path + label

    job = newer_mark.submit(trial.path, label)
    other.close()
    known: Job[str] = trial.lab.dispatcher.job(job.id)
    return known


def _bundle() -> Bundle:
    return Bundle(new_bundle_id(time.time()), "deeds.square", "yellow", 1, range(1), b"\x91\x91\x01")


@row(59, "SIGTERM while the broker is down", seconds=12, within=240.0)
def told_while_down(trial: Trial) -> None:
    """It ends within its grace and ten seconds; what it ran and could not write runs again when the broker is back."""
    gate = trial.lab.gate() if trial.broker == "sqlite" else _own(trial)
    worker = trial.worker("--grace", "1s")
    jobs = trial.submit(2, gate.path)
    trial.await_starts(2)
    with _outage(trial):
        began = time.monotonic()
        worker.signal(signal.SIGTERM)
        status = worker.wait(1.0 + _END)
        trial.measure("ended, with a grace of 1 s", time.monotonic() - began)
        assert status == 0, worker.said
        trial.kill_worker(worker)
        history.note_kill(trial.path, {run.pid for run in trial.runs()})
    gate.open()
    trial.worker()
    trial.finish(jobs)
    trial.check(jobs, faults=2)


def _own(trial: Trial) -> Gate:
    """Start a server for this row alone."""
    assert trial.server is not None
    return trial.lab.gate()


@contextmanager
def _outage(trial: Trial) -> Generator[None]:
    """Be without the broker: its server killed, or the file locked."""
    if trial.broker == "sqlite":
        connection = sqlite3.connect(trial.folder / "jobs.db", isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")
            connection.close()
    else:
        trial.server.kill()
        yield
        trial.server.start()


@row(60, "workers replaced one after the other, under load", seconds=20, within=180.0)
def rolling(trial: Trial) -> None:
    """Nothing is lost and nothing runs twice: whoever ends has given back what it had not run."""
    _roll(trial, restarts=4, every=2.0)


@row(60, "the same for ten minutes", variant="long", seconds=640, within=900.0, is_long=True)
def rolling_long(trial: Trial) -> None:
    """As above."""
    _roll(trial, restarts=120, every=5.0)


def _roll(trial: Trial, restarts: int, every: float) -> None:
    seconds = 0.02
    workers = [trial.worker(), trial.worker()]
    jobs: dict[str, Job[str]] = {}
    is_over = threading.Event()

    def submit() -> None:
        while not is_over.wait(0.1):
            labels = [f"j{len(jobs) + i}" for i in range(5)]
            new = trial.deeds.mark_for.submit_many([(trial.path, label, seconds) for label in labels])
            jobs.update(zip(labels, new, strict=True))

    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(submit)
        try:
            for _ in range(restarts):
                began = time.monotonic()
                workers.append(trial.worker())
                old = workers.pop(0)
                old.signal(signal.SIGTERM)
                assert old.wait() == 0, old.said
                let_pass(max(0.0, every - (time.monotonic() - began)))
        finally:
            is_over.set()
        load.result()
    trial.figures |= {"jobs": len(jobs), "restarts": restarts}
    trial.finish(jobs)
    trial.check(jobs)
