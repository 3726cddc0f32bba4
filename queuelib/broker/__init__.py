"""The only place that knows kombu: opens a connection for a URL and puts the right lane on it."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from kombu.connection import Connection
from kombu.transport import TRANSPORT_ALIASES

from queuelib import faults, plugins
from queuelib.broker.batch import BatchLane
from queuelib.errors import BrokerUnavailable, ConfigurationError, QueuelibError
from queuelib.ports import TransportCapabilities, TransportSettings
from queuelib.settings import mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuelib.message import Outgoing
    from queuelib.ports import Lane

__all__ = ["Publisher", "open_lane", "settings_for"]

_log = logging.getLogger("queuelib.broker")


def settings_for(url: str, namespace: str) -> TransportSettings:
    """Return how to open the transport for a URL; any scheme that kombu knows passes through, with a warning.

    Raises:
        ConfigurationError: Neither a backend nor kombu knows the scheme, or the URL cannot work.
    """
    backend = plugins.find_backend(url)
    if backend is not None:
        return backend.transport(url, namespace)
    scheme = plugins.scheme_of(url)
    kombu_url = url
    if scheme.startswith("kombu+"):
        kombu_url = url[len("kombu+") :]
        scheme = scheme[len("kombu+") :]
    if scheme.partition("+")[0] not in TRANSPORT_ALIASES:
        msg = f"neither queuelib nor kombu knows the scheme of {mask(url)!r}; ours: {', '.join(plugins.schemes())}"
        raise ConfigurationError(msg)
    _log.warning(
        "%s goes through kombu's stock transport: a job that a worker holds when it is killed may be lost or come back "
        "only after a visibility timeout, and delayed jobs wait inside a worker",
        mask(url),
    )
    return TransportSettings(url=kombu_url, capabilities=TransportCapabilities(), confirms=False)


def open_lane(settings: TransportSettings, namespace: str, deadline: float) -> Lane:
    """Connect within `deadline` seconds and return a lane.

    Raises:
        BrokerUnavailable: Nobody answers; the message has the URL without its password and what to do.
        ConfigurationError: The server answers and refuses, for a reason that waiting does not mend.
    """
    if settings.alias is not None:
        TRANSPORT_ALIASES.setdefault(*settings.alias)
    arguments: dict[str, Any] = {"connect_timeout": max(0.1, deadline), **settings.connection}
    connection = Connection(settings.url, transport_options=dict(settings.options), **arguments)
    if settings.capabilities.has_batch_verbs:
        return BatchLane(connection, settings, namespace)
    _connect(connection, settings.url, deadline)
    from queuelib.broker.consumer import ConsumerLane  # noqa: PLC0415 - kombu's messaging layer, unneeded on SQLite

    return ConsumerLane(connection, settings, namespace)


class Publisher:
    """The one publishing connection of a process: opened on first use, shared by its threads, reopened after a fork.

    Group commit: whoever holds the connection also sends what other threads queued meanwhile, so that threads that
    submit at once share a round trip.
    """

    def __init__(self, settings: TransportSettings, namespace: str) -> None:
        self._settings = settings
        self._namespace = namespace
        self._lane: Lane | None = None
        self._start()

    def publish(self, frames: Sequence[Outgoing], deadline: float) -> None:
        """Return when the broker has accepted every frame.

        Raises:
            BrokerUnavailable: It did not answer within `deadline` seconds; nothing was accepted.
            SubmitUnknown: The confirmation was lost.
        """
        if self._pid != os.getpid():
            self._start()
        order = _Order(frames)
        with self._queue_lock:
            self._queue.append(order)
        end = time.monotonic() + deadline
        if not self._lock.acquire(timeout=deadline):
            with self._queue_lock:
                if order in self._queue:
                    self._queue.remove(order)
                    msg = f"{mask(self._settings.url)}: other threads kept the connection busy for {deadline:g} s"
                    raise BrokerUnavailable(msg)
            self._lock.acquire()  # somebody is sending our frames within its own deadline
        try:
            self._send_queued(end)
        finally:
            self._lock.release()
        if order.error is not None:
            raise order.error

    def lane(self) -> Lane:
        """Return the lane, opened if need be; for the thread that holds no other use of it."""
        if self._lane is None:
            self._lane = open_lane(self._settings, self._namespace, 5.0)
        return self._lane

    def waiting(self, colors: Sequence[str]) -> dict[str, int]:
        """Count the frames that wait in each color's queue."""
        with self._lock:
            return self.lane().waiting(colors)

    def close(self) -> None:
        """Close the connection; the next publish opens another."""
        with self._lock:
            self._discard()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._queue_lock = threading.Lock()
        self._queue: list[_Order] = []
        self._lane = None  # one inherited through a fork is the parent's: forgotten, not closed
        self._used = 0.0

    def _send_queued(self, end: float) -> None:
        with self._queue_lock:
            orders, self._queue = self._queue, []
        if len(orders) > 1:
            try:
                self._send([frame for order in orders for frame in order.frames], end)
            except QueuelibError:
                _log.debug("a shared publish failed; each order is sent alone", exc_info=True)
            else:
                return
        for order in orders:
            try:
                self._send(order.frames, end)
            except QueuelibError as error:
                order.error = error

    def _send(self, frames: Sequence[Outgoing], end: float) -> None:
        is_fresh = self._lane is None
        if not is_fresh and time.monotonic() - self._used > _IDLE:
            self._check_idle_lane()
            is_fresh = self._lane is None
        try:
            if self._lane is None:
                self._lane = open_lane(self._settings, self._namespace, max(0.1, end - time.monotonic()))
            self._lane.publish(frames, max(0.1, end - time.monotonic()))
            if faults.ACTIVE:
                faults.point("after_publish")
            self._used = time.monotonic()
        except BrokerUnavailable as error:
            self._discard()
            if is_fresh or error.accepted or time.monotonic() >= end:
                raise
            self._send(frames, end)  # the connection had died since its last use; once more on a new one
        except QueuelibError:
            self._discard()
            raise

    def _check_idle_lane(self) -> None:
        try:
            if self._lane is not None:
                self._lane.renew()
        except QueuelibError:
            self._discard()

    def _discard(self) -> None:
        lane, self._lane = self._lane, None
        if lane is not None:
            try:
                lane.close()
            except Exception:  # noqa: BLE001 - the connection is broken already, and drivers raise anything here
                _log.debug("closing a broken connection failed", exc_info=True)


_IDLE = 10.0  # seconds after which a connection may have died unnoticed: firewalls drop idle ones


class _Order:
    __slots__ = ("error", "frames")

    def __init__(self, frames: Sequence[Outgoing]) -> None:
        self.frames = frames
        self.error: QueuelibError | None = None


def _connect(connection: Connection, url: str, deadline: float) -> None:
    end = time.monotonic() + deadline
    try:
        connection.ensure_connection(max_retries=1, timeout=deadline, interval_start=0.1)
    except Exception as error:  # kombu and its drivers raise many types; each ends up as one of ours
        try:
            connection.close()
        except Exception:  # noqa: BLE001 - nothing was open
            _log.debug("closing a failed connection failed", exc_info=True)
        text = f"{type(error).__name__}: {mask(str(error))}"
        if _is_refusal(error):
            msg = f"{mask(url)} refused the connection ({text}). Check the user, the password and the virtual host"
            raise ConfigurationError(msg) from error
        waited = deadline - max(0.0, end - time.monotonic())
        msg = (
            f"{mask(url)} did not answer within {waited:.1f} s ({text}). Is the server running and reachable from here? "
            "Set QUEUELIB_BROKER or Dispatcher(...) to another URL, or start it"
        )
        raise BrokerUnavailable(msg) from error


def _is_refusal(error: BaseException | None) -> bool:
    while error is not None:
        name, text = type(error).__name__, str(error)
        if name in {"AccessRefused", "NotAllowed", "AuthenticationError"} or "WRONGPASS" in text or "NOAUTH" in text:
            return True
        error = error.__cause__ or error.__context__
    return False
