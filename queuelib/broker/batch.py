"""The lane for transports whose channel has batch verbs: memory, SQLite, and whatever follows them."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from kombu.exceptions import OperationalError

from queuelib.errors import BrokerUnavailable, QueuelibError
from queuelib.settings import mask

if TYPE_CHECKING:
    from kombu.connection import Connection

    from queuelib.channel import BatchChannel
    from queuelib.message import Outgoing
    from queuelib.ports import Delivery, TransportCapabilities, TransportSettings

__all__ = ["BatchLane"]


class BatchLane:
    """Calls the channel's own verbs; between colors and queue names stands only the namespace."""

    def __init__(self, connection: Connection, settings: TransportSettings, namespace: str) -> None:
        self._connection = connection
        self._settings = settings
        self._prefix = namespace + "."
        with self._translated():
            self._channel = cast("BatchChannel", connection.default_channel)
        self._channel.queue_prefix = self._prefix

    @property
    def capabilities(self) -> TransportCapabilities:
        """What the transport can promise."""
        return self._settings.capabilities

    @property
    def handle(self) -> Any:
        """The channel."""
        return self._channel

    def publish(self, frames: Sequence[Outgoing], deadline: float) -> None:
        """Publish; all or none."""
        with self._translated():
            self._channel.publish_batch(self._channel.to_queues(frames), deadline)

    def take(self, room: Mapping[str, int]) -> list[Delivery]:
        """Take what is ready."""
        with self._translated():
            taken = self._channel.take_batch({self._prefix + color: count for color, count in room.items()})
        for delivery in taken:
            delivery.color = delivery.color[len(self._prefix) :]
        return taken

    def acknowledge(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Acknowledge; return what was not ours."""
        with self._translated():
            return self._channel.acknowledge_batch(deliveries)

    def give_back(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """Give back."""
        with self._translated():
            self._channel.give_back_batch(deliveries, delay)

    def stop_taking(self) -> None:
        """Nothing comes here that was not asked for."""

    def renew(self) -> float:
        """Renew, and reap the dead."""
        with self._translated():
            self._channel.renew()
        return 0.0

    def find_lost(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Return what is not ours any more."""
        with self._translated():
            return self._channel.find_lost(deliveries)

    def fileno(self) -> int | None:
        """Return the descriptor to select on."""
        with self._translated():
            return self._channel.fileno()

    def next_due(self) -> float | None:
        """Return the next due time."""
        with self._translated():
            return self._channel.next_due()

    def waiting(self, colors: Sequence[str]) -> dict[str, int]:
        """Count what waits."""
        with self._translated():
            sizes = self._channel.waiting_in([self._prefix + color for color in colors])
        return {color: sizes[self._prefix + color] for color in colors}

    def notes(self) -> list[str]:
        """Return what the backend says of this very server."""
        return list(self._settings.notes())

    def close(self) -> None:
        """Close the channel and the connection."""
        self._connection.close()

    @contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except QueuelibError:
            raise
        except OperationalError as error:  # kombu puts it around what connecting raised
            if isinstance(error.__cause__, QueuelibError):
                raise error.__cause__ from error.__cause__.__cause__
            raise
        except OSError as error:
            msg = f"{mask(self._settings.url)}: {error}"
            raise BrokerUnavailable(msg) from error
