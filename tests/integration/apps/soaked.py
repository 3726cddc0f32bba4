"""The task of the long run (tests/crash/soak.py), and its client: `python soaked.py ORDERS`, a line of JSON.

Each job has a number, which says how it ends; each start is noted in a tally of fixed rows that nobody rewrites.
"""

from __future__ import annotations

import json
import os
import random
import struct
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from queuelib import Dispatcher, Job, current_job
from queuelib.errors import BrokerUnavailable, JobTimeout, SubmitUnknown

KEEP = 120.0  # seconds; short, and longer than a job may stay uncollected behind a fault on a busy machine
ROW = struct.Struct("<IIIHxx")  # number of the job, milliseconds since the beginning, pid, attempt
PROGRESS = struct.Struct("<QQ")  # accepted, collected
_IN_TWENTY = 7  # of twenty jobs in a row this one raises, for good or in its first attempt
_SIZES = (1, 10, 100, 1000, 2000)  # jobs of one submit_many
_PATIENCE = 120.0  # seconds for the outcome of a job: many times what any fault takes
_AGAIN = 0.2  # seconds until a broker that was away is asked again

dispatcher = Dispatcher(
    os.environ.get("BROKER", "memory://soaked"), namespace=os.environ.get("NAMESPACE", "soaked"), keep=KEEP
)
_tallies: dict[int, int] = {}  # a descriptor for each process


def ending(number: int) -> str:
    """Say how a job ends: `value`, `retried` (a value in the second attempt) or `error`."""
    if number % 20 != _IN_TWENTY:
        return "value"
    return "error" if number % 40 == _IN_TWENTY else "retried"


def value_of(number: int) -> int:
    """Return what a job returns."""
    return number * 3 + 1


@dispatcher.task(retries=1, backoff=0.05, give_up_on=(KeyError,))
def work(number: int) -> int:
    """Note the start; return a value, or raise as the number says."""
    attempt = current_job().attempt
    pid = os.getpid()
    if pid not in _tallies:
        _tallies[pid] = os.open(os.environ["TALLY"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    at = int((time.time() - float(os.environ["BEGAN"])) * 1000)
    os.write(_tallies[pid], ROW.pack(number, at, pid, attempt))
    how = ending(number)
    if how == "error":
        raise KeyError(number)
    if how == "retried" and attempt == 1:
        raise ValueError(number)
    return value_of(number)


@dispatcher.task
def wait_long(number: int) -> int:
    """Be submitted with a long delay."""
    return number


@dispatcher.task
def explode(number: int, frames: int, size: int) -> None:
    """Raise from so many frames below, with a message of so many characters."""
    _odd(number, frames, size)


def _odd(number: int, frames: int, size: int) -> None:
    if frames <= 0:
        raise ValueError(f"{number} " + "x" * size)
    _even(number, frames - 1, size)


def _even(number: int, frames: int, size: int) -> None:
    _odd(number, frames - 1, size)  # two functions by turns: of one, a traceback leaves out the repetitions


@dispatcher.task
def make_bytes(size: int) -> bytes:
    """Return so many bytes."""
    return bytes(size)


@dataclass
class Client:
    """Submits all jobs in batches, never more than a few at a time, and holds each outcome against its number."""

    jobs: int
    in_flight: int
    rate: float
    seed: int
    progress: int
    seconds: float
    accepted: int = 0
    in_doubt: int = 0
    refused: int = 0
    away: int = 0
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.outcomes = bytearray(self.jobs)  # how many each number had
        self.collected = 0

    def run(self) -> None:
        """Submit and collect until every job has its outcome, or one has none for too long."""
        chance = random.Random(self.seed)
        waiting: deque[dict[Job[int], int | None]] = deque()
        began = time.monotonic()
        at = 0
        while at < self.jobs or waiting:
            if at < self.jobs and time.monotonic() - began > self.seconds:
                self.jobs = at  # as many as there was time for
                del self.outcomes[at:]
            while at < self.jobs and self.accepted - self.collected < self.in_flight and not self._is_early(began):
                end = min(self.jobs, at + chance.choice(_SIZES))
                waiting.append(self._submit(range(at, end)))
                at = end
            if waiting:
                self._collect(waiting.popleft())
            else:
                time.sleep(0.01)  # ahead of the rate, and nothing to collect

    def _is_early(self, began: float) -> bool:
        return self.rate > 0 and self.accepted > self.rate * (time.monotonic() - began) + self.in_flight

    def _submit(self, numbers: range) -> dict[Job[int], int | None]:
        """Submit until all of these are accepted; what was accepted of a broken batch is collected at once."""
        left = list(numbers)
        made: dict[Job[int], int | None] = {}
        while left:
            try:
                jobs = work.submit_many([(number,) for number in left])
            except SubmitUnknown as error:
                self.in_doubt += len(error.ids)
                self._resubmit(error)
                left = self._collect_part((*error.accepted, *error.ids), left)
            except BrokerUnavailable as error:
                self.refused += 1
                left = self._collect_part(error.accepted, left)
                time.sleep(_AGAIN)
            else:
                made.update(zip(jobs, left, strict=True))
                left = []
        self.accepted += len(made)
        self._tell()
        return made

    def _collect_part(self, names: Sequence[str], numbers: list[int]) -> list[int]:
        """Collect what was accepted of a batch; return the numbers that were not, which only the outcomes tell."""
        part: dict[Job[int], int | None] = {dispatcher.job(name): None for name in names}
        self.accepted += len(part)
        done = self._collect(part) if part else set()
        return [number for number in numbers if number not in done]

    def _resubmit(self, error: SubmitUnknown) -> None:
        while True:
            try:
                dispatcher.resubmit(error)
            except SubmitUnknown as again:
                error = again
            except BrokerUnavailable:
                self.refused += 1
            else:
                return
            time.sleep(_AGAIN)

    def _collect(self, batch: dict[Job[int], int | None]) -> set[int]:
        done: set[int] = set()
        while batch:
            try:
                for job in dispatcher.as_completed(list(batch), timeout=_PATIENCE):
                    done.add(self._enter(job, batch[job]))
                    del batch[job]
                    self.collected += 1
                    if self.collected % 500 == 0:
                        self._tell()
            except JobTimeout:
                self.wrong += [f"no outcome: {job.id} {number} {job.state}" for job, number in list(batch.items())[:5]]
                raise
            except BrokerUnavailable:
                self.away += 1
                time.sleep(_AGAIN)
        self._tell()
        return done

    def _enter(self, job: Job[int], expected: int | None) -> int:
        try:
            value = job.result(timeout=_PATIENCE)
            number, how = (value - 1) // 3, "value"
        except KeyError as error:
            number, how = int(error.args[0]), "error"
        except BrokerUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is wrong
            self._is_wrong(f"{expected}: {type(error).__name__}: {error}"[:300])
            return -1 if expected is None else expected
        wanted = "error" if ending(number) == "error" else "value"
        if how != wanted or expected not in {None, number}:
            self._is_wrong(f"job {expected} ended with the {how} of {number}")
        self.outcomes[number] = min(255, self.outcomes[number] + 1)
        return number

    def _is_wrong(self, text: str) -> None:
        if len(self.wrong) < 20:
            self.wrong.append(text)

    def _tell(self) -> None:
        os.pwrite(self.progress, PROGRESS.pack(self.accepted, self.collected), 0)

    def report(self) -> dict[str, Any]:
        """Say what came of it."""
        return {
            "accepted": self.accepted,
            "collected": self.collected,
            "lost": self.outcomes.count(0),
            "twice": self.jobs - self.outcomes.count(0) - self.outcomes.count(1),
            "in_doubt": self.in_doubt,
            "refused": self.refused,
            "away": self.away,
            "wrong": self.wrong,
        }


def main() -> None:
    """Be the client that the first argument asks for."""
    orders = json.loads(sys.argv[1])
    progress = os.open(orders["progress"], os.O_RDWR | os.O_CREAT, 0o600)
    client = Client(orders["jobs"], orders["in_flight"], orders["rate"], orders["seed"], progress, orders["seconds"])
    try:
        client.run()
    finally:
        Path(orders["report"]).write_text(json.dumps(client.report()), encoding="utf-8")
        dispatcher.close()


if __name__ == "__main__":
    main()
