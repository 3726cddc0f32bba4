"""The only place that knows kombu: opens a connection for a URL and puts the right lane on it."""

from __future__ import annotations

import importlib
import logging
import math
import os
import threading
import time
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from kombu.connection import Connection
from kombu.transport import TRANSPORT_ALIASES

from queuelib import faults, plugins
from queuelib.broker.batch import BatchLane
from queuelib.clock import SYSTEM, Clock
from queuelib.context import limit_behind
from queuelib.errors import AccessRefused, BrokerUnavailable, ConfigurationError, QueuelibError, SubmitUnknown
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


def open_lane(settings: TransportSettings, namespace: str, deadline: float, *, clock: Clock = SYSTEM) -> Lane:
    """Connect within `deadline` seconds and return a lane.

    Raises:
        BrokerUnavailable: Nobody answers; the message has the URL without its password and what to do.
        AccessRefused: The server answers and refuses.
    """
    if settings.alias is not None:
        TRANSPORT_ALIASES.setdefault(*settings.alias)
    arguments: dict[str, Any] = {"connect_timeout": max(0.1, deadline), **settings.connection}
    connection = Connection(settings.url, transport_options=dict(settings.options), **arguments)
    if settings.capabilities.has_batch_verbs:
        return BatchLane(connection, settings, namespace)
    _connect(connection, settings.url, deadline)
    from queuelib.broker.consumer import ConsumerLane  # noqa: PLC0415 - kombu's messaging layer, unneeded on SQLite

    return ConsumerLane(connection, settings, namespace, clock=clock)


def preload(url: str, namespace: str) -> None:
    """Import what a connection needs, and open none: for a process that will be forked."""
    settings = settings_for(url, namespace)
    if settings.alias is not None:
        TRANSPORT_ALIASES.setdefault(*settings.alias)
    Connection(settings.url, transport_options=dict(settings.options)).get_transport_cls()
    importlib.import_module("kombu.serialization")  # as kombu's own first connection does
    if not settings.capabilities.has_batch_verbs:
        importlib.import_module("queuelib.broker.consumer")


class Publisher:
    """The one publishing connection of a process: opened on first use, shared by its threads, reopened after a fork.

    Group commit: whoever holds the connection also sends what other threads queued meanwhile, so that threads that
    submit at once share a round trip.
    """

    def __init__(self, settings: TransportSettings, namespace: str) -> None:
        self._settings = settings
        self._namespace = namespace
        self._queue_lock = threading.Lock()  # held for a moment only, and for what is here; renewed in a forked child
        self._start()
        _publishers.add(self)

    def publish(self, frames: Sequence[Outgoing], deadline: float) -> None:
        """Return when the broker has accepted every frame.

        Raises:
            BrokerUnavailable: It did not answer within `deadline` seconds; nothing but `error.accepted` was accepted.
            SubmitUnknown: The confirmation of `error.frames` was lost, or the thread was interrupted that sent them.
        """
        order = _Order(frames, time.monotonic() + deadline)
        try:
            if not self._await_turn(order):
                msg = f"{mask(self._settings.url)}: other threads kept the connection busy for {deadline:g} s"
                raise BrokerUnavailable(msg)  # noqa: TRY301 - withdrawing twice does no harm
            if self._owner is order:
                self._send_queued()
        except BaseException:  # interrupted: nobody waits for it any more
            self._withdraw(order)
            raise
        finally:
            try:
                self._let_go(order)
            except BaseException:  # interrupted here, of all places
                self._let_go(order)
                raise
        if not order.is_done:
            self._doubt(order, order.frames)
        if order.error is not None:
            raise order.error

    def close(self) -> None:
        """Close the connection; the next publish opens another."""
        order = _Order((), math.inf)
        try:
            while self._owner is not order:  # another thread may send it: it has no frames
                order.is_done = False
                self._await_turn(order)
            self._discard()
        finally:
            try:
                self._withdraw(order)
            finally:
                self._let_go(order)

    def _start(self) -> None:
        self._queue: list[_Order] = []
        self._owner: _Order | None = None  # whose thread has the connection; one of the queue, if anything is in it
        self._waiting: list[_Order] = []
        self._lane: Lane | None = None  # one inherited through a fork is the parent's: forgotten, not closed
        self._under_way: Sequence[Outgoing] = ()  # what may have been sent, by whoever is interrupted now
        self._used = 0.0
        self._pid = os.getpid()

    def _await_turn(self, order: _Order) -> bool:
        """Return whether an order has the connection, or was sent by who had it, within its deadline.

        A thread may be interrupted at any place here, and between any two steps: who has the connection is written where
        `_let_go` can see it, and is not known only to the one that was about to note it.
        """
        with self._queue_lock:
            if self._pid != os.getpid():
                self._start()
            self._queue.append(order)
            if self._is_turn_of(order):
                return True
            if order not in self._waiting:
                order.turn = threading.Event()
                self._waiting.append(order)
        while True:
            order.turn.clear()
            with self._queue_lock:
                if self._is_turn_of(order) or order.is_done:
                    return True
            left = order.end - time.monotonic()
            # Once somebody has begun to send our frames, it is for them to end within our deadline.
            if left <= 0 and self._withdraw(order):
                return False
            order.turn.wait(min(left, _LOOK) if left > 0 else _LOOK)

    def _is_turn_of(self, order: _Order) -> bool:
        if self._owner is None:
            self._owner = order
        return self._owner is order

    def _let_go(self, order: _Order) -> None:
        """Leave the connection to the next order, if this one had it, and have all look around; twice does no harm."""
        with self._queue_lock:
            if order in self._waiting:
                self._waiting.remove(order)
            if self._owner is order:
                self._owner = self._queue[0] if self._queue else None
            for other in self._waiting:
                other.turn.set()

    def _withdraw(self, order: _Order) -> bool:
        """Take an order back; return whether nobody had begun with it."""
        with self._queue_lock:
            waits = order in self._queue
            if waits:
                self._queue.remove(order)
        return waits

    def _send_queued(self) -> None:
        with self._queue_lock:
            orders, self._queue = self._queue, []
        try:
            orders.sort(key=_by_end)
            if len(orders) > 1:
                self._send_together(orders)
            for order in orders:
                if not order.is_done:
                    self._send_alone(order)
        except BaseException:  # this thread is interrupted, not those that wait for it
            self._leave([order for order in orders if not order.is_done])
            raise

    def _leave(self, orders: Sequence[_Order]) -> None:
        """Leave orders to the next thread, but for those that may have been sent: these are in doubt."""
        waiting: list[_Order] = []
        for order in orders:
            doubtful = [frame for frame in order.frames if frame in self._under_way]
            if doubtful:
                self._doubt(order, doubtful)
            else:
                waiting.append(order)
        with self._queue_lock:
            self._queue[:0] = waiting
        self._discard()  # the connection may be in the midst of a frame

    def _doubt(self, order: _Order, frames: Sequence[Outgoing]) -> None:
        msg = f"{mask(self._settings.url)}: who sent {len(frames)} frames was interrupted; they may have been accepted"
        order.error = SubmitUnknown(msg, frames=frames, accepted=order.accepted)
        order.is_done = True

    def _send_together(self, orders: Sequence[_Order]) -> None:
        """Send the frames of several orders at once; leave those to be sent alone of which not all was accepted."""
        try:
            self._send([frame for order in orders for frame in order.left()], orders[0].end)
        except SubmitUnknown as error:  # sent again, they could be there twice
            for order in orders:
                doubtful = [frame for frame in error.frames if frame in order.frames]
                accepted = [frame.bundle.hex() for frame in order.frames if frame not in doubtful]
                order.error = SubmitUnknown(str(error), frames=doubtful, accepted=accepted) if doubtful else None
                order.is_done = True
        except QueuelibError as error:
            _log.debug("a shared publish failed; each order is sent alone", exc_info=True)
            if isinstance(error, BrokerUnavailable):
                for order in orders:
                    order.note(error.accepted)
        else:
            for order in orders:
                order.is_done = True

    def _send_alone(self, order: _Order) -> None:
        left = order.left()
        try:
            if left:
                self._send(left, order.end)
        except (BrokerUnavailable, SubmitUnknown) as error:
            error.accepted = (*order.accepted, *error.accepted)
            order.error = error
        except QueuelibError as error:
            order.error = error
        order.is_done = True

    def _send(self, frames: Sequence[Outgoing], end: float) -> None:
        self._under_way = ()
        is_fresh = self._lane is None
        if not is_fresh and time.monotonic() - self._used > _IDLE:
            self._check_idle_lane()
            is_fresh = self._lane is None
        try:
            if self._lane is None:
                self._lane = open_lane(self._settings, self._namespace, max(0.1, end - time.monotonic()))
            self._under_way = frames
            self._lane.publish(frames, max(0.1, end - time.monotonic()))
            if faults.ACTIVE:
                faults.point("after_publish")
            self._used = time.monotonic()
        except BrokerUnavailable as error:
            self._discard()
            if is_fresh or error.accepted or isinstance(error, ConfigurationError) or time.monotonic() >= end:
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


_LOOK = 1.0  # seconds between two looks at whether it is our turn, should nobody say so
_publishers: WeakSet[Publisher] = WeakSet()


def _renew_locks() -> None:
    for publisher in _publishers:
        publisher._queue_lock = threading.Lock()  # noqa: SLF001 - a thread of the parent's may hold it, which is not here


os.register_at_fork(after_in_child=_renew_locks)


class _Order:
    """What one thread wants to be published, until when, and what became of it."""

    __slots__ = ("accepted", "end", "error", "frames", "is_done", "turn")

    turn: threading.Event  # set when there is something to see; only of those that have to wait

    def __init__(self, frames: Sequence[Outgoing], end: float) -> None:
        self.frames = frames
        self.end = end
        self.accepted: Sequence[str] = ()  # bundles that a shared publish got in before it failed
        self.error: QueuelibError | None = None
        self.is_done = False

    def left(self) -> Sequence[Outgoing]:
        """Return the frames that were not accepted yet."""
        if not self.accepted:
            return self.frames
        return [frame for frame in self.frames if frame.bundle.hex() not in self.accepted]

    def note(self, accepted: Sequence[str]) -> None:
        """Note which bundles a shared publish got in, of whomever they are."""
        ours = (frame.bundle.hex() for frame in self.frames)
        self.accepted = [*self.accepted, *(bundle for bundle in ours if bundle in accepted)]


def _by_end(order: _Order) -> float:
    return order.end


def _connect(connection: Connection, url: str, deadline: float) -> None:
    end = time.monotonic() + deadline
    try:
        connection.ensure_connection(_not_if_interrupted, max_retries=1, timeout=deadline, interval_start=0.1)
    except Exception as error:  # kombu and its drivers raise many types; each ends up as one of ours
        try:
            connection.close()
        except Exception:  # noqa: BLE001 - nothing was open
            _log.debug("closing a failed connection failed", exc_info=True)
        limit = limit_behind(error)
        if limit is not None:
            raise limit from error
        text = f"{type(error).__name__}: {mask(str(error))}"
        if _is_refusal(error):
            msg = f"{mask(url)} refused the connection ({text}). Check the user, the password and the virtual host"
            raise AccessRefused(msg) from error
        waited = deadline - max(0.0, end - time.monotonic())
        msg = (
            f"{mask(url)} did not answer within {waited:.1f} s ({text}). Is the server running and reachable from here? "
            "Set QUEUELIB_BROKER or Dispatcher(...) to another URL, or start it"
        )
        raise BrokerUnavailable(msg) from error


def _not_if_interrupted(error: BaseException, _pause: float) -> None:
    """Keep kombu from trying again where what it takes for a failure of the connection is a handler's time limit."""
    limit = limit_behind(error)
    if limit is not None:
        raise limit


def _is_refusal(error: BaseException | None) -> bool:
    while error is not None:
        name, text = type(error).__name__, str(error)
        if name in {"AccessRefused", "NotAllowed", "AuthenticationError"} or "WRONGPASS" in text or "NOAUTH" in text:
            return True
        error = error.__cause__ or error.__context__
    return False
