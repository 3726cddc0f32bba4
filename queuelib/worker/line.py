"""The connection in use: every call over it is tried here, and it says when there may be something to take."""

from __future__ import annotations

import logging
import selectors
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from queuelib.errors import BrokerUnavailable

if TYPE_CHECKING:
    from queuelib.ports import Delivery, Lane
    from queuelib.worker.link import Link

__all__ = ["Line"]

_log = logging.getLogger("queuelib.worker")
_NOTICE = 25  # between info and warning: a daemon says it, a worker beside a program does not


class Line:
    """The link, as the worker's loop and its parts use it.

    This is how all of them meet a server that does not answer: they call it through `attempt`, or `ask` for results, which
    return None then, or call it themselves and hand what was raised to `lose`. Nothing is raised any further. Whoever could not do
    something keeps it and does it in a later round, once `link.may_try` says that the pause is over. Where the claims on
    all that was taken have gone with the connection, `on_lost` has been called by the time that one of these
    returns: deliveries that the caller has in hand may be lost by then, and `link.lane` may be None.

    Args:
        link: The connections.
        selector: That of the loop; while the lane has something to say its descriptor is there, as "lane".
        on_lost: Called when the connection was thrown away and others may have what was taken over it.
        rests: Whether a color that had less than was asked for is asked for again only once the lane says so.

    Attributes:
        link: The connections.
        fd: Readable when there may be something to take; None for transports that cannot wake anybody.
    """

    def __init__(
        self, link: Link, selector: selectors.BaseSelector, on_lost: Callable[[], None], *, rests: bool
    ) -> None:
        self.link = link
        self.fd: int | None = None
        self._selector = selector
        self._on_lost = on_lost
        self._rests = rests
        self._is_muted = False  # its descriptor is readable, and there is no room
        self._dry: set[str] = set()  # colors that had less than asked for, on a transport that tells when there is more

    def attempt(self, operation: Callable[..., Any], *arguments: Any) -> Any:
        """Call the broker; after a failure return None and let the link recover."""
        try:
            return operation(*arguments)
        except BrokerUnavailable as error:
            self.lose(error)
            return None

    def ask(self, operation: Callable[..., Any], *arguments: Any) -> Any:
        """Call the result backend by itself; after a failure return None, and spare the lane if that is well."""
        try:
            return operation(*arguments)
        except BrokerUnavailable as error:
            self.lose(error, spares_lane=True)
            return None

    def lose(self, error: BrokerUnavailable, *, spares_lane: bool = False) -> None:
        """Note a failure: have the link pause, and throw the connection away where that is what failed.

        Args:
            error: The failure.
            spares_lane: Whether it was the result backend that failed, over a connection of its own: also where it has
                a door beside the lane, and the two are one server.
        """
        self._dry.clear()
        if self.link.keeps_claims or self._is_well(spares_lane=spares_lane):
            self.link.failed(error, keeps_lane=True)
            return
        fd, self.fd = self.fd, None
        if fd is not None and not self._is_muted:
            self._selector.unregister(fd)
        self._is_muted = False
        self.link.failed(error)
        self._on_lost()

    def listen(self, lane: Lane) -> None:
        """Listen to a new connection."""
        self._dry.clear()
        for note in lane.notes():
            _log.log(_NOTICE, "%s", note)
        self.fd = self.attempt(lane.fileno)
        if self.fd is not None:
            self._selector.register(self.fd, selectors.EVENT_READ, "lane")

    def hear(self, colors: Collection[str], *, has_room: bool) -> None:
        """Note that there may be something to take; where there is no room for it, listen no more until there is."""
        self._dry.clear()
        if has_room:
            return
        fd, lane = self.fd, self.link.lane
        if lane is not None and self.link.may_try:
            self.attempt(lane.take, dict.fromkeys(colors, 0))  # so that it reads what it was sent
        if fd is not None and fd == self.fd:
            self._selector.unregister(fd)
            self._is_muted = True

    def may_have(self, room: Mapping[str, int]) -> bool:
        """Whether there is room for a color of which there may be something."""
        return any(count > 0 and color not in self._dry for color, count in room.items())

    def take(self, lane: Lane, room: Mapping[str, int]) -> list[Delivery] | None:
        """Take what there is room for, by color; return None after a failure."""
        if self._is_muted and self.fd is not None:
            self._selector.register(self.fd, selectors.EVENT_READ, "lane")
        self._is_muted = False
        deliveries: list[Delivery] | None = self.attempt(lane.take, room)
        wakes = self.fd is not None and lane.capabilities.wakes and lane.capabilities.has_batch_verbs
        if wakes and self._rests:
            self._note_dry(room, deliveries or ())
        return deliveries

    def look_again(self) -> None:
        """Ask for all colors again, whatever was found of them before."""
        self._dry.clear()

    def _note_dry(self, room: Mapping[str, int], deliveries: Sequence[Delivery]) -> None:
        left = dict(room)
        for delivery in deliveries:
            left[delivery.color] -= 1
        self._dry = {color for color, count in left.items() if count > 0}

    def _is_well(self, *, spares_lane: bool) -> bool:
        """Whether it was the results' own connection that failed: what runs here is still ours then."""
        lane = self.link.lane
        if lane is None or (self.link.door is not None and not spares_lane):
            return False
        try:
            lane.renew()
        except BrokerUnavailable:
            return False
        return True
