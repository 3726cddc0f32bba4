"""A user's module whose handlers wait for jobs that they submit: in the worker that runs them, or in another one."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

from deeds import note, pass_gate

from queuelib import Dispatcher, Executor

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuelib import Job

dispatcher = Dispatcher(
    os.environ.get("BROKER", "memory://lends"),
    results=os.environ.get("RESULTS"),
    namespace=os.environ.get("NAMESPACE", "lends"),
)


@dispatcher.task
def fib(n: int) -> int:
    """Return the n-th Fibonacci number, by way of as many jobs as it needs."""
    if n < 2:
        return n
    one, two = fib.submit(n - 1), fib.submit(n - 2)
    return one.result() + two.result()


@dispatcher.task
async def afib(n: int) -> int:
    """Do the same in a coroutine."""
    if n < 2:
        return n
    one, two = await asyncio.gather(await afib.asubmit(n - 1), await afib.asubmit(n - 2))
    return one + two


@dispatcher.task
def leaf(path: str, label: str, gate: str = "") -> str:
    """Start, wait for a file, finish."""
    note(path, "start", label)
    pass_gate(gate)
    note(path, "finish", label)
    return label


@dispatcher.task
def linger(path: str, label: str, seconds: float) -> None:
    """Take this long."""
    note(path, "start", label)
    time.sleep(seconds)  # the job is to keep a slot for so long, and to wait for nothing


@dispatcher.task
def parent(  # noqa: PLR0917 - a job's arguments
    path: str, label: str, gate: str = "", before: str = "", way: str = "result", count: int = 1, color: str = "yellow"
) -> Any:
    """Wait for a file; then for so many jobs of a color, in one of the ways there are."""
    note(path, "start", label)
    pass_gate(before)
    calls = [(path, f"{label}.{i}", gate) for i in range(count)]
    if way in {"future", "future-exception", "shutdown"}:
        pool = Executor(dispatcher)
        futures = [pool.submit(leaf, *call) for call in calls]
        if way == "future-exception":
            assert [future.exception() for future in futures] == [None] * count
        elif way == "shutdown":
            pool.shutdown()
        found = [future.result() for future in futures]
    elif way == "map":
        found = list(leaf.map(*zip(*calls, strict=True)))
    else:
        jobs = leaf.options(color=color).submit_many(calls)
        note(path, "submitted", label)
        found = _WAYS[way](jobs)
    note(path, "finish", label)
    return found


@dispatcher.task
async def awaiting(path: str, label: str, gate: str = "", *, way: str = "await", count: int = 1) -> Any:
    """Do the same in a coroutine."""
    note(path, "start", label)
    jobs = leaf.submit_many([(path, f"{label}.{i}", gate) for i in range(count)])
    if way == "await":
        found = [await job for job in jobs]
    elif way == "agather":
        found = await dispatcher.agather(jobs)
    else:
        found = sorted([await job async for job in dispatcher.as_completed(jobs)])
    note(path, "finish", label)
    return found


_WAYS: dict[str, Callable[[list[Job[str]]], Any]] = {
    "result": lambda jobs: [job.result() for job in jobs],
    "wait": lambda jobs: [job.wait() and job.result() for job in jobs],
    "exception": lambda jobs: [job.exception() or job.result() for job in jobs],
    "gather": dispatcher.gather,
    "wait-all": lambda jobs: sorted(job.result() for job in dispatcher.wait(jobs).done),
    "as_completed": lambda jobs: sorted(job.result() for job in dispatcher.as_completed(jobs)),
}
