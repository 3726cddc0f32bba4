"""The bytes of commands, and of the connection that carries them without redis-py's client layer."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from queuelib.errors import BrokerUnavailable, QueuelibError
from queuelib_redis.address import KEEPALIVE
from queuelib_redis.failure import as_ours, translated
from queuelib_redis.sentinel import locate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from queuelib_redis.address import Address
    from queuelib_redis.script import Script

__all__ = ["CONNECT_TIMEOUT", "SOCKET_TIMEOUT", "Wire", "pack"]

CONNECT_TIMEOUT = 2.0  # seconds; with the next one, a call answers within 5
SOCKET_TIMEOUT = 3.0  # seconds of silence after which a server counts as gone


def pack(arguments: Iterable[bytes]) -> bytes:
    """Return one command as it goes over the connection."""
    parts = [b"$%d\r\n%b\r\n" % (len(one), one) for one in arguments]
    return b"*%d\r\n%b" % (len(parts), b"".join(parts))


class Wire:
    """One connection, for one thread at a time; of what it sends nothing is sent twice.

    A client of redis-py spends 15 of 27 us on its pool and retries, which nobody needs who owns a connection.

    Args:
        address: The server.
        connect_timeout: Seconds for the connection, and for each answer of the handshake.
        patience: Seconds of silence after which the server counts as gone.
        on_close: Called when the connection is closed, by an error or on purpose.
    """

    def __init__(
        self,
        address: Address,
        connect_timeout: float = CONNECT_TIMEOUT,
        patience: float = SOCKET_TIMEOUT,
        *,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self._address = address
        self._on_close = on_close
        kind: Any = redis.Connection if address.tls is None else redis.SSLConnection
        with translated(address):
            found = locate(address, connect_timeout)
            self._connection: Any = kind(
                **found.connection_options(),
                protocol=2,  # redis-py 8 asks for 3 by default, whose answers differ
                socket_connect_timeout=connect_timeout,
                socket_timeout=connect_timeout,
                socket_keepalive=True,
                socket_keepalive_options=KEEPALIVE,
                retry=Retry(NoBackoff(), 0),
            )
            self._connection.connect()
        self.is_sent = False
        self.is_broken = False
        self._sock: Any = self._connection._sock  # noqa: SLF001 - redis-py has no public name for it
        self._end = select.poll()
        self._end.register(self._sock, select.POLLIN)
        self._patience = patience
        self._sock.settimeout(patience)

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return int(self._sock.fileno())

    def is_cut(self) -> bool:
        """Return whether the server has closed it unnoticed; between two commands nothing else can be there to read."""
        return not self.is_broken and bool(self._end.poll(0))

    def send(self, packed: bytes) -> None:
        """Send commands that are packed already."""
        try:
            self._sock.sendall(packed)
        except BaseException as error:
            raise self._failed(error) from error

    def read(self) -> Any:
        """Return the next answer."""
        try:
            return self._connection.read_response()
        except BaseException as error:
            raise self._failed(error) from error

    def call(self, packed: bytes) -> Any:
        """Send one command and return its answer.

        Raises:
            BrokerUnavailable: The server is gone, or refused the command. `is_sent` says whether it may have run.
        """
        self.is_sent = False
        try:
            self._sock.sendall(packed)
            self.is_sent = True
            return self._connection.read_response()
        except BaseException as error:
            if isinstance(error, exceptions.ResponseError):
                self.is_sent = False  # an answer came, and it is no
            raise self._failed(error) from error

    def exchange(self, packed: bytes, count: int) -> list[Any]:
        """Send some commands at once and return their answers; what the server refused is an exception among them.

        Raises:
            BrokerUnavailable: The server is gone; the connection is closed then.
        """
        answers: list[Any] = []
        try:
            self._sock.sendall(packed)
            while len(answers) < count:
                try:
                    answers.append(self._connection.read_response())
                except exceptions.ResponseError as error:
                    answers.append(error)
        except BaseException as error:
            raise self._failed(error) from error
        return answers

    def run(self, script: Script, prefix: bytes, arguments: Sequence[bytes], more: Sequence[bytes] = ()) -> Any:
        """Run a script with one key and return its answer.

        Args:
            script: The script.
            prefix: Its key.
            arguments: Its arguments.
            more: A command to send with it; its answer is the second of two then.
        """
        packed = script.head(len(arguments)) + b"$%d\r\n%b\r\n" % (len(prefix), prefix)
        packed += b"".join([b"$%d\r\n%b\r\n" % (len(one), one) for one in arguments])
        if more:
            packed += pack(more)
        try:
            answer = self._call(packed, has_more=bool(more))
        except BrokerUnavailable as error:
            if not isinstance(error.__cause__, exceptions.NoScriptError):
                raise
            self.call(pack((b"SCRIPT", b"LOAD", script.text.encode())))
            answer = self._call(packed, has_more=bool(more))
        return (answer, self.read()) if more else answer

    def _call(self, packed: bytes, *, has_more: bool) -> Any:
        """Return the first answer; where the server refuses, the second one comes all the same and is no other's."""
        try:
            return self.call(packed)
        except QueuelibError:
            if has_more and not self.is_broken:
                self.read()
            raise

    def within(self, seconds: float) -> None:
        """Set for how long the next calls wait for an answer."""
        if seconds != self._patience:
            self._patience = seconds
            self._sock.settimeout(seconds)

    def close(self) -> None:
        """Close the connection, whatever state it is in."""
        self.is_broken = True
        self._connection.disconnect()
        if self._on_close is not None:
            self._on_close()

    def _failed(self, error: BaseException) -> BaseException:
        """Return what to raise; close the connection unless it is fit for another command."""
        if isinstance(error, exceptions.ReadOnlyError) or not isinstance(error, exceptions.ResponseError):
            self.close()  # an answer may still be on its way, or another server is the master now
        return as_ours(self._address, error) if isinstance(error, exceptions.RedisError | OSError) else error
