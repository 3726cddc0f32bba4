"""A queue of a worker's own, and what others may put into it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from queuelib.broker.incoming import HELD
from queuelib.broker.parking import _HeldRing
from queuelib.broker.ring import Ring, Tag
from queuelib.ports import Delivery


class Raw:
    """A channel that writes down what it is told to do with messages."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []

    def basic_ack(self, number: int, *, multiple: bool = False) -> None:
        """Note it."""
        self.acknowledged.append(number)
        assert not multiple or number == max(self.acknowledged)

    def send_method(self, *_: Any) -> None:
        """Nobody listens."""

    def basic_consume(self, **_: Any) -> None:
        """Nothing comes by itself."""


class Channel:
    """What a ring asks of its channel; nothing is sent."""

    def __init__(self) -> None:
        self.raw = Raw()
        self.unconfirmed: dict[int, Any] = {}

    def send(self, _parcel: Any) -> int:
        """Confirm at once."""
        return 1

    def take_refused(self) -> list[Any]:
        """Nothing was."""
        return []


def arrive(held: _HeldRing, number: int, headers: dict[str, Any] | None) -> None:
    """Let a message come to the held queue."""
    held._receive_message(SimpleNamespace(delivery_tag=number, headers=headers))


@pytest.mark.parametrize("mark", [["a", "list"], {"a": "table"}, "text", 0, True, 7, 1.0, None])
def test_a_message_of_others_goes_at_once(mark: object) -> None:
    """Whatever its header says, it takes the place of nothing, and what is in hand moves as if it had not come."""
    channel: Any = Channel()
    first: Any = Channel()
    ring = Ring(first, "red", "ns.red", 1, is_amqp=True)
    delivery = Delivery(b"ours", "red", Tag(1, ring, 5))
    ring.unsettled[5] = delivery
    held = _HeldRing(channel, "red", "ns.held.red", 1)
    assert held.begin([delivery])
    arrive(held, 1, None if mark is None else {HELD: mark})
    assert channel.raw.acknowledged == [1]
    assert held.unsettled == {}
    assert held.is_waiting
    arrive(held, 2, {HELD: 1})  # the copy itself
    assert held.finish() == 0
    assert (delivery.tag, held.unsettled) == (Tag(1, held, 2), {2: delivery})
    assert first.raw.acknowledged == [5]
