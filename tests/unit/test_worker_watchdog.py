"""The thread that looks after the supervisor."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from queuelib.worker.watchdog import STUCK, Watchdog

STILL = """
import time
from queuelib.worker.watchdog import Watchdog

class Still:
    ticked_at = time.monotonic()
    def kill_exclusive(self, now): pass

with Watchdog(Still(), still_for=0.2):
    time.sleep(60)
"""


class Loop:
    """A loop of which a test plays the rounds."""

    def __init__(self) -> None:
        self.ticked_at = time.monotonic()
        self.asked: list[float] = []

    def kill_exclusive(self, now: float) -> None:
        """Write it down."""
        self.asked.append(now)


def test_a_loop_that_stands_still() -> None:
    """It is seen after so long, and not before."""
    loop = Loop()
    watchdog = Watchdog(loop, still_for=10.0)
    now = loop.ticked_at
    assert not watchdog.is_stuck(now + 3.0)
    assert not watchdog.is_stuck(now + 7.0)
    assert watchdog.is_stuck(now + 11.0)
    loop.ticked_at = now + 10.5
    assert not watchdog.is_stuck(now + 12.0)
    assert len(loop.asked) == 4


def test_a_process_that_was_stopped_is_not_stuck() -> None:
    """After SIGCONT, or when the lid opens, the loop gets its time anew."""
    loop = Loop()
    watchdog = Watchdog(loop, still_for=10.0)
    now = loop.ticked_at
    assert not watchdog.is_stuck(now + 3600.0)
    assert not watchdog.is_stuck(now + 3604.0)
    assert not watchdog.is_stuck(now + 3608.0)
    assert watchdog.is_stuck(now + 3611.0)


def test_it_ends_the_process() -> None:
    """With its own exit status, and every thread's stack on stderr."""
    done = subprocess.run(
        [sys.executable, "-c", STILL],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        timeout=60,
    )
    assert done.returncode == STUCK
    assert "in <module>" in done.stderr
