"""Finds the server that is the master now, where a URL names sentinels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from redis.sentinel import Sentinel

if TYPE_CHECKING:
    from queuelib_redis.address import Address

__all__ = ["locate"]


def locate(address: Address, timeout: float) -> Address:
    """Return the address of the server itself.

    Raises:
        redis.exceptions.RedisError: No sentinel answers, or none knows the master.
    """
    if not address.sentinels:
        return address
    kind: Any = Sentinel  # untyped
    options = {"socket_connect_timeout": timeout, "socket_timeout": timeout, "protocol": 2}
    found = kind(address.sentinels, sentinel_kwargs=options)
    try:
        host, port = found.discover_master(address.master)
    finally:
        for one in found.sentinels:
            one.close()
    return replace(address, host=host, port=port, sentinels=())
