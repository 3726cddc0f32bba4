"""The lane for every kombu transport without batch verbs: pyamqp first of all, and kombu's virtual transports.

One channel a color holds that color's deliveries; one more publishes. Channels open on first use, and a color is
consumed only once `take` gives it room, so that a submitter never holds a message.

**Room is the prefetch.** A running consumer's prefetch cannot be changed, so more room adds a consumer for the
difference on the same channel, and much less room cancels some. What a worker holds unasked is bounded by the room
that it asked for before.

**Giving back** without delay requeues: the message keeps its place in the queue, and comes out marked as redelivered.
With a delay a copy goes to the waiting queues, confirmed, before the original is acknowledged; where the original was
redelivered, a header marks the copy too, or nobody would look up whether its jobs have ended.

kombu's `Consumer` is not used: it decompresses a body on the word of a header before anybody can look at it.
"""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING, Any

from queuelib.broker.confirms import ConfirmedChannel, Parcel
from queuelib.broker.incoming import DUE, FIRST_AT, HELD
from queuelib.broker.link import Link
from queuelib.broker.parking import Parking
from queuelib.broker.post import Post
from queuelib.broker.ring import Ring, Tag
from queuelib.clock import SYSTEM, Clock
from queuelib.errors import BrokerUnavailable, ConfigurationError, QueueRefused, SubmitUnknown
from queuelib.settings import SUBMIT_DEADLINE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kombu.connection import Connection

    from queuelib.message import Outgoing
    from queuelib.ports import Delivery, TransportCapabilities, TransportSettings

__all__ = ["ConsumerLane"]

_FRESH_WAIT = 0.005  # seconds that the first messages of a new consumer take, waited for once
_CLOSE_WAIT = 1.0  # seconds for what is tidied up before a polite end
_EARLY = 60.0  # seconds; less than this before its due time a frame is the core's to hold, and clocks differ
_incarnations = itertools.count(1)


class ConsumerLane:
    """Builds the verbs of `Lane` from channels, consumers and publisher confirms."""

    def __init__(
        self, connection: Connection, settings: TransportSettings, namespace: str, *, clock: Clock = SYSTEM
    ) -> None:
        self.settings = settings
        self.incarnation = next(_incarnations)
        self._link = Link(connection, settings)
        self._post = Post(self._link, clock)
        self._prefix = namespace + "."
        self._clock = clock
        self._rings: dict[str, Ring] = {}
        self._parking: Parking | None = None
        if settings.held is not None and self._link.product == "RabbitMQ":
            self._parking = Parking(self._link, settings.held, self._prefix, self.incarnation, clock)
        self._publisher: ConfirmedChannel | None = None
        self._parked: list[tuple[float, int, Delivery]] = []  # due, tie-break: where nobody else can hold it

    @property
    def capabilities(self) -> TransportCapabilities:
        """What the transport can promise."""
        return self.settings.capabilities

    @property
    def handle(self) -> ConsumerLane:
        """The lane itself."""
        return self

    def publish(self, frames: Sequence[Outgoing], deadline: float) -> None:
        """Publish and wait for the server's word on every frame.

        Raises:
            BrokerUnavailable: Nothing but `error.accepted` (bundle ids in hex) was accepted.
            QueueRefused: The same, and a queue cannot be declared.
            SubmitUnknown: Some were sent and not answered for in time: `error.frames`, with those not sent yet.
        """
        with self._link.guarded(deadline):
            parcels = [self._parcel(frame) for frame in frames]
            channel = self._publishing()
        self._post.send([(channel, parcels)], deadline)

    def parcel(self, frame: Outgoing) -> Parcel:
        """Return a frame with its address: the color's queue, or the waiting queues before it, which are declared.

        Raises:
            BrokerUnavailable: The connection is gone, or the server refuses them.
        """
        with self._link.guarded():
            return self._parcel(frame)

    def _parcel(self, frame: Outgoing) -> Parcel:
        return self._addressed(frame.color, frame.frame, {FIRST_AT: self._clock.wall()}, frame.due, frame)

    @staticmethod
    def parcel_to(queue: str, body: bytes, headers: Mapping[str, Any], arguments: Mapping[str, Any]) -> Parcel:
        """Return a message for any queue, declared with `arguments` if it is missing."""
        return Parcel(queue, body, headers, arguments=arguments)

    def is_ours(self, delivery: Delivery) -> bool:
        """Return whether a delivery came over this very connection and is not settled."""
        tag = delivery.tag
        if not isinstance(tag, Tag) or tag.incarnation != self.incarnation:
            return False
        return tag.number in tag.ring.unsettled

    def send_on(self, parcels: Mapping[str, Sequence[Parcel]], deadline: float) -> None:
        """Publish on the channels that hold some colors' deliveries, and wait until all is confirmed.

        Raises:
            BrokerUnavailable: As in `publish`.
            SubmitUnknown: As in `publish`; `error.frames` are those among the parcels.
        """
        with self._link.guarded(deadline):
            orders = [(self._ring(color).channel, some) for color, some in parcels.items()]
        self._post.send(orders, deadline)

    def take(self, room: Mapping[str, int]) -> list[Delivery]:
        """Return what has arrived, at most `room[color]` frames of each color."""
        taken: list[Delivery] = []
        early: list[tuple[Delivery, float]] = []
        with self._link.guarded():
            is_fresh = False
            for color, count in room.items():
                if count > 0:
                    is_fresh |= self._widen(color, count)
            self._link.drain(_FRESH_WAIT if is_fresh else 0.0)
            now = self._clock.wall()
            for color, count in room.items():
                parked = self._due_again(color, count, now)
                taken += parked
                for delivery, due in self._ring(color).hand_out(count - len(parked), now) if count > 0 else ():
                    if due > now + _EARLY and self.capabilities.delays:
                        early.append((delivery, due))
                    else:
                        taken.append(delivery)
        for delivery, due in early:
            self._send_to_wait([delivery], due)
        return taken

    def acknowledge(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Acknowledge; return those that came over a connection which is gone, or were settled before."""
        lost: list[Delivery] = []
        by_ring: dict[Ring, list[Any]] = {}
        for delivery in deliveries:
            if self.is_ours(delivery):
                by_ring.setdefault(delivery.tag.ring, []).append(delivery.tag.number)
            else:
                lost.append(delivery)
        with self._link.guarded():
            for ring, numbers in by_ring.items():
                ring.acknowledge(numbers)
        return lost

    def give_back(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """Requeue at once, or send copies to wait; where the transport cannot wait, this lane does."""
        ours = [delivery for delivery in deliveries if self.is_ours(delivery)]
        if delay <= 0:
            with self._link.guarded():
                for delivery in reversed(ours):  # each goes to the front of a classic queue
                    delivery.tag.ring.requeue(delivery.tag.number)
        elif self.capabilities.delays:
            self._send_to_wait(ours, self._clock.wall() + delay)
        else:
            for delivery in ours:
                heapq.heappush(self._parked, (self._clock.wall() + delay, id(delivery), delivery))

    def stop_taking(self) -> None:
        """End the consumers, and requeue what they were sent and nobody took."""
        with self._link.guarded():
            for ring in self._rings.values():
                ring.stop()

    def renew(self) -> float:
        """Read what has arrived, and beat: the server ends a silent connection. Keep what is in hand for long."""
        with self._link.guarded():
            self._link.drain()
            if self._link.has_socket:
                self._link.connection.heartbeat_check()
            if self._parking is not None:
                self._parking.park(self._rings)
        return self._link.silence()

    def find_lost(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Return what is not ours any more: all, if the connection over which it came is gone."""
        with self._link.guarded():
            if self._link.has_socket:
                self._publishing().raw.basic_qos(0, 0, False)  # noqa: FBT003 - any question that is answered
        return [delivery for delivery in deliveries if not self.is_ours(delivery)]

    def fileno(self) -> int | None:
        """Return the socket: on plain TCP nothing is read ahead of what was taken."""
        if not self._link.has_socket or self._link.is_dead:
            return None
        with self._link.guarded():
            number: int = self._link.sock.fileno()
        return number

    def next_due(self) -> float | None:
        """Return when the first frame that this lane itself holds back is due."""
        return self._parked[0][0] if self._parked else None

    def prefetch(self, color: str) -> int:
        """Return how many frames of a color the server may send before any is settled."""
        return self._ring(color).prefetch

    def waiting(self, colors: Sequence[str]) -> dict[str, int]:
        """Count what is ready in each color's queue; what waits for its time is elsewhere and not counted."""
        with self._link.guarded():
            return {color: self._link.count(self._prefix + color) for color in colors}

    def notes(self) -> list[str]:
        """Say what is weaker on this server."""
        return list(self.settings.notes())

    def close(self) -> None:
        """End the connection politely within a second or two; what was not settled is for others at once."""
        if self._parking is not None and not self._link.is_dead:
            try:
                with self._link.guarded(_CLOSE_WAIT):
                    self._parking.close()
            except BrokerUnavailable:
                pass  # it is gone either way
        for ring in self._rings.values():
            ring.unsettled.clear()  # it is nobody's here any more
        self._link.close()

    def _publishing(self) -> ConfirmedChannel:
        if self._publisher is None:
            self._publisher = self._link.open_channel()
        return self._publisher

    def _ring(self, color: str) -> Ring:
        ring = self._rings.get(color)
        if ring is None:
            channel = self._link.open_channel()
            is_amqp = self._link.has_socket
            ring = Ring(channel, color, self._prefix + color, self.incarnation, is_amqp=is_amqp)
            self._link.tell(channel, ring.receive)
            self._rings[color] = ring
        return ring

    def _widen(self, color: str, count: int) -> bool:
        if color not in self._rings:
            try:
                self._link.declare_once(self._prefix + color)
            except QueueRefused as error:  # nobody waits for that to pass: the worker says it and ends
                raise ConfigurationError(str(error)) from error
        return self._ring(color).widen(count, self._clock.monotonic())

    def _addressed(
        self, color: str, body: bytes, headers: dict[str, float], due: float | None, owner: Any = None
    ) -> Parcel:
        queue = self._prefix + color
        if due is None or not self.capabilities.delays or due <= (now := self._clock.wall()):
            if not self.settings.confirms:
                self._link.declare_once(queue)
            return Parcel(queue, body, headers, owner=owner)
        headers[DUE] = due
        ladder = self.settings.delays
        if ladder is None:
            return Parcel(queue, body, headers, owner=owner)  # the transport itself keeps it back
        self._link.declare_delays_once(queue)
        exchange, key = ladder.address(queue, min(due - now, ladder.longest))
        return Parcel(queue, body, headers, exchange, key, owner=owner)

    def _send_to_wait(self, deliveries: Sequence[Delivery], due: float) -> None:
        with self._link.guarded():
            channel = self._publishing()
            parcels = [self._addressed(one.color, one.frame, _headers_of(one), due) for one in deliveries]
        try:
            self._post.send([(channel, parcels)], SUBMIT_DEADLINE)
        except SubmitUnknown as error:
            raise BrokerUnavailable(str(error)) from error
        self.acknowledge(deliveries)

    def _due_again(self, color: str, count: int, now: float) -> list[Delivery]:
        if not self._parked or self._parked[0][0] > now:
            return []
        ready = [entry for entry in self._parked if entry[0] <= now and entry[2].color == color]
        ready = [entry for entry in sorted(ready)[: max(count, 0)] if self.is_ours(entry[2])]
        chosen = {entry[1] for entry in ready}
        self._parked = [entry for entry in self._parked if entry[1] not in chosen]
        heapq.heapify(self._parked)
        for _, _, delivery in ready:
            delivery.redelivered = True
        return [delivery for _, _, delivery in ready]


def _headers_of(delivery: Delivery) -> dict[str, float]:
    """Return what the copy of a delivery has to say of it; no move of `Parking` has the number 0."""
    headers = {FIRST_AT: delivery.published}
    if delivery.redelivered:
        headers[HELD] = 0
    return headers
