"""The reference names what there is, and the page about the wire format says what the code writes."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from pathlib import Path

import click
import pytest

import queuelib
from queuelib.cli import cli
from queuelib.extensions import EXTENSIONS

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
WIRE_FORMAT = (ROOT / "docs" / "wire-format.md").read_text(encoding="utf-8")
VECTORS = json.loads((ROOT / "tests" / "unit" / "data" / "wire-vectors.json").read_text(encoding="utf-8"))
_HEADING = re.compile(r"^#### `(\w+)`$", re.MULTILINE)
_ROW = re.compile(r"^\| `(\w+)`[^|]*\|", re.MULTILINE)


def _section(title: str, level: int = 2) -> str:
    marks = "#" * level
    found = re.search(rf"^{marks} {title}$(.*?)(?=^#{{2,{level}}} |\Z)", REFERENCE, re.DOTALL | re.MULTILINE)
    assert found, f"the reference has no section {title!r}"
    return found[1]


def test_every_public_name_is_in_the_reference() -> None:
    """What `queuelib` exports is a heading, an error a row of the table of errors; and nothing else is."""
    main = _section("`queuelib`")
    named = _HEADING.findall(main) + _ROW.findall(_section("Errors", 3))
    assert sorted(named) == sorted(queuelib.__all__)


def test_every_name_for_tests_is_in_the_reference() -> None:
    """What `queuelib.testing` exports is a heading of its section."""
    if importlib.util.find_spec("queuelib.testing") is None or not hasattr(
        module := importlib.import_module("queuelib.testing"), "__all__"
    ):
        pytest.skip("there is no queuelib.testing yet")
    section = _section("`queuelib.testing`")
    assert sorted(_HEADING.findall(section) + _ROW.findall(section)) == sorted(module.__all__)


def test_every_command_is_in_the_reference() -> None:
    """Each command of `queuelib --help` is a row, and no row is of a command that is not there."""

    def names(command: click.Command, path: str) -> list[str]:
        if isinstance(command, click.Group):
            return [name for key, each in command.commands.items() for name in names(each, f"{path} {key}")]
        return [path]

    rows = re.findall(r"^\| `(queuelib(?: [a-z]+)+)", _section("Command line"), re.MULTILINE)
    assert sorted(rows) == sorted(names(cli, "queuelib"))


def test_every_option_of_the_worker_is_documented() -> None:
    """The table in the configuration has the options of `queuelib worker`, and no others."""
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    section = text[text.index("\n## Worker\n") : text.index("\n## Logging\n")]
    documented = set(re.findall(r"^\| `(--[a-z-]+)", section, re.MULTILINE))
    command = cli.commands["worker"]
    there_are = {
        option for p in command.params if isinstance(p, click.Option) for option in p.opts if option[:2] == "--"
    }
    assert documented == there_are


def test_every_extension_type_is_in_the_wire_format() -> None:
    """The table has the codes and names of the codec."""
    table = WIRE_FORMAT.partition("<!-- extension table: begin -->")[2].partition("<!-- extension table: end -->")[0]
    rows = re.findall(r"^\| (\d+) \| `([^`]+)` \|", table, re.MULTILINE)
    assert {name: int(code) for code, name in rows} == dict(EXTENSIONS)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_every_test_vector_is_in_the_wire_format(vector: dict[str, str]) -> None:
    """The page quotes each frame, byte for byte."""
    quoted = WIRE_FORMAT.partition("<!-- vectors: begin -->")[2].partition("<!-- vectors: end -->")[0]
    frames = ["".join(block.split()) for block in re.findall(r"```text\n(.*?)```", quoted, re.DOTALL)]
    assert vector["frame"] in frames


def test_the_frame_taken_apart_is_whole() -> None:
    """The hex digits of the commented frame are those of the second vector."""
    text = WIRE_FORMAT.partition("The second one taken apart:")[2].partition("```text\n")[2].partition("```")[0]
    digits = "".join(re.sub(r"  +[^ ].*", "", line.strip()) for line in text.splitlines())
    assert "".join(digits.split()) == VECTORS[1]["frame"]
