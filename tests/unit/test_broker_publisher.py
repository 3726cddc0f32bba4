"""The publishing connection that threads share: what one of them hears is about its own frames, and in its own time."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from queuelib import broker
from queuelib.broker import Publisher
from queuelib.errors import BrokerUnavailable, QueuelibError, SubmitUnknown
from queuelib.message import Outgoing
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence


class Lane:
    """The first publish waits to be let through; what becomes of the second one is up to the test."""

    def __init__(self) -> None:
        self.sent: list[list[Outgoing]] = []
        self.gate = threading.Event()
        self.failure: QueuelibError | None = None

    def publish(self, frames: Sequence[Outgoing], _deadline: float) -> None:
        """Note what is published."""
        self.sent.append(list(frames))
        if len(self.sent) == 1:
            assert self.gate.wait(10.0)
        elif self.failure is not None and len(self.sent) == 2:
            raise self.failure

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def lane(monkeypatch: pytest.MonkeyPatch) -> Lane:
    """The lane that a publisher opens."""
    made = Lane()
    monkeypatch.setattr(broker, "open_lane", lambda *_: made)
    return made


def frame(number: int) -> Outgoing:
    return Outgoing("red", bytes([number]) * 12, b"frame")


def publish_two_at_once(lane: Lane) -> dict[int, QueuelibError | None]:
    """Have two threads publish a frame each while a third one has the connection; return what they heard."""
    settings: Any = SimpleNamespace(url="test://")
    publisher = Publisher(settings, "test")
    heard: dict[int, QueuelibError | None] = {}

    def publish(number: int) -> None:
        try:
            publisher.publish([frame(number)], 10.0)
            heard[number] = None
        except QueuelibError as error:
            heard[number] = error

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(3)]
    threads[0].start()
    eventually(lambda: lane.sent)
    for thread in threads[1:]:
        thread.start()
    eventually(lambda: len(publisher._queue) == 2)
    lane.gate.set()
    for thread in threads:
        thread.join()
    return heard


def test_orders_go_together(lane: Lane) -> None:
    """One round trip for both."""
    assert publish_two_at_once(lane) == {0: None, 1: None, 2: None}
    assert [len(frames) for frames in lane.sent] == [1, 2]


def test_what_is_in_doubt_is_not_sent_again(lane: Lane) -> None:
    """It could be there twice; who submitted it is told, and who did not is not."""
    lane.failure = SubmitUnknown("lost", frames=[frame(1)], accepted=[frame(2).bundle.hex()])
    heard = publish_two_at_once(lane)
    assert (heard[0], heard[2], len(lane.sent)) == (None, None, 2)
    error = heard[1]
    assert isinstance(error, SubmitUnknown)
    assert (error.frames, error.accepted) == ((frame(1),), ())


def test_what_was_accepted_is_not_sent_again(lane: Lane) -> None:
    """The rest is, by itself."""
    lane.failure = BrokerUnavailable("lost", accepted=[frame(2).bundle.hex()])
    assert publish_two_at_once(lane) == {0: None, 1: None, 2: None}
    assert lane.sent[2:] == [[frame(1)]]


def test_nobody_waits_for_the_deadline_of_another(lane: Lane) -> None:
    """A thread whose time is over goes, though another has the connection for longer."""
    settings: Any = SimpleNamespace(url="test://")
    publisher = Publisher(settings, "test")
    first = threading.Thread(target=publisher.publish, args=([frame(0)], 60.0))
    first.start()
    eventually(lambda: lane.sent)
    with pytest.raises(BrokerUnavailable, match="other threads"):
        publisher.publish([frame(1)], 0.05)
    lane.gate.set()
    first.join()
