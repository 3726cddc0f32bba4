"""Jobs that wait for others, from end to end: groups, chains, chords and graphs, and what becomes of them in every trouble."""

from __future__ import annotations

import math
import signal
import statistics
import time
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import pytest

from queuelib import CancelledError, Dispatcher, Job, JobExpired, JobTimeout, chain, chord, group, settled, topk
from queuelib.bundle import outgoing
from queuelib.errors import ArgumentError, InputError, JobLost, JobQuarantined, QueuelibError
from queuelib.workflow import Plan
from tests.integration.lab import WITHIN, Lab, clean, let_pass, results
from tests.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

# What goes well


def test_chain_hands_each_result_on(served: Lab) -> None:
    """Each step gets the result of the one before it as its first argument."""
    add, square = served.deeds.add, served.deeds.square
    assert chain(add.s(1, 2), square.s(), add.s(5)).submit().result(timeout=WITHIN) == 14


def test_group_returns_its_jobs_in_order(served: Lab) -> None:
    """A group gives one job a signature, with an id of its own; an empty one gives none."""
    jobs = group(served.deeds.square.s(i) for i in range(300)).submit()
    assert len({job.id for job in jobs}) == 300
    assert results(jobs) == [i * i for i in range(300)]
    assert group().submit() == []


def test_group_of_several_tasks_and_options(served: Lab) -> None:
    """Calls of a group need not be of one task, nor travel in one color."""
    deeds, history = served.deeds, served.history()
    jobs = group(
        deeds.square.s(3),
        deeds.mark_green.s(history.path, "green"),
        deeds.add.options(delay=0.05).s(1, y=6),
        chain(deeds.square.s(2), deeds.add.s()),
    ).submit()
    assert results(jobs) == [9, "green", 7, 5]


def test_chord_gives_all_results_to_its_callback(served: Lab) -> None:
    """The callback gets the list of the results, in order, and an empty header is an empty list."""
    square, total = served.deeds.square, served.deeds.total
    assert chord([square.s(i) for i in range(50)], total.s()).submit().result(timeout=WITHIN) == 40425
    assert chord(group(square.s(i) for i in range(5)), served.deeds.gather.s()).submit().result(WITHIN) == [
        0, 1, 4, 9, 16,
    ]  # fmt: skip
    assert chord([], total.s()).submit().result(timeout=WITHIN) == 0


def test_job_as_argument(served: Lab) -> None:
    """A job stands for its result, by position or by name, before its end as after it, and in a plain `submit`."""
    square, add = served.deeds.square, served.deeds.add
    first = square.submit(3)
    assert add.submit(first, y=first).result(timeout=WITHIN) == 18
    assert first.result(timeout=WITHIN) == 9
    assert add.submit(first, 1).result(timeout=WITHIN) == 10
    assert served.deeds.total.submit([first, square.s(2), first]).result(timeout=WITHIN) == 22


def test_job_of_another_process_as_argument(served: Lab) -> None:
    """The id is enough."""
    done = served.run("-c", "import deeds; print(deeds.square.submit(6).id); deeds.dispatcher.close()")
    assert done.returncode == 0, done.stderr
    other = served.dispatcher.job(done.stdout.strip())
    assert served.deeds.add.submit(other).result(timeout=WITHIN) == 37


def test_lists_of_lists(served: Lab) -> None:
    """A list that waits is an argument; the results of a group of groups come through a call for each of them."""
    gather, square = served.deeds.gather, served.deeds.square
    rows = [gather.s([square.s(10 * row + i) for i in range(3)]) for row in range(3)]
    assert gather.s(rows).submit().result(timeout=WITHIN) == [
        [(10 * row + i) ** 2 for i in range(3)] for row in range(3)
    ]


@pytest.mark.parametrize("shape", ["mixed", "list in list", "tail"])
def test_what_cannot_wait_is_said_at_submit(served: Lab, shape: str) -> None:
    """A list with a job deep inside or beside plain values is refused before anything is submitted."""
    square = served.deeds.square
    value = {"mixed": [1, square.s(1)], "list in list": [[square.s(1)]], "tail": [square.s(1), 1]}[shape]
    with pytest.raises((ArgumentError, QueuelibError)):
        served.deeds.gather.s(value).submit()


def test_diamond_runs_each_call_once(served: Lab) -> None:
    """A signature that stands in several places is one job."""
    gather, history = served.deeds.gather, served.history()
    top = gather.s(7, history.path, "top")
    left, right = gather.s(top, history.path, "left"), gather.s(top, history.path, "right")
    bottom = gather.s([left, right, top], history.path, "bottom")
    assert bottom.submit().result(timeout=WITHIN) == [7, 7, 7]
    assert history.count() == {"top": 1, "left": 1, "right": 1, "bottom": 1}


def test_chain_of_200_steps(served: Lab) -> None:
    """A long chain ends, each step once."""
    add, history = served.deeds.add, served.history()
    steps = [add.s(0), *[add.s() for _ in range(198)], served.deeds.gather.s(history.path, "end")]
    assert chain(*steps).submit().result(timeout=60) == 199
    assert history.labels() == ["end"]


def test_chord_of_2000_with_reduce(served: Lab) -> None:
    """The results are joined by workers, in order, 256 at a time."""
    header = [served.deeds.square.s(i) for i in range(2000)]
    job = chord(header, served.deeds.add.s(1), reduce=served.deeds.total).submit()
    assert job.result(timeout=60) == sum(i * i for i in range(2000)) + 1


def test_named_reductions(served: Lab) -> None:
    """They give what one look at all values gives, with or without a callback."""
    header = [served.deeds.halve.s(number) for number in range(1000)]
    halves = [number / 2 for number in range(1000)]
    jobs = {
        how: chord(header, reduce=how).submit()
        for how in ("sum", "min", "max", "mean", "variance", topk(3), topk(2, smallest=True))
    }
    assert jobs["sum"].result(timeout=60) == math.fsum(halves)
    assert (jobs["min"].result(timeout=60), jobs["max"].result(timeout=60)) == (0.0, 499.5)
    assert jobs["mean"].result(timeout=60) == pytest.approx(statistics.mean(halves), rel=1e-15)
    assert jobs["variance"].result(timeout=60) == pytest.approx(statistics.variance(halves), rel=1e-13)
    assert jobs[topk(3)].result(timeout=60) == [499.5, 499.0, 498.5]
    assert jobs[topk(2, smallest=True)].result(timeout=60) == [0.0, 0.5]
    assert chord(header[:10], served.deeds.halve.s(), reduce="sum").submit().result(timeout=60) == sum(halves[:10]) / 2


def test_arrays_are_reduced_element_by_element(served: Lab) -> None:
    """The mean of 300 arrays is an array."""
    header = [served.deeds.row.s(number) for number in range(300)]
    found = chord(header, reduce="mean").submit().result(timeout=60)
    assert np.array_equal(found, np.array([149.5, 299.0]))


def test_failures_in_place(served: Lab) -> None:
    """A callback that asks for them runs when all have ended, and gets a Failure for each that did not end well."""
    deeds = served.deeds
    members = [deeds.square.s(3), deeds.fussy.s(4), deeds.odd.s(), deeds.square.options(delay=5, expires=0.1).s(1)]
    job = chord(members, deeds.gather.s(), errors="pass").submit()
    first, fussy, odd, late = job.result(timeout=WITHIN)
    assert first == 9
    assert (fussy.state, fussy.type, fussy.message) == ("failed", "ValueError", "not four")
    assert (odd.type, odd.message) == ("deeds.OddError", "how odd")
    assert (late.state, late.type) == ("expired", "")
    assert isinstance(served.dispatcher.job(fussy.job).exception(timeout=WITHIN), ValueError)
    assert deeds.count_failures.s(settled([deeds.fussy.s(4), deeds.square.s(2)])).submit().result(timeout=WITHIN) == 1
    broken = deeds.count_failures.s([deeds.fussy.s(4), deeds.square.s(2)]).submit()
    assert isinstance(broken.exception(timeout=WITHIN), ValueError)


def test_failure_in_place_of_a_cancelled_and_a_quarantined_member(served: Lab, tmp_path: Path) -> None:
    """These, too; and where one alone is asked for, it is what is given."""
    deeds = served.deeds
    cancelled = deeds.square.options(delay=1.0).submit(3)
    cancelled.cancel()
    killed = deeds.deed.submit(str(tmp_path / "history"), "x", how="os-exit", times=9)
    jobs = [deeds.gather.s(settled(one)).submit() for one in (cancelled, killed)]
    found = [job.result(timeout=WITHIN) for job in jobs]
    assert [(failure.state, failure.job) for failure in found] == [
        ("cancelled", cancelled.id),
        ("quarantined", killed.id),
    ]
    assert "3 processes died" in found[1].message


def test_callback_is_queued_while_it_waits_and_has_its_first_attempt_then(served: Lab) -> None:
    """A job that waits is `queued`; nothing of it is counted as an attempt."""
    gate, history = served.gate(), served.history()
    member = served.deeds.mark.submit(history.path, "member", gate.path)
    job = served.deeds.gather.submit(member, history.path, "callback")
    history.await_start("member")
    assert job.state == "queued"
    with pytest.raises(JobTimeout):
        job.result(timeout=0.1)
    gate.open()
    assert job.result(timeout=WITHIN) == "member"
    assert [(mark.label, mark.attempt) for mark in history.marks("start")] == [("member", 1), ("callback", 1)]


def test_callback_is_retried_like_any_job(served: Lab) -> None:
    """Once its inputs are there it is a job like others, with its retries."""
    history = served.history()
    label = served.deeds.mark.s(history.path, "label")
    assert served.deeds.flaky.s(history.path, label, 2).submit().result(timeout=WITHIN) == 3
    assert history.count()["label"] == 4


def test_retried_member_counts_when_it_has_succeeded(served: Lab) -> None:
    """A member that fails twice before it succeeds is one result."""
    history = served.history()
    members = [served.deeds.flaky.s(history.path, f"m{i}", i) for i in range(3)]
    assert chord(members, served.deeds.gather.s(history.path, "callback")).submit().result(WITHIN) == [1, 2, 3]
    assert history.count()["callback"] == 1


def test_delay_counts_from_the_submission(served: Lab) -> None:
    """A callback does not start before its delay is over, however early its inputs are there."""
    history = served.history()
    accepted = time.time()
    late = served.deeds.gather.options(delay=0.8).s(served.deeds.square.s(3), history.path, "late").submit()
    assert served.deeds.add.submit(late).result(timeout=WITHIN) == 10
    (start,) = history.marks("start")
    assert start.at - accepted >= 0.8


# What goes wrong


def test_failed_member_fails_all_that_wait(served: Lab) -> None:
    """The callback does not run, nor what waits for it; all have the member's error, with its traceback."""
    gather, history = served.deeds.gather, served.history()
    header = [served.deeds.fussy.s(i) for i in range(8)]
    callback = gather.s(header, history.path, "callback")
    middle, last = group(callback, chain(callback, gather.s(history.path, "last"))).submit()
    for job in (middle, last):
        with pytest.raises(ValueError, match="not four") as caught:
            job.result(timeout=WITHIN)
        assert "raise ValueError(msg)" in str(caught.value.__cause__)
        assert job.state == "failed"
    assert history.labels() == []


def test_failure_does_not_wait_for_slower_members_that_come_later(served: Lab) -> None:
    """The first failure in order is enough."""
    gate, history = served.gate(), served.history()
    bad, slow = served.deeds.fussy.submit(4), served.deeds.mark.submit(history.path, "slow", gate.path)
    with pytest.raises(ValueError, match="not four"):
        served.deeds.gather.submit([bad, slow]).result(timeout=WITHIN)
    assert not slow.done()
    gate.open()
    assert slow.result(timeout=WITHIN) == "slow"


def test_result_that_does_not_fit_fails_with_its_path(served: Lab) -> None:
    """What a member returned is checked like an argument: the job fails and says where."""
    job = served.deeds.total.s([served.deeds.square.s(1), served.deeds.anything.s("two")]).submit()
    with pytest.raises(Exception, match=r"numbers\[1\]"):
        job.result(timeout=WITHIN)
    assert job.state == "failed"
    with pytest.raises(ArgumentError, match="y"):  # what is known already is checked at once
        served.deeds.add.s(served.deeds.square.s(1), "two").submit()


def test_cancelled_member(served: Lab) -> None:
    """A callback whose member was cancelled is cancelled."""
    gate, history = served.gate(), served.history()
    busy = served.deeds.mark_red.submit_many([(history.path, label, gate.path) for label in "ab"])
    history.await_start("a", "b")
    member, other = served.deeds.mark.submit_many([(history.path, "member"), (history.path, "other")])
    job = served.deeds.gather.submit([other, member], history.path, "callback")
    member.cancel()
    let_pass(0.1)  # workers read cancel marks every 20 ms
    gate.open()
    with pytest.raises(CancelledError):
        job.result(timeout=WITHIN)
    assert results([*busy, other]) == ["a", "b", "other"]
    assert job.state == "cancelled"
    assert "callback" not in history.labels()


def test_expired_member(served: Lab) -> None:
    """A callback whose member has expired has expired."""
    gate, history = served.gate(), served.history()
    busy = served.deeds.mark_red.submit_many([(history.path, label, gate.path) for label in "ab"])
    history.await_start("a", "b")
    member = served.deeds.mark.options(expires=0.1).submit(history.path, "member")
    job = served.deeds.gather.submit([member], history.path, "callback")
    let_pass(0.15)
    gate.open()
    with pytest.raises(JobExpired):
        job.result(timeout=WITHIN)
    results(busy)
    assert history.count() == {"a": 1, "b": 1}


def test_quarantined_member(served: Lab) -> None:
    """A callback whose member was set aside fails and says which job that is."""
    history = served.history()
    member = served.deeds.deed.submit(history.path, "killer", "kill", times=99)
    job = served.deeds.gather.submit(member, history.path, "callback")
    with pytest.raises(InputError, match=rf"{member.id}.*quarantined"):
        job.result(timeout=WITHIN)
    assert isinstance(member.exception(), JobQuarantined)
    assert "callback" not in history.labels()


def test_cancelled_callback(served: Lab) -> None:
    """A job that waits can be cancelled; its members go on."""
    gate, history = served.gate(), served.history()
    member = served.deeds.mark.submit(history.path, "member", gate.path)
    job = served.deeds.gather.submit(member, history.path, "callback")
    after = served.deeds.gather.submit(job, history.path, "after")
    history.await_start("member")
    job.cancel()
    for one in (job, after):
        with pytest.raises(CancelledError):
            one.result(timeout=WITHIN)
    assert not member.done()
    gate.open()
    assert member.result(timeout=WITHIN) == "member"
    assert history.labels() == ["member"]


def test_expired_callback(served: Lab) -> None:
    """A job whose time ends while it waits has expired, whatever its members do."""
    gate, history = served.gate(), served.history()
    member = served.deeds.mark.submit(history.path, "member", gate.path)
    job = served.deeds.gather.options(expires=0.3).submit(member, history.path, "callback")
    with pytest.raises(JobExpired, match=job.id):
        job.result(timeout=WITHIN)
    gate.open()
    assert member.result(timeout=WITHIN) == "member"
    assert history.labels() == ["member"]


# Workers and clients that come and go


def test_callback_of_a_task_that_only_another_worker_knows(lab: Lab) -> None:
    """Whoever waits for the inputs need not know the task."""
    gate, history, red = lab.gate(), lab.history(), lab.deeds.mark_red
    lab.ready_worker("--processes", "2", "--name", "older", "--colors", "red")
    member = red.submit(history.path, "member", gate.path)
    with closing(Dispatcher(lab.url, namespace=lab.namespace)) as other:
        newer = other.task(name="newer.mark")(lambda path, label: None)  # noqa: ARG005
        job = newer.s(history.path, other.job(member.id)).submit()
        assert red.s(history.path, red.s(history.path, "behind")).submit().result(timeout=WITHIN) == "behind"
        gate.open()
        lab.ready_worker("--processes", "1", "--name", "newer", "--colors", "yellow", NEWER="1")
        assert job.result(timeout=WITHIN) == "member"
    assert history.count() == {"behind": 2, "member": 2}


def test_worker_that_holds_waiting_jobs_is_killed(lab: Lab) -> None:
    """Another goes on with them, and each starts once."""
    gate, history = lab.gate(), lab.history()
    first = lab.ready_worker("--processes", "2", "--name", "first")
    member, jobs = _waiting(lab, gate.path)
    lab.ready_worker("--processes", "2", "--name", "second")
    first.kill()
    history.await_start("member", times=2)
    gate.open()
    assert results([member, *jobs]) == ["member"] * 21
    assert history.count() == {"member": 2} | {f"callback{i}": 1 for i in range(20)}


def test_worker_that_holds_waiting_jobs_is_asked_to_stop(lab: Lab) -> None:
    """It hands them back at once and does not wait for their inputs; each starts once, elsewhere."""
    gate, history = lab.gate(), lab.history()
    lab.ready_worker("--processes", "1", "--name", "other", "--colors", "red")
    member = lab.deeds.mark_red.submit(history.path, "member", gate.path)
    history.await_start("member")
    first = lab.ready_worker("--processes", "1", "--name", "first")
    jobs = lab.deeds.gather.submit_many([]) + [
        lab.deeds.gather.submit(member, history.path, f"callback{i}") for i in range(20)
    ]
    assert lab.deeds.add.submit(lab.deeds.square.s(1)).result(timeout=WITHIN) == 2  # behind all of them
    first.signal(signal.SIGTERM)
    assert first.wait() == 0
    lab.ready_worker("--processes", "1", "--name", "second")
    gate.open()
    assert results([member, *jobs]) == ["member"] * 21
    assert history.count() == {"member": 1} | {f"callback{i}": 1 for i in range(20)}


def test_callback_that_runs_at_most_once(lab: Lab) -> None:
    """Its start is on record whoever writes later: not even a death as it starts makes it start twice."""
    gate, history, red = lab.gate(), lab.history(), lab.deeds.mark_red
    slow = {"QUEUELIB_FAULT": "after_successor:1:sleep:1.0"}  # where that is a step of its own
    lab.ready_worker("--processes", "2", "--name", "red", "--colors", "red", **slow)
    member = red.submit(history.path, "member", gate.path)
    job = lab.deeds.once.s(history.path, member, str(lab.folder / "never")).submit()
    eventually(lambda: lab.open_lane().waiting(["inputs"]) == {"inputs": 0}, within=WITHIN)
    first = lab.ready_worker("--processes", "1", "--name", "first", "--colors", "yellow")
    gate.open()
    eventually(lambda: history.count()["member"] == 2, within=WITHIN)
    let_pass(1.5)  # until the red worker has written that it let the job go on
    first.kill()
    lab.ready_worker("--processes", "1", "--name", "second", "--colors", "yellow")
    with pytest.raises(JobLost):
        job.result(timeout=WITHIN)
    assert history.count()["member"] == 2


def test_client_is_gone_before_the_end(lab: Lab) -> None:
    """A workflow needs nobody but workers: it is submitted as a whole."""
    program = (
        "import deeds, queuelib, sys\n"
        "add, total = deeds.add, deeds.total\n"
        "rows = [queuelib.chain(add.s(i), add.s()) for i in range(10)]\n"
        "print(queuelib.chord(rows, total.s()).submit().id)\n"
        "deeds.dispatcher.close()\n"
    )
    done = lab.run("-c", program)
    assert done.returncode == 0, done.stderr
    lab.worker("--processes", "2")
    assert lab.dispatcher.job(done.stdout.strip()).result(timeout=READY + WITHIN) == 65


def test_burst_waits_for_what_it_holds(lab: Lab) -> None:
    """`--burst` does not end while a job that it holds waits, though nothing else is left in its queues."""
    gate, history = lab.gate(), lab.history()
    member = lab.deeds.mark_red.submit(history.path, "member", gate.path)
    job = chain(lab.deeds.gather.s(member), lab.deeds.gather.s(history.path, "callback")).submit()
    burst = lab.ready_worker("--processes", "1", "--burst", "--colors", "yellow")
    assert lab.deeds.add.submit(lab.deeds.square.s(1)).result(timeout=WITHIN) == 2  # behind both
    lab.ready_worker("--processes", "1", "--name", "other", "--colors", "red")
    history.await_start("member")
    let_pass(1.0)  # by now it would have ended, had it nothing in hand
    assert burst.process.poll() is None
    gate.open()
    assert burst.wait() == 0
    assert job.state == "succeeded"
    assert history.count() == {"member": 1, "callback": 1}


def test_burst_runs_a_workflow_to_its_end(lab: Lab) -> None:
    """All steps are there when it ends."""
    job = chain(lab.deeds.add.s(0), *[lab.deeds.add.s() for _ in range(20)]).submit()
    assert lab.worker("--processes", "2", "--burst").wait(READY + WITHIN) == 0
    assert job.state == "succeeded"
    assert job.result(timeout=WITHIN) == 21


def check_compositions(lab: Lab, dispatcher: Dispatcher) -> None:
    """Have the lab's tasks run as a chord of chains, and as one with a member that fails, by way of another dispatcher."""
    add, total, fussy = (
        dispatcher.task(name=f"deeds.{name}")(getattr(lab.deeds, name).__wrapped__)
        for name in ("add", "total", "fussy")
    )
    assert chord([chain(add.s(i), add.s()) for i in range(20)], total.s()).submit().result(WITHIN) == 230
    with pytest.raises(ValueError, match="not four"):
        chord([fussy.s(i) for i in range(5)], total.s()).submit().result(timeout=WITHIN)


def test_results_on_another_server(lab: Lab, redis_url: str) -> None:
    """Jobs wait on one server for results that are on another."""
    elsewhere = f"sqlite:///{lab.folder}/results.db" if lab.kind == "redis" else redis_url
    try:
        lab.ready_worker("--processes", "2", RESULTS=elsewhere)
        with closing(Dispatcher(lab.url, results=elsewhere, namespace=lab.namespace)) as dispatcher:
            check_compositions(lab, dispatcher)
    finally:
        if lab.kind != "redis":
            clean("redis", elsewhere, lab.namespace)


@pytest.mark.parametrize("key", ["one:a-secret-of-32-characters-or-more", "one/aes:a-secret-of-32-characters-or-more"])
def test_signed_and_encrypted(lab: Lab, key: str) -> None:
    """What waits, what it waits for and what it becomes are signed by whoever sends it; so with encryption."""
    lab.ready_worker("--processes", "2", QUEUELIB_KEY=key)
    with closing(Dispatcher(lab.url, namespace=lab.namespace, key=key)) as dispatcher:
        check_compositions(lab, dispatcher)


# Many


def test_more_wait_than_a_worker_holds(lab: Lab) -> None:
    """1,200 jobs that wait for one leave room for others all the time, and each runs."""
    gate, history = lab.gate(), lab.history()
    lab.ready_worker("--processes", "2")
    member = lab.deeds.gather.submit(5, history.path, "member", gate.path)
    history.await_start("member")
    jobs = group(lab.deeds.add.s(member, i) for i in range(1200)).submit()
    assert lab.deeds.square.submit(3).result(timeout=WITHIN) == 9
    gate.open()
    assert results(jobs) == [5 + i for i in range(1200)]


def test_what_they_wait_for_waits_behind_them(lab: Lab) -> None:
    """A worker full of jobs that wait for one behind them in the queue makes room for it."""
    add = lab.deeds.add
    lab.dispatcher.open_results()
    first = add.s(lab.deeds.square.s(2))
    calls = [add.s(first, i) for i in range(1100)]
    # A client would send them in their order, which redelivery may change.
    plan = Plan(lab.dispatcher.producer, lab.dispatcher.producer._bundler.bundle)
    placed = plan.place(calls)
    keys = lab.dispatcher.keys
    for bundles in (plan.plain, plan.waiting[::-1]):
        lab.dispatcher.publish([outgoing(bundle, keys) for bundle in bundles])
    lab.ready_worker("--processes", "2")
    jobs: list[Job[int]] = [Job(lab.dispatcher.outcomes, one.key, (one.task, one.color)) for one in placed]
    assert results(jobs, within=60) == [5 + i for i in range(1100)]


READY = 30.0  # seconds for a worker to start on a busy machine


def _waiting(lab: Lab, gate: str) -> tuple[Job[str], list[Job[str]]]:
    """Submit a job that waits at a gate and 20 that wait for it; return when the only worker holds them all."""
    history = lab.history()
    member = lab.deeds.mark.submit(history.path, "member", gate)
    history.await_start("member")
    jobs = [lab.deeds.gather.submit(member, history.path, f"callback{i}") for i in range(20)]
    # Whoever comes later in the same queue is over when all that came before it has been taken.
    assert lab.deeds.add.submit(lab.deeds.square.s(1)).result(timeout=WITHIN) == 2
    return member, jobs
