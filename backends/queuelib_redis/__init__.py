"""redis://user:password@host:port/db, rediss:// and sentinel://: messages and outcomes on a Redis server."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kombu.transport import TRANSPORT_ALIASES

from queuelib.errors import MissingDriver

if TYPE_CHECKING:
    from queuelib.ports import Blobs, Memos, ResultBackend, Settlement, TransportSettings

__all__ = ["BACKEND", "RedisBackend", "notes"]


class RedisBackend:
    """The backend of redis://, rediss:// and sentinel://; Redis 6.2 or later.

    Options in the URL: `wait=N` replicas that must have what is published or settled, `durable=yes` for the server's
    append-only file (Redis 7.2), `master=NAME` for sentinels, and for TLS `ca=`, `cert=`, `key=` (files) and
    `verify=yes|no`.
    """

    name = "redis"
    schemes = ("redis", "rediss", "sentinel")

    def transport(self, url: str, namespace: str) -> TransportSettings:
        """Return the settings of the kombu transport."""
        _require_driver()
        from queuelib_redis.address import parse  # noqa: PLC0415 - loads on first use
        from queuelib_redis.opening import settings  # noqa: PLC0415 - loads redis on first use

        return replace(settings(parse(url), namespace), notes=lambda: notes(url))

    def results(self, url: str, namespace: str, keep: float) -> ResultBackend:
        """Return the result backend."""
        _require_driver()
        from queuelib_redis.results import RedisResults  # noqa: PLC0415 - loads redis on first use

        return RedisResults(url, namespace, keep)

    def blobs(self, url: str, namespace: str, keep: float) -> Blobs:
        """Return the keeper of blobs."""
        _require_driver()
        from queuelib_redis.blobs import RedisBlobs  # noqa: PLC0415 - loads redis on first use

        return RedisBlobs(url, namespace, keep)

    def memos(self, url: str, namespace: str) -> Memos:
        """Return the keeper of memos."""
        _require_driver()
        from queuelib_redis.memos import RedisMemos  # noqa: PLC0415 - loads redis on first use

        return RedisMemos(url, namespace)

    def join(self, channel: Any, results: ResultBackend) -> Settlement | None:
        """Return one door where messages and outcomes are in one database of one server, under one namespace."""
        from queuelib_redis.results import RedisResults  # noqa: PLC0415 - loads redis on first use
        from queuelib_redis.settlement import RedisSettlement  # noqa: PLC0415
        from queuelib_redis.transport import Channel  # noqa: PLC0415

        if not isinstance(channel, Channel) or not isinstance(results, RedisResults):
            return None
        is_one = channel.address.is_same_server(results.address) and channel.prefix == results.prefix
        return RedisSettlement(channel, results) if is_one else None


# A plain kombu program imports this package and opens qlredis:// URLs; the transport loads on first use.
TRANSPORT_ALIASES.setdefault("qlredis", "queuelib_redis.transport:Transport")

BACKEND = RedisBackend()


def notes(url: str) -> list[str]:
    """Return what a worker on this very server should say at its start: promises that are weaker here."""
    _require_driver()
    from queuelib_redis.state import notes as read  # noqa: PLC0415 - loads redis on first use

    return read(url)


def _require_driver() -> None:
    try:
        importlib.import_module("redis")
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        msg = 'the redis backend needs redis: pip install "queuelib-kombu[redis]"'
        raise MissingDriver(msg) from error
