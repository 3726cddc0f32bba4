"""What this worker has taken: deliveries, and the jobs in them that are still to be accounted for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from queuelib.bundle import outgoing, part
from queuelib.ids import Key
from queuelib.ports import Settled

if TYPE_CHECKING:
    from queuelib.message import Bundle, Outgoing
    from queuelib.ports import Delivery

__all__ = ["Hold", "Member"]


@dataclass(slots=True, eq=False)
class Hold:
    """A delivery in hand.

    Attributes:
        delivery: The delivery.
        bundle: What is in it.
        pending: Jobs of it that have no outcome yet, by their position in the bundle.
        is_lost: Whether the delivery is not ours any more: its connection is gone.
    """

    delivery: Delivery
    bundle: Bundle
    pending: dict[int, Member] = field(default_factory=dict[int, "Member"])
    is_lost: bool = False

    def settled(self) -> Settled:
        """Return an empty entry for the settlement of this delivery."""
        return Settled(self.delivery, reply=self.bundle.reply)

    def remainder(self) -> Outgoing:
        """Return the pending jobs as a frame of their own."""
        return outgoing(part(self.bundle, sorted(self.pending), due=None), is_successor=True)

    @property
    def is_untouched(self) -> bool:
        """Whether no job of it has an outcome yet, so that it can go back as it came."""
        return len(self.pending) == len(self.bundle.indexes)


@dataclass(slots=True, eq=False)
class Member:
    """A job in hand.

    Attributes:
        hold: The delivery it came with.
        position: Its place in that bundle.
        starts: How often it may have been started before without an outcome.
        number: Under which number a child has it; 0 while none has.
        is_marked: Whether a start mark or a running state was stored for this start.
    """

    hold: Hold
    position: int
    starts: int = 0
    number: int = 0
    is_marked: bool = False

    @property
    def bundle(self) -> Bundle:
        """Its bundle."""
        return self.hold.bundle

    @property
    def key(self) -> Key:
        """Which job it is."""
        return Key(self.bundle.id, self.bundle.indexes[self.position])

    @property
    def identity(self) -> tuple[bytes, int, int]:
        """Job and attempt: what is started once, whichever delivery it came with."""
        return (self.bundle.id, self.bundle.indexes[self.position], self.bundle.attempt)
