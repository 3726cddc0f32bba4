"""A module that fails while it is imported."""

from queuelib import Dispatcher

dispatcher = Dispatcher()
print(1 / 0)  # noqa: T201
