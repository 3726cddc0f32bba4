"""Every Python block of the README and the documentation runs as it is written.

A block whose first line is `# name.py` is that file, and runs as a program of its own in the page's folder. The other
blocks of a page are one program, in their order, in the same folder; they see the page's files as modules. A block
after `<!-- not run: reason -->` is left out. A file called `test_….py` is run by pytest, with the page's pytest.ini,
the INI block whose first line is `# pytest.ini`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(
    r"^(?P<indent>[ ]*)(?P<fence>```+)(?P<info>[^\n`]*)\n(?P<code>.*?)^(?P=indent)(?P=fence)[ ]*$",
    re.DOTALL | re.MULTILINE,
)
_NOT_RUN = re.compile(r"<!--\s*not run: (?P<reason>[^>]*?)\s*-->\s*\Z")
_FILE = re.compile(r"# (?P<name>[a-z_][a-z0-9_]*\.py)\n")
_PYTEST = ("-m", "pytest", "-p", "queuelib.testing.plugin", "-p", "no:cacheprovider")
_WITHIN = 60.0  # seconds for the programs of one page


@dataclass(frozen=True)
class Block:
    """A Python block of a page.

    Attributes:
        line: Line of the page on which its code begins, 1 for the first.
        code: The code.
        reason: Why it is not run; empty if it is.
    """

    line: int
    code: str
    reason: str = ""

    @property
    def file(self) -> str:
        """Name of the file that it shows; empty if it shows none."""
        found = _FILE.match(self.code)
        return found["name"] if found else ""


def python_blocks(text: str) -> list[Block]:
    """Return the Python blocks of a page, in order."""
    blocks: list[Block] = []
    for found in _FENCE.finditer(text):
        if found["info"].split(" ")[0] != "python":
            continue
        mark = _NOT_RUN.search(text[: found.start()])
        line = text.count("\n", 0, found.start("code")) + 1
        blocks.append(Block(line, textwrap.dedent(found["code"]), mark["reason"] if mark else ""))
    return blocks


def programs_of(page: Path) -> dict[str, str]:
    """Return the programs of a page by the names of their files; the nameless blocks together come last.

    Empty lines stand for what lies between the blocks, so that a traceback has the page's line numbers.
    """
    files: dict[str, str] = {}
    lines: list[str] = []
    for block in python_blocks(page.read_text(encoding="utf-8")):
        if block.reason:
            continue
        if block.file:
            files[block.file] = block.code
        else:
            lines += [""] * (block.line - 1 - len(lines)) + block.code.splitlines()
    name = re.sub(r"\W", "_", page.stem.lower()) + "_page.py"
    return {**files, name: "\n".join(lines) + "\n"} if lines else files


def pytest_ini_of(page: Path) -> str:
    """Return the settings of pytest that a page shows; empty if it shows none."""
    found = (match["code"] for match in _FENCE.finditer(page.read_text(encoding="utf-8")) if match["info"] == "ini")
    return next((code for code in found if code.startswith("# pytest.ini\n")), "")


def run(folder: Path, *arguments: str) -> str:
    """Run Python in a folder, far from any broker in the environment; return what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("QUEUELIB_")}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # ours is named below, whether it is installed or not
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "backends")])
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_WITHIN,
        check=False,
    )
    assert done.returncode == 0, (
        f"{' '.join(arguments)} ended with status {done.returncode}\n{done.stdout}{done.stderr}"
    )
    return done.stdout


@pytest.mark.parametrize("page", [page for page in PAGES if programs_of(page)], ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run(page: Path, tmp_path: Path) -> None:
    """What a reader copies from the page works."""
    programs = programs_of(page)
    for name, code in programs.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    if settings := pytest_ini_of(page):
        (tmp_path / "pytest.ini").write_text(settings, encoding="utf-8")
    for name in programs:
        run(tmp_path, *(_PYTEST if name.startswith("test_") else ()), name)


def test_the_examples_of_the_readme_print_what_it_says(tmp_path: Path) -> None:
    """Both examples print what stands below them, and a worker runs the web developer's job."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    for name, code in programs_of(readme).items():
        (tmp_path / name).write_text(code, encoding="utf-8")
        said = run(tmp_path, name).strip()
        assert f"`python {name}` prints `{said}`" in text
    run(tmp_path, "-m", "queuelib", "worker", "shop.py", "--burst", "--processes", "1", "--quiet")
    look = "import shop, sqlite3; print(*sqlite3.connect('queuelib.db').execute('SELECT DISTINCT state FROM outcome'))"
    assert run(tmp_path, "-c", look).strip() == "('succeeded',)"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_whatever_is_not_run_has_a_reason(page: Path) -> None:
    """A block is left out on purpose only, and the page says why."""
    text = page.read_text(encoding="utf-8")
    left_out = [block for block in python_blocks(text) if block.reason]
    assert text.count("<!-- not run") == len(left_out)
    assert all(len(block.reason) > 3 for block in left_out)


def test_blocks_are_found_as_they_are() -> None:
    """Files, plain blocks, blocks in lists and blocks that are not run are told apart; other languages are not code."""
    page = "\n".join(
        [
            "```python",
            "# one.py",
            "x = 1",
            "```",
            "- item",
            "  ```python",
            "  y = 2",
            "  ```",
            "",
            "<!-- not run: it needs a server -->",
            "```python",
            "z = 3",
            "```",
            "```sh",
            "w=4",
            "```",
        ]
    )
    assert python_blocks(page) == [
        Block(2, "# one.py\nx = 1\n"),
        Block(7, "y = 2\n"),
        Block(12, "z = 3\n", "it needs a server"),
    ]
    assert [block.file for block in python_blocks(page)] == ["one.py", "", ""]
