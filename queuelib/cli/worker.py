"""`queuelib worker`: the daemon."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from typing import Any

import click

from queuelib.shown import shown

__all__ = ["Formatter", "duration", "size", "worker"]


def duration(text: Any) -> float:
    """Return a duration in seconds from `30`, `30s`, `5m`, `2h` or `1d`."""
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)\s*(ms|s|m|h|d)?", str(text).strip())
    if match is None:
        msg = f"{text!r} is no duration: write 30, 30s, 5m, 2h or 1d"
        raise click.BadParameter(msg)
    return float(match[1]) * {"ms": 0.001, None: 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def size(text: Any) -> int:
    """Return a size in bytes from `500M` or `2G`."""
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,12})?)\s*([KMGT]?)(?:i?B)?", str(text).strip(), re.IGNORECASE)
    if match is None:
        msg = f"{text!r} is no size: write 500M or 2G"
        raise click.BadParameter(msg)
    return int(float(match[1]) * 1024 ** "_KMGT".index((match[2] or "_").upper()))


class Formatter(logging.Formatter):
    """Writes log lines in which text from elsewhere forges nothing: escaped, and further lines of it set in."""

    def format(self, record: logging.LogRecord) -> str:
        """Return what is written for a record."""
        return shown(super().format(record), _MOST_LOGGED, keep="\n\t").replace("\n", "\n    ")


_MOST_LOGGED = 64 * 1024  # characters of one entry: a traceback of the user's own modules


_ASYNC = "Run so many jobs of `async def` tasks at a time, in one more process; default: like all others."


@click.command()
@click.argument("targets", nargs=-1, metavar="MODULE[:NAME] | FILE.py[:NAME]")
@click.option("--colors", default="", metavar="RED,GREEN", help="Serve these colors only.")
@click.option("--processes", "-p", type=int, help="Children that run handlers; default: the CPUs it may use.")
@click.option("--threads", type=int, default=1, metavar="N", help="Jobs that each of them runs at a time; default: 1.")
@click.option("--async", "asynchronous", type=int, default=0, metavar="N", help=_ASYNC)
@click.option("--name", default="", help="Name of the worker; default: host and a random part.")
@click.option("--burst", is_flag=True, help="End when nothing is left to do.")
@click.option("--max-jobs", type=click.IntRange(1), metavar="N", help="Replace a child after N jobs.")
@click.option("--max-memory", type=size, help="Replace a child that has more resident memory after a job, e.g. 2G.")
@click.option("--isolate", is_flag=True, help="Run each job in a process of its own.")
@click.option("--allow-pickle", is_flag=True, help="Run pickled functions: code of whoever writes to the broker.")
@click.option("--grace", type=duration, help="Interrupt what still runs this long after the first signal, e.g. 30s.")
@click.option(
    "--unknown-for", type=duration, default=3600.0, show_default="1h", help="Set an unknown task aside after this time."
)
@click.option("--quiet", is_flag=True, help="Say warnings and errors only.")
def worker(
    targets: tuple[str, ...],
    *,
    colors: str,
    processes: int | None,
    threads: int,
    asynchronous: int,
    name: str,
    burst: bool,
    max_jobs: int | None,
    max_memory: int | None,
    isolate: bool,
    allow_pickle: bool,
    grace: float | None,
    unknown_for: float,
    quiet: bool,
) -> None:
    """Run the jobs of the Dispatcher in a module or file.

    \b
    queuelib worker tasks.py                     all colors, a child for each CPU
    queuelib worker lab.tasks:dispatcher -p 4    four children
    queuelib worker tasks.py --colors red,yellow only urgent work
    queuelib worker --allow-pickle               functions that an Executor sends

    Ctrl-C or SIGTERM: take nothing more and finish what runs; once more: interrupt it and give it back, uncounted.
    """  # noqa: D301 - click reads the character \b, which a raw string has not
    if not targets and not allow_pickle:
        msg = "name a MODULE or FILE.py with a Dispatcher; only a worker that may run pickled functions needs none"
        raise click.UsageError(msg)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING if quiet else logging.INFO, handlers=[handler])
    logging.getLogger("pika").setLevel(logging.WARNING)  # it tells of each channel it opens
    from queuelib.worker import daemon  # noqa: PLC0415 - the other commands need none of it

    beside = json.loads(os.environ.pop("QUEUELIB_BESIDE", "null"))
    wishes = daemon.Wishes(
        targets=targets,
        colors=[color.strip() for color in colors.split(",") if color.strip()],
        processes=processes,
        threads=threads,
        asynchronous=asynchronous,
        name=name,
        burst=burst,
        max_jobs=max_jobs,
        max_memory=max_memory,
        isolate=isolate,
        patience=unknown_for,
        grace=grace,
        may_unpickle=allow_pickle,
    )
    sys.exit(daemon.run(wishes, daemon.Beside(**beside) if beside else None))
