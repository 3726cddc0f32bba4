"""What a worker is told to serve: files, modules and packages, those that do not work, and programs without a guard."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.integration.lab import APPS, Lab, load_deeds

if TYPE_CHECKING:
    from pathlib import Path


def fails(lab: Lab, target: str, *options: str, **environment: str) -> str:
    """Run a worker that cannot start; return its last words, after its exit status was found to be 1."""
    done = lab.run("-m", "queuelib", "worker", target, *options, **environment)
    assert done.returncode == 1, (done.returncode, done.stderr)
    return done.stderr


def test_module_that_fails_to_import(file_lab: Lab) -> None:
    """Its traceback is shown, with the user's line, and the exit status is 1."""
    said = fails(file_lab, "broken.py")
    assert "Traceback (most recent call last)" in said
    assert "print(1 / 0)" in said
    assert "ZeroDivisionError" in said


def test_module_that_exits_while_it_is_imported(file_lab: Lab) -> None:
    """sys.exit() at import is no success."""
    assert "SystemExit" in fails(file_lab, "quitter.py")


def test_module_that_is_not_there(file_lab: Lab) -> None:
    """A missing file and a missing module are named."""
    assert str(APPS / "nowhere.py") in fails(file_lab, "nowhere.py")
    assert "No module named 'nowhere'" in fails(file_lab, "nowhere")
    said = fails(file_lab, "twins.py:third")
    assert "'third'" in said
    assert "first, second" in said


def test_module_without_a_dispatcher(file_lab: Lab) -> None:
    """It says what is missing and what to write."""
    said = fails(file_lab, "barren.py")
    assert "no Dispatcher in barren.py" in said
    assert "dispatcher = Dispatcher()" in said


def test_module_with_two_dispatchers(file_lab: Lab) -> None:
    """The message lists them and shows how to name one; naming one works."""
    said = fails(file_lab, "twins.py")
    assert "first, second" in said
    assert "twins.py:NAME" in said
    assert file_lab.worker("--burst", "--processes", "1", target="twins.py:second").wait() == 0
    assert file_lab.worker("--burst", "--processes", "1", target="twins:first").wait() == 0


def test_no_target_is_a_usage_error(file_lab: Lab) -> None:
    """Without a module the command explains itself, with status 2."""
    done = file_lab.run("-m", "queuelib", "worker")
    assert done.returncode == 2
    assert "FILE.py" in done.stderr


@pytest.mark.parametrize(
    "target", ["labpack.tasks", "labpack.tasks:dispatcher", "labpack/tasks.py", "./labpack/tasks.py:dispatcher"]
)
def test_package_targets_name_tasks_alike(file_lab: Lab, target: str) -> None:
    """A module and its file name tasks alike: the file's name climbs while its folder is a package."""
    load_deeds(file_lab.url, file_lab.namespace)  # puts apps/ on sys.path
    import labpack.tasks  # noqa: PLC0415

    labpack.tasks.dispatcher.configure(broker=file_lab.url, namespace=file_lab.namespace)
    try:
        assert labpack.tasks.triple.name == "labpack.tasks.triple"
        job = labpack.tasks.triple.submit(5)
        worker = file_lab.worker("--burst", "--processes", "1", target=target)
        assert worker.wait() == 0, worker.said
        assert job.result(timeout=5) == 15
    finally:
        labpack.tasks.dispatcher.close()


def test_absolute_file_from_another_folder(file_lab: Lab, tmp_path: Path) -> None:
    """A file is found, and finds its neighbors, wherever the worker is started."""
    (tmp_path / "neighbor.py").write_text("FACTOR = 4\n")
    (tmp_path / "far.py").write_text(
        "import os\nfrom neighbor import FACTOR\nfrom queuelib import Dispatcher\n"
        "dispatcher = Dispatcher(os.environ['BROKER'], namespace=os.environ['NAMESPACE'])\n"
        "@dispatcher.task\ndef f(x: int) -> int:\n    return FACTOR * x\n"
        "if __name__ == '__main__':\n    print(f.submit(2).result(timeout=20))\n"
    )
    file_lab.ready_worker("--processes", "1", target=tmp_path / "far.py")
    done = file_lab.run(str(tmp_path / "far.py"))
    assert done.stdout == "8\n", done.stderr


@pytest.mark.parametrize("runs", ["workers", "submit"])
def test_missing_guard_is_named(file_lab: Lab, runs: str) -> None:
    """workers() or submit() at import raises in the worker and names the guard, instead of starting ever more workers."""
    said = fails(file_lab, "guardless.py", RUNS=runs)
    assert f"{runs}() ran while a worker imported this module" in said
    assert 'if __name__ == "__main__"' in said


def test_program_without_guard_ends(file_lab: Lab) -> None:
    """A program without the guard ends with that message too, when it starts a worker beside itself."""
    done = file_lab.run("guardless.py", within=30.0)
    assert done.returncode != 0
    assert 'if __name__ == "__main__"' in done.stderr


def test_script_is_its_own_worker_file(lab: Lab) -> None:
    """A task that is defined in `__main__` alone is served by workers() of that very script, under the file's name."""
    done = lab.run("alone.py")
    assert done.returncode == 0, done.stderr
    assert re.match(r"alone\.double 42 \d+ \d+\n", done.stdout)


def test_task_in_a_prompt_is_refused(file_lab: Lab) -> None:
    """A task that no worker could import says: move it to a file."""
    code = "from queuelib import Dispatcher\nd = Dispatcher()\n@d.task\ndef f(): ...\n"
    done = file_lab.run("-c", code)
    assert done.returncode != 0
    assert "move it to a .py file" in done.stderr


def test_worker_that_lacks_a_task_is_refused(file_lab: Lab, tmp_path: Path) -> None:
    """workers() raises if the worker would not know a task of the program."""
    (tmp_path / "conditional.py").write_text(
        "import os\nfrom queuelib import Dispatcher\n"
        "dispatcher = Dispatcher(os.environ['BROKER'], namespace=os.environ['NAMESPACE'])\n"
        "@dispatcher.task\ndef always(): ...\n"
        "if __name__ == '__main__':\n"
        "    @dispatcher.task\n    def only_here(): ...\n"
        "    with dispatcher.workers():\n        print('never')\n"
    )
    done = file_lab.run(str(tmp_path / "conditional.py"))
    assert "only_here" in done.stderr
    assert "WorkerError" in done.stderr
    assert "never" not in done.stdout


def test_numbers_that_make_no_sense(file_lab: Lab) -> None:
    """Impossible options are refused with a message and no traceback."""
    for options in (
        ["--processes", "0"],
        ["--processes", "100000"],
        ["--max-jobs", "0"],
        ["--max-memory", "lots"],
        ["--grace", "soon"],
    ):
        done = file_lab.run("-m", "queuelib", "worker", "deeds.py", *options)
        assert done.returncode in {1, 2}, (options, done.stderr)
        assert "Traceback" not in done.stderr
