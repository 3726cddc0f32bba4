"""What a lost connection means for what was sent over it: yes, no, or nobody knows."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from queuelib.broker.confirms import Parcel
from queuelib.broker.post import Post
from queuelib.errors import BrokerUnavailable, SubmitUnknown
from queuelib.message import Outgoing
from tests.unit.fakes import Time

if TYPE_CHECKING:
    from collections.abc import Generator


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
