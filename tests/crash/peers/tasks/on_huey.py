"""Huey's task, and how it is configured."""

from __future__ import annotations

from huey import RedisHuey

from tests.benchmarks.peers.place import Place
from tests.crash.peers import work as common

_place = Place.here()
huey = RedisHuey(_place.name, url=_place.redis)


@huey.task(retries=3)
def work(label: str, seconds: float, is_poison: bool) -> str:  # noqa: FBT001 - a call as it travels: by position
    """Run one job."""
    return common.work(label, seconds, is_poison)
