"""Length-prefixed, checked msgpack frames on a socket between the processes of one worker."""

from __future__ import annotations

import socket
from collections.abc import Callable
from struct import Struct
from typing import Any, cast
from zlib import crc32

import msgpack

from queuelib.codec import decode_fields
from queuelib.errors import DecodeError

__all__ = ["MAX_BYTES", "FrameReader", "pack_frame", "send_frame"]

_PREFIX = Struct("<II")  # length in bytes, CRC-32
MAX_BYTES = 64 * 1024 * 1024  # a hand-over of several messages at their largest
_packb = cast("Callable[..., bytes]", msgpack.packb)
_READ = 64 * 1024


def pack_frame(value: Any) -> bytes:
    """Return a value as a frame."""
    data = _packb(value, unicode_errors="surrogatepass")
    return _PREFIX.pack(len(data), crc32(data)) + data


def send_frame(sock: socket.socket, value: Any) -> None:
    """Write a value as a frame to a blocking socket."""
    sock.sendall(pack_frame(value))


class FrameReader:
    """Cuts what arrives on a socket into values.

    Args:
        sock: The socket.
        most: Bytes of the longest frame that is read.
        is_flat: Whether a value is a list without lists in it: what user code may have written must not become much
            larger than it is.
    """

    def __init__(self, sock: socket.socket, *, most: int = MAX_BYTES, is_flat: bool = False) -> None:
        self._sock = sock
        self._most = most
        self._is_flat = is_flat
        self._buffer = bytearray()
        self._landing = memoryview(bytearray(_READ))  # recv() would allocate as much at each call

    def next(self) -> Any:
        """Return the next value, waiting for it.

        Raises:
            EOFError: The other end was closed.
            DecodeError: What arrived is no frame.
        """
        while True:
            values = self._cut(1)
            if values:
                return values[0]
            count = self._sock.recv_into(self._landing)
            if not count:
                msg = "the other end of the pipe was closed"
                raise EOFError(msg)
            self._buffer += self._landing[:count]

    def ready(self) -> tuple[list[Any], bool]:
        """Return all whole values that have arrived, without waiting, and whether the other end was closed.

        Raises:
            DecodeError: What arrived is no frame.
        """
        is_closed = False
        while True:
            try:
                count = self._sock.recv_into(self._landing, 0, socket.MSG_DONTWAIT)
            except (BlockingIOError, InterruptedError):
                break
            except ConnectionError:
                is_closed = True
                break
            if not count:
                is_closed = True
                break
            self._buffer += self._landing[:count]
            if count < _READ or len(self._buffer) > self._most + _PREFIX.size:  # more than one frame can be
                break
        return self._cut(None), is_closed

    def _cut(self, most: int | None) -> list[Any]:
        """Remove and return whole values from the buffer; damage behind some of them is for the next call."""
        values: list[Any] = []
        start = 0
        try:
            while most is None or len(values) < most:
                end = self._end_of_frame(start)
                if not end:
                    break
                values.append(self._value(start, end))
                start = end
        except DecodeError:
            if not values:
                raise
        if start:
            del self._buffer[:start]
        return values

    def _end_of_frame(self, start: int) -> int:
        """Return where the frame at `start` ends, or 0 if not all of it is here."""
        if len(self._buffer) - start < _PREFIX.size:
            return 0
        length, _ = _PREFIX.unpack_from(self._buffer, start)
        if length > self._most:
            msg = f"a frame of {length:,} bytes on an internal pipe; at most {self._most:,} are read"
            raise DecodeError(msg)
        end = start + _PREFIX.size + int(length)
        return end if len(self._buffer) >= end else 0

    def _value(self, start: int, end: int) -> Any:
        data = bytes(self._buffer[start + _PREFIX.size : end])
        _, check = _PREFIX.unpack_from(self._buffer, start)
        try:
            if crc32(data) == check:
                return decode_fields(data) if self._is_flat else msgpack.unpackb(data, unicode_errors="surrogatepass")
        except (ValueError, RecursionError) as error:
            msg = f"a frame on an internal pipe that is not readable: {error}"
            raise DecodeError(msg) from error
        msg = "a damaged frame on an internal pipe"
        raise DecodeError(msg)
