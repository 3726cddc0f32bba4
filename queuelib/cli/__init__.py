"""The command line: `queuelib worker`, `demo`, `bench`, `failed`, `jobs` ..."""

from __future__ import annotations

import sys

import click

from queuelib.cli.bench import bench
from queuelib.cli.demo import demo
from queuelib.cli.failed import failed
from queuelib.cli.worker import worker
from queuelib.errors import QueuelibError
from queuelib.shown import shown

__all__ = ["main"]

_MOST = 64 * 1024  # characters: a traceback of the user's own modules
_LINES = "\n"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="queuelib-kombu", prog_name="queuelib")
def cli() -> None:
    """Typed tasks, on priority-colored queues, over whichever broker you have.

    \b
    Try it:        queuelib demo ga
    Run a worker:  queuelib worker tasks.py
    Look around:   queuelib failed ls

    The broker is the URL that the module's Dispatcher names, else $QUEUELIB_BROKER, else the file queuelib.db here.
    URLs are sqlite:///file, redis://host/0 and amqp://host//.
    """  # noqa: D301 - click reads the character \b, which a raw string has not


for command in (worker, demo, failed, bench):
    cli.add_command(command)


def main() -> None:
    """Run the command; an error of ours is one line on stderr and exit status 1."""
    try:
        cli(prog_name="queuelib")
    except QueuelibError as error:
        click.echo(f"queuelib: {shown(str(error), _MOST, keep=_LINES)}", err=True)
        sys.exit(1)
