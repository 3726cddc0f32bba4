"""The worker's connections: made, thrown away on any error, and made anew with full jitter and no limit of attempts."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING

from queuelib import broker, plugins
from queuelib.clock import Clock
from queuelib.errors import AccessRefused, BrokerUnavailable
from queuelib.ports import Follower, LongReader, Redelivery
from queuelib.sealed import SealedBlobs, SealedMemos, SealedResults, SealedSettlement
from queuelib.signing import Secret

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuelib.ids import Key
    from queuelib.ports import Blobs, Lane, Memos, ResultBackend, Settlement
    from queuelib.signing import Keyring

__all__ = ["Link"]

_log = logging.getLogger("queuelib.worker")
_CONNECT_DEADLINE = 5.0
_LONGEST_WAIT = 3.0  # seconds between two attempts: a server that is back is used within five
_WAIT_SHARE = 1 / 15  # of a lease, at most: after a stall all renew before anybody has seen a lease expired twice
# The loop stands still during a look-up: claims and heartbeats have to be renewed meanwhile, and the watchdog ends a loop
# that stands still for a minute. What takes longer is tried again.
_LOOK_UP_FOR = 3.0  # seconds: 0.16 s is usual
_LOOK_UP_SHARE = 1 / 5  # of a lease, at most


class Link:
    """The lane, the result backend and the door between them; with keys, what is stored is signed.

    Attributes:
        keep: Seconds for which what is stored is kept.
    """

    def __init__(  # noqa: PLR0917 - what a manifest says, in its order
        self,
        broker_url: str,
        results_url: str,
        namespace: str,
        keep: float,
        clock: Clock,
        keys: Keyring | None = None,
    ) -> None:
        self.keys = keys
        self.keep = keep
        self._namespace = namespace
        self._settings = broker.settings_for(broker_url, namespace)
        self._stored = plugins.backend_for(results_url).results(results_url, namespace, keep)
        if isinstance(self._stored, LongReader):
            self._stored.limit_look_ups(min(_LOOK_UP_FOR, (self.lease or float("inf")) * _LOOK_UP_SHARE))
        self.results: ResultBackend = (
            self._stored if keys is None else SealedResults(self._stored, keys, shows_forged=False)
        )
        self._results_url = Secret(results_url)
        self._backend = plugins.find_backend(broker_url)
        self._clock = clock
        self._failures = 0
        self._has_served = False
        self._retry_at = 0.0
        self._longest_wait = _LONGEST_WAIT
        if self.keeps_claims and self.lease is not None:
            self._longest_wait = min(_LONGEST_WAIT, self.lease * _WAIT_SHARE)
        self.lane: Lane | None = None
        self.door: Settlement | None = None

    @property
    def keeps_claims(self) -> bool:
        """Whether what was taken stays ours through an error: the claim is a lock, not a connection."""
        return self._settings.capabilities.redelivery is Redelivery.LEASE

    @property
    def lease(self) -> float | None:
        """Seconds for which this worker may be silent before others take what it holds; None where no time decides."""
        return self._settings.capabilities.lease

    @property
    def delays(self) -> bool:
        """Whether the transport holds frames back until they are due."""
        return self._settings.capabilities.delays

    @property
    def may_try(self) -> bool:
        """Whether the pause after the last failure is over."""
        return self._clock.monotonic() >= self._retry_at

    def follow(self, keys: Sequence[Key]) -> None:
        """Tell a result backend that has use for it what it will be asked for, ever again.

        Raises:
            BrokerUnavailable: It does not answer, or not yet.
        """
        if isinstance(self._stored, Follower):
            self._stored.follow(keys)

    def connect(self) -> bool:
        """Make the connection if there is none and the pause is over; return whether there is a new one.

        Raises:
            AccessRefused: The server refuses this worker, and always did.
        """
        if self.lane is not None or not self.may_try:
            return False
        try:
            lane = broker.open_lane(self._settings, self._namespace, _CONNECT_DEADLINE)
        except BrokerUnavailable as error:
            if isinstance(error, AccessRefused) and not self._has_served:
                raise
            self.failed(error)
            return False
        self.lane = lane
        self._has_served = True
        door = self._backend.join(lane.handle, self._stored) if self._backend is not None else None
        self.door = door if door is None or self.keys is None else SealedSettlement(door, self.keys)
        self._failures = 0
        return True

    def failed(self, error: BrokerUnavailable, *, keeps_lane: bool = False) -> None:
        """Note a failure: throw the connection away unless it is well or claims survive it, and pause.

        What else fails until the pause is over belongs to the same failure.
        """
        if self.may_try:
            self._failures += 1
            pause = random.uniform(0.0, min(self._longest_wait, 0.2 * 2.0 ** min(self._failures, 10)))
            self._retry_at = self._clock.monotonic() + pause
            _log.warning("%s; trying again in %.1f s", error, pause)
        else:
            _log.debug("%s", error)
        if self.lane is not None and not self.keeps_claims and not keeps_lane:
            self.drop()

    def recovered(self) -> None:
        """Note a success."""
        self._failures = 0

    def drop(self) -> None:
        """Close the lane, whatever state it is in."""
        lane, self.lane, self.door = self.lane, None, None
        if lane is not None:
            try:
                lane.close()
            except Exception:  # noqa: BLE001 - it is broken already, and drivers raise anything here
                _log.debug("closing a broken connection failed", exc_info=True)

    def open_blobs(self, keep: float | None = None) -> Blobs:
        """Return a keeper of blobs, which connects on first use; for a thread of its own.

        Args:
            keep: Seconds for which they are kept; None: as outcomes are.

        Raises:
            ConfigurationError: The result backend has none.
        """
        blobs = plugins.blobs_for(self._results_url.reveal(), self._namespace, self.keep if keep is None else keep)
        return blobs if self.keys is None else SealedBlobs(blobs, self.keys)

    def open_memos(self) -> Memos:
        """Return a keeper of memos, which connects on first use.

        Raises:
            ConfigurationError: The result backend has none.
        """
        memos = plugins.memos_for(self._results_url.reveal(), self._namespace)
        return memos if self.keys is None else SealedMemos(memos, self.keys)

    def close(self) -> None:
        """Close everything."""
        self.drop()
        self.results.close()
