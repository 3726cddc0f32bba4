"""Callbacks, waiting for many jobs, and asyncio, from end to end: real workers, on every broker."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from queuelib import Dispatcher, Job
from tests.integration.lab import WITHIN, Lab
from tests.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_callbacks_are_called_for_each_of_many_jobs(served: Lab) -> None:
    """Jobs that travel together and such that travel alone, as they end and after they have ended."""
    square = served.deeds.square
    called: SimpleQueue[Job[int]] = SimpleQueue()
    jobs = [*square.submit_many([(i,) for i in range(500)]), *(square.submit(i) for i in range(20))]
    for times in (1, 2):
        for job in jobs:
            job.add_done_callback(called.put)
        found = [called.get(timeout=WITHIN) for _ in jobs]
        assert set(found) == set(jobs), times
        assert called.empty()
    assert [job.result(timeout=0) for job in jobs] == [i * i for i in [*range(500), *range(20)]]


def test_a_job_that_is_watched_later_is_not_told_later(served: Lab) -> None:
    """While a job that stands at a gate is watched, one after the other is added, awaited and done."""
    gate, history = served.gate(), served.history()
    slow = served.deeds.mark.submit(history.path, "slow", gate.path)
    stream = served.dispatcher.as_completed([slow], timeout=3 * WITHIN)
    for i in range(20):
        quick = served.deeds.square.submit(i)
        stream.add(quick)
        assert next(stream) is quick
    gate.open()
    assert list(stream) == [slow]


def test_wait_for_the_first_failure(served: Lab) -> None:
    """A job that stands at a gate is not waited for once another has failed."""
    gate, history = served.gate(), served.history()
    slow = served.deeds.mark.submit(history.path, "slow", gate.path)
    jobs = served.deeds.fussy.submit_many([(i,) for i in range(6)])
    done, not_done = served.dispatcher.wait([slow, *jobs], WITHIN, "FIRST_EXCEPTION")
    assert jobs[4] in done
    assert slow in not_done
    assert served.dispatcher.wait(jobs, WITHIN).not_done == set()
    assert served.dispatcher.wait([slow, *jobs], 0.0).not_done == {slow}
    gate.open()
    assert served.dispatcher.wait([slow], WITHIN) == ({slow}, set())


def test_jobs_of_another_client_are_told_of(served: Lab) -> None:
    """Who did not submit a job learns of its end too, by waiting, by a callback, and by awaiting."""
    gate, history = served.gate(), served.history()
    slow = served.deeds.mark.submit(history.path, "slow", gate.path)
    ended = served.deeds.square.submit(3)
    ended.wait(WITHIN)
    other = Dispatcher(served.url, namespace=served.namespace)
    try:
        jobs = [other.job(job.id) for job in (slow, ended)]
        called: SimpleQueue[Job[Any]] = SimpleQueue()
        for job in jobs:
            job.add_done_callback(called.put)
        assert called.get(timeout=WITHIN) is jobs[1]
        gate.open()
        assert called.get(timeout=WITHIN) is jobs[0]
        again = [other.job(job.id) for job in (slow, ended)]
        assert asyncio.run(other.agather(again, timeout=WITHIN)) == ["slow", 9]
    finally:
        other.close()


def test_awaiting_takes_no_thread_for_each(served: Lab) -> None:
    """Hundreds of jobs are awaited at once, and one thread more runs than when one of them is."""

    async def program() -> list[int]:
        jobs = await asyncio.to_thread(served.deeds.square.submit_many, [(i,) for i in range(500)])
        await jobs[0]
        threads = threading.active_count()
        found = await asyncio.wait_for(asyncio.gather(*jobs), WITHIN)
        assert threading.active_count() <= threads
        return list(found)

    assert asyncio.run(program()) == [i * i for i in range(500)]


def test_async_for_yields_jobs_as_they_end(served: Lab) -> None:
    """Each result leads to the next job, as in an optimizer that runs asynchronously."""

    async def program() -> list[int]:
        square = served.deeds.square
        stream = served.dispatcher.as_completed([await square.asubmit(2), await square.asubmit(3)], timeout=WITHIN)
        found: list[int] = []
        async for job in stream:
            value = await job
            found.append(value)
            if value < 1000:
                stream.add(await square.asubmit(value))
        return found

    assert sorted(asyncio.run(program())) == [4, 9, 16, 81, 256, 6561, 65536]


def test_closing_in_between_changes_nothing(served: Lab) -> None:
    """The connections are closed under what is watched, and opened again for it."""
    gate, history = served.gate(), served.history()
    slow = served.deeds.mark.submit(history.path, "slow", gate.path)
    called: SimpleQueue[Job[str]] = SimpleQueue()
    slow.add_done_callback(called.put)
    for _ in range(3):
        quick = served.deeds.square.submit(2)
        assert served.dispatcher.wait([quick], WITHIN).done == {quick}
        served.dispatcher.close()
    gate.open()
    assert called.get(timeout=WITHIN) is slow


def test_nobody_serves_is_said_of_what_is_watched(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that only watches is told how to start a worker, too."""
    monkeypatch.setattr("queuelib.watch._NOTICE_AFTER", 0.0)
    dispatcher = Dispatcher(f"sqlite:///{tmp_path}/jobs.db")

    @dispatcher.task(name="unserved")
    def unserved(x: int) -> int:
        return x

    job = unserved.submit(2)
    said: list[str] = []

    def is_said() -> bool:
        said.append(capfd.readouterr().err)
        return "no live worker serves task 'unserved'" in "".join(said)

    job.add_done_callback(lambda _: None)
    eventually(is_said, within=WITHIN)
    job.cancel()
    assert dispatcher.wait([job], WITHIN).done == {job}
    dispatcher.close()


_LEAVES = """
import os, time
from queuelib import Dispatcher

dispatcher = Dispatcher(os.environ["BROKER"], namespace=os.environ["NAMESPACE"])
job = dispatcher.task(name="never")(abs).submit(2)
job.add_done_callback(print)
stream = dispatcher.as_completed([job])
watch = dispatcher.outcomes.watch
while watch._asleep is None:  # until its thread waits
    time.sleep(0.001)
print(job.id)
"""


def test_a_program_that_ends_waits_for_nothing_that_it_watches(lab: Lab) -> None:
    """It leaves at once and in silence; the job goes on without it."""
    command = [sys.executable, "-W", "error", "-c", _LEAVES]
    done = subprocess.run(command, env=lab.environment, capture_output=True, text=True, timeout=WITHIN, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    job = lab.dispatcher.job(done.stdout.strip())
    assert job.state == "queued"
    job.cancel()
