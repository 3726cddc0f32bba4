"""Which faults are injected into which systems."""

from __future__ import annotations

from tests.crash.peers.protocol import System

__all__ = ["FAULTS", "SYSTEMS"]

FAULTS = {
    1: "SIGKILL of a whole worker amid its jobs; another worker is there",
    2: "SIGKILL of the one process that runs a job",
    3: "a worker is stopped and killed while a job is on its way to it; then another starts",
    9: "a job that kills its whole worker, 20 innocent jobs around it; the worker is started again up to 10 times",
    13: "a worker is frozen for 90 s amid a job, and goes on; another worker is there",
    18: "all connections are killed at random while 200 jobs flow",
    19: "half-open connections: no bytes, no FIN, no RST; then 5 new jobs",
    22: "Redis is restarted amid 40 jobs, by SIGKILL and politely by turns; down for 3 s, append-only file",
}
_ALL = tuple(FAULTS)
_WORKERS = (1, 2, 3, 9, 13)  # what is done to the worker, and not to Redis
_QUEUELIB = (
    "Nothing is configured: a lease of 15 s, renewed every second. `queuelib worker --processes 2`. Workers see the death "
    "of another on their own host, as here, at once; that of one on another host when its lease is over, within 20 s."
)

SYSTEMS = {
    "queuelib": System("queuelib, Redis", "on_queuelib", "redis", _ALL, _QUEUELIB, ("queuelib-kombu", "kombu")),
    "queuelib-sqlite": System(
        "queuelib, SQLite", "on_queuelib", "sqlite", _WORKERS, "Nothing is configured.", ("queuelib-kombu", "kombu")
    ),
    "queuelib-rabbitmq": System(
        "queuelib, RabbitMQ", "on_queuelib", "amqp", _WORKERS, "Nothing is configured.", ("queuelib-kombu", "kombu")
    ),
    "celery": System(
        "Celery",
        "on_celery",
        "redis",
        _ALL,
        "`task_acks_late`, `task_reject_on_worker_lost`, `worker_prefetch_multiplier=1`; prefork pool of two. The rest "
        "is default: the visibility timeout is 1 h, so what a dead worker held comes back after the time waited here.",
        ("celery", "kombu", "billiard"),
    ),
    "celery-tuned": System(
        "Celery, tuned",
        "on_celery",
        "redis",
        _ALL,
        "As Celery, and `visibility_timeout=30`, `unacked_restore_throttle=1`, `socket_timeout=10`, as its transport's "
        "documentation advises for redelivering sooner and for half-open connections. A job that runs longer than 30 s "
        "is then run again while its worker lives.",
        ("celery", "kombu", "billiard"),
        variant="tuned",
    ),
    "rq": System(
        "RQ",
        "on_rq",
        "redis",
        _ALL,
        "`Retry(max=3)` for each job, because a job whose worker died counts as failed. `rq worker-pool` of two. The "
        "rest is default: abandoned jobs are looked for every 10 min.",
        ("rq",),
    ),
    "dramatiq": System(
        "Dramatiq",
        "on_dramatiq",
        "redis",
        _ALL,
        "Two processes of one thread. The rest is default: a worker counts as dead after 60 s without a heartbeat, which "
        "is looked for at one of 1,000 commands: soon on a busy server, late on an idle one as here.",
        ("dramatiq",),
    ),
    "huey": System(
        "Huey",
        "on_huey",
        "redis",
        _ALL,
        "`retries=3`, two processes. Its manual does not promise that a job survives its consumer.",
        ("huey",),
    ),
}
