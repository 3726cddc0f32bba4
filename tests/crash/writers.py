"""A program for row 44: writers that submit until they are killed; each is replaced at once, by a fork.

Usage, as tests.integration.lab starts programs: `-m tests.crash.writers COUNT HISTORY LOG`. Lines of the log:
`born PID`, `try LABEL` before a submission, `ok LABEL` after it.
"""

from __future__ import annotations

import importlib
import os
import sys


def main(count: int, history: str, log: str) -> None:
    """Keep so many writers alive."""
    deeds = importlib.import_module("deeds")
    for _ in range(count):
        _bear(deeds, history, log)
    while True:
        os.wait()
        _bear(deeds, history, log)


def _bear(deeds: object, history: str, log: str) -> None:
    if os.fork():
        return
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"born {os.getpid()}\n".encode())
    mark = deeds.mark  # type: ignore[attr-defined]
    number = 0
    while True:
        number += 1
        label = f"w{os.getpid()}x{number}"
        os.write(descriptor, f"try {label}\n".encode())
        mark.submit(history, label)
        os.write(descriptor, f"ok {label}\n".encode())


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
