"""The worker's connections: made, thrown away on any error, and made anew with full jitter and no limit of attempts."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING

from queuelib import broker, plugins
from queuelib.clock import Clock
from queuelib.errors import BrokerUnavailable
from queuelib.ports import Redelivery

if TYPE_CHECKING:
    from queuelib.ports import Lane, ResultBackend, Settlement

__all__ = ["Link"]

_log = logging.getLogger("queuelib.worker")
_CONNECT_DEADLINE = 5.0
_LONGEST_WAIT = 10.0  # seconds between two attempts


class Link:
    """The lane, the result backend and the door between them."""

    def __init__(self, broker_url: str, results_url: str, namespace: str, keep: float, clock: Clock) -> None:
        self._namespace = namespace
        self._settings = broker.settings_for(broker_url, namespace)
        self.results: ResultBackend = plugins.backend_for(results_url).results(results_url, namespace, keep)
        self._backend = plugins.find_backend(broker_url)
        self._clock = clock
        self._failures = 0
        self._retry_at = 0.0
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

    def connect(self) -> bool:
        """Make the connection if there is none and the pause is over; return whether there is a new one.

        Raises:
            ConfigurationError: The server refuses for a reason that waiting does not mend.
        """
        if self.lane is not None or not self.may_try:
            return False
        try:
            lane = broker.open_lane(self._settings, self._namespace, _CONNECT_DEADLINE)
        except BrokerUnavailable as error:
            self.failed(error)
            return False
        self.lane = lane
        self.door = self._backend.join(lane.handle, self.results) if self._backend is not None else None
        self._failures = 0
        return True

    def failed(self, error: BrokerUnavailable) -> None:
        """Note a failure: throw the connection away unless claims survive it, and pause."""
        if self.may_try:  # else another operation of the same round has met it already
            self._failures += 1
            pause = random.uniform(0.0, min(_LONGEST_WAIT, 0.2 * 2.0**self._failures))
            self._retry_at = self._clock.monotonic() + pause
            _log.warning("%s; trying again in %.1f s", error, pause)
        if self.lane is not None and not self.keeps_claims:
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

    def close(self) -> None:
        """Close everything."""
        self.drop()
        self.results.close()
