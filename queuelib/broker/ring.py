"""What one color's channel holds: its consumers, what has arrived, and what is not settled."""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from queuelib.broker.incoming import Arrival, arrival_of
from queuelib.ports import Delivery

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from queuelib.broker.confirms import ConfirmedChannel

__all__ = ["Ring", "Tag"]

_PREFETCH_CAP = 2000  # frames of one consumer; the server advises a few hundred, and more gains nothing
_MAX_CONSUMERS = 8  # on one channel; then they become one
_WIDE_FOR = 2.0  # seconds
_QOS = (60, 10)  # class and method of basic.qos in AMQP 0-9-1
_consumer_numbers = itertools.count(1)


class Tag(NamedTuple):
    """What names a delivery: its numbers start again with every lane, so the lane's own number is part of it."""

    incarnation: int
    ring: Ring
    number: Any


class Ring:
    """Consumes one queue on one channel, with exactly as much prefetch as there is room."""

    def __init__(self, channel: ConfirmedChannel, color: str, queue: str, incarnation: int, *, is_amqp: bool) -> None:
        self.channel = channel
        self.queue = queue
        self.unsettled: dict[Any, Delivery | None] = {}  # by number, in order of arrival; None until handed out
        self._color = color
        self._incarnation = incarnation
        self._is_amqp = is_amqp
        self._arrived: deque[Arrival] = deque()
        self._consumers: dict[str, int] = {}  # consumer tag -> prefetch
        self._wide_since: float | None = None
        self._marks: deque[tuple[float, Any]] = deque()  # when a number was the latest that had arrived
        self._latest: Any = 0

    @property
    def prefetch(self) -> int:
        """How many frames may be here and not settled."""
        return sum(self._consumers.values())

    def widen(self, room: int, now: float) -> bool:
        """Bring the prefetch in line with `room` more frames than are in hand; return whether a consumer is new.

        `now` is any clock in seconds: much too wide a prefetch is left for a moment, as the room comes and goes with
        the measured run times, and a queue may deliver again what was under way to a consumer that ends.
        """
        needed = len(self.unsettled) - len(self._arrived) + room
        capacity = self.prefetch
        if needed > capacity and (capacity <= len(self.unsettled) or needed > 2 * capacity):
            return self._grow(needed, capacity)
        if not self._is_amqp or 2 * needed >= capacity:
            self._wide_since = None
        elif self._wide_since is None:
            self._wide_since = now
        elif now - self._wide_since >= _WIDE_FOR:
            self._shrink(needed)
        return False

    def hand_out(self, count: int, now: float) -> list[tuple[Delivery, float]]:
        """Return at most `count` of what has arrived, each with the wall time before which it must not start."""
        arrived = self._arrived
        color, incarnation, unsettled = self._color, self._incarnation, self.unsettled
        taken: list[tuple[Delivery, float]] = []
        for _ in range(min(count, len(arrived))):
            number, body, is_redelivered, first_at, due = arrived.popleft()
            published = now if first_at is None else first_at
            delivery = Delivery(body, color, Tag(incarnation, self, number), is_redelivered, published)
            unsettled[number] = delivery
            taken.append((delivery, due))
        return taken

    def acknowledge(self, numbers: Sequence[Any]) -> None:
        """Acknowledge what is no longer unsettled, with one frame where nothing older is left."""
        raw = self.channel.raw
        for number in numbers:
            del self.unsettled[number]
        if not self._is_amqp:
            for number in numbers:
                raw.basic_ack(number)
            return
        oldest = next(iter(self.unsettled), None)
        settled = [number for number in numbers if oldest is None or number < oldest]
        if settled:
            raw.basic_ack(max(settled), multiple=True)
        if len(settled) < len(numbers):
            for number in numbers:
                if oldest is not None and number > oldest:
                    raw.basic_ack(number)

    def requeue(self, number: Any) -> None:
        """Return one message to its place in the queue."""
        del self.unsettled[number]
        self.channel.raw.basic_reject(number, requeue=True)

    def stop(self) -> None:
        """Consume nothing more, and return what was not handed out."""
        self._cancel(list(self._consumers))
        for arrival in reversed(self._arrived):
            self.requeue(arrival.number)
        self._arrived.clear()

    def receive(self, arrival: Arrival) -> None:
        """Keep what has arrived until it is handed out."""
        self.unsettled[arrival.number] = None
        self._arrived.append(arrival)

    def overdue(self, age: float, now: float) -> list[Any]:
        """Return the numbers of what has been unsettled for `age` seconds, and not more than a call longer.

        `now` is any clock in seconds. Ages count from call to call, so that an arrival costs nothing.
        """
        latest = next(reversed(self.unsettled), None)
        if latest is not None and (not self._marks or self._marks[-1][1] != latest):
            self._marks.append((now, latest))
        while self._marks and now - self._marks[0][0] >= age:
            self._latest = self._marks.popleft()[1]
        found: list[Any] = []
        for number in self.unsettled:
            if number > self._latest:
                break
            found.append(number)
        return found

    def close_room(self) -> None:
        """Let the server send nothing more until there is room again: what is about to leave here makes none."""
        self._cancel(list(self._consumers))

    def return_unclaimed(self) -> None:
        """Return to the queue what has arrived and nobody has asked for."""
        self.close_room()
        while self._arrived:
            self.requeue(self._arrived.pop().number)  # each goes to the front of a classic queue

    def _receive_message(self, message: Any) -> None:
        self.receive(arrival_of(message))

    def _grow(self, needed: int, capacity: int) -> bool:
        if not self._is_amqp:
            self.channel.raw.basic_qos(0, needed, False)  # noqa: FBT003 - kombu's signature
            if self._consumers:
                self._consumers = dict.fromkeys(self._consumers, needed)
                return False
        if len(self._consumers) >= _MAX_CONSUMERS:
            self._cancel(list(self._consumers))
            capacity = 0
        self._consume(min(needed - capacity, _PREFETCH_CAP))
        return True

    def _shrink(self, needed: int) -> None:
        for tag, prefetch in reversed(list(self._consumers.items())):
            if self.prefetch - prefetch >= needed:
                self._cancel([tag])
        if 2 * needed < self.prefetch:
            self._cancel(list(self._consumers))
            self._consume(needed)

    def _consume(self, prefetch: int) -> None:
        tag = f"{self.queue}.{self._incarnation}.{next(_consumer_numbers)}"
        raw = self.channel.raw
        self._consumers[tag] = prefetch
        order = {"queue": self.queue, "no_ack": False, "callback": self._receive_message, "consumer_tag": tag}
        if self._is_amqp:  # nothing waits for an answer, as it would wait behind all deliveries that are under way
            raw.send_method(_QOS, "lBb", (0, prefetch, False))
            raw.basic_consume(**order, nowait=True)
        else:
            raw.basic_consume(**order)

    def _cancel(self, tags: Iterable[str]) -> None:
        for tag in tags:
            self.channel.raw.basic_cancel(tag)
            del self._consumers[tag]
