"""What a system has to do, and what is said about each: the common shape of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tests.benchmarks.peers.place import Place
from tests.crash.peers.work import Job

__all__ = ["Peer", "System"]


class Peer(Protocol):
    """One task queue, in one configuration, on one broker. A handle is what it gives for a submitted job."""

    def __init__(self, place: Place) -> None: ...

    def command(self, group: str, redis_url: str) -> Sequence[str]:
        """Return what starts a worker of two processes; its Redis may be reached another way than the client's."""

    def submit(self, job: Job) -> Any:
        """Submit a job in a message of its own."""

    def state(self, handle: Any) -> str:
        """Return what becomes of a job, in the system's own words."""

    def result(self, handle: Any) -> str | None:
        """Return what the job returned; None where there is no success to read."""

    def close(self) -> None:
        """Close connections."""


@dataclass(frozen=True, slots=True)
class System:
    """What is known of a system before it runs.

    Attributes:
        title: In tables.
        module: Of `systems`, with a class `Peer`.
        broker: `redis`, `sqlite` or `amqp`.
        rows: Those that make sense.
        setup: Its configuration, in a sentence.
        distributions: Whose versions are recorded; the first is the system itself.
        variant: Handed to its module.
    """

    title: str
    module: str
    broker: str
    rows: tuple[int, ...]
    setup: str
    distributions: tuple[str, ...]
    variant: str = ""
