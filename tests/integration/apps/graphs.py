"""A user's module whose handlers work on what is shared."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from queuelib import Dispatcher, Shared

dispatcher = Dispatcher(
    os.environ.get("BROKER", "memory://graphs"), namespace=os.environ.get("NAMESPACE", "graphs"), keep=600
)


@dataclass(frozen=True)
class Graph:
    """What is shared."""

    edges: list[tuple[int, int]]


@dispatcher.task
def look(array: Shared[NDArray[np.float64]], at: int) -> tuple[float, int]:
    """Return one number of an array, and who looked."""
    return float(array.get()[at]), os.getpid()


@dispatcher.task
def is_mapped(array: Shared[NDArray[np.float64]]) -> bool:
    """Return whether the array is a file's memory, and cannot be written to."""
    is_there = array.hash.hex() in Path("/proc/self/maps").read_text(encoding="ascii")
    found = array.get()
    return not is_there and array.hash.hex() in Path("/proc/self/maps").read_text("ascii") and not found.flags.writeable


@dispatcher.task
def degree(graph: Shared[Graph], node: int) -> int:
    """Return at how many edges a node is, looked at in a thread of the handler's own."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(sum(node in edge for edge in graph.get().edges)))
    thread.start()
    thread.join()
    return found[0]


@dispatcher.task
async def degree_later(graph: Shared[Graph], node: int) -> int:
    """Return the same from a coroutine."""
    return sum(node in edge for edge in graph.get().edges)


@dispatcher.task
def heaviest(graphs: list[Shared[Graph]]) -> Shared[Graph]:
    """Return the handle of the graph with most edges."""
    return max(graphs, key=lambda graph: len(graph.get().edges))
