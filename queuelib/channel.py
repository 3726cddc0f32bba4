"""Base of kombu channels with batch verbs, so that a plain kombu program can use the same transport.

A subclass implements the verbs of `ports.Lane` for queue names. This base turns kombu's own Producer, Consumer and
ack, one message at a time, into those verbs.
"""

from __future__ import annotations

from queue import Empty
from typing import TYPE_CHECKING, Any, cast

import msgpack
from kombu.transport import virtual

from queuelib.message import Outgoing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from queuelib.ports import Delivery

__all__ = ["BatchChannel"]

_PLAIN_DEADLINE = 5.0


class BatchChannel(virtual.Channel):
    """A kombu channel whose messages also move in batches."""

    do_restore = False  # the server returns what a dead taker held
    body_encoding = None  # frames are binary: no base64
    supports_fanout = False
    queue_prefix = ""  # what the lane puts before a color; a settlement needs it for successors

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_hand: dict[str, Delivery] = {}
        self._no_ack_queues: set[str] = set()

    # The verbs, for queue names. Their meaning is that of `ports.Lane`.

    def publish_batch(self, frames: Sequence[Outgoing], deadline: float) -> None:
        """Accept every frame, whose `color` is a queue name here, or none."""
        raise NotImplementedError

    def take_batch(self, room: Mapping[str, int]) -> list[Delivery]:
        """Claim at most `room[queue]` frames of each queue."""
        raise NotImplementedError

    def acknowledge_batch(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Delete claimed frames; return those that were not ours any more."""
        raise NotImplementedError

    def give_back_batch(self, deliveries: Sequence[Delivery], delay: float) -> None:
        """Release claimed frames."""
        raise NotImplementedError

    def renew(self) -> None:
        """Keep the claims of this channel and release those of the dead."""
        raise NotImplementedError

    def fileno(self) -> int | None:
        """Return a descriptor that is readable when there may be something to take."""
        raise NotImplementedError

    def next_due(self) -> float | None:
        """Return the wall time at which the next delayed frame is due."""
        raise NotImplementedError

    def waiting_in(self, queues: Sequence[str]) -> dict[str, int]:
        """Return the number of unclaimed frames in each queue."""
        raise NotImplementedError

    def purge_queue(self, queue: str) -> int:
        """Delete the unclaimed frames of a queue; return how many."""
        raise NotImplementedError

    def to_queues(self, frames: Sequence[Outgoing]) -> list[Outgoing]:
        """Return frames addressed to colors as frames addressed to queues."""
        return [frame._replace(color=self.queue_prefix + frame.color) for frame in frames]

    # What kombu calls.

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        self.publish_batch([Outgoing(queue, b"", cast("bytes", msgpack.packb(message)))], _PLAIN_DEADLINE)

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:  # noqa: ARG002 - kombu's signature
        taken = self.take_batch({queue: 1})
        if not taken:
            raise Empty
        delivery = taken[0]
        message = _as_kombu(delivery.frame)
        tag = message["properties"].setdefault("delivery_tag", self._next_delivery_tag())
        if queue in self._no_ack_queues:
            self.acknowledge_batch(taken)
        else:
            self._in_hand[tag] = delivery
        return message

    def _size(self, queue: str) -> int:
        return self.waiting_in([queue])[queue]

    def _purge(self, queue: str) -> int:
        return self.purge_queue(queue)

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        """Queues need no creation."""

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:  # noqa: ARG002
        return True

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self.purge_queue(queue)

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:  # noqa: FBT001
        """Start consuming, as kombu asks for it."""
        if no_ack:
            self._no_ack_queues.add(queue)
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:  # noqa: FBT001, FBT002
        """Return one message or None, as kombu asks for it."""
        message = super().basic_get(queue, no_ack=no_ack, **kwargs)
        if message is not None and no_ack:
            self._finish(str(message.delivery_tag))
        return message

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:  # noqa: FBT001, FBT002
        """Acknowledge one message."""
        super().basic_ack(delivery_tag, multiple)
        self._finish(delivery_tag)

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002
        """Drop one message, or return it to its queue."""
        delivery = self._in_hand.pop(delivery_tag, None)
        super().basic_reject(delivery_tag, requeue=False)
        if delivery is None:
            return
        if requeue:
            self.give_back_batch([delivery], 0.0)
        else:
            self.acknowledge_batch([delivery])

    def basic_recover(self, requeue: bool = False) -> None:  # noqa: FBT001, FBT002, ARG002
        """Return everything in hand to its queue."""
        held = list(self._in_hand.values())
        self._in_hand.clear()
        self.give_back_batch(held, 0.0)

    def _finish(self, tag: str) -> None:
        delivery = self._in_hand.pop(tag, None)
        if delivery is not None:
            self.acknowledge_batch([delivery])


def _as_kombu(frame: bytes) -> dict[str, Any]:
    try:
        message = msgpack.unpackb(frame)
    except (ValueError, TypeError):
        message = None
    if isinstance(message, dict) and "properties" in message:
        return message
    return {  # an envelope of queuelib, for a plain kombu consumer to look at
        "body": frame,
        "content-type": "application/x-queuelib",
        "content-encoding": "binary",
        "headers": {},
        "properties": {"delivery_info": {}},
    }
