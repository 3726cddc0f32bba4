"""`queuelib failed`: what was set aside because nobody could run it."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import click

from queuelib.cli.place import Place, place_options
from queuelib.errors import BrokerUnavailable, ConfigurationError, QueuelibError, SubmitUnknown, UnknownJob
from queuelib.ports import QuarantineItem
from queuelib.shown import shown

__all__ = ["failed"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def failed() -> None:
    """List, re-run or drop the messages that were set aside, with their reasons.

    A message is set aside when its bytes cannot be read, its task is unknown for an hour, or three processes died
    while they ran it. Nothing is ever dropped but by `failed drop`.
    """


@failed.command(name="ls")
@place_options
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line.")
def list_items(*, as_json: bool, **where: Any) -> None:
    """List what was set aside, oldest first."""
    items = Place(**where).results().quarantined()
    if as_json:
        for item in items:
            click.echo(json.dumps({"id": item.id, "color": item.color, "reason": item.reason, "at": item.at}))
        return
    if not items:
        click.echo("nothing is set aside")
        return
    from rich.console import Console  # noqa: PLC0415 - 0.05 s, which a worker need not wait for
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table("id", "color", "when", "reason")
    for item in items:
        table.add_row(*[Text(shown(text)) for text in (item.id, item.color, _when(item.at), item.reason)])
    Console(width=200 if not Console().is_terminal else None).print(table)


@failed.command()
@place_options
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
def retry(ids: tuple[str, ...], *, everything: bool, **where: Any) -> None:
    """Put messages back into their queues, after checking that they can be read and, with keys, who signed them.

    What fails the check stays set aside, and the exit status is 1.
    """
    place = Place(**where)
    has_refused = False
    for item in _chosen(place, ids, everything=everything):
        try:
            color = place.retry(item)
        except (BrokerUnavailable, SubmitUnknown):
            raise
        except QueuelibError as error:
            has_refused = True
            click.echo(shown(f"queuelib: {error}"), err=True)
        else:
            click.echo(shown(f"{item.id} is queued again in {color}"))
    if has_refused:
        sys.exit(1)


@failed.command()
@place_options
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
def drop(ids: tuple[str, ...], *, everything: bool, **where: Any) -> None:
    """Forget messages for good."""
    place = Place(**where)
    items = _chosen(place, ids, everything=everything)
    place.results().release([item.id for item in items])
    click.echo(f"{len(items)} dropped")


def _chosen(place: Place, ids: tuple[str, ...], *, everything: bool) -> list[QuarantineItem]:
    """Return what is to be dealt with, each once."""
    if bool(ids) == everything:
        msg = "name ids, as `queuelib failed ls` shows them, or say --all"
        raise ConfigurationError(msg)
    items = {item.id: item for item in place.results().quarantined()}
    missing = [name for name in ids if name not in items]
    if missing:
        msg = f"nothing is set aside under {', '.join(missing)}"
        raise UnknownJob(msg)
    return list(items.values()) if everything else [items[name] for name in dict.fromkeys(ids)]


def _when(at: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
    except (ValueError, OverflowError, OSError):  # no clock showed that: somebody else wrote it
        return "?"
