"""Actors of Dramatiq, and how it is configured."""

from __future__ import annotations

import dramatiq
import redis
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from tests.benchmarks.peers import work
from tests.benchmarks.peers.place import Place

_place = Place.here()
_amqp = _place.amqp_for_pika
_joint = "&" if "?" in _amqp else "?"
# Waiting for a result blocks in Redis for longer than redis-py's own limit for a reply.
_client = redis.Redis.from_url(_place.redis, socket_timeout=None)
results = RedisBackend(client=_client, namespace=f"{_place.name}-results")
broker = (
    RedisBroker(url=_place.redis, namespace=_place.name)
    if _place.broker == "redis"
    # Durable queues are its default; confirmed, because queuelib's submit is.
    else RabbitmqBroker(url=f"{_amqp}{_joint}heartbeat=600", confirm_delivery=True)
)
broker.add_middleware(Results(backend=results, store_results=True))
dramatiq.set_broker(broker)
QUEUE = _place.name


@dramatiq.actor(queue_name=QUEUE, max_retries=0)
def noop(x: int) -> int:
    """Return `x`."""
    return x


@dramatiq.actor(queue_name=QUEUE, max_retries=0)
def nap(seconds: float) -> int:
    """Sleep, and tell which process did."""
    return work.nap(seconds)
