"""sqlite:///file: the embedded default; messages and outcomes in one file, for the processes of one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote

from kombu.transport import TRANSPORT_ALIASES

from queuelib.errors import ConfigurationError
from queuelib.ports import (
    Blobs,
    Memos,
    Redelivery,
    ResultBackend,
    Settlement,
    TransportCapabilities,
    TransportSettings,
)
from queuelib.settings import mask

__all__ = ["BACKEND", "SqliteBackend"]


class SqliteBackend:
    """The backend of sqlite:///relative.db and sqlite:////absolute.db."""

    name = "sqlite"
    schemes = ("sqlite",)

    def transport(self, url: str, namespace: str) -> TransportSettings:  # noqa: ARG002 - queues carry the namespace
        """Return the settings of the kombu transport."""
        return TransportSettings(
            url="qlsqlite://",
            alias=("qlsqlite", "queuelib_sqlite.transport:Transport"),
            connection={"virtual_host": str(_path(url))},
            capabilities=TransportCapabilities(
                has_batch_verbs=True,
                redelivery=Redelivery.LEASE,
                recovery=2.0,
                delays=True,
                deduplicates=True,
                wakes=True,
                survives_restart=True,
            ),
        )

    def results(self, url: str, namespace: str, keep: float) -> ResultBackend:
        """Return the result backend."""
        from queuelib_sqlite.results import SqliteResults  # noqa: PLC0415 - loads sqlite3 on first use

        return SqliteResults(_path(url), namespace, keep)

    def blobs(self, url: str, namespace: str, keep: float) -> Blobs:
        """Return the keeper of blobs."""
        from queuelib_sqlite.blobs import SqliteBlobs  # noqa: PLC0415 - loads sqlite3 on first use

        return SqliteBlobs(_path(url), namespace, keep)

    def memos(self, url: str, namespace: str) -> Memos:
        """Return the keeper of memos."""
        from queuelib_sqlite.memos import SqliteMemos  # noqa: PLC0415 - loads sqlite3 on first use

        return SqliteMemos(_path(url), namespace)

    def join(self, channel: Any, results: ResultBackend) -> Settlement | None:
        """Return one transaction for both if they are the same file."""
        from queuelib_sqlite.results import SqliteResults, SqliteSettlement  # noqa: PLC0415
        from queuelib_sqlite.transport import Channel  # noqa: PLC0415

        if isinstance(channel, Channel) and isinstance(results, SqliteResults) and channel.store.path == results.path:
            return SqliteSettlement(channel, results)
        return None


# A plain kombu program imports this package and opens qlsqlite:// URLs; the transport loads on first use.
TRANSPORT_ALIASES.setdefault("qlsqlite", "queuelib_sqlite.transport:Transport")

BACKEND = SqliteBackend()


def _path(url: str) -> Path:
    """Return the absolute path in a URL: three slashes for a relative one, four for an absolute one."""
    rest, _, query = url.partition("://")[2].partition("?")
    host, slash, path = rest.partition("/")
    if host or not slash or not path.strip("/"):
        msg = f"{mask(url)!r} names no file; write sqlite:///jobs.db, or sqlite:////data/jobs.db for an absolute path"
        raise ConfigurationError(msg)
    if query:
        msg = f"sqlite:// knows no options, and {mask(url)!r} has {mask(query)!r}"
        raise ConfigurationError(msg)
    return Path(unquote(path)).absolute()
