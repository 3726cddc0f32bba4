"""Who takes part, in which configuration, and in which rows."""

from __future__ import annotations

from tests.benchmarks.peers.protocol import Entry

__all__ = ["BROKERS", "ENTRIES", "ROWS", "entries_for"]

BROKERS = ("redis", "amqp", "sqlite", "none")
ROWS = ("start", "memory", "latency", "submit", "drain", "bulk", "map", "waiting", "import")
_FEW = 0.2  # of --jobs, for those that would take a minute a run; their rates do not depend on it

ENTRIES = {
    entry.name: entry
    for entry in (
        Entry(
            name="queuelib",
            module="on_queuelib",
            brokers=("redis", "amqp", "sqlite"),
            delivery="at least once",
            setup="defaults; results on the broker's own server; on RabbitMQ quorum queues, confirmed",
            imports="from queuelib import Dispatcher",
            distributions=("queuelib-kombu", "kombu", "msgspec"),
            maps=True,
        ),
        Entry(
            name="floor",
            module="on_floor",
            brokers=("redis",),
            delivery="at most once",
            setup="redis-py, msgpack, a feeder with pipes to two children, batches of 128; no framework",
            imports="import redis",
            distributions=("redis", "hiredis", "msgpack"),
        ),
        Entry(
            name="celery",
            module="on_celery",
            brokers=("redis", "amqp"),
            delivery="at most once",
            setup="acknowledged before it runs, its default; prefork 2, prefetch multiplier 64, no gossip, mingle, heartbeat, events or remote control; results in Redis",
            imports="from celery import Celery",
            distributions=("celery", "kombu", "billiard"),
            share=_FEW,
        ),
        Entry(
            name="celery acks_late",
            module="on_celery",
            brokers=("redis", "amqp"),
            delivery="at least once",
            setup="the same with task_acks_late",
            imports="from celery import Celery",
            distributions=("celery",),
            variant="late",
            share=_FEW,
        ),
        Entry(
            name="dramatiq",
            module="on_dramatiq",
            brokers=("redis", "amqp"),
            delivery="at least once",
            setup="2 processes of 1 thread, 64 messages ahead, Results middleware on Redis; on RabbitMQ durable and confirmed",
            imports="import dramatiq",
            distributions=("dramatiq", "pika"),
            share=_FEW,
        ),
        Entry(
            name="rq",
            module="on_rq",
            brokers=("redis",),
            delivery="at most once",
            setup="without Retry, which would make it at least once; 2 SimpleWorkers: the default Worker forks for each job and is several times slower",
            imports="from rq import Queue",
            distributions=("rq",),
            share=_FEW,
        ),
        Entry(
            name="huey",
            module="on_huey",
            brokers=("redis", "sqlite"),
            delivery="at most once",
            setup="2 process workers; RedisHuey wakes who waits (notify_result); SqliteHuey syncs at each commit, as queuelib's submit does, and polls every 1 to 5 ms instead of 100 ms and more",
            imports="from huey import RedisHuey",
            distributions=("huey",),
            share=_FEW,
        ),
        Entry(
            name="taskiq list",
            module="on_taskiq",
            brokers=("redis",),
            delivery="at most once",
            setup="2 processes, ListQueueBroker, 100 tasks at a time and 100 ahead, results in Redis",
            imports="from taskiq_redis import RedisStreamBroker",
            distributions=("taskiq", "taskiq-redis"),
            variant="list",
            share=_FEW,
        ),
        Entry(
            name="taskiq",
            module="on_taskiq",
            brokers=("redis", "amqp"),
            delivery="at least once",
            setup="2 processes, RedisStreamBroker or AioPikaBroker (durable, confirmed), 100 tasks at a time and 100 ahead, results in Redis",
            imports="from taskiq_redis import RedisStreamBroker",
            distributions=("taskiq", "taskiq-redis", "taskiq-aio-pika"),
            share=_FEW,
        ),
        Entry(
            name="dask",
            module="on_dask",
            brokers=("none",),
            delivery="in memory",
            setup="a killed worker's jobs run again while the scheduler, in the client, lives; LocalCluster of 2 processes of 1 thread, no dashboard; futures are the handles; the map with the better of two batch sizes, made by hand",
            imports="from distributed import Client",
            distributions=("distributed", "dask"),
            share=_FEW,
            own_queue=False,
            maps=True,
            chunks=(2000, 8000),
        ),
        Entry(
            name="multiprocessing",
            module="on_pool",
            brokers=("none",),
            delivery="in memory",
            setup="hangs if a child is killed; Pool(2), forked; apply_async for single jobs, imap with the best of five chunk sizes",
            imports="from multiprocessing.pool import Pool",
            distributions=(),
            own_queue=False,
            maps=True,
            chunks=(32, 128, 512, 2048, 8192),
        ),
        Entry(
            name="concurrent.futures",
            module="on_executor",
            brokers=("none",),
            delivery="in memory",
            setup="fails as a whole if a child is killed; ProcessPoolExecutor(2), forked; map with the best of five chunk sizes",
            imports="from concurrent.futures import ProcessPoolExecutor",
            distributions=(),
            own_queue=False,
            queues=False,
            maps=True,
            chunks=(32, 128, 512, 2048, 8192),
        ),
    )
}


def entries_for(names: list[str]) -> list[Entry]:
    """Return the contestants of these names, all of them if there are none.

    Raises:
        KeyError: A name that is not there.
    """
    return [ENTRIES[name] for name in names] if names else list(ENTRIES.values())
