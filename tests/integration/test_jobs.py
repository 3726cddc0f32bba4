"""Submitting jobs and getting their results, from end to end: real workers, on every broker."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from queuelib import (
    CancelledError,
    Dispatcher,
    Job,
    JobExpired,
    JobTimeout,
    RemoteError,
    UnknownJob,
    UnknownTask,
)
from queuelib.ids import job_id, new_bundle_id
from tests.integration.lab import WITHIN, Gate, Lab, let_pass, results
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def both_children_busy(lab: Lab) -> Iterator[Gate]:
    """Keep the two children of the standing worker occupied for the block."""
    gate, history = lab.gate("busy-gate"), lab.history("busy")
    jobs = lab.deeds.mark_red.submit_many([(history.path, "a", gate.path), (history.path, "b", gate.path)])
    history.await_start("a", "b")
    try:
        yield gate
    finally:
        gate.open()
        results(jobs)


# Submitting


def test_submitted_job_runs_in_another_process_and_its_result_comes_back(served: Lab) -> None:
    """A job runs in a child of the worker, and its value is that of the plain call."""
    job = served.deeds.square.submit(7)
    assert isinstance(job, Job)
    assert job.result(timeout=WITHIN) == served.deeds.square(7) == 49
    assert job.state == "succeeded"
    child, supervisor = served.deeds.whereabouts.submit().result(timeout=WITHIN)
    assert len({child, supervisor}) == 2


def test_submit_many_returns_jobs_in_order(served: Lab) -> None:
    """`submit_many` gives one job a row, in order, each with an id of its own."""
    jobs = served.deeds.square.submit_many([(i,) for i in range(700)])
    assert len({job.id for job in jobs}) == 700
    assert served.dispatcher.gather(jobs, timeout=60) == [i * i for i in range(700)]


def test_messages_are_submitted_and_visited(served: Lab) -> None:
    """A typed message runs the visitor's method for its class, else the default branch; a mixed list keeps its order."""
    deeds = served.deeds
    mixed = [deeds.Genome("s", [1.0, 2.0]), deeds.Other(1), deeds.Genome("s", [4.0])]
    assert results(served.dispatcher.submit_many(mixed)) == [3.0, "Other", 4.0]
    assert served.dispatcher.submit(deeds.Other(2)).result(timeout=WITHIN) == "Other"
    with pytest.raises(UnknownTask, match="message"):
        served.dispatcher.submit(object())


def test_coroutine_handlers_run(served: Lab) -> None:
    """A coroutine function is a task like any other, and its loop serves the next call as well."""
    assert results(served.deeds.slowly.submit_many([(i,) for i in range(5)])) == [1, 2, 3, 4, 5]


def test_asubmit_and_await(served: Lab) -> None:
    """`asubmit` does not block the event loop, and a job can be awaited."""

    async def program() -> list[Any]:
        jobs = [await served.deeds.square.asubmit(i) for i in range(3)]
        return list(await asyncio.gather(*jobs))

    assert asyncio.run(program()) == [0, 1, 4]


def test_awaiting_a_failed_job_raises(served: Lab) -> None:
    """What the handler raised is raised where the job is awaited."""

    async def program() -> None:
        await (await served.deeds.fussy.asubmit(4))

    with pytest.raises(ValueError, match="not four"):
        asyncio.run(program())


# map


def test_map_is_ordered(served: Lab) -> None:
    """`map` yields the results of thousands of calls in the order of the arguments."""
    assert list(served.deeds.square.map(range(2500))) == [i * i for i in range(2500)]


def test_map_without_arguments_is_empty(served: Lab) -> None:
    """`map` over nothing yields nothing."""
    assert list(served.deeds.square.map([])) == []


def test_map_unordered_yields_pairs(served: Lab) -> None:
    """With ordered=False every result comes once, with its index."""
    pairs = list(served.deeds.square.map(range(300), ordered=False))
    assert sorted(pairs) == [(i, i * i) for i in range(300)]


def test_map_is_lazy_on_its_result_side(served: Lab) -> None:
    """A consumer sees the first results while a later call still runs."""
    gate, history = served.gate(), served.history()
    gates = [gate.path if i == 6 else "" for i in range(8)]
    stream = served.deeds.mark.map([history.path] * 8, [f"m{i}" for i in range(8)], gates)
    assert [next(stream) for _ in range(6)] == [f"m{i}" for i in range(6)]
    assert "m6" not in history.labels("finish")
    gate.open()
    assert list(stream) == ["m6", "m7"]


def test_map_is_lazy_on_its_argument_side(served: Lab) -> None:
    """An endless generator of arguments is read a bounded number of items ahead."""
    read: list[int] = []

    def endless() -> Iterator[int]:
        for i in itertools.count():
            read.append(i)
            yield i

    stream = served.deeds.square.map(endless())
    assert [next(stream) for _ in range(20)] == [i * i for i in range(20)]
    stream.close()
    assert len(read) <= 10_000


@pytest.mark.parametrize("read", [0, 1], ids=["unread", "read"])
def test_closing_a_map_cancels_what_has_not_started(served: Lab, read: int) -> None:
    """What did not start before the generator was closed never starts, whether or not a result was read."""
    gate, history = served.gate(), served.history()
    labels = [f"m{i}" for i in range(40)]
    gates = ["" if i < read else gate.path for i in range(40)]
    stream = served.deeds.mark.map([history.path] * 40, labels, gates)
    with closing(stream):
        assert [next(stream) for _ in range(read)] == labels[:read]
        eventually(lambda: len(history.labels()) >= read + 2, within=WITHIN)  # both children stand before the gate
        started = set(history.labels())
    let_pass(0.1)  # workers read cancel marks every 20 ms
    gate.open()
    # Whoever comes later in the same queue runs when all that came before it has run or been dropped.
    assert served.deeds.mark.submit(history.path, "later").result(timeout=WITHIN) == "later"
    eventually(lambda: history.count("finish").keys() >= started, within=WITHIN)
    assert set(history.labels()) == {*started, "later"}


def test_cancel_reaches_jobs_that_a_child_was_handed(served: Lab) -> None:
    """A quick job waits in a child behind another; cancelled there, before its start, it does not start either."""
    gate, history = served.gate(), served.history()
    warm = served.deeds.mark_green.submit_many([(history.path, f"w{i}") for i in range(200)])
    results(warm)  # the worker knows by now that these are quick, and hands over many at once
    blocked = served.deeds.mark_green.submit_many([(history.path, f"b{i}", gate.path) for i in range(2)])
    history.await_start("b0", "b1")
    rest = served.deeds.mark_green.submit_many([(history.path, f"r{i}") for i in range(50)])
    let_pass(0.05)  # they are handed over
    for job in rest:
        job.cancel()
    let_pass(0.1)
    gate.open()
    results(blocked)
    assert [i for i, job in enumerate(rest) if not isinstance(job.exception(timeout=WITHIN), CancelledError)] == []
    assert not [label for label in history.labels() if label.startswith("r")]


def test_map_raises_at_the_failing_position(served: Lab) -> None:
    """What came before the failing call is yielded first, then its error is raised."""
    stream = served.deeds.fussy.map(range(1000))
    assert [next(stream) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="not four"):
        next(stream)
    assert list(stream) == []


# gather, as_completed, results


def test_gather_raises_the_first_failure_in_order(served: Lab) -> None:
    """`gather` returns values in order; a failure among them is raised."""
    jobs = served.deeds.fussy.submit_many([(i,) for i in range(6)])
    with pytest.raises(ValueError, match="not four"):
        served.dispatcher.gather(jobs, timeout=WITHIN)
    assert served.dispatcher.gather(jobs[:4], timeout=WITHIN) == [0, 1, 2, 3]


def test_as_completed_yields_jobs_as_they_end(served: Lab) -> None:
    """A job that waits at a gate comes last, whichever was submitted first; a limit of time is kept."""
    gate, history = served.gate(), served.history()
    slow = served.deeds.mark.submit(history.path, "slow", gate.path)
    quick = served.deeds.mark.submit_many([(history.path, f"q{i}") for i in range(5)])
    stream = served.dispatcher.as_completed([slow, *quick], timeout=WITHIN)
    assert {next(stream).result() for _ in range(5)} == {f"q{i}" for i in range(5)}
    with pytest.raises(JobTimeout):
        next(served.dispatcher.as_completed([slow], timeout=0.1))
    gate.open()
    assert [job.result() for job in stream] == ["slow"]


def test_result_timeout_leaves_the_job_alone(served: Lab) -> None:
    """`result(timeout)` raises JobTimeout in time and `wait` returns False; the job goes on and can be asked again."""
    gate, history = served.gate(), served.history()
    job = served.deeds.mark.submit(history.path, "slow", gate.path)
    began = time.monotonic()
    with pytest.raises(JobTimeout, match=job.id):
        job.result(timeout=timedelta(seconds=0.2))
    with pytest.raises(TimeoutError):
        job.exception(timeout=0.1)
    assert job.wait(timeout=0.1) is False
    assert time.monotonic() - began < 3.0
    assert not job.done()
    gate.open()
    assert job.wait(timeout=WITHIN) is True
    assert job.result() == "slow"
    assert job.done()
    assert job.exception() is None


def test_failure_is_raised_with_the_workers_traceback(served: Lab) -> None:
    """A builtin exception is raised as itself, and the traceback of the worker stands as its cause."""
    job = served.deeds.fussy.submit(4)
    with pytest.raises(ValueError, match="not four") as caught:
        job.result(timeout=WITHIN)
    assert "raise ValueError(msg)" in str(caught.value.__cause__)
    assert "execute.py" not in str(caught.value.__cause__)
    assert job.state == "failed"
    error = job.exception()
    assert type(error) is ValueError
    assert error.args == ("not four",)


def test_unknown_exception_is_a_remote_error(served: Lab) -> None:
    """A type that the client did not register is a RemoteError with its name, text and traceback; then it is itself."""
    job = served.deeds.odd.submit()
    with pytest.raises(RemoteError, match="OddError: how odd") as caught:
        job.result(timeout=WITHIN)
    assert caught.value.type_name == "deeds.OddError"
    assert "how odd" in caught.value.traceback_text
    served.dispatcher.register_exception(served.deeds.OddError)
    try:
        with pytest.raises(served.deeds.OddError, match="how odd"):
            job.result()
    finally:
        served.dispatcher._exceptions.clear()


def test_another_process_reads_a_result_twice(served: Lab) -> None:
    """Any process reads a result by the job's id, as often as it likes."""
    job = served.deeds.square.submit(12)
    assert job.result(timeout=WITHIN) == 144
    again = served.dispatcher.job(job.id)
    assert again == job
    assert [again.result(timeout=WITHIN) for _ in range(2)] == [144, 144]
    asked = served.run("ask.py", job.id)
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout) == [144, 144]


def test_another_dispatcher_waits_for_a_job_that_runs(served: Lab) -> None:
    """A client that did not submit the job waits for its end, and reads plain values without knowing the task."""
    gate, history = served.gate(), served.history()
    job = served.deeds.mark.submit(history.path, "shared", gate.path)
    other = Dispatcher(served.url, namespace=served.namespace)
    try:
        again = other.job(job.id)
        with pytest.raises(JobTimeout):
            again.result(timeout=0.2)
        gate.open()
        assert again.result(timeout=WITHIN) == "shared"
    finally:
        other.close()


def test_made_up_id_is_unknown_at_once(served: Lab) -> None:
    """An id that was mistyped or made up raises UnknownJob instead of waiting."""
    job = served.deeds.square.submit(3)
    bogus = job.id[:-6] + ("aaaaaa" if not job.id.endswith("aaaaaa") else "bbbbbb")
    for text in (bogus, "", "nonsense", job.id[:-1], job.id + "0", job.id.upper() + "G"):
        with pytest.raises(UnknownJob):
            served.dispatcher.job(text).result(timeout=WITHIN)
    with pytest.raises(LookupError):
        served.dispatcher.job(bogus)
    assert job.result(timeout=WITHIN) == 9


def test_well_formed_id_that_was_never_given_out(served: Lab) -> None:
    """SQLite and Redis know that nobody gave it out; RabbitMQ keeps no record and calls it queued, as documented."""
    stranger = served.dispatcher.job(job_id(new_bundle_id(time.time()), 0))
    if served.kind == "amqp":
        assert stranger.state == "queued"
        with pytest.raises(JobTimeout):
            stranger.result(timeout=0.3)
    else:
        with pytest.raises(UnknownJob):
            _ = stranger.state
        with pytest.raises(UnknownJob):
            stranger.result(timeout=WITHIN)


def test_index_beyond_the_bundle_is_unknown(served: Lab) -> None:
    """An id whose bundle exists but whose index is not in it is unknown."""
    if served.kind == "amqp":
        pytest.skip("RabbitMQ keeps no record of what was submitted (guarantees.md)")
    job = served.deeds.square.submit(3)
    assert job.result(timeout=WITHIN) == 9
    with pytest.raises(UnknownJob):
        _ = served.dispatcher.job(job_id(job.key.bundle, 5)).state


# Options


def test_delay_holds_a_job_back(served: Lab) -> None:
    """A delayed job is scheduled, does not start before its time, and starts within a second of it."""
    history = served.history()
    accepted = time.time()
    job = served.deeds.mark.options(delay=timedelta(seconds=0.6)).submit(history.path, "late")
    assert job.state in {"scheduled", "queued"}
    if served.kind != "amqp":
        assert job.state == "scheduled"
    assert served.deeds.mark.submit(history.path, "now").result(timeout=WITHIN) == "now"
    assert job.result(timeout=WITHIN) == "late"
    started = next(mark.at for mark in history.marks("start") if mark.label == "late")
    assert 0.6 <= started - accepted < 2.0


def test_expired_job_is_not_started(served: Lab) -> None:
    """What could not start before its expiry ends `expired` and says so."""
    history = served.history()
    with both_children_busy(served):
        job = served.deeds.mark.options(expires=0.1).submit(history.path, "stale")
        let_pass(0.15)
    with pytest.raises(JobExpired, match=job.id):
        job.result(timeout=WITHIN)
    assert job.state == "expired"
    assert history.labels() == []


def test_retries_and_timeout_are_options_of_a_call(served: Lab) -> None:
    """Options of a call replace those of the task, for that call only."""
    history = served.history()
    with pytest.raises(ValueError, match="attempt 1"):
        served.deeds.flaky.options(retries=0).submit(history.path, "once", 1).result(timeout=WITHIN)
    assert history.count()["once"] == 1
    assert served.deeds.flaky.submit(history.path, "twice", 1).result(timeout=WITHIN) == 2
    with pytest.raises(TimeoutError, match=r"0\.2 s"):
        served.deeds.dawdle.options(timeout=0.2).submit(history.path, "soft").result(timeout=WITHIN)
    assert history.labels("soft") == ["soft"]


# States and cancelling


def test_state_running_is_shown_after_a_second(served: Lab) -> None:
    """A job that lasts is `running` from its second second on, and `succeeded` at its end."""
    gate, history = served.gate(), served.history()
    job = served.deeds.mark.submit(history.path, "long", gate.path)
    history.await_start("long")
    eventually(lambda: job.state == "running", within=4.0)
    gate.open()
    assert job.result(timeout=WITHIN) == "long"
    assert job.state == "succeeded"


def test_state_retrying(served: Lab) -> None:
    """Between a failed attempt and the next a job is `retrying`."""
    history = served.history()
    job = served.deeds.again_after.submit(history.path, "later", 3.0)
    eventually(lambda: job.state == "retrying", within=4.0)
    assert job.result(timeout=WITHIN) == 2


def test_cancelled_while_queued(served: Lab) -> None:
    """A job that is cancelled before it starts never starts; its neighbor does."""
    history = served.history()
    with both_children_busy(served):
        job, other = served.deeds.mark.submit_many([(history.path, "dropped"), (history.path, "kept")])
        assert job.state == "queued"
        assert job.cancel() is None
        let_pass(0.1)  # workers read cancel marks every 20 ms
    with pytest.raises(CancelledError, match=job.id):
        job.result(timeout=WITHIN)
    assert job.state == "cancelled"
    assert isinstance(job.exception(), CancelledError)
    assert other.result(timeout=WITHIN) == "kept"
    assert history.labels() == ["kept"]


def test_cancel_of_a_finished_job_changes_nothing(served: Lab) -> None:
    """Once succeeded, always succeeded."""
    job = served.deeds.square.submit(5)
    assert job.result(timeout=WITHIN) == 25
    job.cancel()
    again = served.dispatcher.job(job.id)
    assert again.result(timeout=WITHIN) == 25
    assert again.state == "succeeded"


def test_cancel_of_a_running_job_lets_it_finish(served: Lab) -> None:
    """`cancel` comes too late for what has started."""
    gate, history = served.gate(), served.history()
    job = served.deeds.mark.submit(history.path, "started", gate.path)
    history.await_start("started")
    job.cancel()
    gate.open()
    assert job.result(timeout=WITHIN) == "started"


def test_many_that_were_cancelled_keep_nobody_waiting(lab: Lab) -> None:
    """A worker that took only what will never start takes more at once."""
    square = lab.deeds.square
    cancelled = [square.submit(i) for i in range(600)]
    lab.dispatcher.open_results().cancel([job.key for job in cancelled])
    job = square.submit(7)
    lab.worker()
    assert job.result(timeout=WITHIN) == 49
    assert {one.state for one in cancelled} == {"cancelled"}


def test_cancelled_before_any_worker_lives(lab: Lab) -> None:
    """A job cancelled while nobody serves it ends cancelled once a worker comes, and does not run."""
    history = lab.history()
    job, other = lab.deeds.mark.submit_many([(history.path, "dropped"), (history.path, "kept")])
    job.cancel()
    lab.worker("--processes", "1")
    assert other.result(timeout=WITHIN) == "kept"
    with pytest.raises(CancelledError):
        job.result(timeout=WITHIN)
    assert history.labels() == ["kept"]


def test_jobs_wait_for_a_worker(lab: Lab) -> None:
    """What is submitted while no worker lives is queued, and runs when one comes; leaving the block ends the worker."""
    jobs = lab.deeds.square.submit_many([(i,) for i in range(10)])
    assert {job.state for job in jobs} == {"queued"}
    with lab.dispatcher.workers(processes=1):
        assert results(jobs) == [i * i for i in range(10)]
    assert lab.dispatcher.open_results().workers() == []


# Nobody serves it


def test_client_says_once_that_nobody_serves_it(lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    """After 5 s without a worker the client says so on stderr: once, with the URL and the command that starts one."""
    with closing(Dispatcher(lab.url, namespace=lab.namespace)) as fresh:  # one that has not said it before
        jobs = fresh.task(lab.deeds.square.__wrapped__).submit_many([(1,), (2,)])
        with ThreadPoolExecutor(2) as pool:
            waits = [pool.submit(job.wait, 5.6) for job in jobs]
    assert [wait.result() for wait in waits] == [False, False]
    said = capfd.readouterr().err.splitlines()
    notices = [line for line in said if line.startswith("queuelib:")]
    assert len(notices) == 1, said
    assert "'deeds.square'" in notices[0]
    assert "'yellow'" in notices[0]
    assert "queuelib worker " in notices[0]
    assert str(sys.modules["deeds"].__file__) in notices[0]
    shown = lab.url.replace("guest:guest@", "guest:***@")
    assert shown in notices[0]


def test_nothing_is_said_while_somebody_serves_it(
    served: Lab, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow job of a live worker is no reason to say anything (white-box: the client looks after 0.3 s)."""
    monkeypatch.setattr("queuelib.job._NOTICE_AFTER", 0.3)
    gate, history = served.gate(), served.history()
    job = served.deeds.mark.submit(history.path, "slow", gate.path)
    assert job.wait(1.0) is False
    gate.open()
    assert job.wait(WITHIN)
    assert "queuelib:" not in capfd.readouterr().err
