"""What this worker has taken: deliveries, and the jobs in them that are still to be accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from queuelib.bundle import outgoing, part
from queuelib.ids import Key

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from queuelib.message import Bundle, Outgoing
    from queuelib.ports import Delivery
    from queuelib.signing import Keyring

__all__ = ["Hold", "Holds", "Part"]

_WAITING, _HANDED, _ENDED = 0, 1, 2
_ALONE = 2  # starts without an outcome from which a job runs while no other suspect does
_NO_STARTS: Mapping[int, int] = MappingProxyType({})
_NO_MARKS: Mapping[int, float] = MappingProxyType({})
_HANDED_BYTE, _ENDED_BYTE = bytes([_HANDED]), bytes([_ENDED])


class Hold:
    """A delivery in hand, and how far each of its jobs is.

    Attributes:
        delivery: The delivery.
        bundle: What is in it.
        left: How many jobs of it have no outcome yet.
        starts: How often a job may have been started before without an outcome, by its position; see `suspect`.
        marked: When a start mark or a running state was stored of a job, by its position; see `mark`.
        elsewhere: Positions of jobs that have ended elsewhere while a child had them; see `learn`.
    """

    __slots__ = ("_states", "bundle", "delivery", "elsewhere", "left", "marked", "starts")

    def __init__(self, delivery: Delivery, bundle: Bundle) -> None:
        self.delivery = delivery
        self.bundle = bundle
        self.left = len(bundle.indexes)
        self.starts: Mapping[int, int] = _NO_STARTS
        self.marked: Mapping[int, float] = _NO_MARKS
        self.elsewhere: frozenset[int] = frozenset()
        self._states = bytearray(self.left)

    def key(self, position: int) -> Key:
        """Return which job a position is."""
        return Key(self.bundle.id, self.bundle.indexes[position])

    @property
    def is_untouched(self) -> bool:
        """Whether no job of it has an outcome yet, so that it can go back as it came."""
        return self.left == len(self._states)

    @property
    def has_handed(self) -> bool:
        """Whether a child has a job of it."""
        return _HANDED in self._states

    def handed(self) -> list[int]:
        """Return the positions of the jobs that a child has."""
        return [at for at, state in enumerate(self._states) if state == _HANDED]

    def suspect(self, at: int, starts: int) -> None:
        """Note how often a job was started before without an outcome."""
        if not isinstance(self.starts, dict):  # the shared empty one
            self.starts = {}
        self.starts[at] = starts

    def mark(self, at: int, now: float) -> None:
        """Note that a start mark or a running state was stored of a job, and when, on the monotonic clock."""
        if not isinstance(self.marked, dict):  # the shared empty one
            self.marked = {}
        self.marked[at] = now

    def unmark(self, positions: Iterable[int]) -> None:
        """Note that the marks of some jobs do not stand any more."""
        if isinstance(self.marked, dict):
            for at in positions:
                self.marked.pop(at, None)

    def hand(self, at: int, end: int) -> None:
        """Note that a child has these jobs."""
        if end - at == 1:
            self._states[at] = _HANDED
        else:
            self._states[at:end] = _HANDED_BYTE * (end - at)

    def put_back(self, part: Part) -> list[Part]:
        """Note that no child has some jobs any more; return those that have not ended meanwhile."""
        at, end = part.at, part.end
        if _ENDED not in self._states[at:end]:
            self._states[at:end] = bytes(end - at)
            return [part]
        singles = [Part(self, place, place + 1) for place in range(at, end) if self._states[place] != _ENDED]
        for single in singles:
            self._states[single.at] = _WAITING
        return singles

    def learn(self, new: Hold) -> bool:
        """Take over what was just looked up of the same jobs, which others may have had; return whether that was news.

        What a child runs here is spoken for; but once it has ended elsewhere, only a success here still counts.
        """
        is_news = False
        for at, state in enumerate(self._states):
            if state != _ENDED and new.has_ended(at):
                self.end(at, at + 1)
                if state == _HANDED:
                    self.elsewhere = self.elsewhere | {at}
                is_news = True
            elif state == _WAITING and new.starts.get(at, 0) > self.starts.get(at, 0):
                self.suspect(at, new.starts[at])
                is_news = True
        return is_news

    def has_ended(self, position: int) -> bool:
        """Whether a job has an outcome."""
        return self._states[position] == _ENDED

    def end(self, at: int, end: int) -> bool:
        """Note that jobs have an outcome; return False, and do nothing, if one of them had one before."""
        if end - at == 1:
            if self._states[at] == _ENDED:
                return False
            self._states[at] = _ENDED
        else:
            if _ENDED in self._states[at:end]:
                return False
            self._states[at:end] = _ENDED_BYTE * (end - at)
        self.left -= end - at
        return True

    def reopen(self, index: int) -> None:
        """Note that the outcome of a job, by its index, stands nowhere."""
        position = self.bundle.indexes.index(index)
        self.left += self._states[position] == _ENDED
        self._states[position] = _WAITING

    def waiting(self) -> list[Part]:
        """Return the jobs that no child has and that have not ended; those with a start behind them stand alone."""
        if self.left == len(self._states) == 1:
            return [] if self._states[0] else [Part(self, 0, 1)]
        found: list[Part] = []
        at = self._states.find(_WAITING)
        while at >= 0:
            end = at + 1
            while (
                at not in self.starts and end < len(self._states) and not self._states[end] and end not in self.starts
            ):
                end += 1
            found.append(Part(self, at, end))
            at = self._states.find(_WAITING, end)
        return found

    def remainder(self, keys: Keyring | None = None) -> Outgoing:
        """Return the jobs without an outcome as a frame of their own, signed if there are keys.

        Raises:
            DecodeError: The column cannot be cut: its header is right, and what is behind it is not.
            TooLarge: It is larger than a message may be, as what it came in may have been.
        """
        positions = [position for position, state in enumerate(self._states) if state != _ENDED]
        return outgoing(part(self.bundle, positions, due=None), keys, is_successor=True)

    def is_same(self, bundle: Bundle) -> bool:
        """Whether a bundle has exactly these jobs, at this attempt."""
        return bundle.attempt == self.bundle.attempt and list(bundle.indexes) == list(self.bundle.indexes)

    def overlaps(self, bundle: Bundle) -> bool:
        """Whether this hold speaks for a job that a bundle has too; of a lost one, only for what was handed over."""
        if bundle.attempt != self.bundle.attempt:
            return False
        pairs = zip(self.bundle.indexes, self._states, strict=True)
        mine = {index for index, state in pairs if state != _WAITING or not self.delivery.is_lost}
        return not mine.isdisjoint(bundle.indexes)


class Part:
    """Some jobs of a delivery, one after the other in its bundle: what waits, is handed over and comes back as one.

    Attributes:
        hold: The delivery.
        at: Position of the first one.
        end: Position behind the last one.
        number: Under which number a child has the first one; each further one has the next number.
        cost: How many seconds each was expected to take when it was handed over.
        size: How many bytes were sent to the child with it.
    """

    __slots__ = ("at", "cost", "end", "hold", "number", "size")

    def __init__(self, hold: Hold, at: int, end: int) -> None:
        self.hold = hold
        self.at = at
        self.end = end
        self.number = 0
        self.cost = 0.0
        self.size = 0

    @property
    def count(self) -> int:
        """How many jobs."""
        return self.end - self.at

    @property
    def is_suspect(self) -> bool:
        """Whether it is a job that was started before without an outcome."""
        return self.at in self.hold.starts

    @property
    def runs_alone(self) -> bool:
        """Whether it is a job that runs while no other such job does: it may be what kills."""
        return bool(self.hold.starts) and self.hold.starts.get(self.at, 0) >= _ALONE

    def cut(self, count: int) -> Part:
        """Return the first `count` jobs as a part of their own; the others stay here."""
        first = Part(self.hold, self.at, self.at + count)
        first.number, first.cost, first.size = self.number, self.cost, self.size
        self.size = 0
        self.at += count
        self.number += count
        return first

    def __repr__(self) -> str:
        return f"Part({self.hold.bundle.id.hex()}, {self.at}, {self.end})"


class Holds:
    """All deliveries in hand."""

    def __init__(self) -> None:
        self._by_delivery: dict[Delivery, Hold] = {}
        self._by_bundle: dict[bytes, list[Hold]] = {}

    def __iter__(self) -> Iterator[Hold]:
        return iter(self._by_delivery.values())

    def __len__(self) -> int:
        return len(self._by_delivery)

    def add(self, hold: Hold) -> None:
        """Take a delivery in hand."""
        self._by_delivery[hold.delivery] = hold
        self._by_bundle.setdefault(hold.bundle.id, []).append(hold)

    def discard(self, delivery: Delivery) -> None:
        """Let go of a delivery, if it is in hand."""
        hold = self._by_delivery.pop(delivery, None)
        if hold is None:
            return
        holds = self._by_bundle[hold.bundle.id]
        if len(holds) == 1:
            del self._by_bundle[hold.bundle.id]
        else:
            holds.remove(hold)

    def of_bundle(self, bundle_id: bytes) -> Collection[Hold]:
        """Return the deliveries that have jobs of a bundle."""
        return self._by_bundle.get(bundle_id, ())

    def of_delivery(self, delivery: Delivery) -> Hold | None:
        """Return the hold of a delivery, if it is in hand."""
        return self._by_delivery.get(delivery)

    def adopt(self, hold: Hold, delivery: Delivery) -> Delivery:
        """Let a hold answer for a second delivery of the same jobs from now on; return the one it had."""
        old = hold.delivery
        del self._by_delivery[old]
        self._by_delivery[delivery] = hold
        hold.delivery = delivery
        return old

    def lose(self) -> None:
        """Note that the connection is gone over which all of them came."""
        for delivery in self._by_delivery:
            delivery.is_lost = True

    def idle_lost(self) -> list[Delivery]:
        """Return those that are not ours any more and of which no child has a job."""
        return [delivery for delivery, hold in self._by_delivery.items() if delivery.is_lost and not hold.has_handed]
