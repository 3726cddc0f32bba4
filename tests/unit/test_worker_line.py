"""The connection in use: what a failure does, and which colors are asked for."""

from __future__ import annotations

import os
import selectors
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from queuelib.errors import BrokerUnavailable
from queuelib.worker.line import Line
from tests.unit.fakes import make_bundle, make_delivery

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from queuelib.ports import Delivery


class Lane:
    """A lane whose descriptor is one end of a pipe."""

    def __init__(self, fd: int | None) -> None:
        self.fd = fd
        self.rooms: list[dict[str, int]] = []
        self.waiting: list[Delivery] = []
        self.is_broken = False
        self.capabilities = SimpleNamespace(wakes=True, has_batch_verbs=True)

    def notes(self) -> list[str]:
        return []

    def fileno(self) -> int | None:
        return self.fd

    def renew(self) -> float:
        if self.is_broken:
            raise BrokerUnavailable("gone")
        return 0.0

    def take(self, room: Mapping[str, int]) -> list[Delivery]:
        if self.is_broken:
            raise BrokerUnavailable("gone")
        self.rooms.append(dict(room))
        return self.waiting


class Desk:
    """A line that listens, and what it does."""

    def __init__(self, fd: int | None, *, keeps_claims: bool, rests: bool = True) -> None:
        self.lane = Lane(fd)
        self.link = SimpleNamespace(
            lane=self.lane, door=None, may_try=True, keeps_claims=keeps_claims, failed=self.fail
        )
        self.losses = 0
        self.selector = selectors.DefaultSelector()
        self.line = Line(cast("Any", self.link), self.selector, self.lose, rests=rests)
        self.line.listen(cast("Any", self.lane))

    def fail(self, error: BrokerUnavailable, *, keeps_lane: bool = False) -> None:
        self.link.may_try = False
        if not keeps_lane and not self.link.keeps_claims:
            self.link.lane = None

    def lose(self) -> None:
        assert self.link.lane is None, "who lets go of what was taken must not use the connection"
        self.losses += 1

    def take(self, room: Mapping[str, int]) -> list[Delivery] | None:
        return self.line.take(cast("Any", self.lane), room)

    @property
    def is_listening(self) -> bool:
        return bool(self.selector.get_map())


@pytest.fixture
def fd() -> Iterator[int]:
    ends = os.pipe()
    yield ends[0]
    for end in ends:
        os.close(end)


class TestFailure:
    """A call that a server did not answer."""

    @pytest.mark.parametrize("keeps_claims", [False, True])
    def test_claims_end_only_with_the_connection(self, fd: int, keeps_claims: bool) -> None:  # noqa: FBT001
        """Where they are locks they outlive it; else nobody listens to it any more, and all is let go of."""
        it = Desk(fd, keeps_claims=keeps_claims)
        it.lane.is_broken = True
        assert it.line.attempt(it.lane.take, {}) is None
        assert (it.losses, it.is_listening, it.line.fd) == ((0, True, fd) if keeps_claims else (1, False, None))

    def test_a_result_backend_apart_costs_no_claim(self, fd: int) -> None:
        """The lane is asked whether it is well, and answers."""
        it = Desk(fd, keeps_claims=False)
        it.line.lose(BrokerUnavailable("the other server"))
        assert (it.losses, it.is_listening, it.link.may_try) == (0, True, False)

    @pytest.mark.parametrize("is_broken", [False, True])
    def test_results_of_the_same_server_are_apart_from_the_lane(self, fd: int, is_broken: bool) -> None:  # noqa: FBT001
        """They have a connection of their own; the lane is lost only if it does not answer either."""
        it = Desk(fd, keeps_claims=False)
        it.link.door, it.lane.is_broken = object(), is_broken

        def fail() -> None:
            raise BrokerUnavailable("it confirmed nothing")

        assert it.line.ask(fail) is None
        assert (it.losses, it.is_listening, it.link.may_try) == (is_broken, not is_broken, False)

    def test_what_fails_at_the_door_is_the_lane(self, fd: int) -> None:
        """Whether it was written is not known, and that it answers now says nothing of it."""
        it = Desk(fd, keeps_claims=False)
        it.link.door = object()
        it.line.lose(BrokerUnavailable("no confirmation"))
        assert (it.losses, it.link.lane) == (1, None)

    def test_a_muted_lane_can_be_lost(self, fd: int) -> None:
        """Its descriptor is not in the selector then."""
        it = Desk(fd, keeps_claims=False)
        it.line.hear(["red"], has_room=False)
        it.lane.is_broken = True
        it.line.lose(BrokerUnavailable("gone"))
        assert (it.losses, it.is_listening) == (1, False)


class TestListening:
    """A lane that says when there may be something to take."""

    def test_it_is_not_heard_while_there_is_no_room(self, fd: int) -> None:
        """It reads what it was sent, or it would be readable for ever; with the next take it is heard again."""
        it = Desk(fd, keeps_claims=True)
        it.line.hear(["red"], has_room=True)
        assert (it.is_listening, it.lane.rooms) == (True, [])
        it.line.hear(["red"], has_room=False)
        assert (it.is_listening, it.lane.rooms) == (False, [{"red": 0}])
        it.take({"red": 1})
        assert it.is_listening

    def test_a_dry_color_is_not_asked_for_until_the_lane_says_so(self, fd: int) -> None:
        """Nor until somebody wants to look again."""
        it = Desk(fd, keeps_claims=True)
        it.lane.waiting = [make_delivery(make_bundle(color="red")), make_delivery(make_bundle(color="yellow"))]
        it.take({"red": 1, "yellow": 2})
        assert it.line.may_have({"red": 1})
        assert not it.line.may_have({"yellow": 1})
        it.line.hear(["red", "yellow"], has_room=True)
        assert it.line.may_have({"yellow": 1})
        it.lane.waiting = []
        it.take({"red": 2})
        assert not it.line.may_have({"red": 1})
        it.line.look_again()
        assert it.line.may_have({"red": 1})
        assert not it.line.may_have({"red": 0})

    @pytest.mark.parametrize("wakes", [False, True])
    def test_a_color_is_dry_only_where_the_lane_tells(self, fd: int, wakes: bool) -> None:  # noqa: FBT001
        """A lane without a descriptor does not, and a worker that is to end when nothing is left must ask."""
        it = Desk(fd if wakes else None, keeps_claims=True, rests=not wakes)
        it.take({"red": 1})
        assert it.line.may_have({"red": 1})
