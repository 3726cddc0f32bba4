"""A script that is its own worker file: its task is defined in `__main__`. With a folder it stays until it is killed."""

from __future__ import annotations

import os
import signal
import sys

from queuelib import Dispatcher

dispatcher = Dispatcher(os.environ["BROKER"], namespace=os.environ["NAMESPACE"])


@dispatcher.task
def double(x: int) -> int:
    """Return twice as much."""
    return 2 * x


@dispatcher.task
def family() -> tuple[int, int]:
    """Return the pids of the child and of its supervisor."""
    return os.getpid(), os.getppid()


if __name__ == "__main__":
    with dispatcher.workers(processes=1):
        print(double.name, double.submit(21).result(timeout=20), *family.submit().result(timeout=20), flush=True)  # noqa: T201
        if "stay" in sys.argv:
            signal.pause()
