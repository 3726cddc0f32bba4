"""How a worker runs jobs: retries, time limits, its options, signals, and what it sets aside."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING, Any

import msgpack
import pytest

from queuelib import Dispatcher, JobQuarantined, SoftTimeLimit
from queuelib.bundle import outgoing
from queuelib.envelope import decode, encode
from queuelib.ids import Key, job_id, new_bundle_id
from queuelib.message import Bundle
from tests.integration.lab import WITHIN, Lab, await_gone, results
from tests.waiting import eventually

if TYPE_CHECKING:
    from queuelib import Job


# One slow, many quick


def test_slow_job_holds_nobody_back(served: Lab) -> None:
    """One slow and 100 quick jobs on two children: all quick ones are done while the slow one still runs."""
    gate, history = served.gate(), served.history()
    rows = [(history.path, "slow", gate.path), *((history.path, f"q{i}") for i in range(100))]
    slow, *quick = served.deeds.mark.submit_many(rows)
    assert results(quick) == [f"q{i}" for i in range(100)]
    assert "slow" not in history.labels("finish")
    gate.open()
    assert slow.result(timeout=WITHIN) == "slow"
    assert set(history.count().values()) == {1}


def test_slow_job_behind_quick_ones_gives_up_its_tail(served: Lab) -> None:
    """A job that was handed over among quick ones and turns out slow does not keep those behind it."""
    gate, history = served.gate(), served.history()
    results(served.deeds.mark.submit_many([(history.path, f"w{i}") for i in range(200)]))
    rows = [(history.path, f"q{i}", gate.path if i == 20 else "") for i in range(100)]
    jobs = served.deeds.mark.submit_many(rows)
    assert results(jobs[:20] + jobs[21:]) == [f"q{i}" for i in range(100) if i != 20]
    gate.open()
    assert jobs[20].result(timeout=WITHIN) == "q20"


def test_large_arguments_behind_busy_children_do_not_stop_the_worker(served: Lab) -> None:
    """What a busy child cannot read yet waits in the worker, which goes on with its clock, its leases and its signals."""
    gate, history = served.gate(), served.history()
    results(served.deeds.mark.submit_many([(history.path, f"w{i}") for i in range(100)]))
    results(served.deeds.size_of.submit_many([(b"x",)] * 100))
    blocked = served.deeds.mark.submit_many([(history.path, "a", gate.path), (history.path, "b", gate.path)])
    history.await_start("a", "b")
    large = served.deeds.size_of.submit_many([(bytes(200 * 1024),)] * 20)
    eventually(lambda: {job.state for job in blocked} == {"running"}, within=5.0)
    gate.open()
    assert results(large) == [200 * 1024] * 20


# Retries


def test_failed_job_is_retried_with_back_off(served: Lab) -> None:
    """A job is tried again up to `retries` times; each run knows the number of its attempt."""
    history = served.history()
    assert served.deeds.flaky.submit(history.path, "third", 2).result(timeout=WITHIN) == 3
    assert [mark.attempt for mark in history.marks("start")] == [1, 2, 3]


def test_job_that_always_fails_ends_failed(served: Lab) -> None:
    """When the retries are used up the last error stands."""
    history = served.history()
    job = served.deeds.flaky.submit(history.path, "never", 99)
    with pytest.raises(ValueError, match="attempt 4"):
        job.result(timeout=WITHIN)
    assert job.state == "failed"
    assert [mark.attempt for mark in history.marks("start")] == [1, 2, 3, 4]


def test_retry_of_one_member_leaves_its_bundle_alone(served: Lab) -> None:
    """Of jobs that travel together only the failing ones run again, under their own ids."""
    history = served.history()
    jobs = served.deeds.flaky.submit_many([(history.path, f"f{i}", int(i % 50 == 7)) for i in range(400)])
    assert results(jobs) == [2 if i % 50 == 7 else 1 for i in range(400)]
    assert {label: n for label, n in history.count().items() if n > 1} == {f"f{i}": 2 for i in range(7, 400, 50)}


def test_handler_asks_for_a_retry_with_a_delay(served: Lab) -> None:
    """`raise Retry(delay)` runs the job again after that delay; with no retries left it is a failure."""
    history = served.history()
    assert served.deeds.again_after.submit(history.path, "again", 0.5).result(timeout=WITHIN) == 2
    first, second = history.marks("start")
    assert 0.45 <= second.at - first.at < 2.5
    job = served.deeds.again_after.options(retries=0).submit(history.path, "once", 0.1)
    assert "retry" in str(job.exception(timeout=WITHIN)).lower()
    assert history.count()["once"] == 1


@pytest.mark.parametrize(("task", "error"), [("hopeless", KeyError), ("picky", ValueError)])
def test_errors_that_are_not_retried(served: Lab, task: str, error: type[Exception]) -> None:
    """What `give_up_on` names and what `retry_for` does not name fails at once."""
    history = served.history()
    with pytest.raises(error, match="x"):
        getattr(served.deeds, task).submit(history.path, "x").result(timeout=WITHIN)
    assert history.count()["x"] == 1


# Time limits


def test_soft_limit_is_raised_in_the_handler(served: Lab) -> None:
    """The handler sees SoftTimeLimit, may clean up, and the job fails with it; the same child goes on."""
    history = served.history()
    job = served.deeds.dawdle.options(timeout=0.2).submit(history.path, "soft")
    with pytest.raises(SoftTimeLimit, match=r"0\.2 s"):
        job.result(timeout=WITHIN)
    started, softened = history.marks()
    assert softened.what == "soft"
    assert 0.15 <= softened.at - started.at < 1.0
    assert started.pid in {child for child, _ in results(served.deeds.whereabouts.submit_many([()] * 30))}


def test_soft_limit_may_retry(served: Lab) -> None:
    """A soft limit is a failure like another: with retries left the job runs again."""
    history = served.history()
    job = served.deeds.dawdle.options(timeout=0.2, retries=1, backoff=0.0).submit(history.path, "soft")
    assert job.result(timeout=WITHIN) == "soft"
    assert [mark.attempt for mark in history.marks("start")] == [1, 2]


def test_soft_limit_in_a_coroutine(served: Lab) -> None:
    """It sees it where it waits, and has put things in order before its job runs again."""
    history = served.history()
    job = served.deeds.idle.options(timeout=0.2, retries=1, backoff=0.0).submit(history.path, "soft")
    assert job.result(timeout=WITHIN) == "soft"
    assert [(mark.what, mark.attempt) for mark in history.marks()] == [("start", 1), ("soft", 1), ("start", 2)]


def test_hard_limit_kills_and_may_retry(served: Lab) -> None:
    """A handler that does not listen is killed at its hard limit; that is a failure, may retry, and is no death."""
    history, task = served.history(), served.deeds.dawdle
    limited = task.options(timeout=0.2, hard_timeout=0.5)
    job = limited.submit(history.path, "killed", is_stubborn=True)
    with pytest.raises(TimeoutError, match=r"hard_timeout of 0\.5 s"):
        job.result(timeout=WITHIN)
    assert job.state == "failed"
    again = task.options(hard_timeout=0.4, retries=1, backoff=0.0).submit(history.path, "again", is_stubborn=True)
    assert again.result(timeout=WITHIN) == "again"
    first, second = [mark for mark in history.marks("start") if mark.label == "again"]
    assert first.pid != second.pid
    assert (first.attempt, second.attempt) == (1, 2)
    assert second.at - first.at < 2.5


# Options of the command


def test_burst_ends_when_nothing_is_left(lab: Lab) -> None:
    """A worker with --burst runs all there is, retries included, and ends with status 0."""
    history = lab.history()
    jobs = lab.deeds.mark.submit_many([(history.path, f"b{i}") for i in range(300)])
    worker = lab.worker("--burst", "--processes", "2", "--name", "burster")
    assert worker.wait() == 0
    assert results(jobs, within=5.0) == [f"b{i}" for i in range(300)]
    assert "burster" in worker.said
    assert lab.worker("--burst", "--processes", "1").wait() == 0  # and with nothing to do at all


def test_max_jobs_replaces_children(lab: Lab) -> None:
    """With --max-jobs no child runs more than that many, and nothing runs twice."""
    history = lab.history()
    jobs = lab.deeds.mark.submit_many([(history.path, f"j{i}") for i in range(40)])
    assert lab.worker("--burst", "--processes", "2", "--max-jobs", "4").wait() == 0
    assert results(jobs, within=5.0) == [f"j{i}" for i in range(40)]
    assert set(history.count().values()) == {1}
    by_child = [sum(mark.pid == pid for mark in history.marks("start")) for pid in {m.pid for m in history.marks()}]
    assert max(by_child) <= 4
    assert len(by_child) >= 10


def test_max_memory_replaces_children(lab: Lab) -> None:
    """With --max-memory a child that has grown beyond it is replaced after its job, and others are not."""
    history = lab.history()
    lab.worker("--processes", "1", "--max-memory", "250M")
    for i, size_bytes in enumerate([0, 0, 300 * 1024**2, 0, 0]):
        assert lab.deeds.hoard.submit(history.path, f"h{i}", size_bytes).result(timeout=WITHIN) == f"h{i}"
    pids = [mark.pid for mark in history.marks("start")]
    assert pids == [pids[0]] * 3 + [pids[3]] * 2
    assert pids[2] != pids[3]
    await_gone([pids[0]])


def test_isolate_runs_each_job_in_a_process_of_its_own(lab: Lab) -> None:
    """With --isolate no two jobs share a process."""
    history = lab.history()
    jobs = lab.deeds.mark.submit_many([(history.path, f"i{i}") for i in range(30)])
    assert lab.worker("--burst", "--processes", "2", "--isolate").wait() == 0
    assert results(jobs, within=5.0) == [f"i{i}" for i in range(30)]
    assert len({mark.pid for mark in history.marks("start")}) == 30


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_signal_drains(lab: Lab, number: signal.Signals) -> None:
    """SIGTERM, like Ctrl-C: what runs finishes, nothing more starts, the worker ends with status 0 and leaves nothing."""
    gate, history = lab.gate(), lab.history()
    running = lab.deeds.mark.submit(history.path, "running", gate.path)
    worker = lab.worker("--processes", "1")
    history.await_start("running")
    queued = lab.deeds.mark.submit_many([(history.path, f"q{i}") for i in range(5)])
    worker.signal(number)
    worker.await_word("once more")
    gate.open()
    assert worker.wait() == 0
    assert running.result(timeout=WITHIN) == "running"
    assert history.labels() == ["running"]
    assert {job.state for job in queued} == {"queued"}
    await_gone({mark.pid for mark in history.marks()})
    assert lab.dispatcher.open_results().workers() == []


def test_second_signal_gives_back_uncounted(lab: Lab) -> None:
    """A second signal interrupts at once; the job goes back, as often as it may happen, without a death or an attempt."""
    gate, history = lab.gate(), lab.history()
    jobs = lab.deeds.mark.submit_many([(history.path, "a", gate.path), (history.path, "b", gate.path)])
    pairs = [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)]
    for times, (first, second) in enumerate(pairs, 1):
        worker = lab.worker("--processes", "2")
        history.await_start("a", "b", times=times)
        worker.signal(first)
        worker.await_word("once more")
        began = time.monotonic()
        worker.signal(second)
        assert worker.wait() == 0
        assert time.monotonic() - began < 3.0
    gate.open()
    lab.worker("--processes", "2")
    assert results(jobs) == ["a", "b"]
    assert {mark.attempt for mark in history.marks("start")} == {1}
    assert sorted(history.labels("finish")) == ["a", "b"]


def test_a_coroutine_sees_the_end_of_its_worker(lab: Lab) -> None:
    """It has its two seconds as any handler has, and its job goes back."""
    history = lab.history()
    job = lab.deeds.idle.submit(history.path, "long")
    worker = lab.worker("--processes", "1")
    history.await_start("long")
    assert worker.stop() == 0
    assert history.labels("shutdown") == ["long"]
    eventually(lambda: job.state == "queued", within=5.0)


def test_grace_interrupts_by_itself(lab: Lab) -> None:
    """With --grace one signal is enough: what still runs after it is given back."""
    gate, history = lab.gate(), lab.history()
    job = lab.deeds.mark.submit(history.path, "long", gate.path)
    worker = lab.worker("--processes", "1", "--grace", "0.3s")
    history.await_start("long")
    worker.signal(signal.SIGTERM)
    assert worker.wait(5.0) == 0
    eventually(lambda: job.state == "queued", within=WITHIN)
    gate.open()
    lab.worker("--processes", "1")
    assert job.result(timeout=WITHIN) == "long"


def test_interrupted_job_of_over_a_second_is_queued_again(lab: Lab) -> None:
    """A job that was shown as running is queued after its worker was interrupted."""
    gate, history = lab.gate(), lab.history()
    job = lab.deeds.mark.submit(history.path, "long", gate.path)
    worker = lab.worker("--processes", "1")
    history.await_start("long")
    eventually(lambda: job.state == "running", within=5.0)
    assert worker.stop() == 0
    eventually(lambda: job.state == "queued", within=5.0)


# What nobody can run


def test_what_cannot_be_run_is_set_aside_with_its_reason(lab: Lab) -> None:
    """Garbage, truncated envelopes, unknown tasks and newer versions are quarantined, and the jobs between them run."""
    good = [lab.deeds.square.submit(i) for i in range(3)]
    stranger = _submit_unknown(lab)
    frame = _frame()
    newer = msgpack.packb([99, *msgpack.unpackb(frame)[1:]])
    lab.publish_raw([b"", b"garbage", frame[: len(frame) // 2], frame[:-1], msgpack.packb({"a": 1}), newer])
    good += [lab.deeds.square.submit(i) for i in range(3, 6)]
    assert lab.worker("--burst", "--processes", "2", "--unknown-for", "0").wait() == 0
    assert results(good, within=5.0) == [0, 1, 4, 9, 16, 25]
    items = [json.loads(line) for line in lab.queuelib("failed", "ls", "--json").splitlines()]
    reasons = sorted(item["reason"] for item in items)
    assert sum(reason.startswith("undecodable") for reason in reasons) == 5, reasons
    assert sum("nobody.knows" in reason for reason in reasons) == 1, reasons
    assert sum("99" in reason for reason in reasons) == 1, reasons
    with pytest.raises(JobQuarantined, match="nobody.knows"):
        stranger.result(timeout=WITHIN)
    assert stranger.state == "quarantined"
    assert stranger.id in {item["id"] for item in items}


def test_unknown_task_and_newer_version_are_given_back_first(lab: Lab) -> None:
    """Within the hour that a deploy may take, neither is set aside: the worker gives them back and says so."""
    stranger = _submit_unknown(lab)
    lab.publish_raw([msgpack.packb([99, *msgpack.unpackb(_frame())[1:]])])
    worker = lab.ready_worker("--processes", "1")
    eventually(lambda: worker.said.count("goes back") == 2, within=WITHIN)
    assert lab.deeds.square.submit(2).result(timeout=WITHIN) == 4
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert lab.queuelib("failed", "ls", "--json") == ""
    assert stranger.state in {"queued", "scheduled"}


def test_unknown_task_is_retried_on_request(lab: Lab) -> None:
    """`failed retry` puts it back under its own id, for a worker that knows the task by then."""
    bundle = _bundle("deeds.square", lab.deeds.square._definition.schema, (6,))
    unknown = Bundle(bundle.id, "nobody.knows", "yellow", 1, range(1), bundle.column)
    lab.open_lane().publish([outgoing(unknown)], 5.0)
    name = job_id(bundle.id, 0)
    assert lab.worker("--burst", "--processes", "1", "--unknown-for", "0").wait() == 0
    assert name in lab.queuelib("failed", "ls")
    assert "queued again" in lab.queuelib("failed", "retry", "--all")
    assert lab.queuelib("failed", "ls", "--json") == ""
    assert lab.worker("--burst", "--processes", "1", "--unknown-for", "0").wait() == 0
    assert name in lab.queuelib("failed", "ls")


def test_unreadable_item_cannot_be_retried(lab: Lab) -> None:
    """Bytes that cannot be read stay where they are, with a message, until they are dropped."""
    lab.publish_raw([b"garbage"])
    assert lab.worker("--burst", "--processes", "1").wait() == 0
    (item,) = [json.loads(line) for line in lab.queuelib("failed", "ls", "--json").splitlines()]
    place = ("--broker", lab.url, "--namespace", lab.namespace)
    refused = lab.run("-m", "queuelib", "failed", "retry", item["id"], *place)
    assert refused.returncode == 1
    assert "cannot be queued again" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert item["id"] in lab.queuelib("failed", "ls")
    assert "1 dropped" in lab.queuelib("failed", "drop", "--all")
    assert "nothing is set aside" in lab.queuelib("failed", "ls")


def test_namespaces_do_not_see_each_other(lab: Lab) -> None:
    """What one namespace queues, sets aside and announces another on the same server does not see."""
    lab.publish_raw([b"garbage"])
    assert lab.worker("--burst", "--processes", "1").wait() == 0
    other = Dispatcher(lab.url, namespace=lab.namespace + "x")
    try:
        ours = lab.dispatcher.open_results()
        assert len(ours.quarantined()) == 1
        assert other.open_results().quarantined() == []
        with lab.dispatcher.workers(processes=1):
            assert len(ours.workers()) == 1
            assert other.open_results().workers() == []
    finally:
        other.close()


def _submit_unknown(lab: Lab) -> Job[Any]:
    other = Dispatcher(lab.url, namespace=lab.namespace)

    @other.task(name="nobody.knows")
    def stranger(x: int) -> int:
        return x

    job = stranger.submit(1)
    other.close()
    return lab.dispatcher.job(job.id)


def _bundle(task: str, schema: Any, arguments: tuple[Any, ...]) -> Bundle:
    column = schema.pack_rows([arguments])
    return Bundle(new_bundle_id(time.time()), task, "yellow", 1, range(1), column, schema=schema.hash)


def _frame() -> bytes:
    frame = encode(Bundle(new_bundle_id(time.time()), "deeds.square", "yellow", 1, range(1), b"\x91\x91\x01"))
    assert Key(decode(frame).id, 0)
    return frame
