"""Handlers that wait for other jobs lend their slots: nothing deadlocks, however few children there are."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from queuelib import SoftTimeLimit
from tests.integration.lab import WITHIN, Lab, await_gone, connected, family, is_gone, load, results
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.lab import Worker

WAYS = [
    "result",
    "wait",
    "exception",
    "gather",
    "wait-all",
    "as_completed",
    "map",
    "future",
    "future-exception",
    "shutdown",
]
ASYNC_WAYS = ["await", "agather", "async-for"]


@pytest.fixture
def lends(lab: Lab) -> Iterator[Any]:
    """Give the user's module apps/lends.py, on the broker of the test."""
    with connected("lends", lab) as module:
        yield module


def start(lab: Lab, *options: str, **environment: str) -> Worker:
    """Start a worker with one child, unless the options say otherwise, and wait until it serves."""
    return lab.ready_worker("--processes", "1", *options, target="lends.py", **environment)


def children_of(worker: Worker) -> set[int]:
    """Return the pids of the processes that run handlers, and of the template."""
    return set(family(worker.pid)[1:])


@pytest.mark.parametrize("task", ["fib", "afib"])
def test_recursion_ends_on_one_child(lab: Lab, lends: Any, task: str) -> None:
    """A job that submits two of its own kind and waits for both; 25 jobs, a dozen of which wait at the same time."""
    start(lab)
    assert getattr(lends, task).submit(6).result(timeout=3 * WITHIN) == 8


def test_each_way_to_wait_lends(lab: Lab, lends: Any) -> None:
    """One child, and handlers, one after the other, that wait for three jobs in it; then coroutines."""
    start(lab)
    history = lab.history()
    for task, ways in ((lends.parent, WAYS), (lends.awaiting, ASYNC_WAYS)):
        for way in ways:
            job = task.submit(history.path, way, way=way, count=3)
            assert job.result(timeout=WITHIN) == [f"{way}.{i}" for i in range(3)], way
    assert set(history.count().values()) == {1}


def test_as_many_work_as_were_promised(lab: Lab, lends: Any) -> None:
    """While five jobs wait, two others run on two slots; afterwards the spare children leave."""
    worker = lab.ready_worker("--processes", "2", target="lends.py")
    before = len(children_of(worker))
    gate, history = lab.gate(), lab.history()
    jobs = [lends.parent.submit(history.path, f"p{i}", gate.path) for i in range(5)]
    eventually(lambda: len([label for label in history.labels() if "." in label]) >= 2, within=WITHIN)
    assert len([label for label in history.labels() if "." in label]) == 2
    gate.open()
    assert results(jobs) == [[f"p{i}.0"] for i in range(5)]
    assert len({mark.pid for mark in history.marks("start")}) > 2
    eventually(lambda: len(children_of(worker)) == before, within=WITHIN)


def test_what_an_urgent_job_waits_for_gets_its_share(lab: Lab, lends: Any) -> None:
    """A red job that waits for a green one, where yellow ones are many: green is owed one start in ten."""
    start(lab)
    history = lab.history()
    crowd = lends.linger.submit_many([(history.path, f"y{i}", 0.03) for i in range(100)])
    job = lends.parent.options(color="red").submit(history.path, "p", color="green")
    assert job.result(timeout=WITHIN) == ["p.0"]
    at = history.labels().index("p.0")
    assert at < 50
    results(crowd)


def test_a_killed_lender_runs_again(lab: Lab, lends: Any) -> None:
    """And what it had submitted goes on: each of these runs once for each run of it."""
    worker = start(lab)
    gate, history = lab.gate(), lab.history()
    job = lends.parent.submit(history.path, "p", gate.path)
    history.await_start("p.0")
    lender = next(mark.pid for mark in history.marks() if mark.label == "p")
    os.kill(lender, signal.SIGKILL)
    gate.open()  # the only slot is that of p.0 by now
    history.await_start("p", times=2)
    assert job.result(timeout=WITHIN) == ["p.0"]
    eventually(lambda: history.count("finish")["p.0"] == 2, within=WITHIN)
    assert history.count() == {"p": 2, "p.0": 2}
    assert worker.process.poll() is None


def test_a_killed_worker_loses_neither(lab: Lab, lends: Any) -> None:
    """Lender and successor run again on another worker."""
    first = start(lab)
    gate, history = lab.gate(), lab.history()
    job = lends.parent.submit(history.path, "p", gate.path)
    history.await_start("p.0")
    first.kill()
    gate.open()
    start(lab)
    assert job.result(timeout=2 * WITHIN) == ["p.0"]
    eventually(lambda: history.count("finish")["p.0"] == history.count()["p"], within=WITHIN)


def test_waiting_counts_for_the_time_limit(lab: Lab, lends: Any) -> None:
    """A limit is of time as it passes: a job that waits for longer than that ends, and its slot is free."""
    start(lab)
    gate, history = lab.gate(), lab.history()
    job = lends.parent.options(timeout=0.3).submit(history.path, "p", gate.path)
    with pytest.raises(SoftTimeLimit):
        job.result(timeout=WITHIN)
    gate.open()
    assert lends.parent.submit(history.path, "q").result(timeout=WITHIN) == ["q.0"]


@pytest.mark.parametrize("is_late", [False, True], ids=["waits", "waits-later"])
def test_a_worker_that_ends_finishes_what_waits(lab: Lab, lends: Any, *, is_late: bool) -> None:
    """It goes on with what the job waits for, also where that is submitted after the signal; the rest stays queued."""
    worker = start(lab)
    before, gate, history = lab.gate("before"), lab.gate(), lab.history()
    job = lends.parent.submit(history.path, "p", gate.path, before=before.path, count=2)
    history.await_start("p")
    if not is_late:
        before.open()
        history.await_start("p.0")
    worker.signal(signal.SIGTERM)
    worker.await_word("once more to interrupt")
    before.open()
    gate.open()
    assert worker.wait() == 0
    assert history.count("finish") == {"p": 1, "p.0": 1, "p.1": 1}
    assert job.result(timeout=WITHIN) == ["p.0", "p.1"]


def test_what_begins_to_wait_after_the_signal_goes_back(lab: Lab, lends: Any) -> None:
    """Of jobs that a worker takes only because another one waits, it does not await those that wait themselves."""
    worker = start(lab)
    gate, history = lab.gate(), lab.history()
    first = lends.parent.submit(history.path, "p", gate.path)
    history.await_start("p.0")
    worker.signal(signal.SIGTERM)
    worker.await_word("once more to interrupt")
    never = lab.gate("never")
    second = lends.parent.submit(history.path, "q", never.path)
    gate.open()
    assert first.result(timeout=WITHIN) == ["p.0"]
    assert worker.wait() == 0
    assert second.state in {"queued", "running"}
    never.open()
    start(lab)
    assert second.result(timeout=2 * WITHIN) == ["q.0"]


def test_two_signals_end_a_lender(lab: Lab, lends: Any) -> None:
    """It is interrupted where it waits, and goes back uncounted."""
    worker = start(lab)
    gate, history = lab.gate(), lab.history()
    job = lends.parent.submit(history.path, "p", gate.path)
    history.await_start("p.0")
    pids = family(worker.pid)
    worker.stop()
    await_gone(pids)
    gate.open()
    start(lab)
    assert job.result(timeout=2 * WITHIN) == ["p.0"]
    assert {mark.attempt for mark in history.marks()} == {1}


@pytest.mark.parametrize("option", ["--burst", "--max-jobs=1", "--isolate"])
def test_options_hold(lab: Lab, lends: Any, option: str) -> None:
    """A burst ends after all, and not before; one job a child is one job a child."""
    history = lab.history()
    jobs = [lends.parent.submit(history.path, f"p{i}", count=2) for i in range(3)]
    worker = lab.worker("--processes", "1", option, target="lends.py")
    assert results(jobs) == [[f"p{i}.0", f"p{i}.1"] for i in range(3)]
    if option == "--burst":
        assert worker.wait() == 0
    else:
        assert len({mark.pid for mark in history.marks()}) == 9


def test_children_close_what_they_opened(lab: Lab, lends: Any) -> None:
    """A handler that submits has connections of its own process, which end with it."""
    worker = start(lab, "--max-jobs=1")
    history = lab.history()
    for i in range(3):
        assert lends.parent.submit(history.path, f"p{i}").result(timeout=WITHIN) == [f"p{i}.0"]
    submitters = {mark.pid for mark in history.marks("submitted")}
    assert len(submitters) == 3
    eventually(lambda: all(is_gone(pid) for pid in submitters), within=WITHIN)
    assert "Traceback" not in worker.said


def test_threads_lend_as_well(namespace: str) -> None:
    """On memory://, where children are threads."""
    module = load("lends", f"memory://{namespace}", namespace)
    with module.dispatcher.workers(processes=1):
        assert module.fib.submit(6).result(timeout=WITHIN) == 8
        assert module.afib.submit(6).result(timeout=WITHIN) == 8
    module.dispatcher.close()
