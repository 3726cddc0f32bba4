"""Base of kombu channels with batch verbs, so that a plain kombu program can use the same transport.

A subclass implements the verbs of `ports.Lane` for queue names. This base turns kombu's own Producer, Consumer and
ack, one message at a time, into those verbs.

Exchanges, bindings and declared queues live on the server, so that a producer in one process knows what a consumer in
another has bound. A priority from 1 to 9 is a queue of its own beside the plain one; as in AMQP a higher number is more
urgent.
"""

from __future__ import annotations

import functools
import re
import select
import socket
import threading
import time
from collections.abc import Callable
from queue import Empty
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import msgpack
from kombu.transport import virtual
from kombu.transport.virtual.base import NotEquivalentError
from kombu.transport.virtual.exchange import STANDARD_EXCHANGE_TYPES, TopicExchange

from queuelib.errors import BrokerUnavailable
from queuelib.message import Outgoing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from queuelib.ports import Delivery

__all__ = ["BatchChannel", "BatchTransport", "Binding"]

P = ParamSpec("P")
T = TypeVar("T")
Binding = tuple[str, str, str]  # routing key, pattern ("" if the exchange has none), queue

_PLAIN_DEADLINE = 5.0  # seconds
_LOOK_AGAIN = 1.0  # seconds between renewals of the claim, and between looks when a wake-up was lost
_PRIORITIES = range(9, -1, -1)  # the most urgent first
_PRIORITY_MARK = "\x06\x16"


def _one_at_a_time(method: Callable[P, T]) -> Callable[P, T]:
    """Let only one thread into a channel: Celery acknowledges from a thread beside the one that consumes."""

    @functools.wraps(method)
    def locked(*args: P.args, **kwargs: P.kwargs) -> T:
        channel = cast("BatchChannel", args[0])
        with channel.one_at_a_time:
            return method(*args, **kwargs)

    return locked


class _Topics(TopicExchange):
    """Routes by words, as AMQP does: `*` is one, `#` any number; in kombu's own virtual transports at least one."""

    def key_to_pattern(self, rkey: str) -> str:
        """Return the regular expression of the routing keys that a binding key matches."""
        pattern, is_first = "", True
        for word in rkey.split("."):
            if word == "#":
                pattern += r"(?:[^.]*\.)*" if is_first else r"(?:\.[^.]*)*"
                continue
            pattern += ("" if is_first else r"\.") + (r"[^.]*" if word == "*" else re.escape(word))
            is_first = False
        return ".*" if is_first else rf"{pattern}\Z"


class BatchChannel(virtual.Channel):
    """A kombu channel whose messages also move in batches.

    What kombu calls is safe in several threads; the verbs of a lane are for one.
    """

    do_restore = False  # the server returns what a dead taker held
    body_encoding = None  # frames are binary: no base64
    supports_fanout = True
    exchange_types = STANDARD_EXCHANGE_TYPES | {"topic": _Topics}
    queue_prefix = ""  # what the lane puts before a color; a settlement needs it for successors

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.one_at_a_time = threading.RLock()
        super().__init__(*args, **kwargs)
        self.is_listening = False
        self._in_hand: dict[str, Delivery] = {}
        # By queue and tag: whom to call, and whether without acknowledgement. Of kombu's own, one a queue, the last wins.
        self._own_consumers: dict[str, dict[str, tuple[Any, bool]]] = {}
        self._auto_delete: set[str] = set()
        self._exclusive: set[str] = set()

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

    def find_lost(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Return claimed frames that are not ours any more."""
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

    def has_waiting(self, queue: str) -> bool:
        """Whether there may be unclaimed frames in a queue; cheaper than counting them where a channel knows how."""
        return self.waiting_in([queue])[queue] > 0

    def purge_queue(self, queue: str) -> int:
        """Delete the unclaimed frames of a queue; return how many."""
        raise NotImplementedError

    # What is declared, on the server.

    def exchanges_add(self, exchange: str, kind: str) -> None:
        """Remember an exchange and its type ("direct", "topic" or "fanout")."""
        raise NotImplementedError

    def exchanges_remove(self, exchange: str) -> None:
        """Forget an exchange and all its bindings."""
        raise NotImplementedError

    def exchange_kind(self, exchange: str) -> str | None:
        """Return the type of an exchange, or None if nobody declared it."""
        raise NotImplementedError

    def bindings_add(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        """Bind a queue; a binding that is there already stays one."""
        raise NotImplementedError

    def bindings_remove(self, exchange: str, routing_key: str, queue: str) -> None:
        """Remove a binding, if it is there."""
        raise NotImplementedError

    def bindings_of(self, exchange: str) -> list[Binding]:
        """Return the bindings of an exchange."""
        raise NotImplementedError

    def queues_add(self, queue: str) -> None:
        """Remember a declared queue."""
        raise NotImplementedError

    def queues_remove(self, queue: str) -> None:
        """Forget a queue and all bindings to it; its messages are purged apart from this."""
        raise NotImplementedError

    def known_queues(self) -> set[str]:
        """Return the names of the declared queues."""
        raise NotImplementedError

    def to_queues(self, frames: Sequence[Outgoing]) -> list[Outgoing]:
        """Return frames addressed to colors as frames addressed to queues."""
        return [frame._replace(color=self.queue_prefix + frame.color) for frame in frames]

    # What kombu calls.

    def create_publish_batch(self, max_size: int) -> PublishBatch:
        """Collect what a producer publishes within kombu's `Producer.batch()`."""
        return PublishBatch(self, max_size)

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        self._put_all([queue], message, kwargs.get("publish_batch"))

    @_one_at_a_time
    def _put_fanout(self, exchange: str, message: dict[str, Any], routing_key: str, **kwargs: Any) -> None:  # noqa: ARG002
        queues = sorted({queue for _, _, queue in self.bindings_of(exchange)})
        self._put_all(queues, message, kwargs.get("publish_batch"))

    @_one_at_a_time
    def _put_all(self, queues: Sequence[str], message: dict[str, Any], batch: PublishBatch | None) -> None:
        if not queues:
            return
        priority = self._get_message_priority(message)
        frame = cast("bytes", msgpack.packb(message))
        frames = [Outgoing(_with_priority(queue, priority), b"", frame) for queue in queues]
        if batch is None:
            self.publish_batch(frames, _PLAIN_DEADLINE)
        else:
            batch.add(frames)

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:  # noqa: ARG002 - kombu's signature
        return self._take_one([queue])[1]

    @_one_at_a_time
    def _take_one(self, queues: Sequence[str]) -> tuple[str, dict[str, Any]]:
        names = {_with_priority(queue, level): queue for queue in queues for level in _PRIORITIES}
        for name, queue in names.items():
            taken = self.take_batch({name: 1}) if self.has_waiting(name) else []
            if taken:
                return queue, self._hand_out(taken[0])
        # Nothing there: one look at all of them, which also silences the bell. What rings after it is not lost.
        taken = self.take_batch(dict.fromkeys(names, 1))
        if not taken:
            raise Empty
        self.give_back_batch(taken[1:], 0.0)
        queue = names[taken[0].color]
        return queue, self._hand_out(taken[0])

    def _hand_out(self, delivery: Delivery) -> dict[str, Any]:
        message = _as_kombu(delivery.frame)
        # A new tag for each delivery: the copies of a fanout carry the same.
        tag = message["properties"]["delivery_tag"] = self._next_delivery_tag()
        if delivery.redelivered:
            message["properties"].setdefault("delivery_info", {})["redelivered"] = True
        self._in_hand[tag] = delivery
        return message

    def _poll(self, cycle: Any, callback: Any, timeout: float | None = None) -> None:  # noqa: ARG002
        queues = list(dict.fromkeys(self._active_queues))
        queue, message = self._take_one(queues)
        self._active_queues.sort(key=queue.__eq__)  # whose turn it was comes last
        consumers = self._own_consumers[queue]
        tag = next(iter(consumers))
        callback, is_no_ack = consumers[tag] = consumers.pop(tag)  # they take turns
        if is_no_ack:
            self._finish(message["properties"]["delivery_tag"])
        callback(message)

    @_one_at_a_time
    def _size(self, queue: str) -> int:
        return sum(self.waiting_in([_with_priority(queue, level) for level in _PRIORITIES]).values())

    @_one_at_a_time
    def _purge(self, queue: str) -> int:
        return sum(self.purge_queue(_with_priority(queue, level)) for level in _PRIORITIES)

    @_one_at_a_time
    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        if kwargs.get("auto_delete"):
            self._auto_delete.add(queue)
        if kwargs.get("exclusive"):
            self._exclusive.add(queue)
        self.queues_add(queue)

    @_one_at_a_time
    def _has_queue(self, queue: str, **kwargs: Any) -> bool:  # noqa: ARG002
        return queue in self.known_queues() or self._size(queue) > 0

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self._purge(queue)

    @_one_at_a_time
    def queue_declare(self, queue: str | None = None, passive: bool = False, **kwargs: Any) -> Any:  # noqa: FBT001, FBT002
        """Declare a queue, or with `passive` only look at it.

        Raises:
            ChannelError: `passive`, and there is no such queue (404).
        """
        if passive and queue and self._has_queue(queue):
            declared: Any = virtual.base
            return declared.queue_declare_ok_t(queue, self._size(queue), 0)
        return super().queue_declare(queue, passive, **kwargs)

    @_one_at_a_time
    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any) -> None:  # noqa: FBT001, FBT002, ARG002
        """Delete a queue; with `if_unused` only if nobody on this connection consumes it."""
        if (if_empty and self._size(queue)) or (if_unused and self._is_consumed(queue)):
            return
        self.queues_remove(queue)
        self._purge(queue)
        self._auto_delete.discard(queue)
        self._exclusive.discard(queue)

    @_one_at_a_time
    def queue_bind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: Any = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Bind a queue to an exchange."""
        exchange = exchange or "amq.direct"
        key, pattern, _ = self.typeof(exchange).prepare_bind(queue, exchange, routing_key, arguments)
        self.bindings_add(exchange, key or "", pattern or "", queue)

    @_one_at_a_time
    def queue_unbind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: Any = None,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Remove a binding."""
        self.bindings_remove(exchange or "amq.direct", routing_key or "", queue)

    @_one_at_a_time
    def exchange_declare(  # noqa: PLR0917
        self,
        exchange: str | None = None,
        type: str = "direct",  # noqa: A002
        durable: bool = False,  # noqa: FBT001, FBT002
        auto_delete: bool = False,  # noqa: FBT001, FBT002
        arguments: Any = None,
        nowait: bool = False,  # noqa: FBT001, FBT002
        passive: bool = False,  # noqa: FBT001, FBT002
    ) -> None:
        """Declare an exchange for all processes.

        Raises:
            ChannelError: `passive`, and there is no such exchange (404).
            NotEquivalentError: It is there already, with another type.
        """
        kind = type or "direct"
        known = self.exchange_kind(exchange) if exchange else None
        if passive and known is not None:
            return
        if known not in {None, kind}:
            msg = f"the exchange {exchange!r} is declared as {known}, and cannot be {kind}; delete it first"
            raise NotEquivalentError(msg)
        super().exchange_declare(exchange, type, durable, auto_delete, arguments, nowait, passive)
        self.exchanges_add(exchange or f"amq.{kind}", kind)

    @_one_at_a_time
    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:  # noqa: FBT001, FBT002, ARG002
        """Delete an exchange and its bindings; the queues stay, as in AMQP."""
        if if_unused and self.bindings_of(exchange):
            return
        self.exchanges_remove(exchange)
        self.state.exchanges.pop(exchange, None)

    @_one_at_a_time
    def typeof(self, exchange: str, default: str = "direct") -> Any:
        """Return the exchange type, which another process may have declared."""
        known = self.state.exchanges.get(exchange)
        kind = known["type"] if known else self.exchange_kind(exchange)
        types: Any = self.exchange_types
        return types[kind or default]

    @_one_at_a_time
    def get_table(self, exchange: str) -> list[Binding]:
        """Return the bindings of an exchange, by whichever process."""
        return self.bindings_of(exchange)

    def basic_consume(self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **kwargs: Any) -> Any:  # noqa: FBT001
        """Start consuming, as kombu asks for it."""
        result = super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)
        connection: Any = self.connection
        own = self._own_consumers.setdefault(queue, {})
        own[consumer_tag] = connection._callbacks[queue], no_ack  # noqa: SLF001 - kombu's own way
        return result

    def basic_cancel(self, consumer_tag: str) -> None:
        """Stop consuming; an auto-delete queue goes with its last consumer on this connection."""
        queue = self._tag_to_queue.get(consumer_tag)
        super().basic_cancel(consumer_tag)
        if queue is None:
            return
        self._own_consumers[queue].pop(consumer_tag, None)
        if queue in self._auto_delete and not self._is_consumed(queue):
            self.queue_delete(queue)

    @_one_at_a_time
    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:  # noqa: FBT001, FBT002
        """Return one message or None, as kombu asks for it."""
        message = super().basic_get(queue, no_ack=no_ack, **kwargs)
        if message is not None and no_ack:
            self._finish(str(message.delivery_tag))
        return message

    @_one_at_a_time
    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:  # noqa: FBT001, FBT002
        """Acknowledge one message, or with `multiple` all that were delivered up to it.

        Raises:
            BrokerUnavailable: This channel is closed: the message was returned, and is somebody else's.
        """
        self._check_open()
        tags = [delivery_tag]
        if multiple and delivery_tag in self._in_hand:
            held = list(self._in_hand)
            tags = held[: held.index(delivery_tag) + 1]
        for tag in tags:
            super().basic_ack(tag)
        self.connection.tell_of_room()
        done = [self._in_hand.pop(tag) for tag in tags if tag in self._in_hand]
        if done:
            self.acknowledge_batch(done)

    @_one_at_a_time
    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002
        """Drop one message, or return it to its queue.

        Raises:
            BrokerUnavailable: This channel is closed: the message was returned, and is somebody else's.
        """
        self._check_open()
        delivery = self._in_hand.pop(delivery_tag, None)
        super().basic_reject(delivery_tag, requeue=False)
        self.connection.tell_of_room()
        if delivery is None:
            return
        if requeue:
            self.give_back_batch([delivery], 0.0)
        else:
            self.acknowledge_batch([delivery])

    @_one_at_a_time
    def basic_recover(self, requeue: bool = False) -> None:  # noqa: FBT001, FBT002, ARG002
        """Return everything in hand to its queue."""
        held = dict(self._in_hand)
        self._in_hand.clear()
        for tag in held:
            self.qos.ack(tag)  # makes room under the prefetch count
        self.connection.tell_of_room()
        self.give_back_batch(list(held.values()), 0.0)

    @_one_at_a_time
    def forget_own_queues(self) -> None:
        """Cancel the consumers and delete the exclusive queues; a subclass calls it first when it closes."""
        for tag in list(self._consumers):
            self.basic_cancel(tag)
        for queue in list(self._exclusive):
            self.queue_delete(queue)

    def leave_to_parent(self) -> None:
        """After a fork, in the child: delete none of the parent's queues, and wait for none of its threads."""
        self.one_at_a_time = threading.RLock()
        self.is_listening = False
        self._auto_delete.clear()
        self._exclusive.clear()

    def _check_open(self) -> None:
        if self.closed:
            msg = "the channel is closed, and what it held has been returned; settle messages before closing it"
            raise BrokerUnavailable(msg)

    def _is_consumed(self, queue: str) -> bool:
        return any(queue in channel._active_queues for channel in self.connection.channels or ())  # noqa: SLF001

    @_one_at_a_time
    def _finish(self, tag: str) -> None:
        delivery = self._in_hand.pop(tag, None)
        if delivery is not None:
            self.acknowledge_batch([delivery])


class PublishBatch:
    """What a producer has published within one `Producer.batch()`, and the server has not seen yet."""

    def __init__(self, channel: BatchChannel, max_size: int) -> None:
        self.channel = channel
        self._max_size = max_size
        self._frames: list[Outgoing] = []

    def publish(self, message: dict[str, Any], exchange: str, routing_key: str, **kwargs: Any) -> None:
        """Route a message and keep it for the next flush."""
        self.channel.basic_publish(message, exchange, routing_key, publish_batch=self, **kwargs)

    def add(self, frames: Sequence[Outgoing]) -> None:
        """Keep routed frames, and flush when there are `max_size`."""
        self._frames += frames
        if len(self._frames) >= self._max_size:
            self.flush()

    def flush(self) -> None:
        """Publish what was kept, at once."""
        frames, self._frames = self._frames, []
        if frames:
            self.channel.publish_batch(frames, _PLAIN_DEADLINE)

    def discard(self) -> None:
        """Forget what was kept."""
        self._frames.clear()

    def close(self) -> None:
        """End, without a flush."""
        self._frames.clear()


class _Room:
    """Wakes the thread that waits, when another has acknowledged what filled a channel's prefetch count."""

    def __init__(self) -> None:
        self._end, self._far_end = socket.socketpair()
        self._end.settimeout(0)
        self._far_end.settimeout(0)
        self.fd = self._end.fileno()
        self.is_wanted = False
        self.last_told: object = None  # another one each time

    def tell(self) -> None:
        """End a wait, if there is one."""
        self.last_told = object()
        if self.is_wanted:
            try:
                self._far_end.send(b"\0")
            except OSError:
                pass  # so much was sent already that it wakes, or it was closed meanwhile

    def silence(self) -> None:
        """Forget what was told."""
        self.is_wanted = False
        try:
            self._end.recv(4096)
        except BlockingIOError:
            pass  # nothing was told

    def close(self) -> None:
        """End both ends."""
        self._end.close()
        self._far_end.close()


class BatchTransport(virtual.Transport):
    """A kombu transport of batch channels, which waits for their descriptors and does not poll."""

    implements = virtual.Transport.implements.extend(
        exchange_type=frozenset(["direct", "topic", "fanout"]), batch_publish=True
    )
    # A publish whose confirmation was lost is not among them: repeating it blindly could send a message twice.
    connection_errors = (*virtual.Transport.connection_errors, BrokerUnavailable)
    _renew_at = 0.0
    _room: _Room | None = None

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:  # noqa: ARG002 - kombu's signature
        """Deliver one message.

        Raises:
            TimeoutError: None came for `timeout` seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            self._renew()
            last_told = None if self._room is None else self._room.last_told
            try:
                cast("Any", self.cycle).get(self._deliver, timeout=timeout)
            except Empty:
                left = _LOOK_AGAIN if end is None else end - time.monotonic()
                if left <= 0:
                    raise TimeoutError from None
                self._wait(min(left, _LOOK_AGAIN), last_told)
            else:
                return

    def close_connection(self, connection: Any) -> None:
        """Close all channels."""
        super().close_connection(connection)
        room, self._room = self._room, None
        if room is not None:
            room.close()

    def tell_of_room(self) -> None:
        """End the wait of another thread: a channel of this connection may take again."""
        room = self._room
        if room is not None:
            room.tell()

    def _renew(self) -> None:
        now = time.monotonic()
        if now >= self._renew_at:
            self._renew_at = now + _LOOK_AGAIN
            for channel in self.channels or ():
                if channel._consumers or channel._in_hand:  # noqa: SLF001 - ours
                    with channel.one_at_a_time:
                        channel.renew()

    def _wait(self, seconds: float, last_told: object) -> None:
        """Wait for a bell, or for room that was made since a look at which `last_told` was the last to be told."""
        poll = select.poll()
        consuming = [channel for channel in self.channels or () if channel._consumers]  # noqa: SLF001
        if self._room is None and any(channel.qos.prefetch_count for channel in consuming):
            self._room = _Room()
            seconds = 0.0
        room = self._room
        if room is not None:
            room.is_wanted = True  # from now on what is told ends the wait
            if room.last_told is not last_told:
                seconds = 0.0
            poll.register(room.fd, select.POLLIN)
        for channel in consuming:
            if channel.qos.can_consume():
                seconds = min(seconds, self._listen(channel, poll))
        poll.poll(seconds * 1000)
        if room is not None:
            room.silence()

    def _listen(self, channel: Any, poll: select.poll) -> float:
        """Register the bell of a channel; return for how many seconds it can be relied upon."""
        with channel.one_at_a_time:
            number = channel.fileno()
        if number is None:
            return float(self.polling_interval)
        poll.register(number, select.POLLIN)
        was_listening, channel.is_listening = channel.is_listening, True
        return _LOOK_AGAIN if was_listening else 0.0  # what came before the bell was there did not ring


def _with_priority(queue: str, priority: int) -> str:
    return f"{queue}{_PRIORITY_MARK}{priority}" if priority else queue


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
