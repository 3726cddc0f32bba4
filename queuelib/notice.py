"""What a person is told, once, who waits for jobs that no live worker serves: how to start one that does."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable

from queuelib import naming
from queuelib.ports import WorkerInfo
from queuelib.settings import mask

__all__ = ["Notices", "how_to_serve"]


class Notices:
    """Gives one notice for each task and color.

    Args:
        workers: Returns the live workers.
        how_to_serve: Returns the text for a task and a color.
    """

    def __init__(self, workers: Callable[[], Iterable[WorkerInfo]], how_to_serve: Callable[[str, str], str]) -> None:
        self._workers = workers
        self._how_to_serve = how_to_serve
        self._lock = threading.Lock()
        self._given: set[tuple[str, str]] = set()

    def give(self, about: tuple[str, str]) -> None:
        """Say on stderr how to serve a task in a color, if nobody does and it was not said before."""
        task, color = about
        with self._lock:
            if not task or about in self._given:
                return
            self._given.add(about)
        if any(color in worker.colors and task in worker.tasks for worker in self._workers()):
            self._given.discard(about)
        else:
            print(self._how_to_serve(task, color), file=sys.stderr, flush=True)  # noqa: T201 - for the person waiting


def how_to_serve(task: str, color: str, broker_url: str, thing: object | None) -> str:
    """Return the text that tells how to start a worker.

    Args:
        task: Wire name of the task.
        color: Its color.
        broker_url: Where its jobs are.
        thing: Its function or message class; None where this program has none.
    """
    url = broker_url
    if url.startswith("sqlite:///"):
        url = "sqlite:///" + os.path.abspath(url[len("sqlite:///") :])  # noqa: PTH100 - keeps the URL's own slashes
    target = "MODULE" if thing is None else naming.worker_target(thing)
    target = "--allow-pickle" if task == naming.CALL else target
    return (
        f"queuelib: no live worker serves task {task!r} in color {color!r} on {mask(url)}. "
        f"Start one: QUEUELIB_BROKER={mask(url)} queuelib worker {target}"
    )
