"""The publishing connection that threads share: what one of them hears is about its own frames, and in its own time."""

from __future__ import annotations

import signal
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from queuelib import broker
from queuelib.broker import Publisher
from queuelib.errors import BrokerUnavailable, QueueRefused, SubmitUnknown
from queuelib.message import Outgoing
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence


class Lane:
    """The first publish waits to be let through; what becomes of the second and the third is up to the test."""

    def __init__(self) -> None:
        self.sent: list[list[Outgoing]] = []
        self.gate = threading.Event()
        self.failure: BaseException | None = None
        self.next_failure: BaseException | None = None
        self.failure_to_open: BaseException | None = None  # the second time
        self.opened = self.closed = 0

    def publish(self, frames: Sequence[Outgoing], _deadline: float) -> None:
        """Note what is published."""
        self.sent.append(list(frames))
        if len(self.sent) == 1:
            assert self.gate.wait(10.0)
        elif self.failure is not None and len(self.sent) == 2:
            raise self.failure
        elif self.next_failure is not None and len(self.sent) == 3:
            raise self.next_failure

    def open(self, *_: object) -> Lane:
        """Be opened."""
        self.opened += 1
        if self.failure_to_open is not None and self.opened == 2:
            raise self.failure_to_open
        return self

    def close(self) -> None:
        """Count."""
        self.closed += 1


@pytest.fixture
def lane(monkeypatch: pytest.MonkeyPatch) -> Lane:
    """The lane that a publisher opens."""
    made = Lane()
    monkeypatch.setattr(broker, "open_lane", made.open)
    return made


def frame(number: int) -> Outgoing:
    return Outgoing("red", bytes([number]) * 12, b"frame")


def new_publisher() -> Publisher:
    settings: Any = SimpleNamespace(url="test://")
    return Publisher(settings, "test")


def publish_at_once(lane: Lane, count: int = 2, publisher: Publisher | None = None) -> dict[int, BaseException | None]:
    """Have so many threads publish a frame each while one more has the connection; return what all heard."""
    publisher = publisher or new_publisher()
    heard: dict[int, BaseException | None] = {}

    def publish(number: int) -> None:
        try:
            publisher.publish([frame(number)], 10.0)
            heard[number] = None
        except BaseException as error:  # noqa: BLE001 - among them what interrupts
            heard[number] = error

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(count + 1)]
    threads[0].start()
    eventually(lambda: lane.sent)
    for at, thread in enumerate(threads[1:], start=1):
        thread.start()
        await_waiting(publisher, at)
    lane.gate.set()
    for thread in threads:
        thread.join()
    return heard


def await_waiting(publisher: Publisher, count: int) -> None:
    """Wait until so many orders wait."""
    eventually(lambda: len(publisher._queue) == count)


def sort_out(heard: dict[int, BaseException | None]) -> tuple[int, list[int]]:
    """Return who was interrupted, which exactly one was, and the others but the first."""
    (interrupted,) = [number for number, error in heard.items() if isinstance(error, KeyboardInterrupt)]
    assert heard[0] is None
    return interrupted, [number for number in sorted(heard) if number not in (0, interrupted)]


def test_orders_go_together(lane: Lane) -> None:
    """One round trip for both."""
    assert publish_at_once(lane) == {0: None, 1: None, 2: None}
    assert [len(frames) for frames in lane.sent] == [1, 2]


def test_what_is_in_doubt_is_not_sent_again(lane: Lane) -> None:
    """It could be there twice; who submitted it is told, and who did not is not."""
    lane.failure = SubmitUnknown("lost", frames=[frame(1)], accepted=[frame(2).bundle.hex()])
    heard = publish_at_once(lane)
    assert (heard[0], heard[2], len(lane.sent)) == (None, None, 2)
    error = heard[1]
    assert isinstance(error, SubmitUnknown)
    assert (error.frames, error.accepted) == ((frame(1),), ())


def test_what_was_accepted_is_not_sent_again(lane: Lane) -> None:
    """The rest is, by itself."""
    lane.failure = BrokerUnavailable("lost", accepted=[frame(2).bundle.hex()])
    assert publish_at_once(lane) == {0: None, 1: None, 2: None}
    assert lane.sent[2:] == [[frame(1)]]


def test_a_refusal_is_not_tried_over_a_new_connection(lane: Lane) -> None:
    """The server has answered: what it accepted stays, each other order goes by itself, and who is refused hears it."""
    publisher = new_publisher()
    lane.failure = QueueRefused("of another type")
    lane.next_failure = QueueRefused("of another type")
    heard = publish_at_once(lane, 2, publisher)
    assert (heard[0], type(heard[1]), heard[2]) == (None, QueueRefused, None)
    assert lane.sent[1:] == [[frame(1), frame(2)], [frame(1)], [frame(2)]]


def test_nobody_waits_for_the_deadline_of_another(lane: Lane) -> None:
    """A thread whose time is over goes, though another has the connection for longer."""
    publisher = new_publisher()
    first = threading.Thread(target=publisher.publish, args=([frame(0)], 60.0))
    first.start()
    eventually(lambda: lane.sent)
    with pytest.raises(BrokerUnavailable, match="other threads"):
        publisher.publish([frame(1)], 0.05)
    lane.gate.set()
    first.join()


def test_who_was_sent_along_with_an_interrupted_thread_is_in_doubt(lane: Lane) -> None:
    """Ctrl-C in the midst of a shared publish: nobody knows what of it arrived, so nobody hears that it did."""
    lane.failure = KeyboardInterrupt()
    heard = publish_at_once(lane, 3)
    _, others = sort_out(heard)
    assert len(others) == 2
    for number in others:
        error = heard[number]
        assert isinstance(error, SubmitUnknown)
        assert (error.frames, error.accepted) == ((frame(number),), ())
    assert len(lane.sent) == 2  # nothing of it was sent again


def test_what_an_interrupted_thread_has_not_sent_the_next_one_sends(lane: Lane) -> None:
    """Ctrl-C while it connects again: the frames of the others go once more, its own do not."""
    lane.failure = BrokerUnavailable("lost")
    lane.failure_to_open = KeyboardInterrupt()
    heard = publish_at_once(lane, 3)
    _, others = sort_out(heard)
    assert [heard[number] for number in others] == [None, None]
    assert lane.sent[2:] == [[frame(number) for number in others]]


def test_what_comes_after_an_interrupted_order_is_not_lost(lane: Lane) -> None:
    """Ctrl-C while one of several orders goes alone: that one is in doubt, and what was accepted before stays so."""
    lane.failure = BrokerUnavailable("full", accepted=[frame(2).bundle.hex()])
    lane.next_failure = KeyboardInterrupt()
    heard = publish_at_once(lane, 3)
    _, others = sort_out(heard)
    assert isinstance(heard[1], KeyboardInterrupt | SubmitUnknown)
    assert [heard[number] for number in others if number != 1] == [None] * len(set(others) - {1})
    assert sum(frame(2) in frames for frames in lane.sent) == 1
    assert sum(frame(3) in frames for frames in lane.sent[2:]) == (3 in others)


def test_a_connection_that_was_interrupted_is_not_used_again(lane: Lane) -> None:
    """It may be in the midst of a frame."""
    publisher = new_publisher()
    lane.failure = KeyboardInterrupt()
    publish_at_once(lane, 1, publisher)
    assert (lane.opened, lane.closed) == (1, 1)
    publisher.publish([frame(1)], 10.0)
    assert lane.opened == 2


def test_who_was_interrupted_while_it_waited_sends_nothing(lane: Lane) -> None:
    """Its order goes with it, and the connection is free for others."""
    publisher = new_publisher()
    first = threading.Thread(target=publisher.publish, args=([frame(0)], 60.0))
    first.start()
    eventually(lambda: lane.sent)

    def interrupt() -> None:
        await_waiting(publisher, 1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    waits = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it runs beside ignore it
    try:
        waits.start()
        with pytest.raises(KeyboardInterrupt):
            publisher.publish([frame(1)], 60.0)
        waits.join()
    finally:
        signal.signal(signal.SIGINT, before)
    lane.gate.set()
    first.join()
    publisher.publish([frame(2)], 10.0)
    assert lane.sent == [[frame(0)], [frame(2)]]


def test_an_order_that_nobody_answered_is_in_doubt(lane: Lane) -> None:
    """Whatever became of the thread that took it: no answer is never a yes."""
    publisher = new_publisher()
    first = threading.Thread(target=publisher.publish, args=([frame(0)], 60.0))
    first.start()
    eventually(lambda: lane.sent)
    heard: list[SubmitUnknown] = []

    def publish() -> None:
        with pytest.raises(SubmitUnknown) as caught:
            publisher.publish([frame(1)], 60.0)
        heard.append(caught.value)

    second = threading.Thread(target=publish)
    second.start()
    eventually(lambda: publisher._queue)
    publisher._queue.clear()  # as one does that is killed in the next moment
    lane.gate.set()
    first.join()
    second.join()
    assert [error.frames for error in heard] == [(frame(1),)]


def test_a_forked_child_leaves_the_connection_alone(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the parent's: the child says no goodbye on it, waits for no lock that no thread of its own holds."""
    publisher = new_publisher()
    lane.gate.set()
    publisher.publish([frame(0)], 10.0)
    publisher._owner = broker._Order((), 0.0)  # as another thread of the parent may be, at the moment of the fork
    monkeypatch.setattr(broker.os, "getpid", lambda: -1)  # type: ignore[attr-defined]
    publisher.close()
    assert lane.closed == 0
    publisher.publish([frame(1)], 10.0)
    assert lane.opened == 2
    publisher.close()
    assert lane.closed == 1


@pytest.mark.parametrize("where", ["_await_turn", "_let_go"])
def test_an_interrupt_leaves_the_connection_to_others(lane: Lane, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Also at the very moment at which a thread has got it, or gives it up."""
    publisher = new_publisher()
    lane.gate.set()
    method, calls = getattr(publisher, where), list[object]()

    def once_interrupted(order: Any) -> Any:
        result = method(order)
        calls.append(order)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(publisher, where, once_interrupted)
    with pytest.raises(KeyboardInterrupt):
        publisher.publish([frame(0)], 10.0)
    publisher.publish([frame(1)], 0.5)
    publisher.close()
    assert publisher._owner is None
    assert publisher._queue == publisher._waiting == []


def test_an_interrupt_amid_passing_on_passes_on(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is done again: nobody else could."""
    publisher = new_publisher()
    lane.gate.set()
    let_go, calls = publisher._let_go, list[object]()

    def once_interrupted(order: Any) -> None:
        calls.append(order)
        if len(calls) == 1:
            raise KeyboardInterrupt
        let_go(order)

    monkeypatch.setattr(publisher, "_let_go", once_interrupted)
    with pytest.raises(KeyboardInterrupt):
        publisher.publish([frame(0)], 10.0)
    publisher.publish([frame(1)], 0.5)
    assert publisher._owner is None
