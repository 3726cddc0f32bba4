"""Tasks of Taskiq, and how it is configured."""

from __future__ import annotations

from typing import Any

from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend, RedisStreamBroker

from tests.benchmarks.peers import work
from tests.benchmarks.peers.place import Place

_place = Place.here()
_results = RedisAsyncResultBackend(redis_url=_place.redis, keep_results=True, result_ex_time=3600)
_joint = "&" if "?" in _place.amqp else "?"


def _broker() -> Any:
    if _place.broker == "amqp":
        from taskiq_aio_pika import AioPikaBroker  # noqa: PLC0415 - only where it is used
        from taskiq_aio_pika.exchange import Exchange  # noqa: PLC0415
        from taskiq_aio_pika.queue import Queue, QueueType  # noqa: PLC0415

        # Durable, and confirmed by aio-pika's default. A worker takes 100 at a time.
        return AioPikaBroker(
            f"{_place.amqp}{_joint}heartbeat=600",
            qos=100,
            exchange=Exchange(name=_place.name),
            task_queues=[Queue(name=_place.name, type=QueueType.CLASSIC, durable=True)],
            delay_queue=Queue(name=f"{_place.name}.delay", type=QueueType.CLASSIC),
            dead_letter_queue=Queue(name=f"{_place.name}.dead_letter", type=QueueType.CLASSIC),
        )
    if _place.variant == "list":
        return ListQueueBroker(_place.redis, queue_name=_place.name)
    return RedisStreamBroker(_place.redis, queue_name=_place.name, consumer_group_name=_place.name, consumer_id="0")


broker = _broker().with_result_backend(_results)


@broker.task(task_name="noop")
async def noop(x: int) -> int:
    """Return `x`; a coroutine, so that no thread pool is between."""
    return x


@broker.task(task_name="nap")
def nap(seconds: float) -> int:
    """Sleep, and tell which process did."""
    return work.nap(seconds)
