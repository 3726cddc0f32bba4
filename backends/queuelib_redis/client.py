"""Commands in batches from any thread, each batch over a connection of its own; of what it sends nothing is sent twice."""

from __future__ import annotations

import select
from collections import deque
from typing import TYPE_CHECKING, Any

from redis import exceptions

from queuelib_redis.failure import as_ours
from queuelib_redis.wire import Wire, pack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuelib_redis.address import Address
    from queuelib_redis.script import Script

__all__ = ["Client"]


class Client:
    """Opens a connection when all others are in use, and keeps it for the next call."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._free: deque[Wire] = deque()

    def send(self, commands: Sequence[Sequence[Any]], scripts: Sequence[Script] = ()) -> list[Any]:
        """Send commands in one round trip and return their answers, in order; they are not a transaction.

        Commands that name one of `scripts` by its digest, and all that follow a first one, are sent again if the
        server did not know the script: until then that one has changed nothing, and those after it must be harmless.

        Raises:
            BrokerUnavailable: The server is gone, or refused a command.
            ConfigurationError: It refused the login.
        """
        if not commands:
            return []
        packed = _packed(commands)
        wire = self._open()
        answers = wire.exchange(packed, len(commands))
        if any(isinstance(answer, exceptions.NoScriptError) for answer in answers):
            load = [pack((b"SCRIPT", b"LOAD", script.text.encode())) for script in scripts]
            wire.exchange(b"".join(load), len(load))
            answers = wire.exchange(packed, len(commands))
        self._free.append(wire)
        for answer in answers:
            if isinstance(answer, Exception):
                raise as_ours(self._address, answer) from answer
        return answers

    def pop(
        self, key: str, timeout: float, behind: Sequence[Sequence[Any]] = ()
    ) -> tuple[bytes | None, list[Any] | None]:
        """Take the first element of a list, waiting for one at most `timeout` seconds, and then ask for more.

        Args:
            key: The list.
            timeout: Seconds.
            behind: Commands that are answered once there is an element, or the time is over, in the same round trip.

        Returns:
            The element, or None; and the answers, or None if the server refused one of those commands.

        Raises:
            BrokerUnavailable: The server is gone, or refused the first command.
        """
        first = ("BLPOP", key, f"{max(timeout, 0.001):.3f}")  # 0 would wait for ever
        packed = _packed([first, *behind])
        wire = self._open()
        found, *answers = wire.exchange(packed, 1 + len(behind))
        self._free.append(wire)
        if isinstance(found, Exception):
            raise as_ours(self._address, found) from found
        is_refused = any(isinstance(answer, Exception) for answer in answers)
        return None if found is None else bytes(found[1]), None if is_refused else answers

    def close(self) -> None:
        """Close the connections that nobody uses just now; a later call opens new ones."""
        while self._free:
            self._free.pop().close()

    def _open(self) -> Wire:
        while self._free:
            try:
                wire = self._free.pop()
            except IndexError:  # another thread was faster
                break
            if not _is_readable(wire.fileno()):
                return wire
            wire.close()  # nothing was asked: the server has ended it
        return Wire(self._address)


def _packed(commands: Sequence[Sequence[Any]]) -> bytes:
    return b"".join([pack([_as_bytes(one) for one in command]) for command in commands])


def _as_bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else b"%d" % value


def _is_readable(fd: int) -> bool:
    poll = select.poll()  # select() refuses descriptors from 1024 on
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
