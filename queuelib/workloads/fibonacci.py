"""Many small recursive Fibonacci jobs over three colors, submitted by one process and collected by another.

Serve it with `queuelib worker queuelib.workloads.fibonacci --name w1`, and the same with `w2` elsewhere; then

    >>> submit_all(3000, 15, "ids.txt")  # doctest: +SKIP
    3000

and in any process, later

    >>> sum(answer.value for answer in collect("ids.txt"))  # doctest: +SKIP
    1830000
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from queuelib import Dispatcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TextIO

__all__ = ["COLORS", "Answer", "Shares", "collect", "dispatcher", "fib", "fib_by", "run", "submit_all"]

COLORS = ("red", "yellow", "green")  # of jobs 0, 1, 2, then red again
ROUND = 3000  # jobs submitted or collected at a time: keeps memory flat for a million of them

dispatcher = Dispatcher(namespace="demo-fibonacci")


@dispatcher.task(name="fibonacci.fib")
def fib(n: int) -> int:
    """Return the Fibonacci number F(n), the slow way.

    Example:
        >>> fib(12)
        144
    """
    return _fib(n)


@dispatcher.task(name="fibonacci.fib_by")
def fib_by(n: int) -> tuple[int, str]:
    """Return F(n) and the name of the worker that computed it, empty outside of workers."""
    return _fib(n), os.environ.get("QUEUELIB_WORKER_NAME", "")


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one job.

    Attributes:
        index: Its place in the order of submission.
        id: The job's id.
        color: The queue it went through.
        value: F(n).
        worker: Name of the worker that ran it.
    """

    index: int
    id: str
    color: str
    value: int
    worker: str


@dataclass(frozen=True, slots=True)
class Shares:
    """Who did what.

    Attributes:
        count: Number of jobs.
        n: Each of them computed F(n).
        value: F(n).
        wrong: Number of jobs that returned anything else.
        by_color: Jobs by color, then by worker.
    """

    count: int
    n: int
    value: int
    wrong: int
    by_color: dict[str, dict[str, int]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts and numbers, ready for JSON."""
        return asdict(self)


def run(
    *,
    count: int = 3000,
    n: int = 18,
    ids_file: str | Path | None = None,
    serial: bool = False,
    on_done: Callable[[int, int], object] | None = None,
) -> Shares:
    """Run the demonstration: submit all jobs, collect all answers, and count who did what.

    Args:
        count: Number of jobs.
        n: Each computes F(n).
        ids_file: Where the ids are kept; a temporary file unless given.
        serial: Compute here, without any broker.
        on_done: Called after each answer, in order, with the numbers of jobs done and failed.

    Raises:
        ValueError: A negative count or n.
        Exception: What the first failing job raised.

    Example:
        >>> run(count=4, n=10, serial=True).to_dict()["by_color"]
        {'red': {'': 2}, 'yellow': {'': 1}, 'green': {'': 1}}
    """
    _check(count, n)
    if serial:
        return _count(_compute_here(count, n, on_done), count, n)
    if ids_file is not None:
        submit_all(count, n, ids_file)
        return _count(collect(ids_file, on_done=on_done), count, n)
    with tempfile.TemporaryDirectory() as folder:
        return run(count=count, n=n, ids_file=Path(folder) / "ids.txt", on_done=on_done)


def submit_all(count: int, n: int, ids_file: str | Path) -> int:
    """Submit jobs that compute F(n), red, yellow and green by turns, and write their ids to a file.

    The file has a line a job, in order: its id, a space, its color. If the broker stops accepting half-way, the file
    holds the ids of every batch accepted in full, and the error those of the batch that failed.

    Returns:
        The number of jobs submitted: `count`.

    Raises:
        ValueError: A negative count or n.
        BrokerUnavailable: The broker did not accept the rest.
        SubmitUnknown: The confirmation was lost.
    """
    _check(count, n)
    with Path(ids_file).open("w", encoding="utf-8") as file:
        for start in range(0, count, ROUND):
            _submit_round(min(ROUND, count - start), n, file)
    return count


def collect(ids_file: str | Path, *, on_done: Callable[[int, int], object] | None = None) -> Iterator[Answer]:
    """Wait for the jobs whose ids `submit_all` wrote, in any process, and yield their answers in order.

    Args:
        ids_file: The finished file.
        on_done: Called after each answer with the numbers of jobs done and failed.

    Raises:
        UnknownJob: An id that was never given out, or whose outcome is forgotten.
        Exception: What the first failing job raised; the others go on.
    """
    tell = on_done or (lambda _done, _failed: None)
    done = 0
    with Path(ids_file).open(encoding="utf-8") as file:
        while lines := [line.split() for line in islice(file, ROUND)]:
            try:
                values = list(dispatcher.gather([dispatcher.job(job_id) for job_id, _ in lines]))
            except Exception:  # any handler's error: count it, then let it through
                tell(done, 1)
                raise
            for (job_id, color), (value, worker) in zip(lines, values, strict=True):
                done += 1
                tell(done, 0)
                yield Answer(done - 1, job_id, color, value, worker)


def _submit_round(count: int, n: int, file: TextIO) -> None:
    """Submit `count` jobs, a batch a color, and write their ids in the order of the jobs."""
    lines = [""] * count
    try:
        for first, color in enumerate(COLORS[:count]):
            places = range(first, count, len(COLORS))
            jobs = fib_by.options(color=color).submit_many([(n,)] * len(places))
            for place, job in zip(places, jobs, strict=True):
                lines[place] = f"{job.id} {color}\n"
    finally:  # what was accepted before a failure can be collected all the same
        file.writelines(lines)
        file.flush()


def _compute_here(count: int, n: int, on_done: Callable[[int, int], object] | None) -> Iterator[Answer]:
    for index in range(count):
        value, worker = fib_by(n)
        if on_done is not None:
            on_done(index + 1, 0)
        yield Answer(index, "", COLORS[index % len(COLORS)], value, worker)


def _count(answers: Iterable[Answer], count: int, n: int) -> Shares:
    expected = _closed_fib(n)
    shares: dict[str, Counter[str]] = {color: Counter() for color in COLORS}
    wrong = 0
    for answer in answers:
        shares[answer.color][answer.worker] += 1
        wrong += answer.value != expected
    by_color = {color: dict(sorted(counts.items())) for color, counts in shares.items()}
    return Shares(count, n, expected, wrong, by_color)


def _check(count: int, n: int) -> None:
    if count < 0 or n < 0:
        msg = f"count and n are 0 or more, not {count} and {n}"
        raise ValueError(msg)


def _fib(n: int) -> int:
    """Recurse on the plain function: each step through the task's own call would cost more than the sum."""
    return n if n < 2 else _fib(n - 1) + _fib(n - 2)  # noqa: PLR2004 - F(0) = 0 and F(1) = 1


def _closed_fib(n: int) -> int:
    """Return F(n) by n additions: another way than the one that is checked with it."""
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def _main(order: dict[str, Any]) -> None:
    """Collect in a process of its own, telling how far it is and at last what it found, a line of JSON each."""
    dispatcher.configure(broker=order["broker"], results=order["results"], namespace=order["namespace"])

    def tell(done: int, failed: int) -> None:
        if done % 100 == 0 or failed:
            print(json.dumps({"done": done, "failed": failed}), flush=True)  # noqa: T201 - the protocol

    shares = _count(collect(order["ids"], on_done=tell), order["count"], order["n"])
    print(json.dumps(shares.to_dict()), flush=True)  # noqa: T201


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
