"""Rows 62 to 66: fairness between jobs, and a worker whose surroundings fall away."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from queuelib import BrokerUnavailable, Dispatcher
from queuelib.errors import QueuelibError
from tests.crash.rows import row
from tests.integration.lab import let_pass
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.crash.trial import Trial


@row(62, "one slow job and a hundred quick ones, on two workers", seconds=6)
def hoarding(trial: Trial) -> None:
    """Nobody keeps quick jobs behind a slow one: all are done while it runs."""
    gate = trial.lab.gate()
    trial.worker("--name", "first", processes=1)
    trial.worker("--name", "second", processes=1)
    rows = [(trial.path, "slow", gate.path), *((trial.path, f"q{i}", "") for i in range(100))]
    slow, *quick = trial.deeds.mark.submit_many(rows)
    trial.finish({f"q{i}": job for i, job in enumerate(quick)})
    assert not any(run.is_finished for run in trial.runs() if run.label == "slow")
    gate.open()
    trial.finish({"slow": slow})
    trial.check([row[1] for row in rows])


@row(62, "a thousand green jobs, then a red one", variant="colors", seconds=10)
def inversion(trial: Trial) -> None:
    """Red starts within a job or two of each child."""
    trial.worker()
    seconds, count = 0.005, 1000
    green = trial.deeds.nap_green.submit_many([(trial.path, f"g{i}", seconds) for i in range(count)])
    trial.await_starts(100)
    red = trial.deeds.mark_red.submit(trial.path, "red", "")
    at_most = trial.runs()  # what had started when red was accepted
    trial.finish({"red": red})
    runs = trial.runs()
    (start,) = [run.start for run in runs if run.label == "red"]
    before = [run for run in runs if run.start < start]
    passed = len(before) - len(at_most)
    trial.figures["green started after red was accepted"] = passed
    trial.measure("red waited", start - max(run.start for run in at_most))
    assert passed <= _PASSED, passed
    trial.finish({f"g{i}": job for i, job in enumerate(green)})
    trial.check(["red", *(f"g{i}" for i in range(count))])


_PASSED = 8  # two children, and what they start while word of the red one travels


@row(65, "standard output and error closed", seconds=6)
def without_output(trial: Trial) -> None:
    """The worker works, and ends with status 0."""
    _work_with(trial, 'exec "$@" >&- 2>&-')


@row(65, "the log's disk is full", variant="full", seconds=6)
def full_log(trial: Trial) -> None:
    """As above."""
    _work_with(trial, 'exec "$@" >/dev/full 2>&1')


def _work_with(trial: Trial, script: str) -> None:
    worker = trial.lab.worker("--processes", "2", inside=("sh", "-c", script, "sh"))
    jobs = trial.submit(50)
    trial.finish(jobs)
    strange = Dispatcher(trial.url, namespace=trial.lab.namespace)
    strange.task(name="nobody.knows")(_nothing).submit()  # which is worth a warning
    strange.close()
    more = trial.submit(50, prefix="m")
    trial.finish(more)
    assert worker.process.poll() is None
    trial.check([*jobs, *more])
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


def _nothing() -> None:
    """Do nothing."""


@row(65, "SIGHUP and SIGPIPE", variant="signals", seconds=6)
def hang_up(trial: Trial) -> None:
    """The worker goes on with what it runs, and takes more."""
    gate = trial.lab.gate()
    worker = trial.worker()
    running = trial.submit(2, gate.path, "r")
    trial.await_starts(2)
    for number in (signal.SIGHUP, signal.SIGPIPE, signal.SIGHUP):
        worker.signal(number)
        let_pass(0.2)
        assert worker.process.poll() is None, f"{number.name} ended it"
    gate.open()
    trial.finish(running)
    jobs = trial.submit(20)
    trial.finish(jobs)
    trial.check([*running, *jobs])


@row(66, "ten clients and three workers reconnect at once", brokers=("redis", "rabbitmq"), seconds=25, within=240.0)
def stampede(trial: Trial) -> None:
    """All are back within 30 s."""
    _reconnect(trial, clients=10, workers=3)


@row(
    66, "fifty clients and ten workers reconnect at once", variant="long", brokers=("redis", "rabbitmq"), seconds=90,
    within=300.0, is_long=True, alone=True,
)  # fmt: skip
def large_stampede(trial: Trial) -> None:
    """As above."""
    _reconnect(trial, clients=50, workers=10)


def _reconnect(trial: Trial, clients: int, workers: int) -> None:
    server = trial.server
    started = [trial.lab.worker("--processes", "1", "--name", f"w{number}") for number in range(workers)]
    for worker in started:
        worker.await_ready()
    dispatchers = [Dispatcher(trial.url, namespace=trial.lab.namespace) for _ in range(clients)]
    tasks = [one.task(name="deeds.square")(_square) for one in dispatchers]
    with ThreadPoolExecutor(clients) as pool:
        assert [job.result(timeout=30.0) for job in pool.map(_submit, tasks)] == [9] * clients
        server.kill()
        again = [pool.submit(_until_it_works, task) for task in tasks]
        let_pass(2.0)
        server.start()
        back = time.time()
        for one in again:
            trial.measure("a client is back", max(0.0, one.result(90.0) - back))
    results = trial.lab.dispatcher.open_results()
    names = {f"w{number}" for number in range(workers)}

    def are_back() -> bool:
        try:
            return names <= {worker.name for worker in results.workers() if worker.at > back}
        except BrokerUnavailable:
            return False

    eventually(are_back, within=60.0)
    trial.measure("all workers are back", time.time() - back)
    for dispatcher in dispatchers:
        dispatcher.close()
    assert max(trial.figures["a client is back"]) < _BACK_WITHIN
    assert time.time() - back < _BACK_WITHIN
    jobs = trial.submit(10)
    trial.finish(jobs)
    trial.check(jobs)


_BACK_WITHIN = 30.0  # seconds


def _square(x: int) -> int:
    return x * x


def _submit(task: Any) -> Any:
    return task.submit(3)


def _until_it_works(task: Any) -> float:
    """Submit and await a job until that succeeds; return when it did."""
    while True:
        try:
            assert task.submit(3).result(timeout=60.0) == 9
        except QueuelibError:
            let_pass(0.2)
        else:
            return time.time()
