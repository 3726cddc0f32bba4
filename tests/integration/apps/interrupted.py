"""A program that waits with a bar, and says how its wait ended."""

from __future__ import annotations

import signal
import sys
from typing import Any

from deeds import dispatcher, mark

how, path, gate = sys.argv[1:]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has it ignored by what it starts in the background


def wait() -> None:
    """Wait in one of the ways."""
    rows = [(path, str(i), gate) for i in range(5)]
    if how == "map":
        stream: Any = mark.map(*zip(*rows, strict=True), progress=True)
        say(stream.gi_frame.f_locals["self"]._open_jobs()[0][1][0])  # to say which the first is
        list(stream)
        return
    jobs = mark.submit_many(rows)
    say(jobs[0].key)
    if how == "gather":
        dispatcher.gather(jobs, progress=True)
    else:
        list(dispatcher.as_completed(jobs, progress=True))


def say(key: tuple[bytes, int]) -> None:
    """Print the id of the first job."""
    from queuelib.ids import job_id  # noqa: PLC0415

    print("id", job_id(*key), flush=True)  # noqa: T201


try:
    wait()
except KeyboardInterrupt:
    print("KeyboardInterrupt came", flush=True)  # noqa: T201
    sys.exit(3)
