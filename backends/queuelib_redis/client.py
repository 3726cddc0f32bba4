"""A redis-py client with limits of time, no retries of its own, and errors that are ours."""

from __future__ import annotations

from contextlib import contextmanager
from hashlib import sha1
from importlib import resources
from typing import TYPE_CHECKING, Any

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from queuelib.errors import BrokerUnavailable, ConfigurationError
from queuelib.settings import mask
from queuelib_redis.address import KEEPALIVE

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from queuelib_redis.address import Address

__all__ = ["CONNECT_TIMEOUT", "SOCKET_TIMEOUT", "Client", "Script", "new_client"]

CONNECT_TIMEOUT = 2.0  # seconds; with the next one, a call answers within 5
SOCKET_TIMEOUT = 3.0  # seconds of silence after which a server counts as gone
_REFUSALS = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
_REFUSED_TEXTS = ("DB index is out of range", "invalid DB index", "NOAUTH", "WRONGPASS")


class Script:
    """A Lua script of this package, named on the wire by its digest."""

    def __init__(self, name: str) -> None:
        self.text = resources.files("queuelib_redis").joinpath("scripts", f"{name}.lua").read_text("utf-8")
        self.digest = sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class Client:
    """Sends commands in batches; of what it sends nothing is sent twice."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._raw: Any = new_client(address)  # half typed: its pipelines take no untyped call

    def send(self, commands: Sequence[tuple[Any, ...]], scripts: Sequence[Script] = ()) -> list[Any]:
        """Send commands in one round trip and return their answers, in order; they are not a transaction.

        Commands that name one of `scripts` by its digest, and all that follow a first one, are sent again if the
        server did not know the script: until then that one has changed nothing, and those after it must be harmless.

        Raises:
            BrokerUnavailable: The server is gone, or refused a command.
            ConfigurationError: It refused the login.
        """
        with self.translated():
            answers = self._pipeline(commands)
            if any(isinstance(answer, exceptions.NoScriptError) for answer in answers):
                for script in scripts:
                    self._raw.script_load(script.text)
                answers = self._pipeline(commands)
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
            return answers

    def pop(self, key: str, timeout: float) -> bytes | None:
        """Take the first element of a list, waiting for one at most `timeout` seconds."""
        with self.translated():
            found = self._raw.blpop([key], timeout=max(timeout, 0.001))  # 0 would wait for ever
            return None if found is None else found[1]

    def close(self) -> None:
        """Close the connections that nobody uses just now; a later call opens new ones."""
        self._raw.connection_pool.disconnect(inuse_connections=False)

    @contextmanager
    def translated(self) -> Generator[None, None, None]:
        """Raise redis-py's errors as ours."""
        place = self._address.place
        try:
            yield
        except exceptions.RedisError as error:
            text = mask(str(error))
            if isinstance(error, _REFUSALS) or any(known in text for known in _REFUSED_TEXTS):
                msg = f"{place} refused the connection ({text}). Check the user, the password and the database number"
                raise ConfigurationError(msg) from error
            if "CERTIFICATE_VERIFY_FAILED" in text:
                msg = f"{place} has a certificate that is not trusted here ({text}). Name its authority: ?ca=FILE"
                raise ConfigurationError(msg) from error
            if isinstance(error, exceptions.ResponseError):
                msg = f"{place} refused a command ({text}). Is it out of memory or disk, or a read-only replica?"
                raise BrokerUnavailable(msg) from error
            raise self._gone(error) from error
        except OSError as error:
            raise self._gone(error) from error

    def _pipeline(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        pipeline = self._raw.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        answers: list[Any] = pipeline.execute(raise_on_error=False)
        return answers

    def _gone(self, error: Exception) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"{self._address.place} did not answer ({type(error).__name__}: {mask(str(error))}). "
            "Is the server running and reachable from here? Start it, or give another URL for the results"
        )


def new_client(address: Address, socket_timeout: float = SOCKET_TIMEOUT) -> redis.Redis:
    """Return a client of its own pool, which opens connections on first use and anew after a fork."""
    kind = redis.Connection if address.tls is None else redis.SSLConnection
    pool = redis.ConnectionPool(
        connection_class=kind,
        **address.connection_options(),
        protocol=2,  # redis-py 8 asks for 3 by default, which servers before 6.0 do not speak
        socket_connect_timeout=CONNECT_TIMEOUT,
        socket_timeout=socket_timeout,
        socket_keepalive=True,
        socket_keepalive_options=KEEPALIVE,
        # redis-py 8 sends a command up to ten times by default; a script that ran would run again.
        retry=Retry(NoBackoff(), 0),
    )
    return redis.Redis(connection_pool=pool)
