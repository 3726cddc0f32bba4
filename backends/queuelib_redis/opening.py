"""How the transport is opened: by queuelib, and by programs that use kombu alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from queuelib.errors import ConfigurationError
from queuelib.ports import Redelivery, TransportCapabilities, TransportSettings
from queuelib.signing import Secret
from queuelib_redis.address import Address
from queuelib_redis.wire import SOCKET_TIMEOUT, pack

if TYPE_CHECKING:
    from queuelib_redis.wire import Wire

__all__ = ["SCHEME", "address_of", "confirmation", "settings"]

SCHEME = "qlredis"
_SIGHTS = 2 / 15  # of a lease, between two sights of one that has expired
_RECOVERY = 4 / 3  # of a lease: the lease itself, the two sights, and the time in which others renew


def settings(address: Address, namespace: str) -> TransportSettings:
    """Return how broker.py opens Redis."""
    return TransportSettings(
        url=address.kombu_url(SCHEME),
        alias=(SCHEME, "queuelib_redis.transport:Transport"),
        capabilities=TransportCapabilities(
            has_batch_verbs=True,
            redelivery=Redelivery.LEASE,
            lease=address.lease,
            recovery=address.lease * _RECOVERY,
            delays=True,
            deduplicates=True,
            wakes=True,
            survives_restart=address.is_durable,
        ),
        options={
            "address": address,
            "namespace": namespace,
            "max_retries": 0,
            "lease": address.lease,
            "sights": address.lease * _SIGHTS,
        },
    )


def address_of(client: Any) -> Address:
    """Return the server that a plain kombu connection names."""
    return Address(
        host=client.hostname or "localhost",
        port=client.port or 6379,
        db=int((client.virtual_host or "0").strip("/") or 0),
        user=client.userid,
        password=None if client.password is None else Secret(client.password),
        tls=dict(client.ssl) if isinstance(client.ssl, dict) else None,
        wait=0,
        is_durable=False,
        sentinels=(),
        master="",
        url=Secret(client.as_uri()),
    )


def confirmation(address: Address, wire: Wire) -> tuple[bytes, ...]:
    """Return the command by which the server says that what was written before is as safe as the URL asks.

    Raises:
        ConfigurationError: This server cannot tell.
    """
    timeout = b"%d" % (SOCKET_TIMEOUT * 500)  # milliseconds; half of what an answer may take
    if address.is_durable:
        info = wire.call(pack((b"INFO", b"server"))).decode()
        version = next((line.partition(":")[2].strip() for line in info.splitlines() if "redis_version" in line), "0")
        if tuple(int(part) for part in version.split(".")[:2]) < (7, 2):
            msg = f"{address.place}: durable=yes needs Redis 7.2 or later, and this is {version}"
            raise ConfigurationError(msg)
        return (b"WAITAOF", b"1", b"%d" % address.wait, timeout)
    return (b"WAIT", b"%d" % address.wait, timeout) if address.wait else ()
