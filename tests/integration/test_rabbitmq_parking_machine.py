"""Takers on RabbitMQ that hold things for long, give them back and die, in any order: nothing is lost or comes again."""

from __future__ import annotations

import secrets
import time
from contextlib import closing
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.integration.test_rabbitmq_parking import LIMIT, Taker, frame, plain_connection
from tests.waiting import eventually

if TYPE_CHECKING:
    from queuelib.ports import Delivery

WHICH = st.integers(0, 1)


class Machine(RuleBasedStateMachine):
    """Two takers and a queue."""

    url = ""
    moves = 0

    def __init__(self) -> None:
        super().__init__()
        self.namespace = f"t{secrets.token_hex(6)}"
        self.takers = [self.open() for _ in range(2)]
        self.in_hand: list[list[Delivery]] = [[], []]
        self.open_frames: set[bytes] = set()
        self.doubtful: set[bytes] = set()  # a connection ended while their copies were on the way
        self.queues: set[str] = set()
        self.count = 0

    def open(self) -> Taker:
        """Connect."""
        return Taker(self.url, self.namespace)

    @initialize(count=st.integers(3, 9))
    def begin(self, count: int) -> None:
        """Have something to take."""
        self.publish(count)

    @rule(count=st.integers(1, 5))
    def publish(self, count: int) -> None:
        """Publish some frames."""
        frames = [frame(b"%d" % (self.count + at)) for at in range(count)]
        self.count += count
        self.takers[0].lane.publish(frames, 30.0)
        self.open_frames |= {one.frame for one in frames}

    @rule(which=WHICH, count=st.integers(1, 4))
    def take(self, which: int, count: int) -> None:
        """Take what is there."""
        end = time.monotonic() + 0.2  # there may be none, and the other one may have it
        taken: list[Delivery] = []
        while not taken and time.monotonic() < end:
            taken = self.takers[which].lane.take({"red": count})
        for delivery in taken:
            self.receive(delivery)
            self.in_hand[which].append(delivery)

    def receive(self, delivery: Delivery) -> None:
        """Check that a frame may come."""
        held = {one.frame for some in self.in_hand for one in some}
        if delivery.frame not in self.doubtful:
            assert delivery.frame in self.open_frames
            assert delivery.frame not in held

    @rule(which=WHICH, count=st.integers(1, 4))
    def hold(self, which: int, count: int) -> None:
        """Take some more, and have all in hand for half of the limit."""
        self.take(which, count)
        before = [one.tag for one in self.in_hand[which]]
        self.takers[which].hold(LIMIT / 2)
        type(self).moves += sum(one.tag != tag for one, tag in zip(self.in_hand[which], before, strict=True))
        self.queues.update(self.takers[which].held_queues)

    @rule(which=WHICH, at=st.integers(0, 9))
    def settle(self, which: int, at: int) -> None:
        """Acknowledge one."""
        if self.in_hand[which]:
            delivery = self.in_hand[which].pop(at % len(self.in_hand[which]))
            assert self.takers[which].lane.acknowledge([delivery]) == []
            self.open_frames.discard(delivery.frame)

    @rule(which=WHICH, at=st.integers(0, 9))
    def give_back(self, which: int, at: int) -> None:
        """Give one back."""
        if self.in_hand[which]:
            delivery = self.in_hand[which].pop(at % len(self.in_hand[which]))
            self.takers[which].lane.give_back([delivery])

    @rule(which=WHICH, is_polite=st.booleans())
    def end(self, which: int, *, is_polite: bool) -> None:
        """End a taker, politely or not, and start another."""
        taker = self.takers[which]
        parking = taker.lane._parking
        assert parking is not None
        if parking._is_waiting:
            self.doubtful |= {one.frame for one in self.in_hand[which]}
        if not is_polite:
            taker.abort()
        taker.lane.close()
        self.in_hand[which].clear()
        self.takers[which] = self.open()

    def teardown(self) -> None:
        """End both; what was not settled is there, and nothing else."""
        for taker in self.takers:
            taker.lane.close()
        self.in_hand = [[], []]
        left = set(self.open_frames)
        last = self.open()

        def has_all() -> bool:
            for delivery in last.lane.take({"red": 50}):
                self.receive(delivery)
                left.discard(delivery.frame)
                self.in_hand[0].append(delivery)
            return not left

        try:
            eventually(has_all, within=30.0)
        finally:
            last.lane.close()
            with closing(plain_connection(self.url)) as connection:
                for name in (f"{self.namespace}.red", *self.queues):
                    connection.channel().queue_delete(name)


def test_machine(amqp_url: str) -> None:
    """Any order of publishing, taking, holding for long, settling, giving back, ending and dying."""
    from hypothesis.stateful import run_state_machine_as_test  # noqa: PLC0415

    class OnServer(Machine):
        url = f"{amqp_url}?consumer_timeout={LIMIT:.0f}"

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        OnServer,
        settings=settings(
            max_examples=8,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert OnServer.moves
