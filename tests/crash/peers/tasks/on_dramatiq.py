"""Dramatiq's actor, and how it is configured."""

from __future__ import annotations

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from tests.benchmarks.peers.place import Place
from tests.crash.peers import work as common

_place = Place.here()
results = RedisBackend(url=_place.redis, namespace=f"{_place.name}-results")
broker = RedisBroker(url=_place.redis, namespace=_place.name)
broker.add_middleware(Results(backend=results, store_results=True))
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=_place.name)
def work(label: str, seconds: float, is_poison: bool) -> str:  # noqa: FBT001 - a call as it travels: by position
    """Run one job."""
    return common.work(label, seconds, is_poison)
