"""Keeps what is in hand for longer than the server allows: in time it moves to a queue of this connection's own.

A server such as RabbitMQ takes a message back that was not acknowledged for so long, and nothing renews that. So when
half of the time is over, a copy is published to a queue that only this connection consumes; once the copy has come
back as a delivery and is confirmed, it is what the worker holds, as the same `Delivery`, and the original is
acknowledged. After another half of the time the copy moves in the same way. The connection is the fence as for every
delivery: when it ends, the server returns what is in that queue to the color's queue.
"""

from __future__ import annotations

import itertools
import logging
import secrets
from typing import TYPE_CHECKING, Any

from queuelib.broker.confirms import Parcel
from queuelib.broker.incoming import FIRST_AT, HELD
from queuelib.broker.ring import Ring, Tag
from queuelib.errors import QueueRefused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from queuelib.broker.confirms import ConfirmedChannel
    from queuelib.broker.link import Link
    from queuelib.clock import Clock
    from queuelib.ports import Delivery, HeldQueues

__all__ = ["Parking"]

_log = logging.getLogger("queuelib.broker")
_AT_ONCE = 100  # moves under way of one color: RabbitMQ hands over at most 200 before it waits for the socket
_BYTES_AT_ONCE = 4 * 1024 * 1024  # or one message
_WAIT = 0.5  # seconds for the copies to come back, which takes some milliseconds; else they are seen at the next call
_TRY_AGAIN = 10.0  # seconds after a refusal
_MANY = 65_535  # prefetch: as much as AMQP can say


class Parking:
    """The held queues of one connection, one for each color that needs it.

    Args:
        link: The connection.
        queues: How such queues are declared, and after how long the server takes a message back.
        prefix: What the names of all queues begin with.
        incarnation: The lane's number.
        clock: The clocks.
    """

    def __init__(self, link: Link, queues: HeldQueues, prefix: str, incarnation: int, clock: Clock) -> None:
        self._link = link
        self._queues = queues
        self._prefix = prefix
        self._incarnation = incarnation
        self._clock = clock
        self._held: dict[str, _HeldRing] = {}
        self._name = secrets.token_hex(8)
        self._try_at = 0.0

    def park(self, rings: Mapping[str, Ring]) -> None:
        """Move what has been in hand for half of the time, and return what waits here unclaimed; call it each second.

        Raises:
            Exception: What py-amqp raises when the connection is lost.
        """
        now = self._clock.monotonic()
        has_begun = False
        for color, ring in rings.items():
            due = self._due(ring, now)
            held = self._held.get(color)
            if held is not None:
                due += self._due(held, now)
            if due and now >= self._try_at:
                has_begun |= self._begin(color, ring.queue, due)
        end = now + _WAIT
        while has_begun and self._is_waiting and (left := end - self._clock.monotonic()) > 0:
            self._link.drain(left)
        self._finish(now)

    def close(self) -> None:
        """Delete the queues in which nothing is left; others the server deletes once nobody has used them for long."""
        for held in self._held.values():
            if held.is_empty:
                held.delete()
        self._held.clear()

    @property
    def _is_waiting(self) -> bool:
        return any(held.is_waiting for held in self._held.values())

    def _due(self, ring: Ring, now: float) -> list[Delivery]:
        numbers = ring.overdue(self._queues.limit / 2, now)
        due = [delivery for number in numbers if (delivery := ring.unsettled[number]) is not None]
        if len(due) < len(numbers):
            ring.return_unclaimed()
        return due

    def _begin(self, color: str, queue: str, due: Iterable[Delivery]) -> bool:
        held = self._held.get(color)
        if held is None:
            name = f"{self._prefix}held.{color}.{self._name}"
            try:
                self._link.declare_once(name, self._queues.arguments(queue))
            except QueueRefused as error:
                self._refused(str(error), self._clock.monotonic())
                return False
            held = self._held[color] = _HeldRing(self._link.open_channel(), color, name, self._incarnation)
        return held.begin(due)

    def _finish(self, now: float) -> None:
        for held in self._held.values():
            refused = held.finish()
            if refused:
                self._refused(f"{refused} copies came back", now)

    def _refused(self, what: str, now: float) -> None:
        self._try_at = now + _TRY_AGAIN
        limit = self._queues.limit
        _log.warning("%s: what is in hand for more than %g s may run twice (%s)", self._link.place, limit, what)


class _Move:
    """A delivery on its way to a held queue.

    Attributes:
        delivery: The delivery.
        sequence: Under which number its copy is unconfirmed.
        number: Under which number the copy has come back; None until then.
    """

    __slots__ = ("delivery", "number", "sequence")

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.sequence = 0
        self.number: Any = None


class _HeldRing(Ring):
    """The held queue of one color: what arrives there are the copies of what this connection has in hand."""

    def __init__(self, channel: ConfirmedChannel, color: str, queue: str, incarnation: int) -> None:
        super().__init__(channel, color, queue, incarnation, is_amqp=True)
        self._moves: dict[int, _Move] = {}  # under way
        self._numbers: dict[int, Any] = {}  # under which number what has moved is in hand
        self._count = itertools.count(1)
        self._has_returned = False
        self._consume(_MANY)

    @property
    def is_empty(self) -> bool:
        """Whether certainly nothing is in the queue: the server may not have moved on yet what was returned."""
        return not self.unsettled and not self._moves and not self._has_returned

    @property
    def is_waiting(self) -> bool:
        """Whether a copy has not come back, or is not confirmed."""
        return any(not self._has_arrived(move) for move in self._moves.values())

    def begin(self, due: Iterable[Delivery]) -> bool:
        """Publish copies, as many as may be under way; return whether there was one."""
        moving = {move.delivery for move in self._moves.values()}
        size = 0
        has_begun = False
        for delivery in due:
            if delivery in moving:
                continue
            if len(self._moves) >= _AT_ONCE or size >= _BYTES_AT_ONCE:
                break
            size += len(delivery.frame)
            mark = next(self._count)
            self._moves[mark] = move = _Move(delivery)
            headers = {FIRST_AT: delivery.published, HELD: mark}
            move.sequence = self.channel.send(Parcel(self.queue, delivery.frame, headers, owner=mark))
            has_begun = True
        return has_begun

    def finish(self) -> int:
        """Let the copies that are safe take the place of their originals; return how many the server has refused."""
        refused = self.channel.take_refused()
        for parcel in refused:
            del self._moves[parcel.owner]
        originals: dict[Ring, list[Any]] = {}
        for mark, move in list(self._moves.items()):
            if not self._has_arrived(move):
                continue
            del self._moves[mark]
            tag: Tag = move.delivery.tag
            if tag.number not in tag.ring.unsettled:  # settled or given back meanwhile, and nobody needs the copy
                self.acknowledge([move.number])
                continue
            originals.setdefault(tag.ring, []).append(tag.number)
            self._take_over(mark, move.delivery, move.number)
        for ring, numbers in originals.items():
            ring.close_room()
            ring.acknowledge(numbers)
        self._numbers = {mark: number for mark, number in self._numbers.items() if number in self.unsettled}
        return len(refused)

    def delete(self) -> None:
        """Delete the queue and what is in it."""
        super().close_room()  # or the server would say that it ends the consumer, which is an error to py-amqp
        self.channel.raw.queue_delete(self.queue)

    def requeue(self, number: Any) -> None:
        """Return one message to the queue of its color, where it counts as redelivered."""
        del self.unsettled[number]
        self._has_returned = True
        self.channel.raw.basic_reject(number, requeue=False)  # the server moves it on

    def close_room(self) -> None:
        """Do nothing: this queue holds nothing but what is in hand here."""

    def _receive_message(self, message: Any) -> None:
        mark = (message.headers or {}).get(HELD)
        if type(mark) is not int:
            mark = 0  # anybody may have written it: it is the mark of nothing
        number = message.delivery_tag
        self.unsettled[number] = None
        move = self._moves.get(mark)
        # One that came before counts no more: the server has taken it back and handed it over again.
        before = self._numbers.get(mark) if move is None else move.number
        delivery = self.unsettled.pop(before, None)
        if move is not None:
            move.number = number
        elif delivery is not None:
            self._take_over(mark, delivery, number)
        else:
            self.acknowledge([number])  # its original is settled, or is in hand still

    def _take_over(self, mark: int, delivery: Delivery, number: Any) -> None:
        self._numbers[mark] = number
        self.unsettled[number] = delivery
        delivery.tag = Tag(self._incarnation, self, number)

    def _has_arrived(self, move: _Move) -> bool:
        return move.number is not None and move.sequence not in self.channel.unconfirmed
