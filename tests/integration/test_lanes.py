"""Processes that run several jobs at a time: coroutines on one event loop, plain functions in threads."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from queuelib import SoftTimeLimit
from tests.integration.lab import WITHIN, Lab, await_gone, connected, family, results
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.lab import Worker


@pytest.fixture
def laned(lab: Lab) -> Iterator[Any]:
    """Give the user's module apps/laned.py, on the broker of the test."""
    with connected("laned", lab) as module:
        yield module


def start(lab: Lab, *options: str) -> Worker:
    """Start a worker and wait until it serves."""
    return lab.ready_worker(*options, target="laned.py")


def labels(prefix: str, count: int) -> list[str]:
    """Return so many labels."""
    return [f"{prefix}{i}" for i in range(count)]


def test_coroutines_run_at_the_same_time_on_one_loop(lab: Lab, laned: Any) -> None:
    """A hundred, each of which waits for the same file; a plain function runs beside them, in another process."""
    start(lab, "--processes", "1", "--async", "100")
    gate, history = lab.gate(), lab.history()
    jobs = laned.pause.submit_many([(history.path, label, gate.path) for label in labels("a", 100)])
    history.await_start(*labels("a", 100))
    process, _ = laned.hold.submit(history.path, "plain").result(timeout=WITHIN)
    gate.open()
    places = {tuple(place) for place in results(jobs)}
    assert len(places) == 1
    assert process not in {pid for pid, _, _ in places}
    answer = laned.dispatcher.submit(laned.Question(5)).result(timeout=WITHIN)
    assert [tuple(answer[1:])] == [(pid, loop) for pid, loop, _ in places]


def test_plain_functions_run_in_threads(lab: Lab, laned: Any) -> None:
    """Two processes of three threads: six at a time, and no seventh."""
    start(lab, "--processes", "2", "--threads", "3")
    gate, history = lab.gate(), lab.history()
    jobs = [laned.hold.submit(history.path, label, gate.path) for label in labels("a", 8)]
    eventually(lambda: len(history.labels()) >= 6, within=WITHIN)
    assert len(history.labels()) == 6
    gate.open()
    places = {tuple(place) for place in results(jobs)}
    assert len({pid for pid, _ in places}) == 2
    assert len(places) == 6
    assert set(history.count().values()) == {1}


def test_without_the_option_coroutines_run_as_all_others(lab: Lab, laned: Any) -> None:
    """One at a time in each child."""
    start(lab, "--processes", "2")
    gate, history = lab.gate(), lab.history()
    jobs = laned.pause.submit_many([(history.path, label, gate.path) for label in labels("a", 4)])
    eventually(lambda: len(history.labels()) >= 2, within=WITHIN)
    assert len({mark.pid for mark in history.marks()}) == 2
    gate.open()
    assert len({pid for pid, _, _ in results(jobs)}) == 2
    assert set(history.count().values()) == {1}


@pytest.mark.parametrize(
    "options", [("--async", "10"), ("--processes", "1", "--threads", "10")], ids=["async", "threads"]
)
def test_all_lanes_of_a_killed_process_run_again(lab: Lab, laned: Any, options: tuple[str, ...]) -> None:
    """Each job that ran starts once more, what waited starts once, and nothing is lost."""
    start(lab, *options)
    gate, history = lab.gate(), lab.history()
    task = laned.pause if "--async" in options else laned.hold
    jobs = task.submit_many([(history.path, label, gate.path) for label in labels("a", 14)])
    eventually(lambda: len(history.labels()) >= 10, within=WITHIN)
    (victim,) = {mark.pid for mark in history.marks()}
    struck = history.labels()
    os.kill(victim, signal.SIGKILL)
    gate.open()
    results(jobs)
    assert history.count() == {label: 1 + (label in struck) for label in labels("a", 14)}


@pytest.mark.parametrize("how", ["exit", "os-exit"])
def test_a_job_that_ends_its_lane_or_process(lab: Lab, laned: Any, how: str) -> None:
    """It runs again; its neighbors go on where only the lane ended, and else they run again as well."""
    start(lab, "--processes", "1", "--async", "5")
    gate, history = lab.gate(), lab.history()
    neighbors = laned.pause.submit_many([(history.path, label, gate.path) for label in labels("a", 3)])
    history.await_start(*labels("a", 3))
    victim = laned.deed.submit(history.path, "victim", how)
    assert victim.result(timeout=WITHIN) == "victim"
    gate.open()
    results(neighbors)
    assert history.count() == {"victim": 2, **dict.fromkeys(labels("a", 3), 1 if how == "exit" else 2)}


@pytest.mark.parametrize(
    ("options", "task"),
    [((), "end_forked"), (("--threads", "3"), "end_forked"), (("--async", "3"), "end_forked_beside")],
    ids=["alone", "threads", "async"],
)
def test_signals_of_a_forked_process_are_its_own(lab: Lab, laned: Any, options: tuple[str, ...], task: str) -> None:
    """SIGTERM ends what a handler has forked, as it ends any process, and nobody else: the coroutines beside it go on."""
    start(lab, "--processes", "1", *options)
    gate, history = lab.gate(), lab.history()
    neighbor = laned.pause.submit(history.path, "neighbor", gate.path) if options else None
    if neighbor is not None:
        history.await_start("neighbor")
    ended = [getattr(laned, task).submit(WITHIN / 4).result(timeout=WITHIN) for _ in range(3)]
    assert ended == [signal.SIGTERM] * 3
    gate.open()
    if neighbor is not None:
        neighbor.result(timeout=WITHIN)
        assert history.count() == {"neighbor": 1}
        assert history.labels("shutdown") == []


def test_a_lane_ends_whatever_was_forked_in_it(lab: Lab, laned: Any) -> None:
    """Its job runs again at once, and not when the last process has gone that holds the lane's descriptors."""
    start(lab, "--processes", "1", "--threads", "3")
    history = lab.history()
    assert laned.leave_fork.submit(history.path, "victim").result(timeout=WITHIN) == "victim"
    assert history.count() == {"victim": 2}


def test_the_soft_limit_of_one_is_not_that_of_others(lab: Lab, laned: Any) -> None:
    """It is raised where that coroutine waits; its neighbor goes on."""
    start(lab, "--processes", "1", "--async", "5")
    gate, history = lab.gate(), lab.history()
    patient = laned.pause.submit(history.path, "patient", gate.path)
    hasty = laned.pause.options(timeout=0.3).submit(history.path, "hasty", gate.path)
    with pytest.raises(SoftTimeLimit, match=r"0\.3 s"):
        hasty.result(timeout=WITHIN)
    assert history.labels("soft") == ["hasty"]
    gate.open()
    patient.result(timeout=WITHIN)


def test_the_hard_limit_of_one_repeats_others(lab: Lab, laned: Any) -> None:
    """A coroutine that does not let go of the loop is killed with its process: it fails, and its neighbors run again."""
    start(lab, "--processes", "1", "--async", "5")
    gate, history = lab.gate(), lab.history()
    neighbor = laned.pause.submit(history.path, "neighbor", gate.path)
    history.await_start("neighbor")
    with pytest.raises(TimeoutError, match="hard_timeout"):
        laned.block.submit(history.path, "blocker").result(timeout=WITHIN)
    gate.open()
    neighbor.result(timeout=WITHIN)
    assert history.count() == {"neighbor": 2, "blocker": 1}


def test_what_a_coroutine_leaves_ends_with_it(lab: Lab, laned: Any) -> None:
    """Before its job has ended, and whatever runs beside it."""
    start(lab, "--processes", "1", "--async", "5")
    gate, history = lab.gate(), lab.history()
    beside = laned.pause.submit(history.path, "beside", gate.path)
    history.await_start("beside")
    laned.leave.submit(history.path, "tidy").result(timeout=WITHIN)
    assert history.labels("left") == ["tidy"]
    gate.open()
    beside.result(timeout=WITHIN)


def test_a_worker_that_ends_at_once_interrupts_coroutines(lab: Lab, laned: Any) -> None:
    """Each where it waits, and puts things in order; they run again elsewhere, uncounted."""
    worker = start(lab, "--processes", "1", "--async", "5")
    gate, history = lab.gate(), lab.history()
    jobs = laned.pause.submit_many([(history.path, label, gate.path) for label in labels("a", 3)])
    history.await_start(*labels("a", 3))
    pids = family(worker.pid)
    worker.stop()
    await_gone(pids)
    assert sorted(history.labels("shutdown")) == labels("a", 3)
    gate.open()
    start(lab, "--processes", "1", "--async", "5")
    results(jobs)
    assert {mark.attempt for mark in history.marks()} == {1}


@pytest.mark.alone  # dozens of processes of its own
def test_recursion_of_coroutines_lends_lanes(lab: Lab) -> None:
    """Two lanes, and two dozen jobs of which half wait for each other."""
    with connected("lends", lab) as lends:
        lab.ready_worker("--processes", "1", "--async", "2", target="lends.py")
        assert lends.afib.submit(6).result(timeout=2 * WITHIN) == 8


@pytest.mark.parametrize("option", ["--burst", "--max-jobs=4"])
def test_options_hold(lab: Lab, laned: Any, option: str) -> None:
    """A burst ends when all is done; a process is replaced as a whole."""
    history = lab.history()
    jobs = [laned.pause.submit(history.path, label) for label in labels("a", 12)]
    worker = lab.worker("--processes", "1", "--async", "3", option, target="laned.py")
    pids = {pid for pid, _, _ in results(jobs)}
    if option == "--burst":
        assert worker.wait() == 0
    else:
        assert len(pids) >= 2
    assert set(history.count().values()) == {1}


@pytest.mark.parametrize("options", [("--async", "201"), ("--threads", "0"), ("--async", "2", "--isolate")])
def test_what_makes_no_sense_is_said(file_lab: Lab, options: tuple[str, ...]) -> None:
    """The worker does not start."""
    worker = file_lab.worker(*options, target="laned.py")
    assert worker.wait() == 1
    assert "at a time" in worker.said or "--isolate" in worker.said


def test_a_program_asks_for_lanes(lab: Lab, laned: Any) -> None:
    """Its worker beside it has them, on memory:// as well."""
    for url in (lab.url, f"memory://{lab.namespace}"):
        history, gate = lab.history(f"history-{len(url)}"), lab.gate(f"gate-{len(url)}")
        laned.dispatcher.configure(broker=url)
        with laned.dispatcher.workers(processes=1, asynchronous=20):
            jobs = laned.pause.submit_many([(history.path, label, gate.path) for label in labels("a", 20)])
            history.await_start(*labels("a", 20))
            gate.open()
            assert len({loop for _, loop, _ in results(jobs)}) == 1
