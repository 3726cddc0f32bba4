"""Waiting for many jobs, callbacks and awaiting, on memory://: the tests end the jobs themselves. White box for that."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import os
import signal
import threading
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest

from queuelib import Dispatcher, Job
from queuelib import body as bodies
from queuelib.codec import encode
from queuelib.errors import CancelledError, JobQuarantined, JobTimeout, QueuelibError, UnknownJob
from queuelib.ids import Key
from queuelib.outcome import CANCELLED, FAILED, QUARANTINED, SUCCEEDED, Record
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WITHIN = 10.0


class Place:
    """A dispatcher without workers, whose jobs end when the test says so."""

    def __init__(self, name: str) -> None:
        self.dispatcher = Dispatcher(f"memory://{name}")

        @self.dispatcher.task(name="double")
        def double(x: int) -> int:
            return 2 * x

        self._double = double

    def submit(self, size: int) -> list[Job[int]]:
        return [self._double.submit(i) for i in range(size)]

    def end(self, *jobs: Job[int], value: int = 0, state: str = SUCCEEDED, error: Exception | None = None) -> None:
        body = bodies.of_result("double", encode(value))
        if error is not None:
            state, body = FAILED, bodies.of_error("double", error)
        elif state != SUCCEEDED:
            body = bodies.of_failure("double", "", "set aside")
        self.dispatcher.open_results().store([Record(job.key, state, body=body) for job in jobs])

    def watched(self) -> int:
        return len(self.dispatcher.outcomes.watch)


@pytest.fixture
def place(namespace: str) -> Iterator[Place]:
    """A place of one's own; at its end nobody may watch anything any more."""
    place = Place(namespace)
    yield place
    gc.collect()
    eventually(lambda: place.watched() == 0, within=WITHIN)
    place.dispatcher.close()


@pytest.fixture
def other(namespace: str) -> Iterator[Place]:
    """Another one, of another dispatcher."""
    place = Place(f"{namespace}-other")
    yield place
    place.dispatcher.close()


# as_completed


def test_jobs_come_as_they_end(place: Place) -> None:
    """Whatever their order was, those that have ended already first; each once, however often it was given."""
    early, late, never = place.submit(3)
    place.end(early, value=1)
    stream = place.dispatcher.as_completed(iter([never, late, early, early]), timeout=WITHIN)
    assert next(stream) is early
    place.end(late, value=2)
    assert next(stream) is late
    assert (early.result(), late.result()) == (1, 2)
    place.end(never)
    assert list(stream) == [never]
    assert list(stream) == []


def test_jobs_are_added_while_it_runs(place: Place, other: Place) -> None:
    """Also when it had come to its end, when the job was yielded before, and when it is another dispatcher's."""
    first, second = place.submit(2)
    (third,) = other.submit(1)
    nothing: list[Job[int]] = []
    stream = place.dispatcher.as_completed(nothing)
    assert list(stream) == []
    place.end(first)
    stream.add(first)
    assert next(stream) is first
    stream.update([first, second, third])
    assert next(stream) is first
    other.end(third)
    assert next(stream) is third
    place.end(second)
    assert [job for job in stream] == [second]  # noqa: C416 - list() would ask for a length


def test_a_job_is_added_while_somebody_waits(place: Place) -> None:
    """What is added ends before all that was waited for."""
    slow, quick = place.submit(2)
    place.end(quick)
    stream, found = place.dispatcher.as_completed([slow], timeout=WITHIN), SimpleQueue[Job[int]]()
    waiter = threading.Thread(target=lambda: found.put(next(stream)))
    waiter.start()
    stream.add(quick)
    assert found.get(timeout=WITHIN) is quick
    waiter.join()
    place.end(slow)
    assert list(stream) == [slow]


def test_what_is_forgotten_is_not_watched(place: Place) -> None:
    """A loop that was left early, and a stream that was closed, leave nothing behind."""
    jobs = place.submit(3)
    place.end(jobs[0])
    for job in place.dispatcher.as_completed(jobs, timeout=WITHIN):
        assert job is jobs[0]
        break
    gc.collect()
    eventually(lambda: place.watched() == 0, within=WITHIN)
    stream = place.dispatcher.as_completed(jobs, timeout=WITHIN)
    stream.close()
    assert place.watched() == 0
    assert list(stream) == []


def test_whoever_waits_is_told_that_it_was_closed(place: Place) -> None:
    """A loop in another thread ends, however many there are and however long they have waited."""
    stream = place.dispatcher.as_completed(place.submit(2))
    found: SimpleQueue[list[Job[int]]] = SimpleQueue()
    for _ in range(2):
        threading.Thread(target=lambda: found.put(list(stream)), daemon=True).start()
    eventually(lambda: place.watched() == 2, within=WITHIN)
    stream.close()
    assert [found.get(timeout=WITHIN) for _ in range(2)] == [[], []]


def test_several_threads_read_one_stream(place: Place) -> None:
    """Each job goes to one of them, and all loops end with the last one; jobs that are added then make the next loop."""
    jobs = place.submit(3)
    stream = place.dispatcher.as_completed(jobs)
    found: SimpleQueue[list[Job[int]]] = SimpleQueue()
    for _ in range(4):
        threading.Thread(target=lambda: found.put(list(stream)), daemon=True).start()
    place.end(*jobs)
    assert {job for _ in range(4) for job in found.get(timeout=WITHIN)} == set(jobs)
    (late,) = place.submit(1)
    stream.add(late)
    place.end(late)
    assert list(stream) == [late]


def test_time_is_over_for_all_of_them(place: Place) -> None:
    """A timeout raises, says so, and lasts; what has ended by then is yielded even if no time was given at all."""
    ended, open_one = place.submit(2)
    place.end(ended)
    stream = place.dispatcher.as_completed([open_one, ended], timeout=0)
    assert next(stream) is ended
    for _ in range(2):
        with pytest.raises(JobTimeout, match=f"job {open_one.id} has not ended within 0 s; it goes on"):
            next(stream)
    place.end(open_one)
    assert next(stream) is open_one


def test_a_job_that_never_was_ends_the_stream(place: Place) -> None:
    """Its id says so where it is looked up, as for `job.result()`."""
    (job,) = place.submit(1)
    unknown = Job[int](place.dispatcher.outcomes, Key(bytes(16), 0))
    stream = place.dispatcher.as_completed([unknown, job], timeout=WITHIN)
    with pytest.raises(UnknownJob, match=unknown.id):
        list(stream)
    assert list(stream) == []
    with pytest.raises(UnknownJob):
        place.dispatcher.wait([unknown], timeout=WITHIN)


def test_what_was_set_aside_may_end_otherwise_yet(place: Place) -> None:
    """A quarantined job has ended, and is looked at again when its result is asked for: it may be released."""
    (job,) = place.submit(1)
    place.end(job, state=QUARANTINED)
    assert list(place.dispatcher.as_completed([job], timeout=WITHIN)) == [job]
    with pytest.raises(JobQuarantined):
        job.result()
    place.end(job, value=5)
    assert job.result() == 5


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_goes_on_with_its_parents_stream(place: Place) -> None:
    """It watches for itself: what the parent's thread tells is told in the parent."""
    (job,) = place.submit(1)
    stream = place.dispatcher.as_completed([job], timeout=WITHIN)
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)  # ends it
        place.dispatcher._connections._results = None  # memory:// is empty in a child; the record comes anew
        place.end(job)
        os._exit(0 if list(stream) == [job] else 1)
    assert os.waitpid(pid, 0)[1] == 0
    place.end(job)
    assert list(stream) == [job]


# wait


def test_wait_takes_the_constants_of_the_standard_library(place: Place) -> None:
    """They are text, and nothing else is taken."""
    (job,) = place.submit(1)
    place.end(job)
    for constant in (
        concurrent.futures.ALL_COMPLETED,
        concurrent.futures.FIRST_COMPLETED,
        concurrent.futures.FIRST_EXCEPTION,
    ):
        assert place.dispatcher.wait([job], WITHIN, constant) == ({job}, set())
    wrong: Any = "FIRST"
    with pytest.raises(ValueError, match="return_when is one of ALL_COMPLETED, .*, not 'FIRST'"):
        place.dispatcher.wait([job], WITHIN, wrong)


@pytest.mark.parametrize("return_when", ["ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"])
def test_wait_for_nothing(place: Place, return_when: Any) -> None:
    """It returns at once."""
    done, not_done = place.dispatcher.wait(iter([]), return_when=return_when)
    assert (done, not_done) == (set(), set())


def test_wait_says_what_has_ended_and_what_has_not(place: Place, other: Place) -> None:
    """At the end of its time too, which may be none at all; jobs may come twice and be of several dispatchers."""
    ended, failed, open_one = place.submit(3)
    (elsewhere,) = other.submit(1)
    place.end(ended)
    place.end(failed, error=ValueError("no"))
    other.end(elsewhere)
    jobs = [ended, open_one, elsewhere, failed, ended]
    for timeout in (0, 0.01):
        found = place.dispatcher.wait(iter(jobs), timeout)
        assert (found.done, found.not_done) == ({ended, elsewhere, failed}, {open_one})
    place.end(open_one)
    assert place.dispatcher.wait(jobs).not_done == set()


def test_wait_returns_at_the_first(place: Place) -> None:
    """FIRST_COMPLETED at the first ending, FIRST_EXCEPTION at the first that is neither a success nor cancelled."""
    open_one, good, cancelled, bad = place.submit(4)
    jobs = [open_one, good, cancelled, bad]
    place.end(good)
    assert place.dispatcher.wait(jobs, WITHIN, "FIRST_COMPLETED") == ({good}, {open_one, cancelled, bad})
    place.end(cancelled, state=CANCELLED)
    assert place.dispatcher.wait(jobs, 0.01, "FIRST_EXCEPTION") == ({good, cancelled}, {open_one, bad})
    place.end(bad, error=ValueError("no"))
    done, not_done = place.dispatcher.wait(jobs, WITHIN, "FIRST_EXCEPTION")
    assert bad in done
    assert open_one in not_done
    assert done | not_done == set(jobs)
    place.end(open_one)
    assert place.dispatcher.wait([open_one, good], WITHIN, "FIRST_EXCEPTION").not_done == set()


# gather


def test_gather_takes_jobs_of_several_dispatchers(place: Place, other: Place) -> None:
    """Each is looked up where it is; a job may come twice, and the jobs from a generator."""
    mine, theirs = place.submit(300), other.submit(300)
    place.end(*mine, value=1)
    other.end(*theirs, value=2)
    jobs = [job for pair in zip(mine, theirs, strict=True) for job in pair]
    assert place.dispatcher.gather(iter([*jobs, jobs[0]]), timeout=WITHIN) == [1, 2] * 300 + [1]
    assert asyncio.run(place.dispatcher.agather(iter([*jobs, jobs[0]]), timeout=WITHIN)) == [1, 2] * 300 + [1]
    assert place.dispatcher.gather([]) == asyncio.run(place.dispatcher.agather([])) == []


def test_only_jobs_are_waited_for(place: Place) -> None:
    """A signature that nobody has submitted, a future or a single job is named, and nothing is watched."""
    waits: list[Callable[[Any], object]] = [
        place.dispatcher.gather,
        place.dispatcher.wait,
        place.dispatcher.as_completed,
        lambda jobs: asyncio.run(place.dispatcher.agather(jobs)),
    ]
    (job,) = place.submit(1)
    for wait in waits:
        with pytest.raises(TypeError, match="jobs, as submit.* returns them, and not for a Future$"):
            wait([job, Future()])
    assert len(place.dispatcher.outcomes.watch) == 0


def test_agather_raises_the_first_failure_in_order(place: Place) -> None:
    """Not that of a job behind one that is still open; and a timeout like `gather`."""
    good, bad, worse, open_one = place.submit(4)
    place.end(good)
    place.end(worse, error=KeyError("worse"))
    place.end(bad, error=ValueError("bad"))
    with pytest.raises(ValueError, match="bad"):
        asyncio.run(place.dispatcher.agather([good, bad, worse, open_one], timeout=WITHIN))
    for timeout in (0, 0.01):
        with pytest.raises(JobTimeout, match=open_one.id):
            asyncio.run(place.dispatcher.agather([good, open_one, worse], timeout=timeout))
    assert asyncio.run(place.dispatcher.agather([good], timeout=0)) == [0]


# Callbacks


def test_a_callback_is_called_once(place: Place) -> None:
    """With the very job, in a thread of queuelib's, whether the job ends later or has ended already."""
    (job,) = place.submit(1)
    called: SimpleQueue[tuple[Job[int], int, str]] = SimpleQueue()

    def note(one: Job[int]) -> None:
        called.put((one, one.result(), threading.current_thread().name))

    job.add_done_callback(note)
    place.end(job, value=3)
    assert called.get(timeout=WITHIN) == (job, 3, "queuelib-watch")
    again = place.dispatcher.job(job.id)
    for one in (job, again):
        one.add_done_callback(note)
        found, value, name = called.get(timeout=WITHIN)
        assert found is one
        assert (value, name) == (3, "queuelib-watch")
    eventually(lambda: place.watched() == 0, within=WITHIN)
    assert called.empty()


@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(3)], ids=repr)
def test_an_error_in_a_callback_changes_nothing(
    place: Place, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """It is logged with the job's id, and the other callbacks are called."""
    (job,) = place.submit(1)
    called: SimpleQueue[Job[int]] = SimpleQueue()

    def fail(_: Job[int]) -> None:
        raise error

    job.add_done_callback(fail)
    job.add_done_callback(called.put)
    with caplog.at_level(logging.ERROR, "queuelib.job"):
        place.end(job)
        assert called.get(timeout=WITHIN) is job
    assert job.id in caplog.text
    assert caplog.records[0].exc_info is not None
    assert caplog.records[0].exc_info[1] is error


def test_a_callback_may_ask_for_more(place: Place) -> None:
    """It may submit, and add callbacks; it is refused to wait for what only its own thread can tell."""
    first, second, third = place.submit(3)
    told: SimpleQueue[object] = SimpleQueue()

    def ask(_: Job[int]) -> None:
        second.add_done_callback(told.put)
        try:
            place.dispatcher.wait([third])
        except QueuelibError as error:
            told.put(str(error))

    place.end(second)
    first.add_done_callback(ask)
    place.end(first)
    assert "cannot wait for other jobs" in str(told.get(timeout=WITHIN))
    assert told.get(timeout=WITHIN) is second


def test_closing_keeps_what_is_watched(place: Place) -> None:
    """A callback outlives the connections, which are opened again for it."""
    (job,) = place.submit(1)
    called: SimpleQueue[Job[int]] = SimpleQueue()
    job.add_done_callback(called.put)
    place.dispatcher.close()
    place.end(job)
    assert called.get(timeout=WITHIN) is job


# asyncio


def test_thousands_of_awaits_share_one_thread(place: Place) -> None:
    """However many jobs are awaited at once, one thread more runs, and each gets its own value or error."""
    jobs = place.submit(2000)

    async def main() -> list[Any]:
        before = threading.active_count()
        waiting = asyncio.gather(*jobs, return_exceptions=True)
        await asyncio.sleep(0)  # all of them are waiting now
        assert place.watched() == 2000
        assert threading.active_count() == before + 1
        for value, job in enumerate(jobs[:-1]):
            place.end(job, value=value)
        place.end(jobs[-1], state=CANCELLED)
        found = await asyncio.wait_for(waiting, WITHIN)
        assert threading.active_count() == before + 1
        return found

    *values, last = asyncio.run(main())
    assert values == list(range(1999))
    assert isinstance(last, CancelledError)


def test_whoever_is_cancelled_leaves_nothing_behind(place: Place) -> None:
    """A cancelled await is not told of; others that await the same job are."""
    (job,) = place.submit(1)

    async def main() -> int:
        loop = asyncio.get_running_loop()
        one, other = (loop.create_task(_result(job)) for _ in range(2))
        await asyncio.sleep(0)
        one.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one
        place.end(job, value=4)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_result(place.submit(1)[0]), 0.01)
        return await asyncio.wait_for(other, WITHIN)

    assert asyncio.run(main()) == 4


def test_a_loop_that_was_closed_is_told_of_nothing(place: Place) -> None:
    """Whoever waited there does not wait any more, and all others are told of their jobs."""
    (job,) = place.submit(1)
    called: SimpleQueue[Job[int]] = SimpleQueue()
    loop = asyncio.new_event_loop()
    task = loop.create_task(_result(job))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    job.add_done_callback(called.put)
    place.end(job)
    assert called.get(timeout=WITHIN) is job
    assert not task.done()
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # what it warns of is what is tested here


def test_await_of_a_job_that_never_was(place: Place) -> None:
    """It raises as `result()` does."""
    unknown = Job[int](place.dispatcher.outcomes, Key(bytes(16), 0))
    with pytest.raises(UnknownJob):
        asyncio.run(_result(unknown))


def test_async_for_yields_jobs_as_they_end(place: Place, other: Place) -> None:
    """Jobs are added while it runs, and while somebody waits; its time is limited for all of them."""
    slow, quick = place.submit(2)
    (elsewhere,) = other.submit(1)

    async def main() -> list[Job[int]]:
        stream = place.dispatcher.as_completed([slow], timeout=WITHIN)
        found: list[Job[int]] = []
        waiting = asyncio.get_running_loop().create_task(anext(stream))
        await asyncio.sleep(0)
        place.end(quick)
        stream.add(quick)
        found.append(await waiting)
        stream.add(elsewhere)
        other.end(elsewhere)
        async for job in stream:
            found.append(job)
            if job is elsewhere:
                place.end(slow)
        return found

    assert asyncio.run(main()) == [quick, elsewhere, slow]


def test_async_for_ends_when_the_stream_is_closed(place: Place) -> None:
    """By another coroutine, or by the one among several that read it who gets the last job."""

    async def read() -> None:
        jobs = place.submit(2)
        stream = place.dispatcher.as_completed(jobs)

        async def one() -> list[Job[int]]:
            return [job async for job in stream]

        async with asyncio.timeout(WITHIN), asyncio.TaskGroup() as group:
            readers = [group.create_task(one()) for _ in range(3)]
            await asyncio.sleep(0)  # they wait
            place.end(*jobs)
        assert {job for reader in readers for job in reader.result()} == set(jobs)

        stream = place.dispatcher.as_completed(place.submit(2), timeout=WITHIN)
        async with asyncio.timeout(WITHIN), asyncio.TaskGroup() as group:
            readers = [group.create_task(one()) for _ in range(3)]
            await asyncio.sleep(0)
            stream.close()
        assert [reader.result() for reader in readers] == [[], [], []]

    asyncio.run(read())


def test_async_for_ends_with_its_time(place: Place) -> None:
    """What has ended by then comes first."""
    ended, open_one = place.submit(2)
    place.end(ended)

    async def main(limit: float) -> None:
        stream = place.dispatcher.as_completed([open_one, ended], timeout=limit)
        assert await anext(stream) is ended
        with pytest.raises(JobTimeout, match=open_one.id):
            await anext(stream)

    for limit in (0, 0.01):
        asyncio.run(main(limit))


async def _result(job: Job[int]) -> int:
    return await job
