"""Which broker, results and namespace a command looks at, and what it can do there."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click

from queuelib.bundle import outgoing
from queuelib.dispatcher import Dispatcher
from queuelib.envelope import decode
from queuelib.errors import DecodeError
from queuelib.ids import Key
from queuelib.ports import QuarantineItem, ResultBackend

__all__ = ["Place", "place_options"]


def place_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --broker, --results and --namespace to a command."""
    for option in (
        click.option("--namespace", metavar="NAME", help="Default: $QUEUELIB_NAMESPACE, else queuelib."),
        click.option("--results", metavar="URL", help="Default: $QUEUELIB_RESULTS, else the broker."),
        click.option("--broker", metavar="URL", help="Default: $QUEUELIB_BROKER, else sqlite:///queuelib.db."),
    ):
        command = option(command)
    return command


class Place:
    """A broker and its result backend, for commands that need no tasks."""

    def __init__(self, broker: str | None, results: str | None, namespace: str | None) -> None:
        self._dispatcher = Dispatcher(broker, results=results, namespace=namespace)

    def results(self) -> ResultBackend:
        """Return the result backend."""
        return self._dispatcher.open_results()

    def retry(self, item: QuarantineItem) -> None:
        """Publish a message again under its own ids, as if it had never died.

        Raises:
            DecodeError: Its bytes cannot be read, now as before.
        """
        try:
            bundle = decode(item.frame)
        except DecodeError as error:
            msg = f"{item.id} cannot be queued again: {error}"
            raise DecodeError(msg) from error
        self.results().forget([Key(bundle.id, index) for index in bundle.indexes])
        fresh = bundle._replace(due=None, expires=None, deaths=0, submitted=time.time())
        self._dispatcher.publish([outgoing(fresh, is_successor=True)])
        self.results().release([item.id])
