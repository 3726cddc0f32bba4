"""Which broker, results and namespace a command looks at, and what it can do there."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click

from queuelib.bundle import outgoing
from queuelib.dispatcher import Dispatcher
from queuelib.envelope import decode
from queuelib.errors import DecodeError, QueuelibError
from queuelib.ids import Key, job_id
from queuelib.outcome import FORGED, QUARANTINED
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

    def retry(self, item: QuarantineItem) -> str:
        """Publish a message again under its own ids, as if it had never died; return its color.

        Raises:
            DecodeError: Its bytes cannot be read, now as before, or no key that is known here signed them.
            QueuelibError: Jobs of it have ended otherwise since, or it is too large to be sent.
        """
        keys = self._dispatcher.keys
        try:
            bundle = decode(item.frame, keys)
        except DecodeError as error:
            msg = f"{item.id} cannot be queued again: {error}"
            raise DecodeError(msg) from error
        jobs = [Key(bundle.id, index) for index in bundle.indexes]
        over = [
            one for one in self.results().fetch(jobs) if one and one.is_final and one.state not in {QUARANTINED, FORGED}
        ]
        if over:
            msg = f"{item.id} cannot be queued again: its job {job_id(*over[0].key)} is {over[0].state} by now"
            raise QueuelibError(msg)
        fresh = bundle._replace(due=None, expires=None, deaths=0, submitted=time.time())
        frame = outgoing(fresh, keys, is_successor=True)
        self.results().forget(jobs)
        self._dispatcher.publish([frame])
        self.results().release([item.id])
        return fresh.color
