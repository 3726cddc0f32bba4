"""What rows about servers and networks share: jobs that flow while something breaks, and the way back."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Self

from queuelib.errors import BrokerUnavailable, SubmitUnknown
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from queuelib import Job
    from tests.crash.trial import Trial

__all__ = ["Flow", "await_quiet", "resubmit", "ride_out", "submit_once", "submit_until_accepted"]

_MOST_PAUSE = 0.2  # seconds after a refused submit


class Flow:
    """Submits `mark` jobs one after the other from a thread of its own, and keeps what was said of each.

    What is in doubt is submitted again, as a user would, until there is a yes.

    Args:
        trial: Where.
        prefix: What the labels begin with.
        every: Seconds between two jobs.

    Attributes:
        jobs: The accepted ones, by label.
        refused: Labels to which the broker said no.
        doubted: Labels that were in doubt once; accepted since.
    """

    def __init__(self, trial: Trial, prefix: str = "f", every: float = 0.01) -> None:
        self.jobs: dict[str, Job[str]] = {}
        self.refused: list[str] = []
        self.doubted: list[str] = []
        self._trial = trial
        self._deeds = trial.deeds
        self._prefix = prefix
        self._every = every
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="flow")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def await_jobs(self, count: int, within: float = 30.0) -> None:
        """Wait until so many more were accepted."""
        goal = len(self.jobs) + count
        eventually(lambda: len(self.jobs) >= goal or self._failure is not None, within=within)

    def _run(self) -> None:
        number = 0
        try:
            while not self._over.wait(self._every):
                label = f"{self._prefix}{number}"
                number += 1
                job, is_doubted = submit_once(self._trial, label)
                if is_doubted:
                    self.doubted.append(label)
                if job is None:
                    self.refused.append(label)
                    self._over.wait(_MOST_PAUSE * self._trial.chance.random())
                else:
                    self.jobs[label] = job
        except BaseException as error:  # noqa: BLE001 - raised again where the row waits
            self._failure = error


def submit_once(trial: Trial, label: str, gate: str = "") -> tuple[Job[str] | None, bool]:
    """Submit one job; return it, or None if the broker said no, and whether it was in doubt meanwhile."""
    deeds = trial.deeds
    try:
        return deeds.mark.submit(trial.path, label, gate), False
    except BrokerUnavailable:
        return None, False
    except SubmitUnknown as error:
        return resubmit(deeds.dispatcher, error), True


def resubmit(dispatcher: Any, error: SubmitUnknown, within: float = 60.0) -> Job[str]:
    """Submit again what is in doubt, until there is a yes; return the job."""
    (name,) = error.ids

    def is_accepted() -> bool:
        try:
            dispatcher.resubmit(error)
        except (BrokerUnavailable, SubmitUnknown):
            return False
        return True

    eventually(is_accepted, within=within, message=f"{name} accepted")
    job: Job[str] = dispatcher.job(name)
    return job


def submit_until_accepted(trial: Trial, label: str, within: float = 30.0) -> Job[str]:
    """Submit one job again and again, as a user does whose broker is away."""
    found: list[Job[str]] = []

    def is_accepted() -> bool:
        job, _ = submit_once(trial, label)
        if job is not None:
            found.append(job)
        return bool(found)

    eventually(is_accepted, within=within, message=f"{label} accepted")
    return found[0]


def await_quiet(trial: Trial, seconds: float = 0.5) -> None:
    """Wait until no job has started or ended for a while: a second copy of a message would run by then."""
    seen, since = -1, time.monotonic()

    def is_quiet() -> bool:
        nonlocal seen, since
        runs = trial.runs()
        lines = len(runs) + sum(run.is_finished for run in runs)
        if lines != seen:
            seen, since = lines, time.monotonic()
        return time.monotonic() - since >= seconds

    eventually(is_quiet, within=30.0)


def ride_out(
    trial: Trial,
    harm: Callable[[], None],
    *,
    within: float,
    faults: int = 0,
    others: int = 0,
    in_doubt: Sequence[str] = (),
) -> None:
    """Do harm to the server while jobs run, wait and flow, heal it, and let everything end.

    The worker is the same before and after. What ran goes on and ends once; what waited runs once; a job that is
    submitted after the healing ends soon.

    Args:
        trial: Where; its worker, if any, is started here.
        harm: Does it, and returns when it is healed.
        within: Seconds from then on until a new job has ended.
        faults: How many jobs may start once more.
        others: How many more workers there are, idle while the first one's jobs wait for a gate: they could rob it.
        in_doubt: Labels that `harm` submitted and that may run once.
    """
    gate = trial.lab.gate()
    worker = trial.worker()
    jobs = trial.submit(6, gate.path)
    trial.await_starts(2)
    workers = [worker, *(trial.worker() for _ in range(others))]
    with Flow(trial) as flow:
        flow.await_jobs(5)
        harm()
        healed = time.monotonic()
    after = submit_until_accepted(trial, "after")
    gate.open()
    trial.finish({"after": after})
    resumed = time.monotonic() - healed
    trial.measure("resume", resumed)
    jobs |= flow.jobs | {"after": after}
    trial.finish(jobs)
    if trial.broker == "rabbitmq":
        faults += len(flow.doubted)  # two messages, on a server that cannot tell
    trial.check(jobs, in_doubt=in_doubt, faults=faults)
    trial.figures["refused"] = len(flow.refused)
    for one in workers:
        assert one.process.poll() is None, f"a worker has ended:\n{one.said}"
    assert resumed < within, f"a new job ended {resumed:.2f} s after the healing"
