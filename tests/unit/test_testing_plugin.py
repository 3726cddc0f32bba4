"""The pytest plugin as a project uses it: its options, its fixtures, and what they say."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from queuelib import Dispatcher
from queuelib.testing import in_process

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[2]
TASKS = """
from queuelib import Dispatcher

dispatcher = Dispatcher("redis://production.example/0")
second = Dispatcher("redis://production.example/1")
outbox = []

@dispatcher.task(retries=2, backoff=30)
def send_mail(to: str, subject: str = "Hello") -> int:
    if to == "nobody":
        raise LookupError(to)
    outbox.append(to)
    second_thoughts.submit(to)
    return len(outbox)

@second.task
def second_thoughts(to: str) -> None: ...
"""
INI = """
[pytest]
queuelib_dispatcher =
    app.tasks:dispatcher
    app.tasks:second
"""


@pytest.fixture(scope="module", autouse=True)
def _is_loaded() -> None:
    """What the inner runs import for the first time they forget again, and the queues in it with it."""
    local = Dispatcher("memory://plugin-tests")
    double = local.task(name="plugin.double")(lambda: 2)
    with in_process([local]):
        assert double.submit().result() == 2


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with tasks, whose pytest has this plugin and no other, installed or not."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p queuelib.testing.plugin")
    pytester.makeini(INI)
    pytester.mkpydir("app").joinpath("tasks.py").write_text(TASKS)
    pytester.syspathinsert()
    return pytester


def test_the_dispatchers_of_a_project_are_redirected(project: pytest.Pytester) -> None:
    """All of them, for each test anew, and afterwards they are what they were."""
    project.makepyfile(
        """
        from app.tasks import dispatcher, outbox, second, second_thoughts, send_mail

        def test_one(queuelib_dispatcher, queuelib_run, assert_submitted):
            assert queuelib_dispatcher is dispatcher
            job = send_mail.submit("ann")
            assert_submitted(send_mail, "ann", subject="Hello")
            assert_submitted.never(second_thoughts)
            assert queuelib_run()[0] == job
            assert_submitted.times(1, second_thoughts, "ann")
            assert outbox == ["ann"]
            send_mail.submit("left")

        def test_two(assert_submitted, queuelib_run):
            assert_submitted.nothing()
            assert queuelib_run() == []
            assert dispatcher.broker_url.startswith("memory://")

        def test_three():
            assert dispatcher.broker_url == "redis://production.example/0"
            assert second.broker_url == second.results_url == "redis://production.example/1"
        """
    )
    project.runpytest_inprocess().assert_outcomes(passed=3)


def test_time_is_moved_by_the_clock(project: pytest.Pytester) -> None:
    """Retries and delays are due when the test says so."""
    project.makepyfile(
        """
        import pytest
        from app.tasks import outbox, send_mail

        def test_retries(queuelib_dispatcher, queuelib_run, queuelib_clock):
            job = send_mail.submit("nobody")
            for attempt in 2, 3:
                queuelib_run()
                assert (job.state, job.attempt) == ("retrying", attempt)
                queuelib_clock.advance(60)
            with pytest.raises(LookupError, match="nobody"):
                queuelib_run()
            assert job.state == "failed"

        def test_all_at_once(queuelib_dispatcher, queuelib_run):
            job = send_mail.submit("nobody")
            assert job in queuelib_run(skip_delays=True, check=False)
            assert (job.state, job.attempt) == ("failed", 3)

        def test_delays(queuelib_dispatcher, queuelib_run, queuelib_clock):
            send_mail.options(delay=3600).submit("ann")
            queuelib_run()
            assert outbox == []
            queuelib_clock.advance(3600)
            queuelib_run()
            assert outbox == ["ann"]
        """
    )
    project.runpytest_inprocess().assert_outcomes(passed=3)


def test_a_failed_assertion_shows_the_test_and_the_difference(project: pytest.Pytester) -> None:
    """And no line of ours."""
    project.makepyfile(
        """
        from app.tasks import send_mail

        def test_it(assert_submitted):
            send_mail.submit("ann", "Bye")
            assert_submitted(send_mail, "bob", "Bye")
        """
    )
    result = project.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            '>*assert_submitted(send_mail, "bob", "Bye")',
            "E*AssertionError: app.tasks.send_mail(to='bob', subject='Bye') was not submitted.",
            "E*app.tasks.send_mail was submitted once, otherwise:",
            "E*app.tasks.send_mail(to='ann', subject='Bye')",
            "E*to: 'ann', and not 'bob'",
            "*.py:5: AssertionError",
        ]
    )
    result.stdout.no_fnmatch_line("*queuelib/testing*")


def test_a_failed_job_fails_the_test(project: pytest.Pytester) -> None:
    """With the handler's own traceback."""
    project.makepyfile(
        """
        from app.tasks import send_mail

        def test_it(queuelib_dispatcher, queuelib_run):
            send_mail.options(retries=0).submit("nobody")
            queuelib_run()
        """
    )
    result = project.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*raise LookupError(to)*", ">*queuelib_run()", "E*LookupError: nobody"])


def test_what_a_test_throws_through_a_handler_is_the_tests(project: pytest.Pytester) -> None:
    """`pytest.fail` and `pytest.skip` in code that a handler calls are no outcomes of its job."""
    project.makepyfile(
        """
        import pytest
        from app import tasks

        @pytest.mark.parametrize("throw", [pytest.fail, pytest.skip])
        def test_it(throw, queuelib_dispatcher, queuelib_run, monkeypatch):
            monkeypatch.setattr(tasks, "outbox", type("Outbox", (), {"append": lambda self, to: throw(to)})())
            tasks.send_mail.submit("ann")
            queuelib_run()
        """
    )
    project.runpytest_inprocess().assert_outcomes(failed=1, skipped=1)


def test_a_project_without_a_dispatcher_gets_one(project: pytest.Pytester) -> None:
    """For a library whose tests define their tasks."""
    project.makeini("[pytest]")
    project.makepyfile(
        """
        def test_it(queuelib_dispatcher, queuelib_run):
            @queuelib_dispatcher.task
            def double(x: int) -> int:
                return 2 * x

            assert double.submit(21).result() == 42
        """
    )
    project.runpytest_inprocess().assert_outcomes(passed=1)


def test_the_fixture_may_be_overridden(project: pytest.Pytester) -> None:
    """By projects that make their dispatcher in a factory."""
    project.makeini("[pytest]\nqueuelib_dispatcher = nowhere:at_all")
    project.makeconftest(
        """
        import pytest

        @pytest.fixture
        def queuelib_dispatchers():
            from app.tasks import dispatcher
            return [dispatcher]
        """
    )
    project.makepyfile(
        """
        from app.tasks import dispatcher

        def test_it(queuelib_dispatcher):
            assert queuelib_dispatcher is dispatcher
        """
    )
    project.runpytest_inprocess().assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("nowhere:dispatcher", "*No module named 'nowhere'. It is module:name*"),
        ("app.tasks:nothing", "*has no attribute 'nothing'*"),
        ("app.tasks:send_mail", "*that is <Task app.tasks.send_mail>, and no Dispatcher*"),
    ],
)
def test_a_wrong_option_says_what_is_wrong(project: pytest.Pytester, target: str, reason: str) -> None:
    """With the option, in one line."""
    project.makeini(f"[pytest]\nqueuelib_dispatcher = {target}")
    project.makepyfile("def test_it(queuelib_dispatcher): ...")
    result = project.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*queuelib_dispatcher = {target}: {reason}"])


def test_what_does_not_go_together_is_said(project: pytest.Pytester) -> None:
    """A worker of processes has the machine's clock, and a file that its processes share."""
    project.makepyfile(
        """
        def test_clock(queuelib_clock, queuelib_worker): ...
        def test_run(queuelib_run, queuelib_worker): ...
        """
    )
    result = project.runpytest_inprocess()
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*a test has the one or the other"] * 2)


def test_a_worker_needs_a_module(project: pytest.Pytester) -> None:
    """Its processes import the tasks, so they cannot be the test's own."""
    project.makeini("[pytest]")
    project.makepyfile("def test_it(queuelib_worker): ...")
    result = project.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*queuelib_worker needs a dispatcher with tasks*queuelib_dispatcher = app.tasks*"])


def test_pytest_lists_the_fixtures(project: pytest.Pytester) -> None:
    """Each with a sentence; what is ours alone is not listed."""
    result = project.runpytest_inprocess("--fixtures")
    for name in (
        "assert_submitted",
        *(f"queuelib_{n}" for n in ("clock", "dispatcher", "dispatchers", "run", "worker")),
    ):
        result.stdout.re_match_lines([rf"{name} -- .*plugin.py:\d+", r"    [A-Z].*\."])
    result.stdout.no_fnmatch_line("_queuelib*")


def test_the_plugin_costs_nothing_until_it_is_used() -> None:
    """It is loaded in every test run: neither the conformance suite nor what it stands on comes with it."""
    code = "import pytest, sys; before = set(sys.modules); import queuelib.testing.plugin; print(*set(sys.modules) - before)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    loaded = set(done.stdout.split())
    assert {name for name in loaded if name.startswith("queuelib.testing")} == {
        "queuelib.testing",
        "queuelib.testing.plugin",
    }
    assert not {name for name in loaded if name.startswith(("queuelib.worker", "queuelib.broker", "kombu", "msgspec"))}


def test_the_plugin_is_registered() -> None:
    """Whoever installs queuelib has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"queuelib": "queuelib.testing.plugin"}


def test_only_the_test_kit_imports_pytest() -> None:
    """A program that runs workers needs no pytest."""
    code = "import queuelib, queuelib.testing, queuelib.cli, sys; from queuelib.testing import in_process; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert "pytest" not in done.stdout.split()
