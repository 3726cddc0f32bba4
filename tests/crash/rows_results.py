"""Rows 46 to 51: results, retries, and messages that come twice."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from tests.crash.rows import row
from tests.integration.lab import WITHIN, results
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
