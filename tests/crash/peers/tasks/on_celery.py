"""Celery's task, and how it is configured."""

from __future__ import annotations

from celery import Celery

from tests.benchmarks.peers.place import Place
from tests.crash.peers import work as common

_place = Place.here()
app = Celery(_place.name, broker=_place.redis, backend=_place.redis)
app.conf.update(
    task_default_queue=_place.name,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    result_expires=3600,
)
if _place.variant == "tuned":
    # What its manual and kombu's name for redelivering sooner and for half-open connections.
    app.conf.broker_transport_options = {
        "visibility_timeout": 30,
        "unacked_restore_throttle": 1,
        "socket_timeout": 10,
    }


@app.task(name="work")
def work(label: str, seconds: float, is_poison: bool) -> str:  # noqa: FBT001 - a call as it travels: by position
    """Run one job."""
    return common.work(label, seconds, is_poison)
