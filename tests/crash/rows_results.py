"""Rows 46 to 51: results, retries, and messages that come twice."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from queuelib import Dispatcher
from queuelib.bundle import outgoing
from queuelib.ids import job_id, new_bundle_id, parse_job_id
from queuelib.message import Bundle
from tests.crash.own_servers import OwnRedis
from tests.crash.proxy import FaultProxy
from tests.crash.rows import row
from tests.integration.lab import WITHIN, let_pass, results
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.crash.trial import Trial

_MIB = 1024**2
# Kind, size in bytes, and a word of the reason that the client is told.
_BURDENS = (
    ("result", 100 * _MIB, "16,777,216"),
    ("result", 17 * _MIB, "16,777,216"),
    ("text", 50 * _MIB, "xxx"),
    ("unspeakable", 0, "Unspeakable"),
    ("ring", 0, "ValueError"),
)


@row(46, "the results' own server is down when jobs end", seconds=15)
def results_down(trial: Trial) -> None:
    """Nothing is acknowledged without its outcome, the lease is renewed, and the outcome is written when it is back."""
    place = trial.folder / "results"
    place.mkdir()
    with OwnRedis(place) as store:
        url = f"redis://127.0.0.1:{store.port}/0"
        trial.lab.dispatcher.configure(results=url)
        gate = trial.lab.gate()
        first = trial.worker("--name", "first", RESULTS=url)
        jobs = trial.submit(2, gate.path, "r")
        trial.await_starts(2)
        second = trial.worker("--name", "second", RESULTS=url)
        store.kill()
        gate.open()
        eventually(lambda: all(run.is_finished for run in trial.runs()), within=10.0)
        let_pass(max(5.0, 3 * trial.lease))
        assert first.process.poll() is None, first.said
        assert second.process.poll() is None, second.said
        store.start()
        back = time.monotonic()
        trial.finish(jobs)
        trial.measure("outcomes written after the server came back", time.monotonic() - back)
        more = trial.submit(5)
        trial.finish(more)
        trial.check([*jobs, *more])
        trial.lab.dispatcher.close()


@row(47, "a waiting client loses its connections, again and again", brokers=("redis", "rabbitmq"), seconds=12)
def waiter_cut_off(trial: Trial) -> None:
    """It has the result within five seconds of the end of the job."""
    gate = trial.lab.gate()
    trial.worker()
    (label,) = jobs = trial.submit(1, gate.path, "r")
    trial.await_starts(1)
    address = urlsplit(trial.url)
    assert address.port is not None
    with FaultProxy(address.port, trial.seed) as proxy, ThreadPoolExecutor(1) as pool:
        url = trial.url.replace(f":{address.port}", f":{proxy.port}", 1)
        other = Dispatcher(url, namespace=trial.lab.namespace)
        returned = pool.submit(_await, other, jobs[label].id)
        eventually(lambda: proxy.accepted > 0, within=10.0)
        for _ in range(5):
            let_pass(trial.chance.uniform(0.1, 0.8))
            proxy.cut(reset=trial.chance.random() < 0.5)
        gate.open()
        for _ in range(3):
            let_pass(trial.chance.uniform(0.0, 0.05))
            proxy.cut(reset=trial.chance.random() < 0.5)
        value, at = returned.result(60.0)
        assert value == label
        ended = trial.runs()[0].end
        assert ended is not None
        trial.measure("result after the end of the job", at - ended)
        assert at - ended < _RETURNS_WITHIN
        other.close()
    trial.check(jobs)


_RETURNS_WITHIN = 5.0  # seconds


def _await(dispatcher: Dispatcher, job: str) -> tuple[object, float]:
    return dispatcher.job(job).result(timeout=60.0), time.time()


@row(49, "the same job's message delivered twice", seconds=8)
def delivered_twice(trial: Trial) -> None:
    """While it runs the second one is answered for by that run; afterwards it changes nothing."""
    gate = trial.lab.gate()
    trial.worker()
    schema = trial.deeds.mark._definition.schema
    column = schema.pack_rows([(trial.path, "twice", gate.path)])
    name = trial.deeds.mark._definition.name
    bundle = Bundle(new_bundle_id(time.time()), name, "yellow", 1, range(1), column, schema=schema.hash)
    frame = outgoing(bundle)
    lane = trial.lab.open_lane()
    lane.publish([frame], 5.0)
    trial.await_starts(1)
    trial.lab.publish_raw([frame.frame, frame.frame])
    let_pass(1.0)
    assert len(trial.runs()) == 1
    gate.open()
    job = trial.lab.dispatcher.job(job_id(bundle.id, 0))
    trial.finish({"twice": job})
    eventually(lambda: lane.waiting(["yellow"]) == {"yellow": 0}, within=10.0)
    let_pass(0.5)
    trial.check(["twice"])
    (first,) = trial.lab.dispatcher.open_results().fetch([parse_job_id(job.id)])
    trial.lab.publish_raw([frame.frame])
    others = trial.submit(20)
    trial.finish(others)
    trial.finish({"twice": job})
    (second,) = trial.lab.dispatcher.open_results().fetch([parse_job_id(job.id)])
    assert first is not None
    assert second is not None
    assert (first.state, first.body, first.at) == (second.state, second.body, second.at)
    trial.check(["twice", *others], faults=1)


@row(50, "workers killed at random while failing jobs are published again", seconds=20)
def killed_while_retrying(trial: Trial) -> None:
    """Of each job one attempt lives at a time, and their numbers only rise."""
    failures, count, kills = 3, 60, 2
    labels = [f"j{i}" for i in range(count)]
    jobs = trial.deeds.relapse.submit_many([(trial.path, label, failures) for label in labels])
    for _ in range(kills):
        worker = trial.worker()
        wanted = len(trial.runs()) + trial.chance.randrange(10, 60)
        trial.await_starts(min(wanted, count * failures))
        trial.kill_worker(worker)
    trial.worker()
    trial.finish(dict(zip(labels, jobs, strict=True)))
    by_label: defaultdict[str, list[int]] = defaultdict(list)
    for run in trial.runs():
        by_label[run.label].append(run.attempt)
    assert all(attempts == sorted(attempts) for attempts in by_label.values()), dict(by_label)
    assert {attempts[-1] for attempts in by_label.values()} == {failures + 1}
    repeated = sum(len(attempts) - (failures + 1) for attempts in by_label.values())
    trial.figures["attempts repeated"] = repeated
    assert repeated <= kills * _AT_ONCE, dict(by_label)
    trial.check(labels, faults=count * failures + repeated)


_AT_ONCE = 6  # jobs that a worker with two processes runs, or has run and not stored yet, when it is killed


@row(51, "results and errors that cannot travel", seconds=15)
def burdens(trial: Trial) -> None:
    """Each is a failed job with a reason in words; the children live on, and the jobs between them succeed."""
    trial.worker()
    before = _pids(trial)
    wrong: list[str] = []
    for kind, size_bytes, word in _BURDENS:
        job = trial.deeds.burden.submit(kind, size_bytes)
        error = job.exception(timeout=30.0)
        reason = f"{type(error).__name__}: {error}" if error is not None else "no error"
        if job.state != "failed" or word not in reason or len(reason) > 2 * 65_536:
            wrong.append(f"{kind} of {size_bytes} bytes: {job.state}, {reason[:200]}")
    for kind in ("foreign", "cyclic", "deep", "large"):
        job = trial.deeds.bad_result.submit(kind)
        error = job.exception(timeout=30.0)
        if job.state != "failed" or not str(error):
            wrong.append(f"{kind}: {job.state}, {error}")
    assert not wrong, wrong
    trial.finish(trial.submit(50))
    assert _pids(trial) == before


def _pids(trial: Trial) -> set[int]:
    """Return the pids of the children."""
    found: set[int] = set()

    def has_both() -> bool:
        found.update(child for child, _ in results(trial.deeds.whereabouts.submit_many([()] * 30)))
        return len(found) >= 2

    eventually(has_both, within=WITHIN)
    return found


@row(50, "a worker ends between a retry's publish and the acknowledgement", variant="point", seconds=10)
def ended_after_successor(trial: Trial) -> None:
    """With results apart, where the two are not one step: nobody knows that it was published, so what follows runs twice.

    Not more often than that, and the outcome is one.
    """
    results = f"sqlite:///{trial.folder}/outcomes.db"
    trial.lab.dispatcher.configure(results=results)
    failures = 2
    first = trial.worker(processes=1, RESULTS=results, QUEUELIB_FAULT="after_successor:1")
    job = trial.deeds.relapse.submit(trial.path, "r", failures)
    assert first.wait(30.0) != 0
    trial.worker(RESULTS=results)
    trial.finish({"r": job})
    let_pass(2 * trial.lease)
    attempts = [run.attempt for run in trial.runs()]
    trial.figures["attempts"] = attempts
    assert set(attempts) == set(range(1, failures + 2)), attempts
    assert all(times <= 2 for times in Counter(attempts).values()), attempts
    trial.lab.dispatcher.close()
