"""Rows 1 to 17: the death of processes. The storms of rows 10 and 16 and the points of row 4 have modules of their own."""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from queuelib import JobQuarantined
from tests.crash import history
from tests.crash.rows import LATER, row
from tests.integration.lab import await_gone, let_pass
from tests.waiting import eventually

if TYPE_CHECKING:
    from queuelib import Job
    from tests.crash.trial import Trial
    from tests.integration.lab import Worker

_SOON = 3.0  # seconds; what is promised within 2 on an idle machine
_NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
_MEMORY = Path("/sys/fs/cgroup/memory")


@row(1, "kill -9 of a whole worker while its jobs run, with a second worker there", seconds=8)
def whole_worker(trial: Trial) -> None:
    """What ran starts again on the other worker, soon; what was done or had not started runs once."""
    gate = trial.lab.gate()
    first = trial.worker("--name", "first")
    jobs = trial.submit(12, gate.path)
    struck = {run.label for run in trial.await_starts(2)}
    trial.worker("--name", "second")
    killed = trial.kill_worker(first)
    gate.open()
    for label in struck:
        trial.measure("worker death", trial.await_again(label, within=30.0) - killed)
    trial.finish(jobs)
    trial.check(jobs, faults=len(struck))
    assert max(trial.figures["worker death"]) < _SOON


@row(1, "the same, the worker in a pid namespace of its own", variant="elsewhere", seconds=10, needs_root=True)
def worker_elsewhere(trial: Trial) -> None:
    """Nobody sees that the process is gone: on Redis only the lease counts."""
    gate = trial.lab.gate()
    first = trial.worker("--name", "first", inside=_NAMESPACE)
    jobs = trial.submit(12, gate.path)
    struck = trial.await_starts(2)
    trial.worker("--name", "second")
    history.note_kill(trial.path, {run.pid for run in struck})  # as they are numbered in there
    killed = trial.kill_worker(first)
    gate.open()
    for run in struck:
        trial.measure("worker death elsewhere", trial.await_again(run.label, within=60.0) - killed)
    trial.finish(jobs)
    trial.check(jobs, faults=len(struck))
    limit = trial.lease * 4 / 3 + 1.0 if trial.broker == "redis" else _SOON
    assert max(trial.figures["worker death elsewhere"]) < limit


@row(2, "kill -9 of one child while its job runs", seconds=6)
def one_child(trial: Trial) -> None:
    """Its job starts again within a second, its siblings' go on, and there are as many children as before."""
    gate = trial.lab.gate()
    worker = trial.worker()
    jobs = trial.submit(6, gate.path)
    victim = trial.chance.choice(trial.await_starts(2)[:2])
    killed = trial.kill_child(victim.pid)
    again = trial.await_again(victim.label, within=10.0) - killed
    trial.measure("child death", again)
    assert again < 1.0, f"its job started again after {again:.2f} s"
    gate.open()
    trial.finish(jobs)
    trial.check(jobs, faults=1)
    assert len({run.pid for run in trial.runs()}) == 3
    assert f"child {victim.pid} died (signal 9" in worker.said


@row(2, "kill -9 of the process that makes the children", variant="template", seconds=6)
def template(trial: Trial) -> None:
    """The worker ends with an error rather than live on without children, and another does the work."""
    gate = trial.lab.gate()
    first = trial.worker()
    jobs = trial.submit(6, gate.path)
    struck = trial.await_starts(2)
    second = trial.worker()
    (made_by,) = {os.getsid(pid) for pid in trial.children(first)}
    history.note_kill(trial.path, [made_by])
    os.kill(made_by, signal.SIGKILL)
    trial.kill_child(struck[0].pid)  # it is missed as soon as there is somebody to replace
    killed = trial.kill_child(struck[1].pid)
    assert first.wait(10.0) == 1
    gate.open()
    for run in struck:
        trial.measure("template death", trial.await_again(run.label, within=30.0) - killed)
    trial.finish(jobs)
    trial.check(jobs, faults=2)
    assert second.process.poll() is None


@row(3, "kill -9 of a frozen idle worker that was just sent a job, five times over", seconds=12, within=240)
def answer_in_flight(trial: Trial) -> None:
    """A job that was on its way to the dead runs once, as a first attempt."""
    jobs: dict[str, Job[str]] = {}
    worker = trial.worker()
    for number in range(5):
        jobs |= (mine := trial.submit(1, prefix=f"r{number}-"))
        trial.finish(mine)
        pids = trial.freeze(worker)
        jobs |= (mine := trial.submit(1, prefix=f"f{number}-"))
        let_pass(trial.chance.uniform(0.0, 0.3))
        killed = trial.kill_worker(worker)
        trial.thaw(pids)  # the process that forks lives until it hears of it
        worker = trial.worker()
        trial.finish(mine)
        trial.measure("worker death and start", trial.runs()[-1].start - killed)
    trial.finish(jobs)
    trial.check(jobs)
    assert {run.attempt for run in trial.runs()} == {1}


@row(4, "a child ends after its handler returned, before it said so", seconds=6)
def after_run(trial: Trial) -> None:
    """The job runs once more, under its id and in the same attempt."""
    worker = trial.worker(processes=1, QUEUELIB_FAULT="after_run:3")
    jobs = trial.submit(7)
    trial.finish(jobs)
    strikes = worker.said.count("fault point after_run")
    assert strikes >= 2
    trial.check(jobs, faults=strikes)
    assert len(trial.runs()) == len(jobs) + strikes
    assert {run.attempt for run in trial.runs()} == {1}


@row(4, "a worker ends when it knows outcomes and has written none", variant="unwritten", seconds=8)
def before_settle(trial: Trial) -> None:
    """What it knew runs once more, elsewhere."""
    first = trial.worker(processes=1, QUEUELIB_FAULT="before_settle:1")
    jobs = trial.submit(3)
    assert first.wait(20.0) == 9
    known = len(trial.runs())
    trial.worker()
    trial.finish(jobs)
    trial.check(jobs, faults=known)
    assert len(trial.runs()) > len(jobs)


@row(5, "a worker ends after outcomes were stored, before their messages were acknowledged", seconds=8)
def after_result(trial: Trial) -> None:
    """They are not run again. SQLite stores and acknowledges in one step, and the worker ends just after it."""
    point = "after_settle" if trial.broker == "sqlite" else "after_result"
    first = trial.worker(processes=1, QUEUELIB_FAULT=f"{point}:2")
    jobs: dict[str, Job[str]] = {}
    for number in range(2):  # each in a step of its own
        mine = trial.submit(1, prefix=f"{number}-")
        trial.finish(mine)
        jobs |= mine
    assert first.wait(20.0) == 9
    trial.worker()
    jobs |= (mine := trial.submit(3))
    trial.finish(mine)
    let_pass(trial.lease)  # in which what is to come back comes back
    trial.finish(jobs)
    trial.check(jobs)


@row(5, "the same, with outcomes in a file apart from the broker", variant="apart", seconds=8)
def after_result_apart(trial: Trial) -> None:
    """What was stored there is looked up when the message comes again, and not run."""
    results = f"sqlite:///{trial.folder}/outcomes.db"
    trial.lab.dispatcher.configure(results=results)
    first = trial.worker(processes=1, QUEUELIB_FAULT="before_ack:1", RESULTS=results)
    jobs = trial.submit(1)
    trial.finish(jobs)
    assert first.wait(20.0) == 9
    trial.worker(RESULTS=results)
    jobs |= (mine := trial.submit(3, prefix="later"))
    trial.finish(mine)
    let_pass(2 * trial.lease + 1.0)
    trial.finish(jobs)
    trial.check(jobs)


@row(5, "a worker ends in the middle of SQLite's transaction", variant="rollback", brokers=("sqlite",), seconds=6)
def in_transaction(trial: Trial) -> None:
    """Nothing of it stands: the job runs once more."""
    for number, point in enumerate(("after_result", "before_ack")):
        first = trial.worker(processes=1, QUEUELIB_FAULT=f"{point}:1")
        (job,) = (mine := trial.submit(1, prefix=f"{point}-")).values()
        assert first.wait(20.0) == 9
        assert job.state != "succeeded", number
        second = trial.worker()
        trial.finish(mine)
        trial.check(mine, in_doubt={run.label for run in trial.runs()}, faults=number + 1)
        assert len(trial.runs()) == 2 * (number + 1)
        second.stop()


def out_of_memory(trial: Trial) -> None:
    """As any other death by a signal; the word says what else sends signal 9."""
    gate = trial.lab.gate()
    worker = trial.worker()
    job = trial.deeds.hoard_once.submit(trial.path, "fat", gate.path, 200 * 1024**2)
    jobs = {"fat": job} | trial.submit(6, gate.path)
    run = next(run for run in trial.await_starts(2) if run.label == "fat")
    with_limit = _MEMORY / f"queuelib-{secrets.token_hex(4)}"
    with_limit.mkdir()
    try:
        (with_limit / "memory.limit_in_bytes").write_text(str(64 * 1024**2))
        (with_limit / "memory.swappiness").write_text("0")
        (with_limit / "cgroup.procs").write_text(str(run.pid))
        gate.open()
        opened = time.time()
        trial.measure("out of memory to the next start", trial.await_again("fat", within=30.0) - opened)
        trial.finish(jobs)
        eventually(lambda: _is_removed(with_limit), message="the group is empty")
    finally:
        _is_removed(with_limit)
    trial.check(jobs, faults=1)
    assert f"child {run.pid} died (signal 9, as the kernel sends it when memory is short)" in worker.said


if os.access(_MEMORY / "cgroup.procs", os.W_OK) and (_MEMORY / "memory.limit_in_bytes").exists():
    row(7, "the kernel kills a child that needs too much memory", seconds=6, needs_root=True)(out_of_memory)
else:
    LATER[7] = "this machine lets nobody limit memory by a cgroup of version 1"


@row(8, "a segfault, os._exit(0), sys.exit() in a handler", seconds=8)
def sudden_ends(trial: Trial) -> None:
    """An end without an outcome is a death, whatever the status says; neighbors do not notice."""
    worker = trial.worker()
    jobs = trial.submit(50, prefix="warm")
    trial.finish(jobs)
    ways = {"segfault": "signal 11", "os-exit": "exit status 0", "exit": "exit status 3"}
    for how, words in ways.items():
        rows = [(trial.path, f"{how}{i}", how if i == 10 else "") for i in range(20)]
        mine = dict(zip([row[1] for row in rows], trial.deeds.deed.submit_many(rows), strict=True))
        trial.finish(mine)
        jobs |= mine
        first, second = [run for run in trial.runs() if run.label == f"{how}10"]
        trial.measure("child death", second.start - first.start)
        assert f"child {first.pid} died ({words}" in worker.said
    trial.check(jobs, faults=len(ways))
    assert max(trial.figures["child death"]) < _SOON


@row(9, "a job that kills its own worker, with innocents beside it", seconds=15)
def poison(trial: Trial) -> None:
    """It is set aside after three starts; those that were taken with it run once each."""
    _poisoned(trial, processes=1)


@row(9, "the same, with others running at the same time", variant="crowd", seconds=15)
def poison_in_a_crowd(trial: Trial) -> None:
    """Who ran beside it is not taken for another one like it."""
    _poisoned(trial, processes=2)


def _poisoned(trial: Trial, *, processes: int) -> None:
    jobs: dict[str, Job[str]] = {}
    killer = trial.deeds.deed.submit(trial.path, "poison", "kill-worker", 99)
    jobs |= trial.submit(20)
    with _restarting(trial, processes) as workers:
        assert killer.wait(timeout=60.0), killer.state
        trial.finish(jobs)
        with pytest.raises(JobQuarantined):
            killer.result(timeout=5.0)
    assert trial.starts("poison") == 3
    assert len(workers) == 4
    trial.figures["starts of innocents"] = len(trial.runs()) - 3
    # With one process nothing runs beside it; what another process ran or had just ended may run again.
    beside = 3 * 20 if processes > 1 else 0
    trial.check([*jobs, "poison"], unfinished=["poison"], faults=2 + beside)
    for label in jobs:
        assert trial.starts(label) <= (1 if processes == 1 else 4)
    assert "poison" not in jobs


class _restarting:  # noqa: N801 - reads as a verb where it is used
    """Keeps one worker running, as a service manager does; the list has all that there were."""

    def __init__(self, trial: Trial, processes: int) -> None:
        self.trial = trial
        self.processes = processes
        self.workers: list[Worker] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> list[Worker]:
        self.trial.lab  # noqa: B018 - made here, not in the thread
        self._thread.start()
        return self.workers

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(0.05):
            if not self.workers or self.workers[-1].process.poll() is not None:
                self.workers.append(self.trial.lab.worker("--processes", str(self.processes)))


@row(11, "a handler that computes in C with every signal blocked, past its hard limit", seconds=6)
def deaf(trial: Trial) -> None:
    """It is killed, its job has failed with a TimeoutError, and its place is taken again."""
    trial.worker(processes=1)
    job = trial.deeds.stubborn.submit(trial.path, "deaf", is_deaf=True)
    (run,) = trial.await_starts(1)
    with pytest.raises(TimeoutError, match="hard_timeout"):
        job.result(timeout=20.0)
    trial.measure("hard limit of 1 s", time.time() - run.start)
    await_gone([run.pid])
    jobs = trial.submit(3)
    trial.finish(jobs)
    trial.check([*jobs, "deaf"], unfinished=["deaf"])
    assert max(trial.figures["hard limit of 1 s"]) < 1.0 + _SOON


@row(12, "grandchildren of a worker that is killed, and of a child that is", seconds=8)
def grandchildren(trial: Trial) -> None:
    """What a handler started ends with it."""
    gate = trial.lab.gate()
    worker = trial.worker()
    job = trial.deeds.stubborn.submit(trial.path, "timeout", is_deaf=True)
    with pytest.raises(TimeoutError, match="hard_timeout"):
        job.result(timeout=20.0)
    await_gone(_spawned(trial), within=5.0)
    trial.deeds.spawn.submit(trial.path, "killed", gate.path)
    eventually(lambda: len(_spawned(trial)) == 2, within=20.0, message="two grandchildren")
    trial.kill_worker(worker)
    await_gone(_spawned(trial), within=5.0)
    gate.open()


def _spawned(trial: Trial) -> list[int]:
    lines = Path(trial.path).read_text(encoding="utf-8").splitlines()
    return [int(line.split()[1]) for line in lines if line.startswith("spawned ")]


@row(13, "a worker is frozen for several leases amid a job, then goes on", seconds=14)
def frozen(trial: Trial) -> None:
    """Another finishes its jobs; what it says later is stale, and what it had not begun it does not begin."""
    gate = trial.lab.gate()
    tellers: list[str] = []
    trial.lab.dispatcher.events.add(lambda _, facts: tellers.append(facts["ran_by"]))
    first = trial.worker("--name", "first", processes=1)
    warm = trial.submit(300, prefix="warm")  # so that they are known as quick and handed out many at once
    trial.finish(warm)
    jobs = trial.submit(1, gate.path, prefix="held")
    trial.await_starts(len(warm) + 1)
    jobs |= trial.submit(20)
    let_pass(0.3)  # they are taken and handed to the child, behind the one that waits
    pids = trial.freeze(first)
    history.note_lost(trial.path, pids)
    frozen_at = time.time()
    second = trial.worker("--name", "second", processes=1)
    gate.open()
    if trial.broker == "sqlite":
        let_pass(3 * trial.lease)
        assert trial.starts("held0") == 1, "the lock of a frozen process is still held"
        trial.thaw(pids)
        trial.finish(jobs)
        assert trial.starts("held0") == 1
        trial.check([*warm, *jobs], unfinished=["held0"])  # it went on after it was noted as lost
        return
    trial.measure("frozen to the next start", trial.await_again("held0", within=60.0) - frozen_at)
    trial.finish(jobs)
    thawed = time.time()
    trial.thaw(pids)
    let_pass(3 * trial.lease)
    last = trial.submit(10, prefix="last")
    trial.finish(last)
    late = [run.label for run in trial.runs() if run.pid in pids and run.start > thawed and run.label in jobs]
    assert not late, f"begun by a worker that had lost them: {late}"
    trial.lab.dispatcher.job(jobs["held0"].id).result(timeout=10.0)
    assert tellers[-1].startswith("second/"), tellers[-1]
    trial.check([*warm, *jobs, *last], faults=1)
    assert second.process.poll() is None


@row(14, "a child holds the interpreter, others keep the CPUs busy, for several leases", seconds=12)
def hogs(trial: Trial) -> None:
    """The lease is renewed all the same: nothing starts a second time."""
    trial.worker(processes=3)
    seconds = 4 * trial.lease
    jobs = {"gil": trial.deeds.hold_the_gil.submit(trial.path, "gil", round(seconds))}
    jobs |= {name: trial.deeds.spin.submit(trial.path, name, seconds) for name in ("spin1", "spin2")}
    trial.await_starts(3)
    trial.worker()
    trial.finish(jobs)
    trial.check(jobs)


@row(15, "children are made while threads of the user's module hold locks, log and print", seconds=8)
def locks(trial: Trial) -> None:
    """A child that is made then starts its job soon."""
    trial.worker("--max-jobs", "1", processes=2, target="locked.py")
    jobs: dict[str, Job[str]] = {}
    for number in range(30):
        submitted = time.time()
        mine = {f"t{number}": trial.deeds.talk.submit(trial.path, f"t{number}")}
        trial.finish(mine, within=10.0)
        jobs |= mine
        trial.measure("child start", trial.runs()[-1].start - submitted)
    trial.check(jobs)
    assert max(trial.figures["child start"]) < 5.0
    trial.figures["child start"] = [max(trial.figures["child start"])]


@row(17, "children end in the middle of a frame to their worker", seconds=8)
def half_a_frame(trial: Trial) -> None:
    """What half of it said does not count, its job runs again, and nobody else's does."""
    worker = trial.worker(QUEUELIB_FAULT="mid_frame:4")
    labels = [f"j{i}" for i in range(24)]
    rows = [(trial.path, label, 0.03) for label in labels]
    jobs = dict(zip(labels, trial.deeds.mark_for.submit_many(rows), strict=True))
    trial.finish(jobs)
    strikes = worker.said.count("fault point mid_frame")
    assert strikes >= 2
    trial.check(jobs, faults=strikes)
    assert len(trial.runs()) == len(jobs) + strikes
    assert worker.said.count("without an outcome") == strikes


def _is_removed(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
