"""memory:// keeps everything in this process: for tests, and to read the whole contract without a server."""

from __future__ import annotations

from typing import Any

from kombu.transport import TRANSPORT_ALIASES

from queuelib.clock import Clock
from queuelib.ports import Blobs, Memos, Redelivery, ResultBackend, Settlement, TransportCapabilities, TransportSettings
from queuelib_memory.blobs import MemoryBlobs
from queuelib_memory.memos import MemoryMemos
from queuelib_memory.results import MemoryResults, MemorySettlement
from queuelib_memory.server import drop, server_named
from queuelib_memory.transport import Channel

__all__ = ["BACKEND", "MemoryBackend"]


class MemoryBackend:
    """The backend of memory:// and memory://NAME; each name is a server of its own."""

    name = "memory"
    schemes = ("memory",)

    def transport(self, url: str, namespace: str) -> TransportSettings:  # noqa: ARG002 - queues carry the namespace
        """Return the settings of the kombu transport."""
        return TransportSettings(
            url="qlmemory://localhost/" + _server_name(url),
            alias=("qlmemory", "queuelib_memory.transport:Transport"),
            capabilities=TransportCapabilities(
                has_batch_verbs=True,
                redelivery=Redelivery.LEASE,
                recovery=0.0,
                delays=True,
                deduplicates=True,
                wakes=True,
                crosses_processes=False,
            ),
        )

    def results(self, url: str, namespace: str, keep: float) -> ResultBackend:
        """Return the result backend."""
        return MemoryResults(server_named(_server_name(url)), namespace, keep)

    def set_clock(self, url: str, clock: Clock) -> None:
        """Have the server of a URL take its time from a clock."""
        server_named(_server_name(url)).clock = clock

    def drop(self, url: str) -> None:
        """Forget the server of a URL."""
        drop(_server_name(url))

    def blobs(self, url: str, namespace: str, keep: float) -> Blobs:
        """Return the keeper of blobs."""
        return MemoryBlobs(server_named(_server_name(url)), namespace, keep)

    def memos(self, url: str, namespace: str) -> Memos:
        """Return the keeper of memos."""
        return MemoryMemos(server_named(_server_name(url)), namespace)

    def join(self, channel: Any, results: ResultBackend) -> Settlement | None:
        """Return one door if both are the same server."""
        if isinstance(channel, Channel) and isinstance(results, MemoryResults) and channel.server is results.server:
            return MemorySettlement(channel, results)
        return None


# A plain kombu program imports this package and opens qlmemory:// URLs; the transport loads on first use.
TRANSPORT_ALIASES.setdefault("qlmemory", "queuelib_memory.transport:Transport")

BACKEND = MemoryBackend()


def _server_name(url: str) -> str:
    return url.partition("://")[2].strip("/") or "default"
