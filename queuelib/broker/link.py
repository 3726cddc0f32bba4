"""A kombu connection as a lane uses it: every call has a limit of time, and the first error is the last."""

from __future__ import annotations

import os
import select
import socket
import time
import weakref
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from kombu.exceptions import OperationalError

from queuelib.broker.confirms import ConfirmedChannel
from queuelib.broker.incoming import Incoming
from queuelib.errors import BrokerUnavailable, CancelledError, QueuelibError, QueueRefused, SoftTimeLimit
from queuelib.settings import SUBMIT_DEADLINE, mask

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from kombu.connection import Connection

    from queuelib.broker.incoming import Arrival
    from queuelib.ports import TransportSettings

__all__ = ["Link"]

_MID_FRAME = 0.01  # seconds to wait for the rest of a frame that has begun
_CLOSE_WAIT = 1.0  # seconds for a polite end
_REFUSALS = {403, 405, 406}  # of AMQP: no right, somebody else's alone, made otherwise; 404: its node is down
_POLL_VIRTUAL = 0.02  # seconds between two looks at a transport that cannot be waited for


class Link:
    """Opens channels, reads what arrives, declares queues; dead after the first error."""

    def __init__(self, connection: Connection, settings: TransportSettings) -> None:
        self.connection: Any = connection
        self.settings = settings
        self.place = mask(settings.url)
        self.is_dead = False
        self.has_socket = connection.transport.driver_type == "amqp"
        self._incoming: Incoming | None = None
        self._declared: set[str] = set()
        self._received, self._received_at = -1, time.monotonic()
        self._channel_errors: tuple[type[BaseException], ...] = tuple(connection.channel_errors)
        self._errors: tuple[type[BaseException], ...] = (
            *connection.connection_errors,
            *connection.channel_errors,
            OperationalError,
            OSError,
            AttributeError,  # what py-amqp raises when a connection ends inside a call
            KeyError,
        )
        _links.add(self)

    @contextmanager
    def guarded(self, deadline: float = SUBMIT_DEADLINE) -> Generator[None, None, None]:
        """Give each read and write of the block `deadline` seconds, and translate what the drivers raise.

        Raises:
            BrokerUnavailable: The connection failed now, or before.
        """
        if self.is_dead:
            msg = f"{self.place}: the connection was lost"
            raise BrokerUnavailable(msg)
        try:
            self.limit(deadline)
            yield
        except (SoftTimeLimit, CancelledError):  # a handler is interrupted that submits: see below
            self.is_dead = True
            raise
        except QueuelibError:
            raise
        except self._errors as error:
            self.is_dead = True
            if self.settings.held is not None:
                self.settings.held.learn(str(error))
            msg = f"{self.place}: {type(error).__name__}: {mask(str(error))}"
            raise BrokerUnavailable(msg) from error
        except BaseException:  # interrupted, perhaps in the midst of a frame: what came next would be read as its rest
            self.is_dead = True
            raise

    @property
    def product(self) -> str:
        """What the server calls itself; empty where it is none."""
        return str(self.connection.connection.server_properties.get("product", "")) if self.has_socket else ""

    def limit(self, seconds: float) -> None:
        """Let each read and write from here on take no longer than this."""
        if self.has_socket:
            self.sock.settimeout(max(seconds, _MID_FRAME))

    def silence(self) -> float:
        """Return for how many seconds the server has sent nothing, not even a heartbeat; 0 without a socket."""
        now = time.monotonic()
        received = self.connection.connection.bytes_recv if self.has_socket else -1
        if received != self._received or not self.has_socket:
            self._received, self._received_at = received, now
        return now - self._received_at

    @property
    def sock(self) -> Any:
        """The socket of a transport that has one."""
        return self.connection.connection.sock

    def open_channel(self) -> ConfirmedChannel:
        """Return a new channel, confirming if the transport does."""
        return ConfirmedChannel(self.connection.channel(), is_confirmed=self.settings.confirms)

    def drain(self, timeout: float = 0.0) -> bool:
        """Handle all that has arrived, waiting for the first of it at most `timeout` seconds; return if there was any."""
        if not self.has_socket:
            return self._drain_virtual(timeout)
        incoming = self.incoming
        if incoming is None:
            return self._drain_by_frame(timeout)
        return incoming.read(timeout)

    @property
    def incoming(self) -> Incoming | None:
        """The reader of a plain TCP connection; None for all others."""
        if self._incoming is None and self.has_socket and not hasattr(self.sock, "pending"):
            self._incoming = Incoming(self.connection.connection)
        return self._incoming

    def tell(self, channel: ConfirmedChannel, receive: Callable[[Arrival], None]) -> None:
        """Tell of deliveries on a channel in this way too, besides by the callbacks of its consumers."""
        if self.incoming is not None:
            self.incoming.receivers[channel.raw.channel_id] = receive

    def _drain_by_frame(self, timeout: float) -> bool:
        """Drain a TLS connection.

        py-amqp reads nothing ahead of the frame at hand, so the socket says whether there is more; with a timeout
        of zero it would spin for as long as a peer takes to complete a frame.
        """
        sock = self.sock
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        before = sock.gettimeout()
        wait = int(timeout * 1000 + 0.999)
        found = False
        sock.settimeout(_MID_FRAME)
        try:
            while sock.pending() or poller.poll(wait):  # what was decrypted is not in the kernel any more
                wait = 0
                found = True
                self.connection.drain_events(timeout=_MID_FRAME)
        except SoftTimeLimit:
            raise  # which is a TimeoutError, too
        except TimeoutError:
            pass  # a heartbeat, or the rest of a frame is on its way: it is kept
        finally:
            if sock.fileno() >= 0:
                sock.settimeout(before)
        return found

    @contextmanager
    def corked(self) -> Generator[None, None, None]:
        """Let the kernel gather small writes: py-amqp makes one for each message, and each wakes the server."""
        cork: int | None = getattr(socket, "TCP_CORK", None)
        if not self.has_socket or cork is None:
            yield
            return
        sock = self.sock
        sock.setsockopt(socket.IPPROTO_TCP, cork, 1)
        try:
            yield
        finally:
            if sock.fileno() >= 0:
                sock.setsockopt(socket.IPPROTO_TCP, cork, 0)

    def declare_once(self, queue: str, arguments: Mapping[str, Any] | None = None) -> None:
        """Declare a durable queue, unless this link did before.

        Raises:
            QueueRefused: It exists with other arguments, or the user may not.
        """
        if queue not in self._declared:
            self.declare(queue, arguments)

    def declare(self, queue: str, arguments: Mapping[str, Any] | None = None) -> None:
        """Declare a durable queue, a color's one if no `arguments` are given."""
        wanted = self.settings.queue_arguments if arguments is None else arguments
        channel = self.connection.channel()
        with self._declaring(queue):
            channel.queue_declare(queue=queue, durable=True, auto_delete=False, arguments=dict(wanted))
        channel.close()
        self._declared.add(queue)

    def declare_delays_once(self, queue: str) -> None:
        """Declare a color's queue and the waiting queues before it, unless this link did before."""
        if f"delays of {queue}" not in self._declared:
            self.declare_once(queue)
            self.declare_delays(queue)

    def declare_delays(self, queue: str) -> None:
        """Declare the waiting queues before a queue, where the transport has any."""
        if self.settings.delays is not None:
            with self._declaring(queue):
                self.settings.delays.declare(self.connection, queue)
        self._declared.add(f"delays of {queue}")

    @contextmanager
    def _declaring(self, queue: str) -> Generator[None, None, None]:
        """Tell what the server refuses from what it cannot do now; the channel is gone either way."""
        try:
            yield
        except self._channel_errors as error:
            if getattr(error, "reply_code", 0) not in _REFUSALS:
                raise
            msg = (
                f"{self.place} refused the queue {queue!r} ({mask(str(error))}). If it exists with another type, "
                "delete it once it is empty, or say its type in the URL (?queue_type=classic)"
            )
            raise QueueRefused(msg) from error

    def count(self, queue: str) -> int:
        """Return how many messages are ready in a queue; none if it does not exist."""
        channel = self.connection.channel()
        try:
            answer = channel.queue_declare(queue=queue, passive=True)
        except self._channel_errors:
            return 0  # the server has closed the channel
        channel.close()
        return int(answer.message_count)

    def close(self) -> None:
        """End the connection politely within a second; a dead one at once."""
        was_dead, self.is_dead = self.is_dead, True
        try:
            if not was_dead:
                if self.has_socket:
                    self.sock.settimeout(_CLOSE_WAIT)
                self.connection.release()
        except self._errors:
            pass  # it is gone either way
        finally:
            self.connection.collect(_CLOSE_WAIT)

    def let_go(self) -> None:
        """Give up the connection without a word, as it is another process's, and close this process's way to it.

        Else whatever is called here would speak on it, what closes it here would shut it down for both, and the server
        would not see it end with the other process.
        """
        self.is_dead = True
        if self.has_socket and self.connection.connected:
            with suppress(OSError):  # it was closed already
                os.close(self.sock.detach())

    def _drain_virtual(self, timeout: float) -> bool:
        found = False
        try:
            while True:
                self.connection.drain_events(timeout=min(timeout, _POLL_VIRTUAL) if not found else 0)
                found = True
        except SoftTimeLimit:
            raise  # as above
        except TimeoutError:
            return found


_links: weakref.WeakSet[Link] = weakref.WeakSet()  # those of this process, which a fork hands to its child as well


def _let_go_of_all() -> None:
    for link in _links:
        link.let_go()
    _links.clear()


os.register_at_fork(after_in_child=_let_go_of_all)
