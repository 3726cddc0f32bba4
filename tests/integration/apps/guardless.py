"""A script without the guard: importing it runs what only the program itself should do, by $RUNS."""

import os

from queuelib import Dispatcher

dispatcher = Dispatcher(os.environ.get("BROKER"), namespace=os.environ.get("NAMESPACE"))


@dispatcher.task
def double(x: int) -> int:
    """Return twice as much."""
    return 2 * x


if os.environ.get("RUNS") == "submit":
    double.submit(1)
else:
    with dispatcher.workers(processes=1):
        pass
