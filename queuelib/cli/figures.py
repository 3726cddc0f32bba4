"""What `queuelib bench` measures, and how: each function takes a dispatcher whose workers are ready."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from queuelib.cli.descendants import descendants, held, pss_mib

if TYPE_CHECKING:
    from queuelib.dispatcher import Dispatcher
    from queuelib.job import Job
    from queuelib.message import Outgoing

__all__ = ["Amounts", "Figures", "measure"]

Figures = dict[str, float]

_N = 12  # of the Fibonacci numbers that are mapped: some 30 us of work
# Jobs whose results end the clock of a drain: among more than children hold at a time, one of each batch, so that asking
# for them costs nothing beside the work.
_LAST = slice(-1000, None, 20)
_CALM = 0.5  # seconds in which workers become idle
_STEP = 500  # jobs that are submitted at once while a number of them is kept waiting
_RAMP = 4  # steps before the clock starts
_FEW_WAIT = 1000
_IMPORTS = 5
_WITHIN = 600.0  # seconds for any one result


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much is measured.

    Attributes:
        jobs: To submit one by one, at once, and to drain.
        items: To map.
        latencies: Single jobs whose time from submit to result is taken.
        waiting: Jobs that wait while others are timed, against 1,000; 0: not measured.
    """

    jobs: int
    items: int
    latencies: int
    waiting: int = 0


def measure(dispatcher: Dispatcher, processes: int, amounts: Amounts, tell: Callable[[str], None]) -> Figures:
    """Start workers beside this program, measure, stop them; `tell` hears what is going on."""
    from queuelib.workloads.noop import fib, noop  # noqa: PLC0415 - its dispatcher is the one given

    figures: Figures = {}
    tell("import")
    figures["import_ms"] = _import_ms()
    tell("start")
    first = noop.submit(0)
    began = time.perf_counter()
    with dispatcher.workers(processes=processes):
        first.result(_WITHIN)
        figures["start_s"] = time.perf_counter() - began
        dispatcher.gather(noop.submit_many([(i,) for i in range(_STEP)]), _WITHIN)
        time.sleep(_CALM)
        if descendants():  # on memory:// there are none
            figures["worker_mib"] = pss_mib()
        tell("latency")
        figures |= _latency(noop, amounts.latencies)
        tell("submit and drain")
        figures |= _drain(dispatcher, noop, amounts.jobs)
        tell("submit_many")
        figures |= _submit_many(dispatcher, noop, amounts.jobs)
        tell("map")
        figures |= _map(dispatcher, fib, amounts.items)
        if amounts.waiting:
            for name, depth in (("few", _FEW_WAIT), ("many", amounts.waiting)):
                tell(f"{depth:,} waiting")
                figures[f"{name}_waiting_per_s"] = _with_waiting(dispatcher, noop, depth, amounts.jobs)
    return figures


def _import_ms() -> float:
    """Time the import beyond an empty program, in processes of their own."""

    def run(statement: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        return time.perf_counter() - began

    times = [(run("from queuelib import Dispatcher"), run("pass")) for _ in range(_IMPORTS)]
    return statistics.median(full - bare for full, bare in times) * 1e3


def _latency(noop: Any, count: int) -> Figures:
    times: list[float] = []
    for number in range(count):
        began = time.perf_counter()
        noop.submit(number).result(_WITHIN)
        times.append((time.perf_counter() - began) * 1e3)
    times.sort()
    return {"latency_p50_ms": statistics.median(times), "latency_p99_ms": times[int(0.99 * count)]}


def _drain(dispatcher: Dispatcher, noop: Any, count: int) -> Figures:
    time.sleep(_CALM)
    began = time.perf_counter()
    with held():
        ids = [noop.submit(number).id for number in range(count)]
        submitted = time.perf_counter()
    # Threads of this process cannot be held back: on memory:// the first job starts with the first submit.
    started = submitted if descendants() else began
    for last in (ids[-1:], ids[_LAST]):  # to ask for all meanwhile would take time from the workers
        dispatcher.gather([dispatcher.job(id_) for id_ in last], _WITHIN)
    drained = time.perf_counter()
    dispatcher.gather([dispatcher.job(id_) for id_ in ids], _WITHIN)
    read = time.perf_counter()
    return {
        "submit_us": (submitted - began) / count * 1e6,
        "drain_per_s": count / (drained - started),
        "read_per_s": count / (read - drained),
    }


def _submit_many(dispatcher: Dispatcher, noop: Any, count: int) -> Figures:
    with held():
        began = time.perf_counter()
        jobs = noop.submit_many([(number,) for number in range(count)])
        took = time.perf_counter() - began
    dispatcher.gather(jobs, _WITHIN)
    return {"submit_many_per_s": count / took}


def _map(dispatcher: Dispatcher, fib: Any, count: int) -> Figures:
    sent = 0
    publish = dispatcher.producer.publish

    def counting(frames: Sequence[Outgoing]) -> None:
        nonlocal sent
        sent += len(frames)
        publish(frames)

    dispatcher.producer.publish = counting  # type: ignore[method-assign] # of this one object, to count
    try:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from now on
        before = _memory_kib("VmRSS")
        began = time.perf_counter()
        for _ in fib.map(_N for _ in range(count)):
            pass
        took = time.perf_counter() - began
        growth = max(0, _memory_kib("VmHWM") - before) / 1024
    finally:
        del dispatcher.producer.publish
    return {"map_per_s": count / took, "map_growth_mib": growth, "map_messages_share": sent / count}


def _with_waiting(dispatcher: Dispatcher, noop: Any, depth: int, count: int) -> float:
    """Return how many jobs a second are done while `depth` wait, and go on waiting."""
    call = [(number,) for number in range(_STEP)]
    with held():
        steps: deque[list[Job[int]]] = deque(noop.submit_many(call) for _ in range(max(2, depth // _STEP)))
    began = 0.0
    rounds = max(1, count // _STEP)
    for done in range(_RAMP + rounds):
        if done == _RAMP:
            began = time.perf_counter()
        dispatcher.gather(steps.popleft(), _WITHIN)
        steps.append(noop.submit_many(call))
    took = time.perf_counter() - began
    for step in steps:  # nothing is left behind on somebody's broker
        dispatcher.gather(step, _WITHIN)
    return rounds * _STEP / took


def _memory_kib(field: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1])
    return 0
