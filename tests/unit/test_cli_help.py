"""`--help` of every command."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from queuelib.cli import cli

if TYPE_CHECKING:
    from collections.abc import Iterator


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield each command, with the words that lead to it."""
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, (*path, name))


@pytest.mark.parametrize(("path", "command"), [pytest.param(*one, id=" ".join(one[0])) for one in commands(cli)])
def test_help_teaches(path: tuple[str, ...], command: click.Command) -> None:
    """It says what the command does, shows no marks of ours, and tells what each option is for."""
    result = CliRunner().invoke(cli, [*path, "--help"], prog_name="queuelib")
    assert result.exit_code == 0
    assert "\\b" not in result.stdout
    usage, about, *_ = result.stdout.split("\n\n")
    assert usage.startswith("Usage: queuelib")
    assert len(about.split()) >= 4
    assert [param.name for param in command.params if isinstance(param, click.Option) and not param.help] == []


def test_worker_without_a_module_says_what_to_name() -> None:
    """Only one that may run pickled functions needs none."""
    result = CliRunner().invoke(cli, ["worker"], prog_name="queuelib")
    assert result.exit_code == 2
    assert "MODULE or FILE.py" in result.stderr


def test_a_worker_starts_without_what_others_draw_with() -> None:
    """Tables and bars are for those who look; importing them would be a tenth of its start."""
    code = "import sys, queuelib.cli, queuelib.worker.daemon; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "queuelib.worker.daemon" in done.stdout.split()
    assert "rich" not in done.stdout.split()
