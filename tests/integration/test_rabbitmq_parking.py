"""What is in hand for longer than RabbitMQ allows moves to a queue of the worker's own, from which it comes back alone."""

from __future__ import annotations

import logging
import socket
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pika
import pika.exceptions
import pytest

from queuelib.broker import open_lane
from queuelib.broker.consumer import ConsumerLane
from queuelib.broker.parking import Parking
from queuelib.clock import Clock
from queuelib.errors import BrokerUnavailable, ConfigurationError
from queuelib.ids import new_bundle_id
from queuelib.message import Outgoing
from queuelib_rabbitmq import BACKEND
from queuelib_rabbitmq.transport import parse
from tests.contract.cuts import Cuts
from tests.integration.lab import plain_connection
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queuelib.ports import Delivery

LIMIT = 10.0  # seconds, by a clock that the test turns


class Taker:
    """A lane whose time can be turned ahead."""

    def __init__(self, url: str, namespace: str) -> None:
        self.ahead = 0.0
        clock = Clock(monotonic=lambda: time.monotonic() + self.ahead)
        lane = open_lane(BACKEND.transport(url, namespace), namespace, 5.0, clock=clock)
        assert isinstance(lane, ConsumerLane)
        self.lane = lane

    def take(self, count: int, color: str = "red", within: float = 5.0) -> list[Delivery]:
        """Take exactly `count` frames."""
        taken: list[Delivery] = []

        def enough() -> bool:
            taken.extend(self.lane.take({color: count - len(taken)}))
            return len(taken) == count

        eventually(enough, within=within)
        return taken

    def hold(self, seconds: float = LIMIT / 2) -> None:
        """Let time pass, and the lane look at what it has."""
        self.lane.renew()  # what is here by now is this old
        self.ahead += seconds
        self.lane.renew()

    @property
    def held_queues(self) -> list[str]:
        """Names of the queues of its own."""
        parking = self.lane._parking
        assert isinstance(parking, Parking)
        return [held.queue for held in parking._held.values()]

    def abort(self) -> None:
        """Die: end the connection without a word."""
        self.lane._link.sock.shutdown(socket.SHUT_RDWR)


@pytest.fixture(params=["quorum", "classic"])
def url(request: pytest.FixtureRequest, amqp_url: str) -> str:
    """The server of the tests, with queues of either type."""
    return f"{amqp_url}?consumer_timeout={LIMIT:.0f}&queue_type={request.param}"


@pytest.fixture
def taker(url: str, namespace: str) -> Iterator[Callable[..., Taker]]:
    """Open lanes; nothing is left of them afterwards."""
    opened: list[Taker] = []
    with ExitStack() as stack:

        def open_one(other_url: str | None = None) -> Taker:
            one = Taker(other_url or url, namespace)
            stack.callback(one.lane.close)
            opened.append(one)
            return one

        yield open_one
        held = [name for one in opened for name in one.held_queues]
    with closing(plain_connection(url)) as connection:
        for name in (*held, f"{namespace}.red", f"{namespace}.green"):
            connection.channel().queue_delete(name)


def frame(body: bytes = b"x", color: str = "red") -> Outgoing:
    """Make a frame with a fresh id."""
    return Outgoing(color, new_bundle_id(time.time()), body, None)


def ready(url: str, queue: str) -> int | None:
    """Count what is ready in a queue; None if it does not exist."""
    with closing(plain_connection(url)) as connection:
        try:
            return int(connection.channel().queue_declare(queue, passive=True).method.message_count)
        except pika.exceptions.ChannelClosedByBroker:
            return None


def test_nothing_moves_before_its_time(taker: Callable[..., Taker]) -> None:
    """What is in hand for less than half of the limit stays where it is."""
    one = taker()
    one.lane.publish([frame()], 5.0)
    (held,) = one.take(1)
    tag = held.tag
    one.hold(LIMIT / 2 - 1.0)
    assert held.tag == tag
    assert one.held_queues == []


def test_what_moved_is_the_same_delivery(taker: Callable[..., Taker], url: str, namespace: str) -> None:
    """Over several moves a delivery stays ours, nobody else gets it, and it is settled once and for all."""
    one, other = taker(), taker()
    one.lane.publish([frame(b"%d" % number) for number in range(5)], 5.0)
    held = one.take(5)
    for _ in range(3):
        before = [delivery.tag for delivery in held]
        one.hold()
        after = [delivery.tag for delivery in held]
        assert not set(before) & set(after)
        assert all(one.lane.is_ours(delivery) for delivery in held)
        assert other.lane.take({"red": 5}) == []
    (queue,) = one.held_queues
    assert one.lane.acknowledge(held[1:]) == []
    assert one.lane.acknowledge(held[:1]) == []
    assert one.lane.acknowledge(held) == held
    one.lane.close()
    assert ready(url, f"{namespace}.red") == 0
    assert ready(url, queue) is None
    assert other.lane.take({"red": 5}) == []


def test_the_dead_leave_it_to_others(taker: Callable[..., Taker]) -> None:
    """When the connection ends that holds it, another gets each message once, soon, marked as redelivered."""
    one, other = taker(), taker()
    one.lane.publish([frame(b"%d" % number) for number in range(5)], 5.0)
    held = one.take(5)
    one.hold()
    eventually_past_time_to_live()
    one.abort()
    again = other.take(5, within=2.0)
    assert sorted(delivery.frame for delivery in again) == sorted(delivery.frame for delivery in held)
    assert all(delivery.redelivered for delivery in again)
    assert {delivery.published for delivery in again} == {delivery.published for delivery in held}
    other.hold()  # as often as need be
    assert other.lane.acknowledge(again) == []
    assert other.lane.take({"red": 5}) == []
    with pytest.raises(BrokerUnavailable):
        one.lane.renew()


def eventually_past_time_to_live() -> None:
    """Let the time to live of a held queue pass, of which a message in hand must not know."""
    end = time.monotonic() + 1.2
    eventually(lambda: time.monotonic() > end, within=3.0)


def test_given_back_after_a_move(taker: Callable[..., Taker]) -> None:
    """What has moved goes back to its color at once, marked, and comes to whoever asks; or later, where it waits."""
    one, other = taker(), taker()
    one.lane.publish([frame(b"a"), frame(b"b")], 5.0)
    held = one.take(2)
    one.hold()
    one.lane.give_back(held[:1])
    (again,) = other.take(1, within=2.0)
    assert again.redelivered
    assert again.frame == held[0].frame
    one.lane.give_back(held[1:], 0.3)
    (later,) = other.take(1)
    assert later.frame == held[1].frame
    assert not later.redelivered
    assert one.lane.acknowledge(held) == held


def test_given_back_at_the_very_end(taker: Callable[..., Taker]) -> None:
    """What has moved and is given back as the last thing before a polite end is not lost with the worker's queue."""
    one, other = taker(), taker()
    one.lane.publish([frame(b"%d" % number) for number in range(100)], 5.0)
    held = one.take(100)
    one.hold()
    one.lane.give_back(held)
    one.lane.close()
    assert len({delivery.frame for delivery in other.take(100)}) == 100


def test_what_nobody_asked_for_returns(taker: Callable[..., Taker]) -> None:
    """A message that waits unclaimed in a lane for half of the limit goes back to the queue, to others."""
    one, other = taker(), taker()
    one.lane.publish([frame(b"%d" % number) for number in range(6)], 5.0)
    one.take(2)
    first = one.lane._rings["red"]
    first.widen(4, 0.0)

    def has_more() -> bool:
        one.lane.renew()
        return len(first.unsettled) > 2

    eventually(has_more)
    one.hold()
    assert len(first.unsettled) == 0
    assert one.lane.prefetch("red") == 0
    got = other.take(4, within=2.0)
    assert all(delivery.redelivered for delivery in got)


def test_a_move_makes_no_room(taker: Callable[..., Taker]) -> None:
    """A worker that has moved what it holds is sent nothing more before it asks."""
    one, other = taker(), taker()
    one.lane.publish([frame()], 5.0)
    one.take(1)
    one.hold()
    one.lane.publish([frame(b"new")], 5.0)
    assert other.take(1, within=2.0)[0].frame == b"new"
    one.lane.publish([frame(b"newer")], 5.0)
    assert one.take(1)[0].frame == b"newer"


def test_settled_while_its_copy_is_on_the_way(taker: Callable[..., Taker], monkeypatch: pytest.MonkeyPatch) -> None:
    """A delivery that ends between the sending of its copy and its coming back leaves no copy behind."""
    one, other = taker(), taker()
    one.lane.publish([frame()], 5.0)
    (held,) = one.take(1)
    monkeypatch.setattr("queuelib.broker.parking._WAIT", 0.0)
    one.hold()
    tag = held.tag
    assert one.lane.acknowledge([held]) == []
    parking = one.lane._parking
    assert parking is not None

    def has_gone() -> bool:
        one.lane.renew()
        return not parking._is_waiting and not parking._held["red"].unsettled

    eventually(has_gone)
    assert held.tag == tag
    one.abort()
    eventually_past_time_to_live()
    assert other.lane.take({"red": 1}) == []


def test_death_with_a_copy_on_the_way(taker: Callable[..., Taker], monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies before its originals are acknowledged leaves both; each says that it was in hand."""
    one, other = taker(), taker()
    one.lane.publish([frame()], 5.0)
    one.take(1)
    monkeypatch.setattr(one.lane._rings["red"], "acknowledge", lambda _numbers: None)  # it dies before
    one.hold()
    one.abort()
    both = other.take(2)
    assert all(delivery.redelivered for delivery in both)
    assert other.lane.acknowledge(both) == []


def test_refused_copies_are_tried_again(
    taker: Callable[..., Taker], url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the server refuses a held queue, the worker says so and keeps what it has."""
    one = taker()
    one.lane.publish([frame()], 5.0)
    (held,) = one.take(1)
    parking = one.lane._parking
    assert parking is not None
    name = f"{parking._prefix}held.red.{parking._name}"
    with closing(plain_connection(url)) as connection:
        connection.channel().queue_declare(name, durable=True)  # not as it should be
    with caplog.at_level(logging.WARNING, "queuelib.broker"):
        one.hold()
    assert "may run twice" in caplog.text
    assert one.lane.is_ours(held)
    with closing(plain_connection(url)) as connection:
        connection.channel().queue_delete(name)
    one.hold(11.0)
    assert one.held_queues == [name]
    assert one.lane.acknowledge([held]) == []


def test_cut_while_it_is_away(taker: Callable[..., Taker], url: str) -> None:
    """A connection that is cut gives back what has moved as it gives back all else."""
    parts = urlsplit(url)
    other = taker()
    with Cuts(parts.hostname or "", parts.port or 5672) as proxy:
        one = taker(parts._replace(netloc=f"guest:guest@127.0.0.1:{proxy.port}").geturl())
        one.lane.publish([frame()], 5.0)
        (held,) = one.take(1)
        one.hold()
        proxy.cut()
        assert other.take(1, within=3.0)[0].frame == held.frame
        with pytest.raises(BrokerUnavailable):
            eventually(one.lane.renew)


@pytest.mark.parametrize("value", ["1", "-5", "ten", "2.5"])
def test_option(value: str) -> None:
    """A limit that is no number of seconds, or too short to be looked at twice, is refused."""
    with pytest.raises(ConfigurationError, match="consumer_timeout"):
        parse(f"amqp://localhost?consumer_timeout={value}")


def test_option_default() -> None:
    """Unless said otherwise the limit is the server's default."""
    held: Any = BACKEND.transport("amqp://localhost", "x").held
    assert held.limit == 1800
    held = BACKEND.transport("amqp://localhost?consumer_timeout=60", "x").held
    assert held.limit == 60
