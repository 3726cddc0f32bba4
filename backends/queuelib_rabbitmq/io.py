"""One thread that owns one pika connection: publishes with confirms, reads streams, and hears the reply queue.

Everything below `_run` happens in that thread. The first error ends the connection and everything that waits for
it; whoever needs it then opens another.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future, InvalidStateError, wait
from typing import TYPE_CHECKING, Any

import pika
import pika.exceptions
import pika.spec

from queuelib.errors import BrokerUnavailable
from queuelib.settings import SUBMIT_DEADLINE, mask

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from queuelib_rabbitmq.transport import Address

__all__ = ["Io", "Reading", "finish", "parameters"]

_PREFETCH = 200  # stream messages on their way to us; each may hold 100 kB
_ACK_EVERY = 50
_TICK = 1.0  # seconds between two calls of `on_tick`
_CLOSE_WAIT = 1.0  # seconds for the server's answer to our goodbye
_SOCKET_WAIT = 0.01  # seconds until pika has closed a socket
_PASSING, _LASTING = 1, 2  # AMQP's modes of delivery
_BLOCKED_WAIT = 30.0  # seconds that a server out of memory or disk may keep the connection blocked
_REPLY_ARGUMENTS = {
    "x-expires": 600_000,  # milliseconds after its client is gone
    "x-max-length-bytes": 64 * 1024 * 1024,  # what is dropped here is still in the stream
}


class Reading:
    """A consumer on one stream, for as long as somebody wants it."""

    def __init__(self, stream: str, offset: Any, on_message: Callable[[int, bytes], None]) -> None:
        self.stream = stream
        self.offset = offset
        self.on_message = on_message
        self.is_over = False
        self.channel: Any = None
        self.last_tag = 0
        self.acknowledged = 0


class Io:
    """A connection of its own thread; `ready` is set once it serves, and holds the error if it never will."""

    def __init__(
        self,
        address: Address,
        streams: Mapping[str, Mapping[str, Any]],
        *,
        timeout: float,
        on_reply: Callable[[bytes], None],
        on_tick: Callable[[], None],
    ) -> None:
        self.ready: Future[None] = Future()
        self.is_dead = False
        self._place = mask(address.kombu_url)
        self._parameters = parameters(address, timeout)
        self._streams = streams
        self._on_reply = on_reply
        self._on_tick = on_tick
        self._connection: Any = None
        self._channel: Any = None
        self._pending: dict[int, Future[None]] = {}
        self._published = 0
        self._returned: set[str] = set()
        self._is_ending = False
        self._is_unwanted = False
        self._thread = threading.Thread(target=self._run, name="queuelib-rabbitmq", daemon=True)
        self._thread.start()

    # From any thread

    def publish(self, queue: str, body: bytes, reply: str = "", *, is_lasting: bool = True) -> Future[None]:
        """Publish through the default exchange, with a copy to `reply`; the future ends with the confirm.

        What is not lasting is confirmed before it is on a disk, and need not survive the server.
        """
        future: Future[None] = Future()
        headers = {"CC": [reply]} if reply else None
        mode = _LASTING if is_lasting else _PASSING
        self._soon(lambda: self._publish(queue, body, (headers, mode), future), future)
        return future

    def read(self, reading: Reading) -> None:
        """Start a reading; it ends with `stop` or with the connection."""
        self._soon(lambda: self._open_reading(reading))

    def stop(self, reading: Reading) -> None:
        """End a reading."""
        reading.is_over = True
        self._soon(lambda: self._close_reading(reading))

    def listen(self, reply: str) -> None:
        """Declare a reply queue and hear it."""
        self._soon(lambda: self._open_reply(reply))

    def close(self, delete: str = "", timeout: float = 2.0) -> None:
        """End the connection, also one that is not open yet, and the reply queue `delete` with it."""
        self._is_unwanted = True
        self._soon(lambda: self._close(delete))
        self._thread.join(timeout)
        self.is_dead = True

    def _soon(self, call: Callable[[], None], future: Future[None] | None = None) -> None:
        connection = self._connection
        if self.is_dead or connection is None:
            if future is not None:
                future.set_exception(BrokerUnavailable(f"{self._place}: the connection was lost"))
            return
        connection.ioloop.add_callback_threadsafe(call)

    # From here on in our own thread

    def _run(self) -> None:
        try:
            self._connection = pika.SelectConnection(
                self._parameters,
                on_open_callback=self._on_open,
                on_open_error_callback=lambda _connection, error: self._on_closed(error),
                on_close_callback=lambda _connection, error: self._on_closed(error),
            )
            if self._is_unwanted:  # `close` found no connection that it could have told
                self._connection.ioloop.add_callback_threadsafe(self._end)
            self._connection.ioloop.start()
        except Exception as error:  # noqa: BLE001 - pika raises many kinds; each ends the connection
            self._fail(error)
        finally:
            self._fail(pika.exceptions.ConnectionClosed(0, "closed"))
            with contextlib.suppress(Exception):  # nothing was opened, or pika stumbles over its own end
                self._connection.ioloop.close()

    def _fail(self, error: BaseException) -> None:
        self.is_dead = True
        text = f"{self._place}: {mask(repr(_innermost(error)))}"
        waiting = [self.ready, *self._pending.values()]
        self._pending.clear()
        for future in waiting:
            if not future.done():
                failure = BrokerUnavailable(text)
                failure.__cause__ = error
                with contextlib.suppress(InvalidStateError):
                    future.set_exception(failure)
        self._end()

    def _end(self) -> None:
        """Close what is open, and leave the loop once pika has closed its socket, which it does after telling us."""
        connection = self._connection
        if connection is None or self._is_ending:
            return
        self._is_ending = True
        is_up = not (connection.is_closing or connection.is_closed)
        if is_up:
            connection.close()
        connection.ioloop.call_later(_CLOSE_WAIT if is_up else _SOCKET_WAIT, connection.ioloop.stop)

    def _on_closed(self, error: BaseException) -> None:
        self._is_ending = False  # the server has answered: no need to wait for it any longer
        self._fail(error)

    def _on_open(self, connection: Any) -> None:
        connection.channel(on_open_callback=self._on_channel)

    def _on_channel(self, channel: Any) -> None:
        self._channel = channel
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_return_callback(lambda _c, _m, properties, _b: self._returned.add(properties.message_id))
        channel.confirm_delivery(self._on_confirm, callback=lambda _frame: self._declare(list(self._streams.items())))

    def _on_channel_closed(self, _channel: Any, error: BaseException) -> None:
        self._fail(error)

    def _declare(self, left: list[tuple[str, Mapping[str, Any]]]) -> None:
        if left:
            name, arguments = left[0]
            self._channel.queue_declare(
                name, durable=True, arguments=dict(arguments), callback=lambda _frame: self._declare(left[1:])
            )
            return
        self._tick()
        if not self.ready.done():
            self.ready.set_result(None)

    def _tick(self) -> None:
        self._on_tick()
        self._connection.ioloop.call_later(_TICK, self._tick)

    def _publish(self, queue: str, body: bytes, how: tuple[dict[str, Any] | None, Any], future: Future[None]) -> None:
        if self.is_dead or not self._channel.is_open:
            future.set_exception(BrokerUnavailable(f"{self._place}: the connection was lost"))
            return
        self._published += 1
        self._pending[self._published] = future
        headers, mode = how
        properties = pika.BasicProperties(headers=headers, delivery_mode=mode, message_id=str(self._published))
        self._channel.basic_publish("", queue, body, properties, mandatory=True)

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        last = method.delivery_tag
        tags = [tag for tag in self._pending if tag <= last] if method.multiple else [last]
        is_taken = isinstance(method, pika.spec.Basic.Ack)
        for tag in tags:
            future = self._pending.pop(tag, None)
            if future is None or future.done():
                continue
            if is_taken and str(tag) not in self._returned:
                future.set_result(None)
            else:
                future.set_exception(
                    BrokerUnavailable(f"{self._place} refused an outcome: is a stream missing or full?")
                )
            self._returned.discard(str(tag))

    def _open_reply(self, reply: str) -> None:
        def opened(channel: Any) -> None:
            channel.add_on_close_callback(self._on_channel_closed)
            channel.queue_declare(
                reply,
                durable=True,
                arguments=_REPLY_ARGUMENTS,
                callback=lambda _frame: channel.basic_consume(
                    reply, lambda _c, _m, _p, body: self._on_reply(body), auto_ack=True
                ),
            )

        if not self.is_dead:
            self._connection.channel(on_open_callback=opened)

    def _open_reading(self, reading: Reading) -> None:
        def opened(channel: Any) -> None:
            reading.channel = channel
            channel.add_on_close_callback(closed)
            channel.basic_qos(prefetch_count=_PREFETCH, callback=lambda _frame: consume(channel))

        def consume(channel: Any) -> None:
            if not reading.is_over:
                channel.basic_consume(reading.stream, arrived, arguments={"x-stream-offset": reading.offset})

        def closed(_channel: Any, error: BaseException) -> None:
            if not reading.is_over:
                self._fail(error)

        def arrived(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            reading.last_tag = method.delivery_tag
            if reading.is_over:
                return
            reading.on_message(int(properties.headers["x-stream-offset"]), body)
            if reading.last_tag - reading.acknowledged >= _ACK_EVERY:
                channel.basic_ack(reading.last_tag, multiple=True)
                reading.acknowledged = reading.last_tag

        if not self.is_dead and not reading.is_over:
            self._connection.channel(on_open_callback=opened)

    @staticmethod
    def _close_reading(reading: Reading) -> None:
        channel = reading.channel
        if channel is None or not channel.is_open:
            return
        if reading.last_tag > reading.acknowledged:  # before the end, or the server closes the whole connection
            channel.basic_ack(reading.last_tag, multiple=True)
        channel.close()

    def _close(self, delete: str) -> None:
        if delete and self._channel is not None and self._channel.is_open:
            self._channel.queue_delete(delete)
        self._end()


def _innermost(error: BaseException) -> BaseException:
    """Return what pika wraps up to three times, and prints as nothing."""
    for _ in range(5):
        inner = getattr(error, "exceptions", None) or getattr(error, "exception", None) or error.args[:1]
        found = inner[-1] if isinstance(inner, list | tuple) and inner else inner
        if not isinstance(found, BaseException):
            break
        error = found
    return error


def finish(futures: Sequence[Future[None]]) -> None:
    """Wait for the confirms of some publishes.

    Raises:
        BrokerUnavailable: One of them did not come.
    """
    wait(futures, SUBMIT_DEADLINE)
    for future in futures:
        if not future.done():
            msg = f"RabbitMQ did not confirm within {SUBMIT_DEADLINE:g} s; is it out of memory or disk?"
            raise BrokerUnavailable(msg)
        future.result()


def parameters(address: Address, timeout: float) -> Any:
    """Return how pika connects to a server."""
    options: Any = None
    if address.tls is not None:
        options = pika.SSLOptions(_context(address.tls), address.tls.get("server_hostname"))
    return pika.ConnectionParameters(
        host=address.host,
        port=address.port,
        virtual_host=address.vhost,
        credentials=pika.PlainCredentials(address.user, address.password.reveal()),
        heartbeat=address.heartbeat,
        socket_timeout=timeout,
        stack_timeout=timeout,
        blocked_connection_timeout=_BLOCKED_WAIT,
        ssl_options=options,
    )


def _context(tls: Mapping[str, Any]) -> Any:
    import ssl  # noqa: PLC0415 - only where it is used

    context = ssl.create_default_context(cafile=tls.get("ca_certs"))
    if tls["cert_reqs"] == ssl.CERT_NONE:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if "certfile" in tls:
        context.load_cert_chain(tls["certfile"], tls.get("keyfile"))
    return context
