"""Publishes parcels on confirmed channels, and says exactly what is known of each when that fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from queuelib.broker.confirms import ConfirmedChannel, Parcel
from queuelib.errors import BrokerUnavailable, SubmitUnknown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from queuelib.broker.link import Link
    from queuelib.clock import Clock

__all__ = ["Orders", "Post"]

Orders = Sequence[tuple[ConfirmedChannel, Sequence[Parcel]]]

_PAUSES = (0.0, 0.1, 0.4)  # seconds before what was refused is sent again
_DRAIN_EVERY = 256  # frames published between two looks at the server's answers: neither side's buffer may fill up


class Post:
    """Sends on the channels of one link."""

    def __init__(self, link: Link, clock: Clock) -> None:
        self._link = link
        self._clock = clock

    def send(self, orders: Orders, deadline: float) -> None:
        """Write parcels on their channels, and wait until all are confirmed.

        What the server returns or refuses is sent again after its queue was declared, and some moments later: a queue
        that was born just now, and declared by several at once, may refuse what comes first. Then each parcel has a yes,
        a no, or no answer, and an error says which: nothing is sent again that has a yes, or may have one.

        Raises:
            BrokerUnavailable: No for all but `error.accepted` (bundles of the parcels' owners, in hex).
            QueueRefused: The same, where a queue cannot be declared.
            SubmitUnknown: Nobody knows of `error.frames` (the parcels' owners); yes for all others.
        """
        end = self._clock.monotonic() + deadline
        sent: list[Parcel] = []
        sent_again: list[Parcel] = []
        refused: Orders = []
        try:
            with self._link.guarded(deadline):
                self._link.drain()  # a connection that has died is better noticed before anything is sent
                self._write(orders, sent, end)
                self._await_answers(orders, end)
                refused = _take_refused(orders)
                for pause in _PAUSES:
                    if not refused or end - self._clock.monotonic() <= pause:
                        break
                    sent_again.clear()
                    self._rest(pause)
                    self._link.limit(end - self._clock.monotonic())
                    self._declare_for(parcel for _, again in refused for parcel in again)
                    self._write(refused, sent_again, end)
                    self._await_answers(refused, end)
                    refused = _take_refused(orders)
        except BrokerUnavailable as error:
            everything = [parcel for _, parcels in orders for parcel in parcels]
            returned = [parcel for _, parcels in refused for parcel in parcels]
            unsent = everything[len(sent) :] + returned[len(sent_again) :]
            verdict = self._verdict(error, orders, everything, unsent)
            if verdict is not None:
                raise verdict from error.__cause__
            return
        left = [parcel for _, parcels in refused for parcel in parcels]
        if left:
            accepted = _bundles(parcel for _, parcels in orders for parcel in parcels if parcel not in left)
            msg = f"{self._link.place} refused {len(left)} frames for {left[0].queue}: is it full, or a node down?"
            raise BrokerUnavailable(msg, accepted=accepted)

    def _write(self, orders: Orders, sent: list[Parcel], end: float) -> None:
        with self._link.corked():
            for channel, parcels in orders:
                for parcel in parcels:
                    sent.append(parcel)
                    channel.send(parcel)
                    if self._link.settings.confirms and len(sent) % _DRAIN_EVERY == 0:
                        self._link.drain()
                        self._check(end)

    def _await_answers(self, orders: Orders, end: float) -> None:
        while any(channel.unconfirmed for channel, _ in orders):
            self._link.drain(min(self._check(end), 1.0))

    def _rest(self, seconds: float) -> None:
        """Let time pass, while the connection is served."""
        end = self._clock.monotonic() + seconds
        while (left := end - self._clock.monotonic()) > 0:
            self._link.drain(left)

    def _check(self, end: float) -> float:
        """Return the seconds that are left."""
        left = end - self._clock.monotonic()
        if left <= 0:
            msg = "no confirmation in time; is the server out of memory or disk?"
            raise TimeoutError(msg)
        return left

    def _declare_for(self, parcels: Iterable[Parcel]) -> None:
        for parcel in {parcel.queue: parcel for parcel in parcels}.values():
            self._link.declare(parcel.queue, parcel.arguments)
            if parcel.exchange:
                self._link.declare_delays(parcel.queue)

    @staticmethod
    def _verdict(
        error: BrokerUnavailable, orders: Orders, everything: Sequence[Parcel], unsent: Sequence[Parcel]
    ) -> BrokerUnavailable | SubmitUnknown | None:
        """Return what a failed `send` means for its parcels; None if the last yes came before the connection ended."""
        unanswered = [parcel for channel, _ in orders for parcel in channel.unconfirmed.values()]
        refused = [parcel for channel, _ in orders for parcel in channel.refused]
        pending = {id(parcel) for parcel in (*unanswered, *unsent, *refused)}
        accepted = _bundles(parcel for parcel in everything if id(parcel) not in pending)
        if not pending:
            return None
        if not unanswered:
            error.accepted = tuple(accepted)
            return error
        doubtful = [parcel.owner for parcel in everything if id(parcel) in pending and parcel.owner is not None]
        msg = f"{error}; {len(doubtful)} frames were sent or on their way and may have been accepted"
        return SubmitUnknown(msg, frames=doubtful, accepted=accepted)


def _take_refused(orders: Orders) -> Orders:
    return [(channel, refused) for channel, _ in orders if (refused := channel.take_refused())]


def _bundles(parcels: Iterable[Parcel]) -> list[str]:
    return [parcel.owner.bundle.hex() for parcel in parcels if parcel.owner is not None]
