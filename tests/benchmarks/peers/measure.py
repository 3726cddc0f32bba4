"""What is measured, and how: each function takes a contestant that is ready and returns figures."""

from __future__ import annotations

import itertools
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import redis

from tests.benchmarks.peers.processes import Processes
from tests.benchmarks.peers.protocol import Contestant, Unsupported

__all__ = ["best_map", "bulk", "drain", "latency", "memory", "start", "waiting", "warm_up"]

_CHUNK = 500  # handles given to one fetch: the client reads while the workers go on
_STEP = 500  # jobs that are submitted at once while a number of them is kept waiting
_RAMP = 4  # steps before the clock starts
# Jobs whose results end the clock of a drain: among more than workers hold at a time, one of each batch, so that asking
# for them costs nothing beside the work.
_LAST = slice(-1000, None, 20)
_PEEK = 50_000  # items of the trial that chooses the best chunk size
_CALM = 0.5  # seconds for workers to become idle
_OVERHEAD = len(b"*3\r\n$5\r\nLPUSH\r\n$11\r\nbench-plain\r\n$100\r\n\r\n")  # what an LPUSH adds to its payload
_FIB = 12


def start(peer: Contestant, *, own_queue: bool) -> dict[str, Any]:
    """Start the workers, and time it up to the first result; where jobs can wait, one has been waiting."""
    handle = peer.submit(7) if own_queue else None
    began = time.perf_counter()
    peer.start()
    if not own_queue:
        handle = peer.submit(7)
    values = peer.fetch([handle])
    took = time.perf_counter() - began
    _expect(values, [7])
    return {"start_s": took}


def warm_up(peer: Contestant, processes: Processes, *, within: float = 30.0) -> None:
    """Wait until two processes have answered."""
    end = time.monotonic() + within
    seen: set[int] = set()
    while len(seen) < 2:
        processes.check()
        if time.monotonic() > end:
            raise TimeoutError(f"only {len(seen)} process has answered within {within:.0f} s")
        seen |= set(peer.fetch([peer.submit_nap(0.05) for _ in range(8)]))
    peer.fetch([peer.submit(i) for i in range(200)])
    time.sleep(_CALM)


def memory(processes: Processes) -> dict[str, Any]:
    """Weigh the idle workers."""
    return {"pss_mib": processes.pss_mib(), "processes": len(processes.pids())}


def latency(peer: Contestant, count: int) -> dict[str, Any]:
    """Submit a job to idle workers and wait for its result, again and again."""
    times = []
    for i in range(count):
        began = time.perf_counter()
        values = peer.fetch([peer.submit(i)])
        times.append(time.perf_counter() - began)
        _expect(values, [i])
    times.sort()
    return {
        "latency_p50_ms": statistics.median(times) * 1e3,
        "latency_p99_ms": times[min(count - 1, int(0.99 * count))] * 1e3,
    }


def drain(peer: Contestant, processes: Processes, count: int, server: redis.Redis | None) -> dict[str, Any]:
    """Submit one by one while the workers are frozen; time from their thawing until the results are there; read them.

    They are there when the last one is, and then every twentieth of the last thousand that were submitted: the others
    were taken before those. To ask for all of them meanwhile would measure the reader, who shares the cores with the
    workers. All are read afterwards, by id, and compared.
    """
    processes.freeze()
    before = _received(server)
    began = time.perf_counter()
    handles = [peer.submit(i) for i in range(count)]
    submitting = time.perf_counter() - began
    figures = {"submit_us": submitting / count * 1e6, "submit_jobs": count}
    if server is not None:
        sent = (_received(server) - before) / count
        figures |= {"submit_wire_bytes": sent, "lpush_us": _lpush_us(server, count, int(sent))}
    began = time.perf_counter()
    processes.thaw()
    peer.wait(handles[-1:])
    peer.wait(handles[_LAST])
    drained = time.perf_counter() - began
    values = _fetch_all(peer, handles)
    took = time.perf_counter() - began
    _expect(values, range(count))
    return {
        **figures,
        "drain_per_s": count / drained,
        "drain_jobs": count,
        "drain_s": drained,
        "drain_read_per_s": count / took,
        "read_per_s": count / (took - drained),
    }


def bulk(peer: Contestant, processes: Processes, count: int) -> dict[str, Any]:
    """Submit many at once while the workers are frozen; they run them afterwards, untimed."""
    processes.freeze()
    began = time.perf_counter()
    try:
        handles = peer.submit_bulk(count)
    except Unsupported as error:
        return {"bulk_why_not": str(error)}
    finally:
        took = time.perf_counter() - began
        processes.thaw()
    _expect(_fetch_all(peer, handles), range(count))
    return {"bulk_per_s": count / took, "bulk_jobs": count}


def best_map(peer: Contestant, items: int, chunks: Sequence[int]) -> dict[str, Any]:
    """Map fib over a generator, with the best of the chunk sizes by a shorter trial."""
    before = _status_kib("VmRSS")
    chunk: int | None = None
    if len(chunks) == 1:
        chunk = chunks[0]
    elif chunks:
        few = min(items, _PEEK)
        chunk = max(chunks, key=lambda size: few / _timed_map(peer, few, size))
    _reset_peak()
    frames = peer.frames_sent()
    took = _timed_map(peer, items, chunk)
    figures: dict[str, Any] = {"map_per_s": items / took, "map_jobs": items}
    if chunk is not None:
        figures["map_chunk"] = chunk
    figures["map_growth_mib"] = max(0, _status_kib("VmHWM") - before) / 1024
    after = peer.frames_sent()
    if frames is not None and after is not None:
        figures["map_messages_share"] = (after - frames) / items
    return figures


def waiting(peer: Contestant, processes: Processes, depths: Sequence[int], window: int) -> dict[str, Any]:
    """Time `window` jobs while another number of them waits, and keeps waiting, at each depth."""
    rates = {str(depth): window / _at_depth(peer, processes, depth, window) for depth in depths}
    return {"waiting_per_s": rates, "waiting_window": window}


def _at_depth(peer: Contestant, processes: Processes, depth: int, window: int) -> float:
    """Let `depth` jobs wait; then submit a step whenever the oldest step is done, so that the client's part is the same."""
    time.sleep(_CALM)
    processes.freeze()
    steps = deque(peer.submit_bulk(_STEP) for _ in range(depth // _STEP))
    processes.thaw()
    began = 0.0
    for done in range(_RAMP + window // _STEP):
        if done == _RAMP:
            began = time.perf_counter()
        values = peer.fetch(steps.popleft())
        steps.append(peer.submit_bulk(_STEP))
        _expect(values, range(_STEP))
    return time.perf_counter() - began  # what still waits goes with the session


def _fetch_all(peer: Contestant, handles: Sequence[Any]) -> list[Any]:
    return [value for some in _batches(handles) for value in peer.fetch(some)]


def _batches(handles: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (handles[at : at + _CHUNK] for at in range(0, len(handles), _CHUNK))


def _timed_map(peer: Contestant, items: int, chunk: int | None) -> float:
    began = time.perf_counter()
    total = sum(peer.map_fib((_FIB for _ in range(items)), chunk))
    took = time.perf_counter() - began
    _expect([total], [items * 144])
    return took


def _lpush_us(server: redis.Redis, count: int, wire_bytes: int) -> float:
    """Time bare LPUSHes that put as many bytes on the wire, by the same client in the same minute."""
    payload = b"x" * max(1, wire_bytes - _OVERHEAD)
    push: Callable[..., Any] = server.lpush
    began = time.perf_counter()
    for _ in itertools.repeat(None, count):
        push("bench-plain", payload)
    took = time.perf_counter() - began
    server.delete("bench-plain")
    return took / count * 1e6


def _received(server: redis.Redis | None) -> int:
    return 0 if server is None else int(server.info("stats")["total_net_input_bytes"])


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _status_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def _expect(values: Sequence[Any], expected: Sequence[Any]) -> None:
    if list(values) != list(expected):
        wrong = next((pair for pair in zip(values, expected, strict=False) if pair[0] != pair[1]), None)
        raise ValueError(f"{len(values)} results of {len(expected)}; the first that differs, and its due: {wrong}")
