"""A module in a package: its tasks are called the same whichever way a worker finds it."""

import os

from queuelib import Dispatcher

dispatcher = Dispatcher(os.environ.get("BROKER", "memory://labpack"), namespace=os.environ.get("NAMESPACE", "labpack"))


@dispatcher.task
def triple(x: int) -> int:
    """Return three times as much."""
    return 3 * x
