"""Deaths: children, workers, parents; what they ran runs again, what they had done does not, and nothing is left over."""

from __future__ import annotations

import json
import os
import re
import signal
from typing import TYPE_CHECKING, Any

import pytest

from queuelib import JobQuarantined
from queuelib.errors import QueuelibError
from tests.integration.lab import WITHIN, Lab, await_gone, is_gone, results
from tests.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.crash
WAYS = ["kill", "exit", "os-exit", "segfault", "memory"]


@pytest.mark.alone  # the second counts from one start to the next
@pytest.mark.parametrize("how", WAYS)
def test_job_of_a_dead_child_runs_again_and_its_neighbors_do_not(served: Lab, how: str) -> None:
    """However a child dies: the job it ran starts again within a second, and no other job starts twice."""
    history = served.history()
    rows: list[tuple[Any, ...]] = [(history.path, f"q{i}") for i in range(150)]
    results(served.deeds.deed.submit_many(rows))  # known as quick: handed over many at once
    rows = [(history.path, f"n{i}") for i in range(60)]
    rows[30] = (history.path, "victim", how)
    assert results(served.deeds.deed.submit_many(rows)) == [row[1] for row in rows]
    count = history.count()
    assert {label: times for label, times in count.items() if times > 1} == {"victim": 2}
    first, second = [mark for mark in history.marks("start") if mark.label == "victim"]
    assert first.pid != second.pid
    assert second.at - first.at < (1.0 if how != "memory" else 2.0)  # filling the memory takes its time
    assert second.attempt == 1  # a death is no attempt


def test_child_that_writes_to_its_pipe_is_replaced(served: Lab) -> None:
    """User code that scribbles on inherited descriptors costs its own child, not the worker or another's jobs."""
    history = served.history()
    job = served.deeds.deed.submit(history.path, "scribbler", "scribble")
    assert job.wait(timeout=WITHIN)
    assert served.deeds.square.submit(3).result(timeout=WITHIN) == 9


def test_idle_child_that_is_killed_is_replaced(served: Lab) -> None:
    """A child that dies between two jobs costs nothing, and there are as many children as before."""
    pids = {child for child, _ in results(served.deeds.whereabouts.submit_many([()] * 20))}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    gate, history = served.gate(), served.history()
    jobs = served.deeds.mark.submit_many([(history.path, "a", gate.path), (history.path, "b", gate.path)])
    history.await_start("a", "b")  # two at the same time
    gate.open()
    assert results(jobs) == ["a", "b"]
    assert not pids & {mark.pid for mark in history.marks()}


def test_killed_from_outside_in_the_middle_of_many(served: Lab) -> None:
    """Killing a child in the middle of 400 jobs starts at most one of them twice."""
    history = served.history()
    jobs = served.deeds.deed.submit_many([(history.path, f"c{i}") for i in range(400)])
    eventually(lambda: len(history.labels()) >= 30, within=WITHIN)
    os.kill(history.marks()[-1].pid, signal.SIGKILL)
    assert results(jobs) == [f"c{i}" for i in range(400)]
    assert sum(times - 1 for times in history.count().values()) <= 1


def test_third_death_is_quarantined_and_can_be_retried(served: Lab) -> None:
    """A job under which three children died is set aside with its reason, listed, and re-run on request."""
    history, healed = served.history(), served.folder / "healed"
    job = served.deeds.deed.submit(history.path, "killer", "kill", times=99, healed=str(healed))
    with pytest.raises(JobQuarantined, match="3 processes died"):
        job.result(timeout=WITHIN)
    assert job.state == "quarantined"
    assert history.count()["killer"] == 3
    listed = [json.loads(line) for line in served.queuelib("failed", "ls", "--json").splitlines()]
    item = next(item for item in listed if item["id"] == job.id)
    assert item["color"] == "yellow"
    assert "signal 9" in item["reason"]
    healed.touch()
    assert job.id in served.queuelib("failed", "retry", job.id)
    eventually(lambda: job.state == "succeeded", within=WITHIN)
    assert job.result(timeout=WITHIN) == "killer"
    assert job.id not in served.queuelib("failed", "ls", "--json")


def test_drop_forgets_what_was_set_aside(served: Lab) -> None:
    """`failed drop` takes an item off the list; its job stays quarantined."""
    history = served.history()
    job = served.deeds.deed.submit(history.path, "killer", "os-exit", times=99)
    assert isinstance(job.exception(timeout=WITHIN), JobQuarantined)
    assert job.id in served.queuelib("failed", "ls")
    assert "1 dropped" in served.queuelib("failed", "drop", job.id)
    assert job.id not in served.queuelib("failed", "ls", "--json")
    assert job.state == "quarantined"


def test_neighbors_of_a_killer_are_not_blamed(served: Lab) -> None:
    """Jobs that share a submission with one that always kills all succeed, each started once."""
    history = served.history()
    rows: list[tuple[Any, ...]] = [(history.path, f"n{i}") for i in range(50)]
    rows[25] = (history.path, "killer", "kill", 99)
    jobs = served.deeds.deed.submit_many(rows)
    errors = [job.exception(timeout=WITHIN) for job in jobs]
    assert [i for i, error in enumerate(errors) if error is not None] == [25]
    assert isinstance(errors[25], JobQuarantined)
    assert {label: times for label, times in history.count().items() if times > 1} == {"killer": 3}


@pytest.mark.parametrize("is_waiting", [True, False], ids=["idle-second", "late-second"])
def test_jobs_of_a_killed_worker_run_on_another(lab: Lab, *, is_waiting: bool) -> None:
    """The worker and all its children killed: what ran starts again on another worker, what was done does not."""
    gate, history = lab.gate(), lab.history()
    done = lab.deeds.mark.submit_many([(history.path, f"done{i}") for i in range(10)])
    first = lab.worker("--processes", "2", "--name", "w1")
    results(done)
    running = {"held0", "held1"}
    held = lab.deeds.mark.submit_many([(history.path, label, gate.path) for label in sorted(running)])
    history.await_start(*running)
    held += lab.deeds.mark.submit_many([(history.path, f"held{i}") for i in range(2, 6)])
    children = {mark.pid for mark in history.marks("start") if mark.label in running}
    if is_waiting:
        lab.ready_worker("--processes", "2", "--name", "w2")
    first.kill()
    killed = _now(lab.folder)
    await_gone(children, within=2.0)
    if not is_waiting:
        lab.ready_worker("--processes", "2", "--name", "w2")
        killed = _now(lab.folder)
    history.await_start(*running, times=2)
    gate.open()
    assert results(held) == [f"held{i}" for i in range(6)]
    count = history.count()
    assert {label for label, times in count.items() if times > 1} == running
    assert max(count.values()) == 2
    again = [mark.at - killed for mark in history.marks("start") if mark.label in running and mark.at > killed]
    assert max(again) < (2.0 if lab.kind == "sqlite" else 1.0), again


def test_jobs_survive_a_worker_that_dies_three_times_without_starting_them(lab: Lab) -> None:
    """Deaths of a worker count only for what had started: queued neighbors are not blamed."""
    gate, history = lab.gate(), lab.history()
    jobs = lab.deeds.mark.submit_many([(history.path, f"j{i}", gate.path) for i in range(20)])
    for _ in range(3):
        before = len(history.labels())
        worker = lab.worker("--processes", "1")
        eventually(lambda before=before: len(history.labels()) > before, within=WITHIN)  # type: ignore[misc]
        worker.kill()
    gate.open()
    lab.worker("--processes", "2")
    errors = [job.exception(timeout=WITHIN) for job in jobs]
    blamed = {f"j{i}" for i, error in enumerate(errors) if error is not None}
    # Whoever started three times without an end is set aside, and nobody else.
    assert blamed == {label for label, times in history.count().items() if times >= 3 and label in blamed}
    assert all(isinstance(error, JobQuarantined | None) for error in errors)


def test_grandchildren_die_with_their_child(served: Lab) -> None:
    """A process that a handler started does not outlive the child it was started in."""
    gate, history = served.gate(), served.history()
    served.deeds.spawn.submit(history.path, "parent", gate.path)
    eventually(lambda: history.marks("spawned"), within=WITHIN)
    os.kill(history.marks("start")[0].pid, signal.SIGKILL)
    await_gone([int(history.labels("spawned")[0])])


def test_nothing_outlives_a_killed_worker(lab: Lab) -> None:
    """Template, children and grandchildren end when the supervisor is killed with kill -9."""
    gate, history = lab.gate(), lab.history()
    lab.deeds.spawn.submit(history.path, "parent", gate.path)
    worker = lab.worker("--processes", "2")
    eventually(lambda: history.marks("spawned"), within=WITHIN)
    pids = {*_descendants(worker.pid), int(history.labels("spawned")[0])}
    assert len(pids) >= 4
    worker.kill()
    try:
        await_gone(pids, within=3.0)
    finally:
        for pid in pids:
            if not is_gone(pid):
                os.kill(pid, signal.SIGKILL)


def test_worker_beside_a_program_ends_when_the_program_is_killed(lab: Lab) -> None:
    """Kill -9 of a program ends the worker that it started beside itself, and its children."""
    program = lab.start("alone.py", "stay")
    program.await_word("alone.double")
    words = eventually(lambda: re.search(r"alone.double 42 (\d+) (\d+)\n", program.said))
    assert words is not None
    child, supervisor = int(words[1]), int(words[2])
    assert not is_gone(child)
    assert not is_gone(supervisor)
    program.kill()
    await_gone({child, supervisor}, within=10.0)


def test_leaving_the_block_ends_every_process(lab: Lab) -> None:
    """After `with dispatcher.workers()` nothing of the worker is left, and queued jobs stay queued."""
    gate, history = lab.gate(), lab.history()
    with lab.dispatcher.workers(processes=2):
        _, supervisor = lab.deeds.whereabouts.submit().result(timeout=WITHIN)
        pids = {supervisor, *_descendants(supervisor)}
        assert len(pids) >= 4
    await_gone(pids)
    job = lab.deeds.mark.submit(history.path, "queued", gate.path)
    assert job.state == "queued"


def test_error_inside_the_block_is_the_programs_own(lab: Lab) -> None:
    """An exception in the block passes through after the worker has ended."""
    with pytest.raises(ZeroDivisionError), lab.dispatcher.workers(processes=1):
        _ = 1 / 0
    assert lab.dispatcher.open_results().workers() == []


def test_current_job_is_unknown_outside_of_a_worker() -> None:
    """`current_job()` in a program says that no job runs here."""
    from queuelib import current_job  # noqa: PLC0415

    with pytest.raises(QueuelibError, match="outside of a worker"):
        current_job()


def _now(folder: Path) -> float:
    """Return the time by the clock that histories are written with."""
    stamp = folder / "stamp"
    stamp.touch()
    os.utime(stamp)
    return stamp.stat().st_mtime


def _descendants(pid: int) -> set[int]:
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        current = waiting.pop()
        for name in _threads(current):
            try:
                with open(f"/proc/{current}/task/{name}/children", encoding="ascii") as file:  # noqa: PTH123
                    children = [int(text) for text in file.read().split()]
            except OSError:
                continue
            found.update(children)
            waiting += children
    return found


def _threads(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")  # noqa: PTH208
    except OSError:
        return []
