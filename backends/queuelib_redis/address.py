"""Reads redis://, rediss:// and sentinel:// URLs; what cannot work is refused here, before anything connects."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from queuelib.errors import ConfigurationError
from queuelib.settings import LEASE, mask
from queuelib.signing import Secret

__all__ = ["KEEPALIVE", "Address", "parse"]

_LEASES = (1.0, 3600.0)  # shorter than its renewals take on a busy machine; longer than anybody waits
_OPTIONS = ("wait", "durable", "lease", "master", "ca", "cert", "key", "verify")
_TCP_OPTIONS = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}  # a silent peer is noticed after 45 s
KEEPALIVE: Final = {getattr(socket, name): value for name, value in _TCP_OPTIONS.items() if hasattr(socket, name)}


@dataclass(frozen=True, slots=True)
class Address:
    """A database of a Redis server as its URL names it.

    Attributes:
        host: Name or number.
        port: TCP port.
        db: Number of the database.
        user: User name, or None for the server's default user.
        password: Its password, or None.
        tls: Options of redis-py's `SSLConnection`, or None for plain TCP.
        wait: Number of replicas that must have what is published or settled before it counts.
        is_durable: Whether it counts only when it is in the append-only file, on the disk.
        sentinels: Hosts and ports of sentinels, which know the server; empty where the URL names it itself.
        master: The name by which they know it.
        url: The URL as it was given.
        lease: Seconds for which a silent worker keeps what it took.
    """

    host: str
    port: int
    db: int
    user: str | None
    password: Secret | None
    tls: dict[str, Any] | None
    wait: int
    is_durable: bool
    sentinels: tuple[tuple[str, int], ...]
    master: str
    url: Secret
    lease: float = LEASE

    @property
    def place(self) -> str:
        """The URL without its password."""
        return mask(self.url.reveal())

    def is_same_server(self, other: Address) -> bool:
        """Return whether both name one database in the same words."""
        mine = (self.host, self.port, self.db, self.sentinels, self.master)
        return mine == (other.host, other.port, other.db, other.sentinels, other.master)

    def kombu_url(self, scheme: str) -> str:
        """Return the URL under a scheme of kombu's, without options."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        login = ""
        if self.password is not None:
            login = f"{quote(self.user or '', safe='')}:{quote(self.password.reveal(), safe='')}@"
        elif self.user is not None:
            login = f"{quote(self.user, safe='')}@"
        return f"{scheme}://{login}{host}:{self.port}/{self.db}"

    def connection_options(self) -> dict[str, Any]:
        """Return what redis-py needs to know to open a connection, without time limits."""
        options: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "db": self.db,
            "username": self.user,
            "password": None if self.password is None else self.password.reveal(),
        }
        return options | (self.tls or {})


def parse(url: str) -> Address:
    """Read a URL.

    redis://user:password@host:port/db?option=value; rediss:// is the same over TLS, and sentinel://host:port,host:port/db
    names sentinels, which know the server as `?master=NAME`.

    Raises:
        ConfigurationError: The scheme is not served, an option is unknown, or a value cannot work.
    """
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    sentinels: tuple[tuple[str, int], ...] = ()
    readable = url
    if scheme == "sentinel":
        sentinels, readable = _sentinels(rest, url)
    try:
        parts = urlsplit(readable)
        port = parts.port
    except ValueError as error:
        msg = f"{mask(url)!r} is not a Redis URL: {mask(str(error))}"
        raise ConfigurationError(msg) from error
    if scheme not in {"redis", "rediss", "sentinel"}:
        msg = f"{mask(url)!r}: {scheme}:// is not served here; write redis://, rediss:// or sentinel://"
        raise ConfigurationError(msg)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if "visibility_timeout" in options:
        msg = (
            f"{mask(url)!r}: visibility_timeout is not needed any more: what a dead worker held comes back when its "
            "lease ends, and a long job keeps its lease. Leave it out"
        )
        raise ConfigurationError(msg)
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        msg = f"{mask(url)!r}: redis:// knows no option {unknown[0]!r}; it knows {', '.join(_OPTIONS)}"
        raise ConfigurationError(msg)
    if ("master" in options) != bool(sentinels):
        msg = f"{mask(url)!r}: sentinel:// needs ?master=NAME, by which the sentinels know the server, and only it"
        raise ConfigurationError(msg)
    return Address(
        host=parts.hostname or "localhost",
        port=port or 6379,
        db=_database(parts.path, url),
        user=unquote(parts.username) if parts.username else None,
        password=Secret(unquote(parts.password)) if parts.password else None,
        tls=_tls(options, url, is_tls=scheme == "rediss"),
        wait=_replicas(options.get("wait", "0"), url),
        is_durable=_is_yes("durable", options.get("durable", "no"), url),
        sentinels=sentinels,
        master=options.get("master", ""),
        url=Secret(url),
        lease=_lease(options.get("lease", str(LEASE)), url),
    )


def _sentinels(rest: str, url: str) -> tuple[tuple[tuple[str, int], ...], str]:
    """Return the sentinels in a URL, and the URL as if it named the first one only."""
    login, at, tail = rest.rpartition("@")
    cut = min((tail.index(mark) for mark in "/?" if mark in tail), default=len(tail))
    found: list[tuple[str, int]] = []
    for place in tail[:cut].split(","):
        try:
            parts = urlsplit(f"//{place}")
            found.append((parts.hostname or "localhost", parts.port or 26379))
        except ValueError as error:
            msg = f"{mask(url)!r} is not a Redis URL: {mask(str(error))}"
            raise ConfigurationError(msg) from error
    return tuple(found), f"sentinel://{login}{at}{tail[:cut].split(',')[0]}{tail[cut:]}"


def _database(path: str, url: str) -> int:
    text = path.strip("/")
    if text and not (text.isascii() and text.isdigit()):
        msg = f"{mask(url)!r}: after the host comes the number of a database, as in redis://host:6379/0, not {mask(text)!r}"
        raise ConfigurationError(msg)
    return int(text or "0")


def _replicas(text: str, url: str) -> int:
    if not (text.isascii() and text.isdigit()):
        msg = f"{mask(url)!r}: wait is a number of replicas, not {text!r}"
        raise ConfigurationError(msg)
    return int(text)


def _lease(text: str, url: str) -> float:
    try:
        lease = float(text)
    except ValueError:
        lease = 0.0
    if not _LEASES[0] <= lease <= _LEASES[1]:
        msg = f"{mask(url)!r}: lease is a number of seconds, {_LEASES[0]:g} to {_LEASES[1]:g}, not {text!r}"
        raise ConfigurationError(msg)
    return lease


def _is_yes(name: str, text: str, url: str) -> bool:
    if text not in {"yes", "no"}:
        msg = f"{mask(url)!r}: {name} is yes or no"
        raise ConfigurationError(msg)
    return text == "yes"


def _tls(options: dict[str, str], url: str, *, is_tls: bool) -> dict[str, Any] | None:
    given = [name for name in ("ca", "cert", "key", "verify") if name in options]
    if not is_tls:
        if given:
            msg = f"{mask(url)!r}: the option {given[0]!r} is about TLS; write rediss:// to have it"
            raise ConfigurationError(msg)
        return None
    is_verified = _is_yes("verify", options.get("verify", "yes"), url)
    tls: dict[str, Any] = {
        "ssl_cert_reqs": "required" if is_verified else "none",
        "ssl_check_hostname": is_verified,
    }
    for option, name in (("ca", "ssl_ca_certs"), ("cert", "ssl_certfile"), ("key", "ssl_keyfile")):
        if option in options:
            tls[name] = options[option]
    return tls
