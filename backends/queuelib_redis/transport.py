"""kombu's Redis transport, which also holds a message back until it is due and gives out again what was not settled.

A message with the header `ql-due` (or `x-due`; wall time in seconds) waits in a sorted set beside its queue, and
whoever consumes moves what has become due. Everything else is kombu's: a message is popped before it is recorded as
taken, and what stays unsettled for longer than the visibility timeout is given out again, whether its taker lives or
not.
"""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING, Any

import redis
from kombu.transport import redis as stock
from kombu.utils.json import dumps
from redis.exceptions import NoScriptError

from queuelib.ports import Redelivery, TransportCapabilities, TransportSettings
from queuelib_redis.address import KEEPALIVE
from queuelib_redis.client import Script

if TYPE_CHECKING:
    from collections.abc import Iterable

    from queuelib_redis.address import Address

__all__ = ["SCHEME", "Channel", "QoS", "Transport", "settings"]

SCHEME = "qlredis"
# Seconds. A second run of a job that still runs goes unnoticed and repeats for as long as the job lasts; a late one
# does not. Children that die and workers that stop give back at once, so only a killed worker's jobs wait this long.
_VISIBILITY = 12 * 3600.0
_DUE_HEADERS = ("ql-due", "x-due")
_PROMOTE_EVERY = 0.05  # seconds
_PROMOTE_AT_MOST = 500  # messages a call: the server does nothing else meanwhile
_RESTORE_EVERY = 1.0  # seconds; kombu looks on every empty poll, at three round trips each
_ANSWER_WITHIN = 0.002  # seconds for the answer to a request that has just been sent; measured: 0.1 ms
_CONNECT_TIMEOUT = 2.0  # seconds
_SOCKET_TIMEOUT = 2.5  # seconds; kombu connects twice, and submit answers within 5


def settings(address: Address, namespace: str) -> TransportSettings:
    """Return how broker.py opens Redis; every key begins with the namespace and a colon."""
    visibility = address.visibility_timeout or _VISIBILITY
    return TransportSettings(
        url=address.kombu_url(SCHEME),
        alias=(SCHEME, "queuelib_redis.transport:Transport"),
        capabilities=TransportCapabilities(
            redelivery=Redelivery.VISIBILITY,
            recovery=visibility + _RESTORE_EVERY,
            delays=True,
        ),
        options={
            "global_keyprefix": f"{namespace}:",
            "visibility_timeout": visibility,
            "unacked_restore_throttle": 1,
            "socket_connect_timeout": _CONNECT_TIMEOUT,
            "socket_timeout": _SOCKET_TIMEOUT,
            "socket_keepalive": True,
            "socket_keepalive_options": KEEPALIVE,
        },
        connection={} if address.tls is None else {"ssl": address.tls},
    )


class QoS(stock.QoS):
    """What a channel has taken and not settled."""

    _restore_at = 0.0

    def restore_visible(self, start: int = 0, num: Any = 10, interval: int = 10) -> None:
        """Return to their queues what was not settled in time; at most once a second."""
        now = time.monotonic()
        if now >= self._restore_at:
            self._restore_at = now + _RESTORE_EVERY
            super().restore_visible(start, num, interval)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - kombu's signature
        """Return a message to the end of the list that is read next, where kombu would send it to the back."""
        super().restore_by_tag(tag, client)

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Return to their queues what this channel holds, without kombu's lines on the terminal."""
        super().restore_unacked_once(stderr or io.StringIO())


class Channel(stock.Channel):
    """A channel of kombu's with waiting sets beside its queues."""

    QoS = QoS
    _sync_client: Any = None
    _plain: Any = None
    _promote = Script("promote")

    def promote(self, queues: Iterable[str]) -> None:
        """Move what has become due into these queues."""
        keys: list[str] = []
        for queue in queues:
            for key in self._lists(queue):
                keys += (self._full(_waiting_set(key)), self._full(key))
        if not keys:
            return
        client = self._plain_client()
        try:
            client.evalsha(self._promote.digest, len(keys), *keys, _PROMOTE_AT_MOST)
        except NoScriptError:
            client.eval(self._promote.text, len(keys), *keys, _PROMOTE_AT_MOST)

    @property
    def is_about_to_ask(self) -> bool:
        """Whether the next poll sends the server a request for a message."""
        return bool(self.active_queues) and not self._in_poll and bool(self.qos.can_consume())

    def close(self) -> None:
        """Return what is held, and close the connections, also those opened for that."""
        super().close()
        self._disconnect_pools()

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        due = _due(message)
        if due is None or due <= time.time():
            super()._put(queue, message, **kwargs)
            return
        key = _waiting_set(self._q_for_pri(queue, self._get_message_priority(message, reverse=False)))
        batch = kwargs.pop("_publish_batch", None)
        if batch is not None:
            batch.add("zadd", key, {dumps(message): due})
        else:
            self._create_client().zadd(key, {dumps(message): due})

    def _size(self, queue: str) -> int:
        pipeline = self._plain_client().pipeline(transaction=False)
        for key in self._lists(queue):
            pipeline.llen(self._full(key))
            pipeline.zcard(self._full(_waiting_set(key)))
        return sum(pipeline.execute())

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:  # noqa: ARG002 - kombu's signature
        return True  # an empty list does not exist; kombu also asks for the key without its prefix

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        super()._delete(queue, *args, **kwargs)
        self._plain_client().delete(*[self._full(_waiting_set(key)) for key in self._lists(queue)])

    def _purge(self, queue: str) -> int:
        count = self._size(queue)
        self._plain_client().delete(
            *[self._full(name) for key in self._lists(queue) for name in (key, _waiting_set(key))]
        )
        return count

    def _lists(self, queue: str) -> list[str]:
        return [self._q_for_pri(queue, priority) for priority in self.priority_steps]

    def _full(self, key: str) -> str:
        return f"{self.global_keyprefix}{key}"

    def _create_client(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's signature
        # kombu makes a new client for each command, which is more than half of what a publish costs (73 of 109 us).
        if asynchronous:
            return super()._create_client(asynchronous=True)
        if self._sync_client is None or self._sync_client.connection_pool is not self.pool:
            self._sync_client = super()._create_client()
        return self._sync_client

    def _plain_client(self) -> Any:
        """Return a client that takes keys as they are: kombu's knows too few commands to prefix."""
        if self._plain is None or self._plain.connection_pool is not self.pool:
            self._plain = redis.Redis(connection_pool=self.pool)
        return self._plain


class Poller(stock.MultiChannelPoller):
    """Reads from all channels of a connection, and moves what has become due before."""

    _promote_at = 0.0

    def get(self, callback: Any, timeout: float | None = None) -> Any:
        """Deliver one message; a request that is only now sent gets the time of a round trip."""
        if timeout is not None and timeout < _ANSWER_WITHIN and any(one.is_about_to_ask for one in self._channels):
            timeout = _ANSWER_WITHIN
        return super().get(callback, timeout)

    def on_poll_start(self) -> None:
        """Ask for messages."""
        super().on_poll_start()
        now = time.monotonic()
        taking = [channel for channel in self._channels if channel.active_queues]
        if taking and now >= self._promote_at:
            self._promote_at = now + _PROMOTE_EVERY
            taking[0].promote({queue for channel in taking for queue in channel.active_queues})


class Transport(stock.Transport):
    """qlredis://host:port/db for kombu."""

    Channel = Channel
    brpop_timeout = 0.5  # seconds; what closing a channel waits for

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()


def _waiting_set(key: str) -> str:
    return f"{key}:due"


def _due(message: dict[str, Any]) -> float | None:
    headers = message.get("headers") or {}
    for name in _DUE_HEADERS:
        value = headers.get(name)
        if isinstance(value, int | float):
            return float(value)
    return None
