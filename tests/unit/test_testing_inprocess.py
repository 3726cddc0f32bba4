"""Jobs run in the thread of a test: by the real worker without its processes, on a clock that stands still."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import pytest

from queuelib import (
    Dispatcher,
    EncodeError,
    Executor,
    JobQuarantined,
    JobTimeout,
    QueuelibError,
    RemoteError,
    Retry,
    UnknownJob,
    current_job,
)
from queuelib.testing import FakeClock, InProcess, in_process, inprocess

seen: list[Any] = []
shade: ContextVar[str] = ContextVar("shade", default="none")
dispatcher = Dispatcher("redis://production.example/0", results="redis://production.example/1", namespace="kit")
other = Dispatcher("memory://kit-other")


@dispatcher.task(name="kit.note")
def note(value: Any) -> Any:
    seen.append(value)
    return value


@dispatcher.task(name="kit.flaky", retries=3, backoff=10)
def flaky(failures: int) -> str:
    seen.append(current_job().attempt)
    if current_job().attempt <= failures:
        raise ValueError(f"attempt {current_job().attempt}")
    return "well"


@dispatcher.task(name="kit.add_up")
def add_up(count: int) -> int:
    return sum(note.submit(i).result() for i in range(count))


@dispatcher.task(name="kit.wait_for")
def wait_for(id: str) -> Any:  # noqa: A002
    return dispatcher.job(id).result()


@dispatcher.task(name="kit.asleep")
async def asleep(value: int) -> int:
    await asyncio.sleep(0)
    return value


@dispatcher.task(name="kit.awaits")
async def awaits(count: int) -> int:
    return sum(await asyncio.gather(*[asleep.submit(i) for i in range(count)]))


@dispatcher.task(name="kit.leave")
def leave() -> None:
    seen.append("leave")
    raise SystemExit(3)


@dispatcher.task(name="kit.interrupt")
def interrupt() -> None:
    raise KeyboardInterrupt


@dispatcher.task(name="kit.again")
def again() -> None:
    again.submit()


@dispatcher.task(name="kit.describe")
def describe() -> str:
    return shade.get()


@dispatcher.task(name="kit.pass_on")
def pass_on(value: str) -> None:
    heard.submit(value)


@other.task(name="kit.heard")
def heard(value: str) -> None:
    seen.append(f"heard {value}")


@pytest.fixture
def run() -> Iterator[InProcess]:
    seen.clear()
    with in_process([dispatcher]) as one:
        yield one


def test_nothing_runs_before_it_is_asked_for(run: InProcess) -> None:
    """Jobs are queued, and then run in their order, once."""
    jobs = [note.submit(i) for i in range(20)]
    assert seen == []
    assert {job.state for job in jobs} == {"queued"}
    assert run() == jobs
    assert seen == list(range(20))
    assert run() == []


def test_what_a_job_submits_runs_too(run: InProcess) -> None:
    """A run ends when nothing is left."""
    job = add_up.submit(3)
    assert len(run()) == 4
    assert job.result() == 3


def test_arguments_travel_as_they_do_to_a_worker(run: InProcess) -> None:
    """A handler gets a copy: it cannot change what the caller holds, and what no message can carry is refused."""
    value = {"tags": ("a", "b")}
    job = note.submit(value)
    value["tags"] = ("c", "d")
    run()
    assert seen == [{"tags": ["a", "b"]}]
    assert job.result() is not seen[0]
    with pytest.raises(EncodeError):
        note.submit(object())


def test_a_result_that_cannot_travel_fails_the_job(run: InProcess) -> None:
    """As it would on a worker."""
    with in_process([local := Dispatcher("memory://x")]) as locally:
        job = local.task(name="kit.bad")(object).submit()
        with pytest.raises(RemoteError, match="EncodeError"):
            locally()
        assert job.state == "failed"


def test_large_arguments_and_results_pass(run: InProcess) -> None:
    """Larger than any buffer between a worker and its child, one and many at once, as far as messages go."""
    large = note.submit("x" * 10_000_000)
    jobs = [note.submit("y" * 500_000) for _ in range(10)]
    run()
    assert len(large.result()) == 10_000_000
    assert [len(job.result()) for job in jobs] == [500_000] * 10


def test_a_retry_waits_until_the_clock_has_moved(run: InProcess) -> None:
    """Back-off is real, on the clock of the test, and nobody sleeps."""
    job = flaky.submit(2)
    assert run() == []
    assert (job.state, seen) == ("retrying", [1])
    assert run() == []
    run.clock.advance(10)
    run()
    assert seen == [1, 2]
    run.clock.advance(timedelta(seconds=20))
    assert run() == [job]
    assert (job.result(), seen) == ("well", [1, 2, 3])


def test_delays_can_be_skipped(run: InProcess) -> None:
    """The clock goes to whatever is due next, until nothing is left; each job runs at its time."""
    start = run.clock.now
    late, early = note.options(delay=3600).submit("late"), note.options(delay=60).submit("early")
    assert run(skip_delays=True) == [early, late]
    assert seen == ["early", "late"]
    assert run.clock.now == pytest.approx(start + 3600)


def test_days_may_be_skipped(run: InProcess) -> None:
    """Results are kept for a day of that time, too: what failed before is raised all the same."""
    bad = flaky.options(retries=0, delay=24 * 3600).submit(9)
    good = note.options(delay=7 * 24 * 3600).submit("good")
    with pytest.raises(ValueError, match="attempt 1"):
        run(skip_delays=True)
    assert good.result() == "good"
    with pytest.raises(UnknownJob):
        bad.result()


def test_a_delayed_job_is_due_to_the_second(run: InProcess) -> None:
    """Not a moment before."""
    job = note.options(delay=60).submit(1)
    run.clock.advance(59.99)
    assert (run(), job.state) == ([], "scheduled")
    run.clock.advance(0.011)
    assert run() == [job]


def test_a_failure_is_raised(run: InProcess) -> None:
    """All has run by then; the first failure is raised as the client would see it, and the others are named."""
    bad = [flaky.options(retries=0).submit(9) for _ in range(2)]
    good = note.submit("good")
    with pytest.raises(ValueError, match="attempt 1") as caught:
        run()
    assert seen == [1, 1, "good"]
    notes = "\n".join(caught.value.__notes__)
    assert bad[0].id in notes
    assert bad[1].id in notes
    assert good.id not in notes


def test_failures_may_be_left_to_the_test(run: InProcess) -> None:
    """Then they are among the jobs that ended."""
    job = flaky.options(retries=0).submit(9)
    assert run(check=False) == [job]
    assert isinstance(job.exception(), ValueError)


def test_a_failure_that_somebody_asked_for_is_theirs(run: InProcess) -> None:
    """A handler that bears the failure of its child is not failed by it."""

    @dispatcher.task(name="kit.bears")
    def bears() -> str:
        error = flaky.options(retries=0).submit(9).exception()
        return repr(error)

    try:
        job = bears.submit()
        run()
        assert job.result() == "ValueError('attempt 1')"
    finally:
        del dispatcher.definitions["kit.bears"]


def test_whoever_waits_has_it_run(run: InProcess) -> None:
    """`result`, `wait`, `gather`, `as_completed` and `map` need no call of run, and run in this thread."""
    assert note.submit(1).result() == 1
    assert note.submit(2).wait(timeout=5)
    jobs = [note.submit(i) for i in range(3, 6)]
    assert dispatcher.gather(jobs) == [3, 4, 5]
    assert list(dispatcher.as_completed(jobs)) == jobs
    assert list(note.map(range(6, 400))) == list(range(6, 400))
    assert seen == list(range(1, 400))


def test_whoever_watches_is_told(run: InProcess) -> None:
    """As on any `memory://`, where nobody asks 20 times a second: from Python 3.12 on a protocol is looked for in classes."""
    assert inspect.getattr_static(run.dispatchers[0].outcomes.open_results(), "listen", None) is not None


def test_an_executor_needs_no_call_of_run(run: InProcess) -> None:
    """Its futures and its maps run, of tasks and of pickled functions, as somebody expects of a pool."""
    local = Dispatcher("memory://kit-pool", allow_pickle=True)
    double = local.task(name="kit.double")(lambda x: 2 * x)
    with in_process([local]), Executor(local) as pool:
        assert pool.submit(double, 1).result(timeout=20) == 2
        assert pool.submit(lambda: 3).result(timeout=20) == 3
        assert list(pool.map(lambda x: -x, range(3))) == [0, -1, -2]


def test_handlers_run_in_the_thread_that_asks(run: InProcess) -> None:
    """A database's transaction, a debugger and a patch are where the test is."""
    local = Dispatcher("memory://kit-thread")
    ident = local.task(name="kit.ident")(lambda: threading.get_ident())  # noqa: PLW0108 - a builtin has no signature
    with in_process([local]) as locally:
        job = ident.submit()
        locally()
        assert job.result() == threading.get_ident()


def test_a_handler_may_wait_for_its_neighbors(run: InProcess) -> None:
    """Also for one in the same message, and for one that itself waits."""
    last = note.submit("last")
    for _ in range(3):
        last = wait_for.submit(last.id)
    assert last.result() == "last"
    jobs = note.submit_many([(i,) for i in range(600)])
    first = wait_for.submit(jobs[-1].id)
    assert first.result() == 599
    run()


def test_jobs_that_wait_for_each_other_do_not_hang(run: InProcess) -> None:
    """What can never come is an error at once, in the handler that waits."""
    delayed = note.options(delay=600).submit(1)
    job = wait_for.submit(delayed.id)
    with pytest.raises(RemoteError, match=r"scheduled, and nothing is left .*advance\(600\)"):
        run()
    assert job.state == "failed"


def test_waiting_for_what_is_not_due_says_what_to_do(run: InProcess) -> None:
    """No test waits for a time that nobody moves; it says how far to move it."""
    job = note.options(delay=59.5).submit(1)
    with pytest.raises(JobTimeout, match=r"queuelib_clock\.advance\(59\.5\)"):
        job.result()
    assert not job.wait(timeout=30)
    run.clock.advance(59.5)
    assert job.result() == 1


def test_coroutines_run_in_a_loop_of_their_own(run: InProcess) -> None:
    """Also where they wait for each other, and where the test is a coroutine itself."""
    assert asleep.submit(7).result() == 7
    assert awaits.submit(5).result(timeout=20) == 10

    async def test() -> tuple[int, int]:
        first = asleep.submit(1)
        run()
        return first.result(), await awaits.submit(4)

    assert asyncio.run(test()) == (1, 6)


def test_other_threads_may_wait(run: InProcess) -> None:
    """As a program under test does that has threads of its own: each job runs once."""
    results: list[Any] = []
    jobs = [note.submit(i) for i in range(8)]
    threads = [threading.Thread(target=lambda job=job: results.append(job.result(timeout=20))) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(8))
    assert sorted(seen) == list(range(8))


def test_sys_exit_is_the_death_of_a_child(run: InProcess) -> None:
    """The job runs again, and after three deaths it is set aside."""
    job = leave.submit()
    with pytest.raises(JobQuarantined, match="3 processes died"):
        run()
    assert seen == ["leave"] * 3
    assert job.state == "quarantined"
    assert note.submit("on").result() == "on"


def test_an_interruption_ends_the_test() -> None:
    """Ctrl-C in a handler is not its outcome; the dispatcher is as before, whatever happened."""
    with pytest.raises(KeyboardInterrupt), in_process([dispatcher]) as run:
        interrupt.submit()
        run()
    assert dispatcher.broker_url == "redis://production.example/0"
    assert dispatcher.results_url == "redis://production.example/1"
    assert "publish" not in vars(dispatcher)


def test_cancelled_and_expired_jobs_do_not_run(run: InProcess) -> None:
    """At any time before their start, however soon after another run."""
    for _ in range(3):
        cancelled, expired = note.submit(1), note.options(expires=5).submit(2)
        cancelled.cancel()
        run.clock.advance(6)
        run()
        assert (cancelled.state, expired.state) == ("cancelled", "expired")
    assert seen == []


def test_urgent_jobs_run_first(run: InProcess) -> None:
    """Colors are what they are on a worker."""
    for color in ("green", "yellow", "red"):
        note.options(color=color).submit(color)
    run()
    assert seen == ["red", "yellow", "green"]


def test_context_variables_do_not_cross(run: InProcess) -> None:
    """A handler that needs what a request left in one would fail on a worker, and fails here."""
    token = shade.set("of a request")
    try:
        assert describe.submit().result() == "none"
    finally:
        shade.reset(token)
    with pytest.raises(QueuelibError, match="outside of a worker"):
        current_job()


def test_several_dispatchers_have_servers_of_their_own() -> None:
    """A handler of one may submit to another, and all run."""
    seen.clear()
    with in_process([dispatcher, other]) as run:
        pass_on.submit("news")
        assert len(run()) == 2
        assert dispatcher.broker_url != other.broker_url
    assert seen == ["heard news"]
    assert other.broker_url == "memory://kit-other"


def test_nothing_of_a_test_is_left_for_the_next(run: InProcess) -> None:
    """A queued job goes with its test; the project's own broker has heard of nothing."""
    heard.submit("for the project's own broker")
    with in_process([other]) as first:
        heard.submit("left")
        assert first.dispatchers == (other,)
    with in_process([other]) as second:
        assert second() == []
    with other.workers(processes=1):
        heard.submit("last").result(timeout=20)
    other.close()
    assert seen == ["heard for the project's own broker", "heard last"]


def test_nothing_runs_once_the_block_has_ended() -> None:
    """Least of all what is queued on the dispatcher's own broker, which it is connected with again."""
    seen.clear()
    local = Dispatcher("memory://kit-own")
    keep = local.task(name="kit.keep")(seen.append)
    with in_process([local]) as run:
        left = keep.submit("left")
        results = local.open_results()
    keep.submit("for the project's own worker")
    with pytest.raises(RuntimeError, match="has ended"):
        run()
    with pytest.raises(JobTimeout, match="has ended"):
        run.wait_for(results, [left.key], 1.0)
    assert run.run_until(results, [left.key]) is False
    local.close()
    assert seen == []


def test_a_thread_that_waits_when_the_block_ends_is_told() -> None:
    """A handler there, too: it ends before the block does, so that what it submits does not reach the real broker."""
    local = Dispatcher("memory://kit-waits")
    waits = threading.Event()
    told: list[str] = []

    @local.task(name="kit.never")
    def never() -> None:
        raise AssertionError

    @local.task(name="kit.waits")
    def wait_in_vain() -> None:
        job = never.options(delay=3600).submit()
        waits.set()
        try:
            job.result()
        except JobTimeout:
            told.append("handler")
            raise

    def ask(job: Any) -> None:
        with pytest.raises(JobTimeout, match="has ended"):
            job.result()
        told.append("thread")

    with in_process([local]):
        thread = threading.Thread(target=ask, args=(wait_in_vain.submit(),))
        thread.start()
        assert waits.wait(20)
    assert told[:1] == ["handler"]
    thread.join()
    assert told == ["handler", "thread"]


def test_a_handler_that_outlasts_the_block_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be killed; what it works with goes once it has ended."""
    monkeypatch.setattr(inprocess, "_LEAVE_WITHIN", 0.0)
    local = Dispatcher("memory://kit-outlasts")
    runs, gate = threading.Event(), threading.Event()

    @local.task(name="kit.outlasts")
    def outlast() -> None:
        runs.set()
        assert gate.wait(20)
        seen.append("outlasted")

    def ask(job: Any) -> None:
        with pytest.raises(JobTimeout, match="has ended"):
            job.result()

    seen.clear()
    with in_process([local]):
        thread = threading.Thread(target=ask, args=(outlast.submit(),))
        thread.start()
        assert runs.wait(20)
    assert seen == []
    gate.set()
    thread.join()
    assert seen == ["outlasted"]


def test_a_task_that_submits_itself_is_stopped(run: InProcess) -> None:
    """With the reason, and not by the patience of whoever waits for the test."""
    again.submit()
    with pytest.raises(RuntimeError, match="more than 50 jobs"):
        run(limit=50)


def test_tasks_may_be_defined_on_the_way() -> None:
    """A test that defines its own may do so after a first run."""
    with in_process([local := Dispatcher("memory://kit-local")]) as run:
        assert run() == []
        first = local.task(name="kit.first")(lambda: 1)
        assert first.submit().result() == 1
        second = local.task(name="kit.second")(lambda: 2)
        assert second.submit().result() == 2


def test_signed_and_encrypted_messages_are() -> None:
    """Keys stay what they are: what is signed in production is signed in tests."""
    local = Dispatcher("memory://kit-signed", key="k1/aes:" + "s" * 43)
    double = local.task(name="kit.double", at_most_once=True)(lambda: 2)
    with in_process([local]):
        assert double.submit().result() == 2


def test_a_handler_may_ask_for_another_time(run: InProcess) -> None:
    """`Retry(delay)` counts on the clock of the test."""
    local = Dispatcher("memory://kit-retry")

    @local.task(name="kit.later", retries=1)
    def later() -> int:
        if current_job().attempt == 1:
            raise Retry(delay=3600)
        return current_job().attempt

    with in_process([local]) as locally:
        job = later.submit()
        locally()
        locally.clock.advance(3599)
        assert (locally(), job.state) == ([], "retrying")
        locally.clock.advance(1)
        assert locally() == [job]


def test_the_clock_stands_and_never_goes_back() -> None:
    """It is moved by seconds or by a timedelta, forward."""
    clock = FakeClock(100.0)
    assert (clock.now, clock.clock.wall()) == (100.0, 100.0)
    assert clock.advance(timedelta(minutes=1)) == 160.0
    for wrong in (-1, float("nan")):
        with pytest.raises(ValueError, match="does not go back"):
            clock.advance(wrong)
    assert clock.now == 160.0
