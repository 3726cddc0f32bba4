"""Reads redis:// and rediss:// URLs; what cannot work is refused here, before anything connects."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from queuelib.errors import ConfigurationError
from queuelib.settings import mask

__all__ = ["KEEPALIVE", "Address", "parse"]

_OPTIONS = ("visibility_timeout", "ca", "cert", "key", "verify")
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
        visibility_timeout: Seconds after which an unsettled message is given out again, or None if the URL is silent.
        url: The URL as it was given; mask it before printing.
    """

    host: str
    port: int
    db: int
    user: str | None
    password: str | None
    tls: dict[str, Any] | None
    visibility_timeout: float | None
    url: str

    @property
    def place(self) -> str:
        """The URL without its password."""
        return mask(self.url)

    def kombu_url(self, scheme: str) -> str:
        """Return the URL under a scheme of kombu's, without options."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        login = ""
        if self.password is not None:
            login = f"{quote(self.user or '', safe='')}:{quote(self.password, safe='')}@"
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
            "password": self.password,
        }
        return options | (self.tls or {})


def parse(url: str) -> Address:
    """Read redis://user:password@host:port/db?option=value; rediss:// is the same over TLS.

    Raises:
        ConfigurationError: The scheme is not served, an option is unknown, or a value cannot work.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        msg = f"{mask(url)!r} is not a Redis URL: {mask(str(error))}"
        raise ConfigurationError(msg) from error
    scheme = parts.scheme.lower()
    if scheme not in {"redis", "rediss"}:
        msg = (
            f"{mask(url)!r}: {scheme}:// is not served yet; name the server that is the master now, as "
            "redis://host:6379/0 or, over TLS, rediss://host:6379/0"
        )
        raise ConfigurationError(msg)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        msg = f"{mask(url)!r}: redis:// knows no option {unknown[0]!r}; it knows {', '.join(_OPTIONS)}"
        raise ConfigurationError(msg)
    host = parts.hostname or "localhost"
    return Address(
        host=host,
        port=port or 6379,
        db=_database(parts.path, url),
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        tls=_tls(options, url, is_tls=scheme == "rediss"),
        visibility_timeout=_seconds(options.get("visibility_timeout"), url),
        url=url,
    )


def _database(path: str, url: str) -> int:
    text = path.strip("/")
    if text and not (text.isascii() and text.isdigit()):
        msg = f"{mask(url)!r}: after the host comes the number of a database, as in redis://host:6379/0, not {text!r}"
        raise ConfigurationError(msg)
    return int(text or "0")


def _seconds(text: str | None, url: str) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1.0 <= value < float("inf"):
        msg = f"{mask(url)!r}: visibility_timeout is a number of seconds from 1, not {text!r}"
        raise ConfigurationError(msg)
    return value


def _tls(options: dict[str, str], url: str, *, is_tls: bool) -> dict[str, Any] | None:
    given = [name for name in ("ca", "cert", "key", "verify") if name in options]
    if not is_tls:
        if given:
            msg = f"{mask(url)!r}: the option {given[0]!r} is about TLS; write rediss:// to have it"
            raise ConfigurationError(msg)
        return None
    verify = options.get("verify", "yes")
    if verify not in {"yes", "no"}:
        msg = f"{mask(url)!r}: verify is yes or no"
        raise ConfigurationError(msg)
    is_verified = verify == "yes"
    tls: dict[str, Any] = {
        "ssl_cert_reqs": "required" if is_verified else "none",
        "ssl_check_hostname": is_verified,
    }
    for option, name in (("ca", "ssl_ca_certs"), ("cert", "ssl_certfile"), ("key", "ssl_keyfile")):
        if option in options:
            tls[name] = options[option]
    return tls
