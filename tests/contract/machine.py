"""Takers of one transport that put, take, settle, leave and die in any order, and what must hold after each step."""

from __future__ import annotations

import time
import uuid
from abc import abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from queuelib.message import Outgoing

if TYPE_CHECKING:
    from typing import Any

    from queuelib.ports import Delivery, Lane

TAKERS = 3
_which = st.integers(0, TAKERS - 1)


class Machine(RuleBasedStateMachine):
    """A set of messages that are alive, beside a server that should have each of them in one place."""

    def __init__(self) -> None:
        super().__init__()
        self.namespace = f"m{uuid.uuid4().hex[:12]}"
        self.numbers = 0
        self.alive: set[bytes] = set()  # put in and not acknowledged
        self.held: list[list[Delivery]] = [[] for _ in range(TAKERS)]
        self.queue_of: dict[bytes, str] = {}
        self.open_server()
        self.takers = [self.new() for _ in range(TAKERS)]

    @abstractmethod
    def open_server(self) -> None:
        """Prepare to look at the server itself."""

    @abstractmethod
    def new(self) -> Lane:
        """Open a lane."""

    @abstractmethod
    def kill(self, lane: Any) -> None:
        """End a lane as a killed process would."""

    @abstractmethod
    def stored(self) -> list[bytes]:
        """Return all messages that the server has, wherever."""

    @abstractmethod
    def clean(self) -> None:
        """Leave nothing on the server."""

    @rule(which=_which, color=st.sampled_from(["red", "green"]), count=st.integers(1, 4), late=st.booleans())
    def put(self, which: int, color: str, count: int, late: bool) -> None:  # noqa: FBT001
        """Put frames in, some of them for later, each twice."""
        frames = []
        for _ in range(count):
            self.numbers += 1
            name = b"%d" % self.numbers
            self.alive.add(name)
            self.queue_of[name] = color
            due = time.time() + 0.01 if late else None
            frames.append(Outgoing(color, name.rjust(16), name, due))
        self.takers[which].publish(frames, 5.0)
        self.takers[which].publish(frames, 5.0)

    @rule(which=_which, red=st.integers(0, 3), green=st.integers(0, 3))
    def take(self, which: int, red: int, green: int) -> None:
        """Take; nothing comes that was not put in there and is still alive, nor more than asked for."""
        taken = self.takers[which].take({"red": red, "green": green})
        for delivery in taken:
            assert delivery.frame in self.alive
            assert self.queue_of[delivery.frame] == delivery.color
        assert sum(delivery.color == "red" for delivery in taken) <= red
        assert sum(delivery.color == "green" for delivery in taken) <= green
        self.held[which] += taken

    @rule(which=_which, count=st.integers(1, 4))
    def acknowledge(self, which: int, count: int) -> None:
        """Acknowledge; what was still ours had not been acknowledged by anybody."""
        mine, self.held[which] = self.held[which][:count], self.held[which][count:]
        lost = self.takers[which].acknowledge(mine)
        for delivery in mine:
            if delivery not in lost:
                assert delivery.frame in self.alive
                self.alive.discard(delivery.frame)

    @rule(which=_which, count=st.integers(1, 4), delay=st.sampled_from([0.0, 0.01]))
    def give_back(self, which: int, count: int, delay: float) -> None:
        """Give back."""
        mine, self.held[which] = self.held[which][:count], self.held[which][count:]
        self.takers[which].give_back(mine, delay)

    @rule(which=_which)
    def leave(self, which: int) -> None:
        """Close a lane, and open another."""
        self.takers[which].close()
        self.takers[which], self.held[which] = self.new(), []

    @rule(which=_which)
    def die(self, which: int) -> None:
        """Lose a lane without a word, and open another."""
        self.kill(self.takers[which])
        self.takers[which], self.held[which] = self.new(), []

    @rule(which=_which)
    def reap(self, which: int) -> None:
        """Look at leases, once."""
        self.takers[which].renew()

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        """Each message that is alive is in one place on the server."""
        assert sorted(self.stored()) == sorted(self.alive)

    def teardown(self) -> None:
        """End what still lives."""
        for one in self.takers:
            with suppress(Exception):
                one.close()
        self.clean()


def check(machine: type[Machine], examples: int, **attributes: Any) -> None:
    """Run so many histories of a machine with these class attributes."""
    run_state_machine_as_test(
        type(machine.__name__, (machine,), attributes),
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
