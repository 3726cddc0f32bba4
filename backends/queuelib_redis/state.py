"""Asks a Redis server how it is set up, for promises that are weaker there."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from queuelib.errors import QueuelibError
from queuelib_redis.address import parse
from queuelib_redis.wire import Wire, pack

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
    wire = None
    try:
        wire = Wire(address, _PATIENCE)
        wire.within(_PATIENCE)
        return sentences(_fields(wire.call(pack((b"INFO",)))), address.place)
    except QueuelibError:
        _log.debug("%s does not tell how it is set up", address.place, exc_info=True)
        return []
    finally:
        if wire is not None:
            wire.close()


def _fields(info: bytes) -> dict[str, str]:
    """Return the fields of an answer to INFO."""
    pairs = (line.partition(":") for line in info.decode("utf-8", "replace").splitlines())
    return {name: value for name, _, value in pairs if value}


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
