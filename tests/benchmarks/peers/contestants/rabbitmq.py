"""Cleaning up on a RabbitMQ that others may use too."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing

import pika

__all__ = ["delete_queues"]


def delete_queues(url: str, names: Iterable[str]) -> None:
    """Delete queues, with what is in them; those that are not there are no error."""
    with closing(pika.BlockingConnection(pika.URLParameters(url))) as connection:
        channel = connection.channel()
        for name in names:
            channel.queue_delete(name)
