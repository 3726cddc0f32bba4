"""Tasks of Huey, and how it is configured."""

from __future__ import annotations

from huey import RedisHuey, SqliteHuey

from tests.benchmarks.peers import work
from tests.benchmarks.peers.place import Place

_place = Place.here()
huey = (
    # Its results wake whoever waits for them.
    RedisHuey(_place.name, url=_place.redis, notify_result=True)
    if _place.broker == "redis"
    # Its defaults are a journal in WAL mode and a sync at each commit.
    else SqliteHuey(_place.name, filename=f"{_place.folder}/huey.db")
)


@huey.task()
def noop(x: int) -> int:
    """Return `x`."""
    return x


@huey.task()
def nap(seconds: float) -> int:
    """Sleep, and tell which process did."""
    return work.nap(seconds)
