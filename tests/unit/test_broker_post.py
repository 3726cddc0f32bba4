"""What a lost connection, or a refusal, means for what was sent over it: yes, no, or nobody knows."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from queuelib.broker.confirms import Parcel
from queuelib.broker.post import Post
from queuelib.errors import BrokerUnavailable, ConfigurationError, QueuelibError, QueueRefused, SubmitUnknown
from queuelib.message import Outgoing
from tests.unit.fakes import Time

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


class Channel:
    """A channel on which what is sent waits for an answer."""

    def __init__(self) -> None:
        self.unconfirmed: dict[int, Parcel] = {}
        self.refused: list[Parcel] = []

    def send(self, parcel: Parcel) -> None:
        """Note it."""
        self.unconfirmed[len(self.unconfirmed)] = parcel

    def take_refused(self) -> list[Parcel]:
        """Return what came back."""
        refused, self.refused = self.refused, []
        return refused


class Link:
    """A connection that answers for so many parcels, and ends in the same breath."""

    settings = SimpleNamespace(confirms=True)

    def __init__(self, channel: Channel, answers: int) -> None:
        self._channel = channel
        self._answers = answers

    @contextmanager
    def guarded(self, _deadline: float) -> Generator[None, None, None]:
        """Translate."""
        try:
            yield
        except QueuelibError:
            raise
        except OSError as error:
            raise BrokerUnavailable(str(error)) from error

    def corked(self) -> nullcontext[None]:
        """Do nothing."""
        return nullcontext()

    def drain(self, _timeout: float = 0.0) -> None:
        """Answer, and end, once something was sent."""
        if self._channel.unconfirmed:
            for number in list(self._channel.unconfirmed)[: self._answers]:
                del self._channel.unconfirmed[number]
            raise OSError("ended")


def send(answers: int) -> list[bytes]:
    """Send two frames over a connection that ends after some answers; return their bundles."""
    channel = Channel()
    link: Any = Link(channel, answers)
    frames = [Outgoing("red", bytes([at]) * 12, b"frame") for at in range(2)]
    parcels = [Parcel("queue", frame.frame, {}, owner=frame) for frame in frames]
    Post(link, Time().clock).send([(channel, parcels)], 5.0)  # type: ignore[list-item]  # a fake
    return [frame.bundle for frame in frames]


def test_an_end_after_the_last_yes_is_no_failure() -> None:
    """All was accepted: to say that it was not would have it submitted twice."""
    assert len(send(2)) == 2


@pytest.mark.parametrize("answers", [0, 1])
def test_an_end_before_it_leaves_doubt(answers: int) -> None:
    """About what was not answered for, and only that."""
    with pytest.raises(SubmitUnknown) as caught:
        send(answers)
    assert (len(caught.value.frames), len(caught.value.accepted)) == (2 - answers, answers)


class Server(Link):
    """A connection to a server that refuses what comes for one queue, until that was declared.

    `declare` is what happens then; `answers` is how many of what is sent once more it answers for before it ends.
    """

    def __init__(self, channel: Channel, declare: Callable[[], None], answers: int | None = None) -> None:
        super().__init__(channel, 0)
        self._declare = declare
        self._later = answers
        self._has_refused = False
        self.place = "server"

    def drain(self, _timeout: float = 0.0) -> None:
        """Answer for what was sent."""
        channel = self._channel
        if self._has_refused and self._later is not None and channel.unconfirmed:
            self._answers = self._later
            super().drain()
        for number, parcel in list(channel.unconfirmed.items()):
            if parcel.queue == "new" and not self._has_refused:
                channel.refused.append(parcel)
            del channel.unconfirmed[number]

    def limit(self, _seconds: float) -> None:
        """Do nothing."""

    def declare(self, _queue: str, _arguments: Any) -> None:
        """Make the queue, or fail."""
        self._has_refused = True
        self._declare()


def refuse() -> None:
    """Fail as a declaration does."""
    raise QueueRefused("it is of another type")


def cut() -> None:
    """Fail as a connection does."""
    raise OSError("ended")


def send_to_two_queues(declare: Callable[[], None], answers: int | None = None) -> list[str]:
    """Send one frame to a queue that is there and two to one that is to be declared; return all bundles, as named."""
    channel = Channel()
    link: Any = Server(channel, declare, answers)
    frames = [Outgoing("red", bytes([at]) * 12, b"frame") for at in range(3)]
    queues = ["there", "new", "new"]
    parcels = [Parcel(queue, frame.frame, {}, owner=frame) for queue, frame in zip(queues, frames, strict=True)]
    try:
        Post(link, Time().clock).send([(channel, parcels)], 5.0)  # type: ignore[list-item]  # a fake
    except SubmitUnknown as error:
        error.ids = tuple(frame.bundle.hex() for frame in frames if frame in error.frames)
        raise
    return [frame.bundle.hex() for frame in frames]


class Newborn(Server):
    """A server whose queue refuses what comes in the first moments of its life; time passes while somebody listens."""

    def __init__(self, channel: Channel, time: Time, ready_after: float) -> None:
        super().__init__(channel, lambda: None)
        self._time = time
        self._ready_at = time.now + ready_after

    def drain(self, _timeout: float = 0.0) -> None:
        """Answer for what was sent, and let time pass."""
        self._has_refused = self._time.now >= self._ready_at
        if self._channel.unconfirmed:
            super().drain()
        else:
            self._time.now += _timeout

    def declare(self, _queue: str, _arguments: Any) -> None:
        """Find it there."""


@pytest.mark.parametrize(("ready_after", "left_over"), [(0.3, 5.0), (0.3, 0.45), (60.0, 5.0)])
def test_a_newborn_queue_is_tried_again(ready_after: float, left_over: float) -> None:
    """After a moment, as long as the deadline allows it; then the answer is a clear no."""
    channel, time = Channel(), Time()
    link: Any = Newborn(channel, time, ready_after)
    frame = Outgoing("red", b"bundle", b"frame")
    post, orders = Post(link, time.clock), [(channel, [Parcel("new", frame.frame, {}, owner=frame)])]
    began = time.now
    if ready_after < 1.0 and left_over > 1.0:
        post.send(orders, left_over)  # type: ignore[arg-type]  # a fake
    else:
        with pytest.raises(BrokerUnavailable, match="refused 1 frames") as caught:
            post.send(orders, left_over)  # type: ignore[arg-type]  # a fake
        assert caught.value.accepted == ()
    assert time.now - began <= min(left_over, 1.0)
    assert channel.unconfirmed == {}


BUNDLES = [(bytes([at]) * 12).hex() for at in range(3)]


def test_what_came_back_is_sent_once_more() -> None:
    """Its queue was missing."""
    assert send_to_two_queues(lambda: None) == BUNDLES


def test_a_refused_queue_names_what_was_accepted() -> None:
    """Or whoever submits again would have that twice; it is the client's to mend, and a worker lives on."""
    with pytest.raises(ConfigurationError) as caught:
        send_to_two_queues(refuse)
    assert isinstance(caught.value, BrokerUnavailable)
    assert caught.value.accepted == (BUNDLES[0],)


def test_an_end_while_a_queue_is_declared_names_what_was_accepted() -> None:
    """What came back is not there, certainly."""
    with pytest.raises(BrokerUnavailable) as caught:
        send_to_two_queues(cut)
    assert caught.value.accepted == (BUNDLES[0],)


def test_an_end_after_the_last_yes_of_a_second_try_is_no_failure() -> None:
    """All was accepted, though some of it came back before."""
    assert send_to_two_queues(lambda: None, answers=2) == BUNDLES


def test_an_end_in_a_second_try_leaves_doubt_about_the_rest_of_it() -> None:
    """Not about what was accepted meanwhile."""
    with pytest.raises(SubmitUnknown) as caught:
        send_to_two_queues(lambda: None, answers=1)
    assert (list(caught.value.ids), list(caught.value.accepted)) == (BUNDLES[2:], BUNDLES[:2])
