"""Tasks of queuelib."""

from __future__ import annotations

from queuelib import Dispatcher
from tests.benchmarks.peers import work
from tests.benchmarks.peers.place import Place

_place = Place.here()
# A worker that is frozen while jobs are submitted sends no heartbeats: the server must not give it up meanwhile.
_heartbeat = f"{'&' if '?' in _place.amqp else '?'}heartbeat=600"
URLS = {
    "redis": _place.redis,
    "amqp": _place.amqp + _heartbeat,
    "sqlite": f"sqlite:///{_place.folder}/queuelib.db",
}
dispatcher = Dispatcher(URLS[_place.broker], namespace=_place.name)


@dispatcher.task(name="noop")
def noop(x: int) -> int:
    """Return `x`."""
    return x


@dispatcher.task(name="nap")
def nap(seconds: float) -> int:
    """Sleep, and tell which process did."""
    return work.nap(seconds)


@dispatcher.task(name="fib")
def fib(n: int) -> int:
    """Return F(n)."""
    return work.fib(n)
