"""How kombu's own AMQP transport is opened for RabbitMQ: which URL, which queues, which promises."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from queuelib.errors import ConfigurationError
from queuelib.ports import Redelivery, TransportCapabilities, TransportSettings
from queuelib.settings import mask
from queuelib.signing import Secret
from queuelib_rabbitmq.held import Held
from queuelib_rabbitmq.ladder import Ladder

__all__ = ["Address", "parse", "settings"]

_HEARTBEAT = 20  # seconds; below 5 a busy machine looks dead, and the default minute finds a dead peer late
_RECOVERY = 1.0  # seconds until the server has noticed a closed connection and delivered again; measured: 2 ms
_CONSUMER_TIMEOUT = 1800  # seconds for which a server lets a message be in hand, unless its settings say otherwise
_SHORTEST_TIMEOUT = 2  # seconds; half of it is two of the looks that a worker takes
_CACHE = 64  # MiB
_QUEUE_TIMEOUT = 30 * 24 * 3600 * 1000  # milliseconds, the same for each queue; before RabbitMQ 3.12 nobody reads it
_DELIVERY_LIMIT = 1_000_000  # polite returns count too; -1 would drop at the first return on 3.x
_OPTIONS = ("queue_type", "heartbeat", "consumer_timeout", "cache", "ca", "cert", "key", "verify")


@dataclass(frozen=True, slots=True)
class Address:
    """A RabbitMQ server as its URL names it.

    Attributes:
        host: Name or number.
        port: TCP port.
        vhost: Virtual host, unquoted.
        user: User name.
        password: Its password.
        tls: Options of py-amqp for TLS, or None for plain TCP.
        heartbeat: Seconds.
        is_replicated: Whether queues are quorum queues.
        consumer_timeout: Seconds for which the server lets a message be in hand.
        cache: Bytes of outcomes that a process remembers of its own jobs until it asks for them.
    """

    host: str
    port: int
    vhost: str
    user: str
    password: Secret
    tls: dict[str, Any] | None
    heartbeat: int
    is_replicated: bool
    consumer_timeout: int
    cache: int

    @property
    def server(self) -> tuple[str, int, str]:
        """What tells two servers apart."""
        return ("127.0.0.1" if self.host == "localhost" else self.host, self.port, self.vhost)

    @property
    def kombu_url(self) -> str:
        """The URL for kombu; `amqp://` would load librabbitmq where that happens to be installed."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        user, password = quote(self.user, safe=""), quote(self.password.reveal(), safe="")
        return f"pyamqp://{user}:{password}@{host}:{self.port}/{quote(self.vhost, safe='')}"


def parse(url: str) -> Address:
    """Read amqp://user:password@host:port/vhost?option=value.

    Raises:
        ConfigurationError: An option is unknown, or a value cannot work.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        msg = f"{mask(url)!r} is not an AMQP URL: {error}"
        raise ConfigurationError(msg) from error
    options = dict(parse_qsl(parts.query))
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        msg = f"{mask(url)!r}: amqp:// knows no option {unknown[0]!r}; it knows {', '.join(_OPTIONS)}"
        raise ConfigurationError(msg)
    queue_type = options.get("queue_type", "quorum")
    heartbeat = options.get("heartbeat", str(_HEARTBEAT))
    if queue_type not in {"quorum", "classic"} or not heartbeat.isdigit() or int(heartbeat) < 1:
        msg = f"{mask(url)!r}: queue_type is quorum or classic, heartbeat a number of seconds from 1"
        raise ConfigurationError(msg)
    consumer_timeout = options.get("consumer_timeout", str(_CONSUMER_TIMEOUT))
    if not consumer_timeout.isdigit() or int(consumer_timeout) < _SHORTEST_TIMEOUT:
        msg = f"{mask(url)!r}: consumer_timeout is the server's own in seconds, from {_SHORTEST_TIMEOUT}"
        raise ConfigurationError(msg)
    cache = options.get("cache", str(_CACHE))
    if not cache.isdigit() or int(cache) < 1:
        msg = f"{mask(url)!r}: cache is a number of MiB from 1"
        raise ConfigurationError(msg)
    if "://" in unquote(parts.path):
        msg = (
            f"{mask(url)!r} names several servers: amqp:// takes one. Put an address before them that finds a live one"
        )
        raise ConfigurationError(msg)
    is_tls = parts.scheme.lower() == "amqps"
    host = parts.hostname or "localhost"
    path = parts.path.removeprefix("/")
    return Address(
        host=host,
        port=port or (5671 if is_tls else 5672),
        vhost=unquote(path) or "/",
        user=unquote(parts.username or "guest"),
        password=Secret(unquote(parts.password or "guest")),
        tls=_tls(options, host, url) if is_tls else None,
        heartbeat=int(heartbeat),
        is_replicated=queue_type == "quorum",
        consumer_timeout=int(consumer_timeout),
        cache=int(cache) * 1024 * 1024,
    )


def settings(url: str, namespace: str) -> TransportSettings:
    """Return how broker.py opens RabbitMQ.

    Raises:
        ConfigurationError: The URL cannot work.
    """
    address = parse(url)
    connection: dict[str, Any] = {"heartbeat": address.heartbeat}
    if address.tls is not None:
        connection["ssl"] = address.tls
    arguments: dict[str, Any] = {"x-consumer-timeout": _QUEUE_TIMEOUT}
    if address.is_replicated:
        arguments |= {"x-queue-type": "quorum", "x-delivery-limit": _DELIVERY_LIMIT}
    return TransportSettings(
        url=address.kombu_url,
        capabilities=TransportCapabilities(
            redelivery=Redelivery.CONNECTION,
            recovery=_RECOVERY,
            lease=float(address.heartbeat),  # it ends a connection that has been silent for longer
            delays=True,
            wakes=True,
            survives_restart=True,
        ),
        connection=connection,
        queue_arguments=arguments,
        confirms=True,
        delays=Ladder(namespace, is_replicated=address.is_replicated),
        held=Held(address.consumer_timeout, is_replicated=address.is_replicated),
    )


def _tls(options: dict[str, str], host: str, url: str) -> dict[str, Any]:
    verify = options.get("verify", "yes")
    if verify not in {"yes", "no"}:
        msg = f"{mask(url)!r}: verify is yes or no"
        raise ConfigurationError(msg)
    tls: dict[str, Any] = {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": host}
    if verify == "no":
        tls = {"cert_reqs": ssl.CERT_NONE}
    for option, name in (("ca", "ca_certs"), ("cert", "certfile"), ("key", "keyfile")):
        if option in options:
            tls[name] = options[option]
    return tls
