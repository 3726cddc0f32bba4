"""Attacks by the current folder: a module that lies there hides neither the standard library nor what a worker needs."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import queuelib

ROOTS = os.pathsep.join(
    [str(Path(queuelib.__file__).parent.parent), str(Path(queuelib.__file__).parent.parent / "backends")]
)
CONSOLE = "import sys; from queuelib.cli import main; sys.argv[0] = 'queuelib'; sys.exit(main())"  # the console script
TASKS = """
import os, random, zoneinfo, decimal
from queuelib import Dispatcher
dispatcher = Dispatcher(os.environ["BROKER"])
@dispatcher.task(name="where")
def where():
    import queue, colorsys, neighbor
    return [random.__file__, colorsys.__file__, neighbor.__file__]
"""
SUBMIT = """
import os, sys
from queuelib import Dispatcher
dispatcher = Dispatcher(os.environ["BROKER"])
@dispatcher.task(name="where")
def where(): ...
job = where.submit()
print(job.id)
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, without that folder on its path, as a console script does."""
    environment = {**os.environ, "BROKER": f"sqlite:///{folder.parent}/jobs.db", "PYTHONPATH": ROOTS}
    command = [sys.executable, "-P", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a worker's file and a module beside it."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    (folder / "tasks.py").write_text(TASKS, encoding="utf-8")
    (folder / "neighbor.py").write_text("", encoding="utf-8")
    return folder


def test_s34_a_file_beside_the_tasks_hides_no_standard_module(folder: Path) -> None:
    """random.py, socket.py or colorsys.py in the worker's folder are not imported; the user's own module is."""
    trap = folder.parent / "trap"
    for name in ("random", "socket", "colorsys", "queue", "signal", "logging", "uuid", "sitecustomize"):
        (folder / f"{name}.py").write_text(f"open({str(trap)!r}, 'a').write({name!r})\n", encoding="utf-8")
    submitted = run(folder, "-c", SUBMIT)
    assert submitted.returncode == 0, submitted.stderr
    done = run(folder, "-c", CONSOLE, "worker", "tasks.py", "--burst", "--processes", "1")
    assert done.returncode == 0, done.stderr
    assert not trap.exists(), trap.read_text(encoding="utf-8")
    read = textwrap.dedent(
        f"""
        import os
        from queuelib import Dispatcher
        for path in Dispatcher(os.environ["BROKER"]).job({submitted.stdout.strip()!r}).result(timeout=10):
            print(path)
        """
    )
    paths = run(folder, "-c", read).stdout.split()
    assert [str(folder) in path for path in paths] == [False, False, True], paths


@pytest.mark.parametrize("name", ["kombu.py", "msgpack/__init__.py", "queuelib/__init__.py", "redis.py"])
def test_s34_a_file_that_would_hide_what_a_worker_needs_is_an_error(folder: Path, name: str) -> None:
    """The worker says which file it is and ends, before anything of it runs."""
    trap = folder.parent / "trap"
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"open({str(trap)!r}, 'a').write('ran')\n", encoding="utf-8")
    done = run(folder, "-c", CONSOLE, "worker", "tasks.py", "--burst", "--processes", "1")
    assert done.returncode == 1
    assert str(path) in done.stderr
    assert "would hide" in done.stderr
    assert not trap.exists()
