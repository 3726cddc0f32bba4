"""Runs all tests, or those that the arguments name, in two rounds.

    python tests/rounds.py [PYTEST ARGUMENTS]

First side by side in several processes, as most tests wait most of the time; then those marked `alone`, one after another.
TEST_PROCESSES says how many processes. Fails if a round fails, or if neither found a test.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

_ROOT = Path(__file__).resolve().parent.parent
_MOST_PROCESSES = 6  # more of them wait for the two servers
_SIDE_BY_SIDE = ("--dist", "loadfile", "--no-loadscope-reorder", "--round", "together")
_ALONE = ("--round", "alone", "-n", "0")


def main(arguments: Sequence[str]) -> int:
    """Run both rounds, the second after a failed first as well; return the exit status of pytest for both."""
    processes = os.environ.get("TEST_PROCESSES") or str(min((os.cpu_count() or 1) + 1, _MOST_PROCESSES))
    print(f"== tests side by side, in {processes} processes", flush=True)
    together = _pytest("-n", processes, *_SIDE_BY_SIDE, *arguments)
    if together == pytest.ExitCode.INTERRUPTED or together < 0:
        return _status(together)
    print("== tests marked alone, one after another", flush=True)
    alone = _pytest(*arguments, *_ALONE)
    if together not in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
        print("== FAILED among the tests side by side: see the first summary", flush=True)
    return _status(both(together, alone))


def both(together: int, alone: int) -> int:
    """Return one exit status for two rounds, of which one may have found no test."""
    if together == pytest.ExitCode.NO_TESTS_COLLECTED:
        return alone
    if together == pytest.ExitCode.OK and alone != pytest.ExitCode.NO_TESTS_COLLECTED:
        return alone
    return together


def _pytest(*arguments: str) -> int:
    # Some thousand processes start, and would compile queuelib each: 0.2 of 0.65 s.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen([sys.executable, "-m", "pytest", *arguments], cwd=_ROOT, env=environment)

    def end(signum: int, _frame: FrameType | None) -> None:
        process.send_signal(signum)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, lambda *_: None)  # a terminal has sent it to pytest as well
    return process.wait()


def _status(status: int) -> int:
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
