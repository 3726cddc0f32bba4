"""Delays on RabbitMQ: a delay written in binary, and one waiting queue for each of its digits.

RabbitMQ drops or moves a message when its queue's time to live is over, and only from the head of the queue, so each
queue can wait one length of time. There are 24 of them for a namespace, shared by its colors: queue n keeps what it
gets for 0.1 s * 2**n and then moves it, by itself, to the exchange below. The routing key holds the delay's binary
digits and then the queue where the message ends, e.g. `0.0. ... 1.0.1.queuelib.red` for 0.5 s. The exchange of level n
looks at digit n only: 1 goes to waiting queue n, 0 goes on to exchange n - 1; after the last, all digits are looked
over and the rest of the key decides. So every delay up to 19 days takes the same 24 queues, is rounded up to a
tenth of a second, and costs as many hops as it has ones.

The waiting queues are quorum queues that move messages at least once: a message leaves one only after the next has
confirmed it, and a full one refuses instead of dropping. (The same idea as kombu's native delayed delivery, which
counts whole seconds and moves at most once.)
"""

from __future__ import annotations

import math
from typing import Any

__all__ = ["Ladder"]

_LEVELS = 24
_STEP = 0.1  # seconds of the lowest level


class Ladder:
    """The waiting queues of one namespace."""

    longest = (2**_LEVELS - 1) * _STEP

    def __init__(self, namespace: str, *, is_replicated: bool = True) -> None:
        self._prefix = f"{namespace}.delay"
        self._last = f"{namespace}.delayed"
        self._is_replicated = is_replicated

    def address(self, queue: str, delay: float) -> tuple[str, str]:
        """Return exchange and routing key by which a frame reaches `queue` after `delay` seconds."""
        units = self._units(delay)
        digits = ".".join(format(units, f"0{_LEVELS}b"))
        return self._name(units.bit_length() - 1), f"{digits}.{queue}"

    def declare(self, connection: Any, queue: str) -> None:
        """Make sure that the levels exist, and that `queue` gets what has waited for it."""
        channel = connection.channel()
        try:
            channel.exchange_declare(self._last, "topic", passive=True)
        except connection.channel_errors:
            channel = connection.channel()  # the server has closed the other one
            self._declare_levels(channel)
        channel.queue_bind(queue, self._last, f"{'*.' * _LEVELS}{queue}")
        channel.close()

    def _declare_levels(self, channel: Any) -> None:
        for level in range(_LEVELS):
            channel.exchange_declare(self._name(level), "topic", durable=True, auto_delete=False, nowait=True)
            channel.queue_declare(
                self._name(level), durable=True, auto_delete=False, arguments=self._arguments(level), nowait=True
            )
        for level in range(_LEVELS):
            above = "*." * (_LEVELS - 1 - level)
            channel.queue_bind(self._name(level), self._name(level), f"{above}1.#", nowait=True)
            if level > 0:
                channel.exchange_bind(self._name(level - 1), self._name(level), f"{above}0.#", nowait=True)
        # The last exchange comes last: whoever finds it finds everything.
        channel.exchange_declare(self._last, "topic", durable=True, auto_delete=False)
        channel.exchange_bind(self._last, self._name(0), f"{'*.' * (_LEVELS - 1)}0.#")

    def _name(self, level: int) -> str:
        return f"{self._prefix}.{level:02d}"

    def _arguments(self, level: int) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "x-message-ttl": int(_STEP * 1000) * 2**level,
            "x-dead-letter-exchange": self._name(level - 1) if level > 0 else self._last,
        }
        if self._is_replicated:
            arguments |= {
                "x-queue-type": "quorum",
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",  # at-least-once asks for it
            }
        return arguments

    @staticmethod
    def _units(delay: float) -> int:
        units: int = min(max(1, math.ceil(delay / _STEP - 0.01)), (1 << _LEVELS) - 1)
        return units
