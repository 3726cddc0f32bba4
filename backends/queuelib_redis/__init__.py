"""redis://user:password@host:port/db and rediss://: messages through kombu's Redis transport, outcomes in hashes."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from queuelib.errors import MissingDriver

if TYPE_CHECKING:
    from queuelib.ports import ResultBackend, Settlement, TransportSettings

__all__ = ["BACKEND", "RedisBackend", "notes"]


class RedisBackend:
    """The backend of redis:// and rediss://; Redis 6.2 or later.

    Options in the URL: `visibility_timeout=SECONDS`, and for TLS `ca=`, `cert=`, `key=` (files) and `verify=yes|no`.
    """

    name = "redis"
    schemes = ("redis", "rediss", "sentinel")

    def transport(self, url: str, namespace: str) -> TransportSettings:
        """Return the settings of the kombu transport."""
        _require_driver()
        from queuelib_redis.address import parse  # noqa: PLC0415 - loads on first use
        from queuelib_redis.transport import settings  # noqa: PLC0415 - loads kombu and redis on first use

        made = settings(parse(url), namespace)
        return replace(made, notes=lambda: [_visibility(made), *notes(url)])

    def results(self, url: str, namespace: str, keep: float) -> ResultBackend:
        """Return the result backend."""
        _require_driver()
        from queuelib_redis.results import RedisResults  # noqa: PLC0415 - loads redis on first use

        return RedisResults(url, namespace, keep)

    def join(self, channel: Any, results: ResultBackend) -> Settlement | None:  # noqa: ARG002 - the port's signature
        """Return None: outcomes are stored first and messages acknowledged then."""
        return None


BACKEND = RedisBackend()


def notes(url: str) -> list[str]:
    """Return what a worker on this very server should say at its start: promises that are weaker here."""
    _require_driver()
    from queuelib_redis.state import notes as read  # noqa: PLC0415 - loads redis on first use

    return read(url)


def _visibility(settings: TransportSettings) -> str:
    hours = (settings.capabilities.recovery or 0.0) / 3600
    return (
        f"on Redis the messages that a killed worker held come back after {hours:.3g} h, and a job that runs longer is "
        "started a second time meanwhile; ?visibility_timeout=SECONDS in the URL changes both"
    )


def _require_driver() -> None:
    try:
        importlib.import_module("redis")
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        msg = 'the redis backend needs redis: pip install "queuelib-kombu[redis]"'
        raise MissingDriver(msg) from error
