"""Tasks of Celery, and how it is configured."""

from __future__ import annotations

from celery import Celery

from tests.benchmarks.peers import work
from tests.benchmarks.peers.place import Place

_place = Place.here()
app = Celery(_place.name, broker=_place.redis if _place.broker == "redis" else _place.amqp, backend=_place.redis)
app.conf.update(
    task_default_queue=_place.name,
    worker_prefetch_multiplier=64,  # its manual's advice for short tasks; 64 and 128 measured alike
    task_acks_late=_place.variant == "late",
    worker_disable_rate_limits=True,  # its manual's advice where no rate limits are used
    worker_enable_remote_control=False,  # a queue and a thread's work less
    broker_transport_options={"confirm_publish": True} if _place.broker == "amqp" else {},
    broker_heartbeat=0,  # of AMQP: a frozen worker sends none
    broker_connection_retry_on_startup=True,
    task_serializer="json",
    result_serializer="json",
    result_expires=3600,
)


@app.task(name="noop")
def noop(x: int) -> int:
    """Return `x`."""
    return x


@app.task(name="nap")
def nap(seconds: float) -> int:
    """Sleep, and tell which process did."""
    return work.nap(seconds)
