"""A process that is forked while other threads use the dispatcher."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from queuelib import Dispatcher


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_waits_for_no_thread_of_its_parent() -> None:
    """What such a thread had locked at that moment is free in the child, where that thread does not exist."""
    dispatcher = Dispatcher("memory://forked")
    is_held, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        with dispatcher._connections.lock:
            is_held.set()
            may_go.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    is_held.wait()
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)  # ends it
        dispatcher.close()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    may_go.set()
    holder.join()
    assert status == 0
