"""Any interleaving of putting, taking, settling, dying and reaping on Redis neither loses nor invents a message."""

from __future__ import annotations

import time
import uuid
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from queuelib.broker import open_lane
from queuelib.message import Outgoing
from queuelib_redis import BACKEND

if TYPE_CHECKING:
    from queuelib.ports import Delivery, Lane

TAKERS = 3
_which = st.integers(0, TAKERS - 1)


class Machine(RuleBasedStateMachine):
    """Takers whose leases end at once, so that whoever reaps twice takes over the living as well as the dead."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.namespace = f"m{uuid.uuid4().hex[:12]}"
        self.raw: Any = redis.Redis.from_url(self.url, protocol=2)
        self.numbers = 0
        self.alive: set[bytes] = set()  # put in and not acknowledged
        self.takers = [self.new() for _ in range(TAKERS)]
        self.held: list[list[Delivery]] = [[] for _ in range(TAKERS)]
        self.queue_of: dict[bytes, str] = {}

    def new(self) -> Lane:
        """Open a lane whose leases are over at once."""
        made = BACKEND.transport(self.url, self.namespace)
        return open_lane(replace(made, options={**made.options, "lease": 0.0, "sights": 0.0}), self.namespace, 5.0)

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
        found: list[bytes] = []
        for key in self.raw.scan_iter(f"{{{self.namespace}}}:*", count=1000):
            kind = key.split(b":")[1]
            if kind == b"q":
                found += self.raw.lrange(key, 0, -1)
            elif kind == b"if":
                found += self.raw.hvals(key)
            elif kind == b"due" and key.count(b":") == 2:
                found += [member[16:] for member in self.raw.zrange(key, 0, -1)]
        names = [entry[10 + entry[9] :] for entry in found]
        assert sorted(names) == sorted(self.alive)

    def kill(self, lane: Any) -> None:
        """End a lane as a killed process would."""
        channel = lane.handle
        channel._wire.close()
        if channel.taker:
            channel.taker = b""
        lane.close()

    def teardown(self) -> None:
        """Leave nothing on the server."""
        for one in self.takers:
            with suppress(Exception):
                one.close()
        keys = list(self.raw.scan_iter(f"{{{self.namespace}}}:*", count=1000))
        if keys:
            self.raw.delete(*keys)
        self.raw.close()


@pytest.mark.parametrize("examples", [40])
def test_any_interleaving_keeps_every_message(redis_url: str, examples: int) -> None:
    """Whatever happens in whichever order, each message is in one place until it is acknowledged."""
    machine = type("Machine", (Machine,), {"url": redis_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
