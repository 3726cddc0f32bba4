"""What handlers know of their jobs, tell, save and draw, from end to end on every broker."""

from __future__ import annotations

import signal
import time

import numpy as np
import pytest

from queuelib import CancelledError
from queuelib.ids import Key
from tests.integration.lab import WITHIN, Lab, results
from tests.waiting import eventually

_AFTER_A_DEATH = 45.0  # seconds: a lease of 15 s has to be seen expired


def state_of(lab: Lab, key: Key) -> bytes | None:
    """Return what is stored as the state of a job."""
    return lab.dispatcher.read_state(key)


def numbers(seed: int, count: int) -> list[list[float]]:
    """Return what a serial loop draws."""
    seeds = [np.random.SeedSequence(seed, spawn_key=(i,)) for i in range(count)]
    return [[float(x) for x in np.random.default_rng(one).random(3)] for one in seeds]


# What a handler knows


def test_context_is_the_running_job(served: Lab) -> None:
    """A parameter annotated Context is the job that runs, wherever it stands, and no argument of a call."""
    job = served.deeds.introspect.submit(1, y=3)
    assert job.result(timeout=WITHIN) == [1, 3, True, job.id, served.deeds.introspect.name, 1, None]
    (job,) = served.deeds.introspect.submit_many([(5,)])
    assert job.result(timeout=WITHIN)[:4] == [5, 2, True, job.id]
    job = served.deeds.introspect_at_await.submit(7)
    assert job.result(timeout=WITHIN) == [7, True, job.id]


def test_visitors_have_one_too(served: Lab) -> None:
    """A method of a visitor asks for it in the same way."""
    job = served.dispatcher.submit(served.deeds.Question("who?"))
    assert job.result(timeout=WITHIN) == ["who?", job.id]


def test_each_job_of_a_bundle_has_its_own(served: Lab) -> None:
    """However many travel together."""
    jobs = served.deeds.introspect.submit_many([(i,) for i in range(400)])
    assert [(row[0], row[3]) for row in results(jobs)] == [(i, job.id) for i, job in enumerate(jobs)]


# What it tells


def test_progress_reaches_the_client(served: Lab) -> None:
    """The newest comes while the job runs, though it was told at once after others; the last one is there at the end."""
    gate = served.gate()
    job = served.deeds.tell.submit(gate.path, 1000)
    eventually(lambda: job.progress is not None and job.progress.done == 1000, within=WITHIN)
    progress = job.progress
    assert progress is not None
    assert (progress.total, progress.message) == (1001, "step 1000")
    assert abs(progress.time - time.time()) < 60
    assert not job.done()
    gate.open()
    assert job.result(timeout=WITHIN) == 1000
    assert job.progress is not None
    assert job.progress[:3] == (1001, 1001, "")


def test_who_tells_nothing_has_no_progress(served: Lab) -> None:
    """Nothing is made up."""
    job = served.deeds.square.submit(3)
    assert job.result(timeout=WITHIN) == 9
    assert job.progress is None


def test_progress_of_many_quick_jobs(served: Lab) -> None:
    """Each of them has told its last word, though they run in one process, one after the other."""
    jobs = served.deeds.tell.submit_many([("", 1 + i % 5) for i in range(60)])
    assert results(jobs) == [1 + i % 5 for i in range(60)]
    assert [job.progress.done for job in jobs if job.progress is not None] == [2 + i % 5 for i in range(60)]


# What it saves


@pytest.mark.parametrize("how", ["child", "retry", "error"])
def test_another_attempt_goes_on_from_the_state(served: Lab, how: str) -> None:
    """What was saved is there for the next run, whatever ended the last one; when the job has ended it goes."""
    history = served.history()
    job = served.deeds.resume.submit(history.path, how, how)
    runs = [0, 1, 2] if how == "child" else [0, 1, 2, 3]
    assert job.result(timeout=WITHIN) == runs
    assert history.count()[how] == len(runs)
    eventually(lambda: state_of(served, job.key) is None, within=WITHIN)


def test_what_was_saved_survives_the_worker(lab: Lab) -> None:
    """With wait=True it is stored when `save` returns: a worker and its child killed at that moment lose nothing."""
    lab.ready_worker("--processes", "1")
    history = lab.history()
    job = lab.deeds.resume.submit(history.path, "whole", "whole worker")
    history.await_start("whole")
    lab.ready_worker("--processes", "1")
    assert job.result(timeout=_AFTER_A_DEATH) == [0, 2]
    eventually(lambda: state_of(lab, job.key) is None, within=WITHIN)


def test_what_was_saved_survives_a_stop(lab: Lab) -> None:
    """A worker that gives a running job back has stored its state before."""
    first = lab.ready_worker("--processes", "1")
    gate, history = lab.gate(), lab.history()
    job = lab.deeds.save_and_wait.submit(history.path, "given-back", gate.path)
    history.await_start("given-back")
    assert first.stop() == 0
    gate.open()
    lab.ready_worker("--processes", "1")
    assert job.result(timeout=_AFTER_A_DEATH) == [1, 2]


# Stopping what runs


def test_a_running_job_is_stopped(served: Lab) -> None:
    """It is interrupted wherever it is, and ends as cancelled; a coroutine at its await."""
    history = served.history()
    for label, job in (
        ("sleeper", served.deeds.long.submit(history.path, "sleeper", "never ask")),
        ("waiter", served.deeds.long_at_await.submit(history.path, "waiter")),
    ):
        history.await_start(label)
        job.cancel(running=True)
        with pytest.raises(CancelledError):
            job.result(timeout=WITHIN)
        assert job.state == "cancelled"
        assert history.count("caught")[label] == 1
    assert served.deeds.square.submit(4).result(timeout=WITHIN) == 16


def test_a_handler_may_end_otherwise(served: Lab) -> None:
    """One that catches the interruption has the result that it returns, and has seen that it was cancelled."""
    history = served.history()
    job = served.deeds.long.submit(history.path, "catcher", "catch")
    history.await_start("catcher")
    job.cancel(running=True)
    assert job.result(timeout=WITHIN) == "catcher: True"
    assert history.count("caught")["catcher"] == 1


def test_what_has_not_started_is_cancelled_as_well(lab: Lab) -> None:
    """Asking for both ends a job in whichever state it is; and without asking for it, what runs goes on."""
    job = lab.deeds.square.submit(3)
    job.cancel(running=True)
    gate, history = lab.gate(), lab.history()
    other = lab.deeds.mark.submit(history.path, "goes-on", gate.path)
    lab.ready_worker("--processes", "1")
    with pytest.raises(CancelledError):
        job.result(timeout=WITHIN)
    history.await_start("goes-on")
    other.cancel()
    gate.open()
    assert other.result(timeout=WITHIN) == "goes-on"


# What it draws


def test_a_seed_gives_the_numbers_of_a_serial_loop(served: Lab) -> None:
    """Job i of a call draws the same bits, by `map`, `submit_many`, a group, one by one, and when it is retried."""
    draw = served.deeds.draw
    assert list(draw.options(seed=7).map([False] * 300)) == numbers(7, 300)
    assert results(draw.options(seed=8).submit_many([(i % 7 == 0,) for i in range(100)])) == numbers(8, 100)
    assert draw.options(seed=9).submit(fails=False).result(timeout=WITHIN) == numbers(9, 1)[0]


def test_without_a_seed_each_job_has_its_own_numbers(served: Lab) -> None:
    """They come from its id: no two jobs share them, and a retry draws them again."""
    jobs = served.deeds.draw.submit_many([(i % 2 == 0,) for i in range(50)])
    rows = results(jobs)
    assert len({tuple(row) for row in rows}) == 50
    for job, row in zip(jobs, rows, strict=True):
        seed = np.random.SeedSequence(int.from_bytes(job.key.bundle, "big"), spawn_key=(job.key.index,))
        assert row == [float(x) for x in np.random.default_rng(seed).random(3)]


# Ctrl-C


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("how", ["gather", "as_completed", "map"])
def test_ctrl_c(file_lab: Lab, how: str, times: int) -> None:
    """Once, what has not started is cancelled and what runs is waited for; twice, that is stopped too. Then it raises."""
    worker = file_lab.ready_worker("--processes", "1")
    history, gate = file_lab.history(), file_lab.gate()
    program = file_lab.start("interrupted.py", how, history.path, gate.path)
    history.await_start("0")
    eventually(lambda: "id " in program.said, within=WITHIN)
    first = file_lab.dispatcher.job(program.said.partition("id ")[2].split()[0])
    eventually(lambda: first.state == "running", within=WITHIN)
    program.signal(signal.SIGINT)
    program.await_word("what has not started is cancelled")
    if times == 2:
        program.signal(signal.SIGINT)
    else:
        program.await_word("To come back to them: dispatcher.job(")
        assert "still running: 1," in program.said
        assert first.id in program.said
        gate.open()
    assert program.wait() == 3, program.said
    assert "KeyboardInterrupt came" in program.said
    if times == 2:
        with pytest.raises(CancelledError):
            first.result(timeout=WITHIN)
    else:
        assert first.result(timeout=WITHIN) == "0"
    assert history.count() == {"0": 1}
    worker.stop()
