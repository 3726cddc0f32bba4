"""What has arrived on a plain AMQP connection: read in large pieces, and deliveries told without py-amqp's objects.

py-amqp makes nine system calls and some fifty Python calls for each delivery, which is more than a worker spends on all
the rest of a quick job. Here the frames of many deliveries come by one call. What is no delivery to one of our
consumers, or is not here as a whole, goes to py-amqp frame by frame, and so does what it reads by itself while it waits
for an answer; between two frames either may go on where the other stopped.
"""

from __future__ import annotations

import math
import select
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CONTENT_TYPE", "DUE", "FIRST_AT", "HELD", "Arrival", "Incoming", "arrival_of"]

CONTENT_TYPE = "application/x-queuelib"
FIRST_AT = "ql-at"  # header: wall time of the first publication
DUE = "ql-due"  # header: wall time before which nobody may start it
HELD = "ql-held"  # header: a copy of what was in hand; its number if it is to stay there, 0 if it waits for others

_CHUNK = 32 * 1024  # bytes asked of the kernel at once
_PATIENT = 16 * 1024  # bytes of a delivery whose rest is waited for here; py-amqp gathers larger ones
_FRAME = struct.Struct(">BHI")  # type, channel, size of the payload
_HEAD = _FRAME.size
_FRAME_END = 0xCE
_METHOD, _HEADER, _BODY = 1, 2, 3  # types of frames
_DELIVER = struct.pack(">HH", 60, 60)  # class and method of basic.deliver in AMQP 0-9-1
_TAG = struct.Struct(">Q?")  # delivery tag, redelivered
_SIZE_AT, _PROPERTIES_AT = 4, 12  # in the payload of a content header: after class and weight, and after the size
_SIZE = struct.Struct(">Q")
_TIME = struct.Struct(">d")


def _short(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


# The properties of nearly all deliveries begin so: content type, encoding, headers with one time in them, delivery mode
# and message id are there. See `ConfirmedChannel.send`.
_ENTRY = _short(FIRST_AT) + b"d"
_USUAL = b"".join(
    [struct.pack(">H", 0xF080), _short(CONTENT_TYPE), _short("binary"), struct.pack(">I", len(_ENTRY) + 8), _ENTRY]
)


class Arrival(NamedTuple):
    """One message that was delivered.

    Attributes:
        number: Its delivery tag.
        body: Its bytes.
        is_redelivered: Whether somebody had it before.
        first_at: Wall time of its first publication, or None.
        due: Wall time before which nobody may start it; 0 for none.
    """

    number: Any
    body: bytes
    is_redelivered: bool
    first_at: float | None
    due: float


def arrival_of(message: Any) -> Arrival:
    """Return what a message object of kombu or py-amqp says."""
    body = message.body
    body = body if isinstance(body, bytes) else bytes(body, "utf-8") if isinstance(body, str) else bytes(body)
    headers = message.headers or {}
    was_in_hand = message.delivery_info.get("redelivered") or headers.get("x-delivery-count") or HELD in headers
    first_at, due = _time(headers.get(FIRST_AT)), _time(headers.get(DUE))
    return Arrival(message.delivery_tag, body, bool(was_in_hand), first_at, due or 0.0)


class Incoming:
    """Reads one connection.

    Args:
        connection: A connected `amqp.Connection` over plain TCP.

    Attributes:
        receivers: Whom to tell of deliveries, by the number of the channel.
    """

    def __init__(self, connection: Any) -> None:
        self.receivers: dict[int, Callable[[Arrival], None]] = {}
        self._connection = connection
        self._transport = connection.transport

    def read(self, timeout: float = 0.0) -> bool:
        """Handle what has arrived, waiting for the first of it at most `timeout` seconds; return if there was any.

        Raises:
            Exception: What py-amqp raises: the server has closed a channel, the connection, or its end of it.
        """
        sock = self._transport.sock
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        wait, found = int(timeout * 1000 + 0.999), False
        while poller.poll(wait):
            data = sock.recv(_CHUNK)
            if not data:
                msg = "Server unexpectedly closed connection"
                raise ConnectionResetError(msg)
            self._connection.bytes_recv += 1  # or it would miss heartbeats
            self._handle(data)
            wait, found = 0, True
        return found

    def _handle(self, data: bytes) -> None:
        """Handle the whole frames in what has arrived; the rest stays where py-amqp keeps what it has read ahead."""
        transport: Any = self._transport
        data, at = transport._read_buffer + data, 0  # noqa: SLF001
        while len(data) - at > _HEAD:
            kind, channel, length = _FRAME.unpack_from(data, at)
            end = at + _HEAD + length
            if end >= len(data):
                break
            receive = self.receivers.get(channel) if kind == _METHOD else None
            if receive is not None and data.startswith(_DELIVER, at + _HEAD):
                after = self._deliver(receive, data, at + _HEAD + len(_DELIVER), end + 1, channel)
                if after > 0:
                    at = after
                    continue
                if after == 0 and len(data) - at < _PATIENT:
                    break
            if data[end] != _FRAME_END:
                msg = f"the server has sent a frame that ends with {data[end]:#x}"
                raise ConnectionError(msg)
            # py-amqp may read on from here by itself, as it does to open a channel again that the server has closed.
            transport._read_buffer = data[end + 1 :]  # noqa: SLF001
            self._connection.on_inbound_frame((kind, channel, data[at + _HEAD : end]))
            data, at = transport._read_buffer, 0  # noqa: SLF001
        transport._read_buffer = data[at:]  # noqa: SLF001

    @staticmethod
    def _deliver(receive: Callable[[Arrival], None], data: bytes, at: int, header: int, channel: int) -> int:
        """Tell of a delivery that is here as a whole; return where the next frame begins.

        Args:
            receive: Whom to tell.
            data: What has arrived.
            at: Where the arguments of basic.deliver begin.
            header: Where the next frame begins, which should be its header.
            channel: Number of the channel.

        Returns:
            0 if it has not arrived as a whole, -1 if it is not a usual one.
        """
        size = len(data)
        if size - header <= _HEAD:
            return 0
        length: int
        kind, number, length = _FRAME.unpack_from(data, header)
        if kind != _HEADER or number != channel:
            return -1
        header += _HEAD
        body = header + length + 1
        if body > size:
            return 0
        properties = header + _PROPERTIES_AT
        if not data.startswith(_USUAL, properties):
            return -1
        body_size: int = _SIZE.unpack_from(data, header + _SIZE_AT)[0]
        after, content = body, b""
        if body_size:
            if size - body <= _HEAD:
                return 0
            kind, number, length = _FRAME.unpack_from(data, body)
            if kind != _BODY or number != channel or length != body_size:
                return -1
            body += _HEAD
            after = body + length + 1
            if after > size:
                return 0
            content = data[body : body + length]
        (first_at,) = _TIME.unpack_from(data, properties + len(_USUAL))
        number, is_redelivered = _TAG.unpack_from(data, at + 1 + data[at])  # behind the consumer's tag
        receive(Arrival(number, content, is_redelivered, first_at, 0.0))
        return after


def _time(value: object) -> float | None:
    # Anybody may write a header: what is no time is none.
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
