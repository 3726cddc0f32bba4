"""Blobs on RabbitMQ: a classic queue a piece, with the piece as its only message.

Queues and not streams, because the server itself deletes a queue that was not used for a while (`x-expires`; to ask for
one, to read it and to declare it again are uses), and a stream it keeps for ever. A reader takes the message, copies it
and puts it back: other readers find the queue empty for that moment, and look again.

Each call has a connection of its own: calls are rare and large, and nothing else is to wait behind them.
"""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pika
import pika.exceptions

from queuelib.errors import BrokerUnavailable
from queuelib.settings import SUBMIT_DEADLINE, mask
from queuelib_rabbitmq.io import parameters
from queuelib_rabbitmq.transport import parse

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from queuelib_rabbitmq.transport import Address

__all__ = ["RabbitBlobs", "Session", "session"]

_LONGEST_MS = 2**32 - 1  # the server takes no longer time, 49 days
_PATIENCE = 5.0  # seconds for which a piece may be in the hands of other readers, each of whom has it for milliseconds
_PAUSE = 0.01
_NOT_FOUND = 404
_OTHER_ARGUMENTS = 406


def _is_news(record: logging.LogRecord) -> bool:
    return ".blob." not in record.getMessage() and ".memo." not in record.getMessage()


# The only way to learn whether a queue is there is to be told that it is not, of which pika warns each time.
logging.getLogger("pika.channel").addFilter(_is_news)


class RabbitBlobs:
    """Blobs of one namespace of a virtual host."""

    def __init__(self, url: str, namespace: str, keep: float) -> None:
        self._address = parse(url)
        self._prefix = f"{namespace}.blob."
        self._arguments = {
            "x-queue-type": "classic",  # a virtual host may have another default
            "x-expires": min(_LONGEST_MS, max(1, int(keep * 1000))),
            "x-max-length": 1,  # who finds it empty publishes again: both copies are the same
            "x-queue-mode": "lazy",  # before RabbitMQ 3.12: on disk only
        }

    def put(self, pieces: Mapping[bytes, bytes]) -> None:
        """Keep pieces."""
        with session(self._address) as opened:
            for name, data in pieces.items():
                if not opened.waiting(self._queue(name), self._arguments):
                    opened.publish(self._queue(name), data)

    def get(self, names: Sequence[bytes]) -> list[bytes | None]:
        """Return pieces."""
        with session(self._address) as opened:
            return [opened.peek(self._queue(name)) for name in names]

    def renew(self, names: Sequence[bytes]) -> list[bool]:
        """Have the time of pieces begin anew; one that is being read may seem absent."""
        with session(self._address) as opened:
            return [bool(opened.waiting(self._queue(name))) for name in names]

    def drop(self, names: Sequence[bytes]) -> None:
        """Remove pieces."""
        with session(self._address) as opened:
            for name in names:
                opened.channel.queue_delete(self._queue(name))

    def close(self) -> None:
        """Nothing is open between two calls."""

    def _queue(self, name: bytes) -> str:
        return self._prefix + name.hex()


@contextmanager
def session(address: Address) -> Generator[Session]:
    """Open a connection while the block lasts.

    Raises:
        BrokerUnavailable: The server does not answer, or has ended the connection.
    """
    opened: Session | None = None
    try:
        opened = Session(pika.BlockingConnection(parameters(address, SUBMIT_DEADLINE)))
        yield opened
    except (pika.exceptions.AMQPError, OSError) as error:
        msg = f"{mask(address.kombu_url)}: {mask(repr(error))}"
        raise BrokerUnavailable(msg) from error
    finally:
        if opened is not None:
            opened.close()


class Session:
    """A connection and its channel, which the server closes at each question for a queue that is not there."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._channel: Any = None

    @property
    def channel(self) -> Any:
        """An open channel with confirms."""
        if self._channel is None or not self._channel.is_open:
            self._channel = self._connection.channel()
            self._channel.confirm_delivery()
        return self._channel

    def waiting(self, queue: str, arguments: Mapping[str, Any] | None = None) -> int | None:
        """Return how many messages are in a queue and in nobody's hands, None if there is no such queue.

        Args:
            queue: Its name.
            arguments: With which it is made if there is none; one of another time to live stays as it is.
        """
        try:
            found = self.channel.queue_declare(queue, passive=True)
        except pika.exceptions.ChannelClosedByBroker as error:
            if error.reply_code != _NOT_FOUND:
                raise
            if arguments is None:
                return None
        else:
            return int(found.method.message_count)
        try:
            found = self.channel.queue_declare(queue, durable=True, arguments=dict(arguments))
        except pika.exceptions.ChannelClosedByBroker as error:
            if error.reply_code != _OTHER_ARGUMENTS:
                raise
            return self.waiting(queue)  # somebody else has just made it
        return int(found.method.message_count)

    def declare(self, queue: str, arguments: Mapping[str, Any]) -> None:
        """Make a queue if there is none; one with other arguments stays as it is."""
        try:
            self.channel.queue_declare(queue, durable=True, arguments=dict(arguments))
        except pika.exceptions.ChannelClosedByBroker as error:
            if error.reply_code != _OTHER_ARGUMENTS:
                raise

    def publish(self, queue: str, data: bytes) -> None:
        """Publish a message, and return once the server has it."""
        self.channel.basic_publish("", queue, data, pika.BasicProperties(delivery_mode=2), mandatory=True)

    def peek(self, queue: str, patience: float = _PATIENCE) -> bytes | None:
        """Return the message of a queue, which stays there; None if there is no queue, or it is empty for so many seconds."""
        end = time.monotonic() + patience
        while True:
            try:
                method, _, data = self.channel.basic_get(queue)
            except pika.exceptions.ChannelClosedByBroker as error:
                if error.reply_code != _NOT_FOUND:
                    raise
                return None
            if method is not None:
                self.channel.basic_nack(method.delivery_tag, requeue=True)
                return bytes(data)
            if time.monotonic() >= end:
                return None  # whoever made the queue never filled it
            self._connection.sleep(_PAUSE)

    def close(self) -> None:
        """Close the connection, whatever state it is in."""
        try:
            self._connection.close()
        except (pika.exceptions.AMQPError, OSError):
            pass  # it is closed already
