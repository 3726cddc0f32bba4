"""A module with two dispatchers."""

import os

from queuelib import Dispatcher

first = Dispatcher(os.environ.get("BROKER"), namespace=os.environ.get("NAMESPACE"))
second = Dispatcher(os.environ.get("BROKER"), namespace=os.environ.get("NAMESPACE"))


@second.task
def half(x: int) -> float:
    """Return half of it."""
    return x / 2
