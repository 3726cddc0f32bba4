"""What a dispatcher has open: each connection is made at its first use, and all are closed together."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING
from weakref import WeakSet

from queuelib import plugins
from queuelib.large import Repeats, Store
from queuelib.sealed import SealedBlobs, SealedMemos, SealedResults

if TYPE_CHECKING:
    from queuelib.address import Address
    from queuelib.broker import Publisher
    from queuelib.ports import Blobs, Memos, ResultBackend
    from queuelib.sharing import Sharing

__all__ = ["Connections"]


class Connections:
    """The servers of one dispatcher, as they are used: keys stand around what goes there.

    Args:
        address: Where they are.
        keep: Seconds for which outcomes are kept.

    Attributes:
        address: To be replaced while nothing is open.
        lock: Held while something is opened or closed.
        store: Keeps values that are too large for messages.
        repeats: Which large arguments were sent before, to these very servers.
        transport_keeps_records: Whether publishing writes the record of a job as well; known once `publisher` was asked for.
    """

    def __init__(self, address: Address, keep: float) -> None:
        self.address = address
        self.lock = threading.RLock()
        self._keep = keep
        self._publisher: Publisher | None = None
        self.transport_keeps_records = False
        self._results: ResultBackend | None = None
        self._results_pid = 0
        self._memos: Memos | None = None
        self._sharing: Sharing | None = None
        self.store = Store(self._blobs, keep, lambda: self.results().capabilities.large_apart)
        self.repeats = Repeats(self.store)
        _all.add(self)

    def publisher(self) -> Publisher:
        """Return what hands frames to the broker."""
        with self.lock:
            if self._publisher is None:
                from queuelib import broker  # noqa: PLC0415 - kombu takes 60 ms to import

                address = self.address
                settings = broker.settings_for(address.broker_url, address.namespace)
                self._publisher = broker.Publisher(settings, address.namespace)
                # Where broker and results are one server, publishing writes the record as well.
                same = address.results_url == address.broker_url
                self.transport_keeps_records = same and settings.capabilities.deduplicates
            return self._publisher

    def results(self) -> ResultBackend:
        """Return the result backend; a process that was forked off gets one of its own."""
        with self.lock:
            if self._results is None or self._results_pid != os.getpid():
                url, keys = self.address.results_url, self.address.keys
                stored = plugins.backend_for(url).results(url, self.address.namespace, self._keep)
                self._results = stored if keys is None else SealedResults(stored, keys, shows_forged=True)
                self._results_pid = os.getpid()
            return self._results

    def memos(self) -> Memos:
        """Return what keeps progress and states of running jobs."""
        with self.lock:
            if self._memos is None:
                memos = plugins.memos_for(self.address.results_url, self.address.namespace)
                self._memos = memos if self.address.keys is None else SealedMemos(memos, self.address.keys)
            return self._memos

    def sharing(self) -> Sharing:
        """Return what keeps and reads shared objects."""
        with self.lock:
            if self._sharing is None:
                from queuelib.sharing import Sharing  # noqa: PLC0415 - programs that share nothing do without

                self._sharing = Sharing(lambda: self._blobs(self._keep), self.store)
            return self._sharing

    def close(self) -> None:
        """Close what is open; a later use opens it again."""
        with self.lock:
            if self._publisher is not None:
                self._publisher.close()
                self._publisher = None
            if self._results is not None and self._results_pid == os.getpid():
                self._results.close()
            self._results = None
            if self._sharing is not None:
                self._sharing.close()
            if self._memos is not None:
                self._memos.close()
                self._memos = None
            self.store.close()
            self.repeats = Repeats(self.store)  # the next server may be another one

    def _blobs(self, keep: float) -> Blobs:
        blobs = plugins.blobs_for(self.address.results_url, self.address.namespace, keep)
        return blobs if self.address.keys is None else SealedBlobs(blobs, self.address.keys)


_all: WeakSet[Connections] = WeakSet()


def _renew_locks() -> None:
    for one in _all:
        one.lock = threading.RLock()  # a thread of the parent's may hold it, which is not here


os.register_at_fork(after_in_child=_renew_locks)
