"""What a contestant has to do, and what may be said about each: the common shape of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tests.benchmarks.peers.place import Place
from tests.benchmarks.peers.processes import Processes

__all__ = ["Contestant", "Entry", "Unsupported"]


class Unsupported(Exception):
    """This contestant has no such thing."""


class Contestant(Protocol):
    """One task queue, in one configuration, on one broker.

    A handle is whatever the contestant gives for a submitted job; where there is a broker it is the job's id, and
    `fetch` starts from the id alone.
    """

    def __init__(self, place: Place, processes: Processes) -> None: ...

    def start(self) -> None:
        """Start two worker processes."""

    def submit(self, x: int) -> Any:
        """Submit one job that returns `x`, in a broker message of its own."""

    def submit_nap(self, seconds: float) -> Any:
        """Submit one job that sleeps and returns the id of its process."""

    def submit_bulk(self, count: int) -> Sequence[Any]:
        """Submit jobs that return 0, 1, 2 ... in the fastest way there is for many; or raise Unsupported."""

    def fetch(self, handles: Sequence[Any]) -> list[Any]:
        """Wait for results and return them in order, in the fastest way there is."""

    def wait(self, handles: Sequence[Any]) -> None:
        """Wait until all results are there, and leave them there; with as little work for the machine as it can be."""

    def map_fib(self, numbers: Iterable[int], chunk: int | None) -> Iterator[int]:
        """Map fib over a generator, in order; or raise Unsupported. `chunk` is for contestants that need one."""

    def frames_sent(self) -> int | None:
        """Return how many broker messages the client has sent; None where nothing counts them."""

    def close(self) -> None:
        """Close connections, and remove what the session left on a server outside of the Redis database."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a contestant before it runs.

    Attributes:
        name: In tables.
        module: Of `contestants`, with a class `Peer`.
        brokers: Those it is run on.
        delivery: What is promised of a job whose worker is killed: `at least once`, `at most once`, or `in memory`.
        setup: Its configuration, in a sentence.
        imports: The statement with which a client begins.
        distributions: Whose versions are recorded.
        variant: Handed to its module.
        share: Of `--jobs`; below 1 for those that would take minutes. A rate is compared, and the number is shown.
        own_queue: Whether jobs can wait before any worker is started.
        queues: Whether single jobs are measured; False for what has nothing but a map.
        maps: Whether it has an ordered map over a generator.
        chunks: Chunk sizes for `map_fib` to choose the best from.
    """

    name: str
    module: str
    brokers: tuple[str, ...]
    delivery: str
    setup: str
    imports: str
    distributions: tuple[str, ...]
    variant: str = ""
    share: float = 1.0
    own_queue: bool = True
    queues: bool = True
    maps: bool = False
    chunks: tuple[int, ...] = ()
