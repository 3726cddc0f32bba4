"""Asks a Redis server how it is set up, for promises that are weaker there."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from queuelib_redis.address import parse
from queuelib_redis.client import new_client

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["notes", "sentences"]

_log = logging.getLogger("queuelib.redis")
_PATIENCE = 1.0  # seconds; nobody waits longer for advice


def notes(url: str) -> list[str]:
    """Return a sentence for each setting that weakens a promise; none if the server does not tell.

    Raises:
        ConfigurationError: The URL cannot work.
    """
    address = parse(url)
    client = new_client(address, _PATIENCE)
    try:
        return sentences(client.info(), address.place)
    except (RedisError, OSError):
        _log.debug("%s does not tell how it is set up", address.place, exc_info=True)
        return []
    finally:
        client.connection_pool.disconnect()


def sentences(info: Mapping[str, Any], place: str) -> list[str]:
    """Return what the fields of INFO mean for jobs and outcomes."""
    told: list[str] = []
    if not int(info.get("aof_enabled", 1)):
        told.append(
            f"{place} writes no append-only file: jobs and outcomes since its last snapshot are lost with the server "
            "process. Set `appendonly yes` in redis.conf"
        )
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        told.append(
            f"{place} has maxmemory-policy {policy}: where a limit of memory is set and reached, it deletes jobs or "
            "outcomes without a word. Set `maxmemory-policy noeviction`"
        )
    return told
