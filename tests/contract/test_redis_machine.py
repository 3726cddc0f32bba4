"""Any interleaving of putting, taking, settling, dying and reaping on Redis neither loses nor invents a message."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import redis

from queuelib.broker import open_lane
from queuelib_redis import BACKEND
from tests.contract.machine import Machine, check

if TYPE_CHECKING:
    from queuelib.ports import Lane


class RedisMachine(Machine):
    """Takers whose leases end at once, so that whoever reaps twice takes over the living as well as the dead."""

    url = ""

    def open_server(self) -> None:
        """Connect."""
        self.raw: Any = redis.Redis.from_url(self.url, protocol=2)

    def new(self) -> Lane:
        """Open a lane whose leases are over at once."""
        made = BACKEND.transport(self.url, self.namespace)
        return open_lane(replace(made, options={**made.options, "lease": 0.0, "sights": 0.0}), self.namespace, 5.0)

    def stored(self) -> list[bytes]:
        """Look into queues, among what is in flight, and what is held back."""
        found: list[bytes] = []
        for key in self.raw.scan_iter(f"{{{self.namespace}}}:*", count=1000):
            kind = key.split(b":")[1]
            if kind == b"q":
                found += self.raw.lrange(key, 0, -1)
            elif kind == b"if":
                found += self.raw.hvals(key)
            elif kind == b"due" and key.count(b":") == 2:
                found += [member[16:] for member in self.raw.zrange(key, 0, -1)]
        return [entry[10 + entry[9] :] for entry in found]

    def kill(self, lane: Any) -> None:
        """Cut its connection, and have it say nothing more."""
        channel = lane.handle
        channel._wire.close()
        if channel.taker:
            channel.taker = b""
        lane.close()

    def clean(self) -> None:
        """Delete the namespace."""
        keys = list(self.raw.scan_iter(f"{{{self.namespace}}}:*", count=1000))
        if keys:
            self.raw.delete(*keys)
        self.raw.close()


@pytest.mark.parametrize("examples", [40])
def test_any_interleaving_keeps_every_message(redis_url: str, examples: int) -> None:
    """Whatever happens in whichever order, each message is in one place until it is acknowledged."""
    check(RedisMachine, examples, url=redis_url)
