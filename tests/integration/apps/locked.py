"""A user's module with threads that hold locks, write and allocate all the time, while children are forked beside them."""

from __future__ import annotations

import logging
import sys
import threading

from deeds import dispatcher

__all__ = ["dispatcher"]

_lock = threading.Lock()
_never = threading.Event()
_log = logging.getLogger("deeds.talk")  # the handler of that name writes there too


def _hold() -> None:
    with _lock:
        _never.wait()


def _busy() -> None:
    while True:
        _log.warning("still here")
        sys.stdout.write(".")
        sys.stdout.flush()
        _never.wait(0.0005)


for _target in (_hold, _busy, _busy):
    threading.Thread(target=_target, daemon=True).start()
