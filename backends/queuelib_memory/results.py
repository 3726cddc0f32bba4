"""The result backend of memory://: every method of the port, without a server."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from queuelib.ear import Ear
from queuelib.ports import Cancelled, QuarantineItem, ResultCapabilities, Settled, WorkerInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuelib.ids import Key
    from queuelib.message import Outgoing
    from queuelib.outcome import Record
    from queuelib_memory.server import MemoryServer
    from queuelib_memory.transport import Channel

__all__ = ["MemoryResults", "MemorySettlement"]


class MemoryResults:
    """Outcomes in this process."""

    capabilities = ResultCapabilities(records=True, crosses_processes=False, cancels_at_once=True)

    def __init__(self, server: MemoryServer, namespace: str, keep: float) -> None:
        self.server = server
        self.namespace = namespace
        self.keep = keep

    def accept(self, frames: Sequence[Outgoing]) -> None:
        """Remember bundles."""
        self.server.accept(frames)

    def expect(self, frames: Sequence[Outgoing]) -> None:
        """Do nothing: everybody is woken."""

    def store(self, records: Sequence[Record], reply: str = "") -> list[bool]:  # noqa: ARG002 - everybody is woken
        """Store records."""
        return self.server.store(records, self.keep)

    def fetch(self, keys: Sequence[Key]) -> list[Record | None]:
        """Return what is known."""
        return self.server.fetch(keys)

    def wait(self, keys: Sequence[Key], timeout: float) -> None:
        """Wait for the next record of these jobs."""
        with self.server.changed:
            end = time.monotonic() + timeout
            while not any((r := self.server.records.get(key)) is not None and r.is_final for key in keys):
                left = end - time.monotonic()
                if left <= 0 or not self.server.changed.wait(left):
                    return

    def listen(self) -> Ear:
        """Hear of every end."""
        ear = Ear(lambda _: True, self._leave)
        with self.server.lock:
            self.server.ears.append(ear)
        return ear

    def forget(self, keys: Sequence[Key]) -> None:
        """Drop endings."""
        self.server.forget(keys)

    def inbox(self) -> str:
        """Return no address: the condition variable wakes everybody."""
        return ""

    def cancel(self, keys: Sequence[Key]) -> None:
        """Mark jobs."""
        self.server.cancel(keys, self.keep)

    def cancelled(self, cursor: Any) -> Cancelled:
        """Return new marks; the cursor is a position in the list."""
        with self.server.lock:
            marks = self.server.marks
            return Cancelled(marks[cursor or 0 :], len(marks))

    def quarantine(self, items: Sequence[QuarantineItem]) -> None:
        """Set aside."""
        self.server.set_aside(self.namespace, items)

    def quarantined(self) -> list[QuarantineItem]:
        """Return what is set aside."""
        with self.server.lock:
            return [item for (place, _), item in self.server.quarantine.items() if place == self.namespace]

    def release(self, ids: Sequence[str]) -> None:
        """Remove from the quarantine."""
        with self.server.lock:
            for item in ids:
                self.server.quarantine.pop((self.namespace, item), None)

    def announce(self, worker: WorkerInfo, lifetime: float) -> None:
        """List a worker."""
        with self.server.lock:
            self.server.workers[self.namespace, worker.name] = (worker, time.monotonic() + lifetime)

    def workers(self) -> list[WorkerInfo]:
        """Return live workers."""
        with self.server.lock:
            known = [one for (place, _), one in self.server.workers.items() if place == self.namespace]
            return [info for info, end in known if end > time.monotonic()]

    def close(self) -> None:
        """Nothing is open."""

    def _leave(self, ear: Ear) -> None:
        with self.server.lock:
            self.server.ears.remove(ear)


class MemorySettlement:
    """Records and acknowledgements under one lock."""

    def __init__(self, channel: Channel, results: MemoryResults) -> None:
        self._channel = channel
        self._results = results

    def settle(self, batch: Sequence[Settled]) -> list[bool]:
        """Write a batch."""
        batch = [replace(settled, successors=self._channel.to_queues(settled.successors)) for settled in batch]
        return self._channel.server.settle(self._channel.owner, self._results.namespace, batch, self._results.keep)
