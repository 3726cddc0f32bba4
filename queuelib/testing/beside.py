"""Real workers, processes on a file of their own, for the length of a test."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from queuelib.dispatcher import Dispatcher

__all__ = ["real_workers"]


@contextmanager
def real_workers(dispatchers: Sequence[Dispatcher], folder: Path, *, processes: int = 2) -> Generator[None]:
    """Have dispatchers talk to SQLite files in a folder while the block lasts, and run a worker for each.

    Args:
        dispatchers: They connect again as before when the block ends. Those without tasks get no worker.
        folder: Where the files are made.
        processes: Children of each worker.

    Raises:
        WorkerError: One did not start; the message has its words.
    """
    with ExitStack() as stack:
        for at, dispatcher in enumerate(
            dispatchers
        ):  # all of them before the first worker: none is to reach its server
            stack.enter_context(dispatcher.redirected(f"sqlite:///{folder / f'queuelib-{at}.db'}"))
        for dispatcher in dispatchers:
            if dispatcher.definitions:
                stack.enter_context(dispatcher.workers(processes))
        yield
