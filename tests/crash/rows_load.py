"""Rows 62 to 66: fairness between jobs, and a worker whose surroundings fall away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.crash.rows import row

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
