"""What errors of redis-py's mean in our words."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from redis import exceptions

from queuelib.errors import AccessRefused, BrokerFull, BrokerUnavailable
from queuelib.settings import mask

if TYPE_CHECKING:
    from collections.abc import Generator

    from queuelib_redis.address import Address

__all__ = ["as_ours", "translated"]

_REFUSALS = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
_REFUSED_TEXTS = ("DB index is out of range", "invalid DB index", "NOAUTH", "WRONGPASS")


@contextmanager
def translated(address: Address) -> Generator[None, None, None]:
    """Raise redis-py's errors as ours."""
    try:
        yield
    except (exceptions.RedisError, OSError) as error:
        raise as_ours(address, error) from error


def as_ours(address: Address, error: Exception) -> BrokerUnavailable:
    """Return what an error of redis-py's means."""
    place, text = address.place, mask(str(error))
    if isinstance(error, _REFUSALS) or any(known in text for known in _REFUSED_TEXTS):
        return AccessRefused(
            f"{place} refused the connection ({text}). Check the user, the password and the database number"
        )
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return AccessRefused(
            f"{place} has a certificate that is not trusted here ({text}). Name its authority: ?ca=FILE"
        )
    if isinstance(error, exceptions.OutOfMemoryError) or "MISCONF" in text:
        what = "memory" if isinstance(error, exceptions.OutOfMemoryError) else "disk, or cannot write to it,"
        return BrokerFull(f"{place} is out of {what} and refused a command ({text}). Nothing was written; make room")
    if isinstance(error, exceptions.ResponseError):
        return BrokerUnavailable(
            f"{place} refused a command ({text}). Is it a read-only replica, or has it too few replicas?"
        )
    return BrokerUnavailable(
        f"{place} did not answer ({type(error).__name__}: {text}). "
        "Is the server running and reachable from here? Start it, or give another URL"
    )
