"""The pytest plugin with real workers: they come and go with their tests, however these end."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.integration.lab import await_gone

pytest_plugins = ["pytester"]

TASKS = """
import os

from queuelib import Dispatcher

dispatcher = Dispatcher("redis://production.example/0")
plain = Dispatcher("redis://production.example/0")
patched = "no"

@dispatcher.task
def where() -> tuple[int, str]:
    return os.getpid(), patched

@dispatcher.task
def processes() -> tuple[int, int]:
    return os.getpid(), os.getppid()
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with tasks, whose pytest has this plugin and those that tests name."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p queuelib.testing.plugin")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    pytester.makeini(
        "[pytest]\npythonpath = .\nqueuelib_processes = 1\nqueuelib_dispatcher =\n  app.tasks:dispatcher\n  app.tasks:plain"
    )
    pytester.mkpydir("app").joinpath("tasks.py").write_text(TASKS)
    return pytester


def test_a_worker_comes_and_goes_with_its_test(project: pytest.Pytester) -> None:
    """It is a process of its own, on a file of the test's own, and ends also when the test fails."""
    project.makepyfile(
        """
        import os
        from pathlib import Path
        from app import tasks

        def test_runs(queuelib_worker, queuelib_dispatcher, assert_submitted, tmp_path, monkeypatch):
            assert queuelib_worker is queuelib_dispatcher is tasks.dispatcher
            assert str(tmp_path) in tasks.dispatcher.broker_url
            assert tasks.plain.broker_url.startswith("sqlite:///")
            monkeypatch.setattr(tasks, "patched", "yes")
            pid, patched = tasks.where.submit().result(timeout=30)
            assert (pid != os.getpid(), patched) == (True, "no")
            assert_submitted.times(1, tasks.where)
            Path("pid").write_text(str(pid))

        def test_fails(queuelib_worker):
            assert not Path(f"/proc/{Path('pid').read_text()}").exists()
            pid, _ = tasks.where.submit().result(timeout=30)
            Path("pid").write_text(str(pid))
            raise AssertionError("on purpose")

        def test_is_over():
            assert not Path(f"/proc/{Path('pid').read_text()}").exists()
            assert tasks.dispatcher.broker_url == tasks.plain.broker_url == "redis://production.example/0"
        """
    )
    result = project.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*AssertionError: on purpose"])


def test_workers_under_xdist_do_not_meet(project: pytest.Pytester) -> None:
    """Each process of pytest-xdist has workers of its own."""
    project.makepyfile(
        """
        import pytest
        from app.tasks import where

        @pytest.mark.parametrize("which", range(4))
        def test_it(which, queuelib_worker):
            assert len({job.result(timeout=30)[0] for job in [where.submit() for _ in range(3)]}) == 1
        """
    )
    result = project.runpytest_subprocess("-p", "xdist", "-n", "2")
    result.assert_outcomes(passed=4)


@pytest.mark.slow
def test_a_test_that_times_out_leaves_no_worker(project: pytest.Pytester) -> None:
    """pytest-timeout raises in the test by a signal, and its worker ends; the next test has one that works."""
    project.makepyfile(
        """
        import pytest
        from app.tasks import where

        @pytest.fixture
        def serves(queuelib_worker):
            assert where.submit().result(timeout=30)  # a signal amid the first import of kombu would leave half of it

        @pytest.mark.timeout(1, func_only=True)
        def test_waits(serves):
            where.options(delay=600).submit().result()

        def test_goes_on(queuelib_worker):
            assert where.submit().result(timeout=30)
        """
    )
    result = project.runpytest_subprocess("-p", "pytest_timeout", "-o", "timeout_method=signal")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*Timeout (>1*"])


@pytest.mark.slow
def test_a_worker_ends_when_its_test_run_was_cut_off(project: pytest.Pytester) -> None:
    """pytest-timeout's other way ends the whole program at once: no fixture is torn down, and the worker goes all the same."""
    project.makepyfile(
        """
        from pathlib import Path
        import pytest
        from app.tasks import processes, where

        @pytest.fixture
        def serves(queuelib_worker):
            Path("pids").write_text(" ".join(map(str, processes.submit().result(timeout=30))))

        @pytest.mark.timeout(1, func_only=True)
        def test_waits(serves):
            where.options(delay=600).submit().result()
        """
    )
    result = project.runpytest_subprocess("-p", "pytest_timeout", "-o", "timeout_method=thread")
    assert result.ret != 0
    pids = Path(project.path / "pids").read_text(encoding="utf-8").split()
    await_gone([int(pid) for pid in pids], within=30)


def test_a_worker_that_cannot_start_says_why(project: pytest.Pytester) -> None:
    """With what its processes said."""
    project.makeini("[pytest]\nqueuelib_dispatcher = broken:dispatcher\npythonpath = .")
    project.makepyfile(
        broken="""
        import os, sys
        from queuelib import Dispatcher

        dispatcher = Dispatcher()
        if "pytest" not in sys.modules:
            raise RuntimeError("only in the worker")

        @dispatcher.task
        def work() -> None: ...
        """,
        test_it="def test_it(queuelib_worker): ...",
    )
    result = project.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*WorkerError*", "*RuntimeError: only in the worker*"])
