"""amqp://user:password@host:port/vhost: RabbitMQ, for messages through kombu and for outcomes through streams."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from queuelib.errors import MissingDriver

if TYPE_CHECKING:
    from queuelib.ports import Blobs, Memos, ResultBackend, Settlement, TransportSettings

__all__ = ["BACKEND", "RabbitBackend"]


class RabbitBackend:
    """The backend of amqp:// and amqps://.

    Options in the URL: `queue_type=quorum|classic`, `heartbeat=SECONDS`, `consumer_timeout=SECONDS`, `cache=MIB`, and for TLS
    `ca=`, `cert=`, `key=` (files) and `verify=yes|no`.
    """

    name = "rabbitmq"
    schemes = ("amqp", "amqps", "pyamqp")

    def transport(self, url: str, namespace: str) -> TransportSettings:
        """Return the settings of kombu's AMQP transport."""
        from queuelib_rabbitmq.transport import settings  # noqa: PLC0415 - loads ssl on first use

        return settings(url, namespace)

    def results(self, url: str, namespace: str, keep: float) -> ResultBackend:
        """Return the result backend."""
        _require_driver()
        from queuelib_rabbitmq.results import RabbitResults  # noqa: PLC0415 - loads pika on first use

        return RabbitResults(url, namespace, keep)

    def blobs(self, url: str, namespace: str, keep: float) -> Blobs:
        """Return the keeper of blobs."""
        _require_driver()
        from queuelib_rabbitmq.blobs import RabbitBlobs  # noqa: PLC0415 - loads pika on first use

        return RabbitBlobs(url, namespace, keep)

    def memos(self, url: str, namespace: str) -> Memos:
        """Return the keeper of memos."""
        _require_driver()
        from queuelib_rabbitmq.memos import RabbitMemos  # noqa: PLC0415 - loads pika on first use

        return RabbitMemos(url, namespace)

    def join(self, channel: Any, results: ResultBackend) -> Settlement | None:
        """Return one door for both if they are the same server and virtual host."""
        from queuelib_rabbitmq.results import RabbitResults  # noqa: PLC0415 - loads pika on first use
        from queuelib_rabbitmq.settlement import RabbitSettlement, SettlingLane  # noqa: PLC0415
        from queuelib_rabbitmq.transport import parse  # noqa: PLC0415

        if not isinstance(channel, SettlingLane) or not isinstance(results, RabbitResults):
            return None
        if not channel.settings.confirms or not channel.settings.url.startswith("pyamqp://"):
            return None
        if parse(channel.settings.url).server != results.address.server:
            return None
        return RabbitSettlement(channel, results)


BACKEND = RabbitBackend()


def _require_driver() -> None:
    try:
        importlib.import_module("pika")
    except ModuleNotFoundError as error:
        if error.name != "pika":
            raise
        msg = 'results on RabbitMQ need pika: pip install "queuelib-kombu[rabbitmq]"'
        raise MissingDriver(msg) from error
