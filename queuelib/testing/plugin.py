"""The pytest plugin: fixtures for tests of programs that submit jobs. `pytest --fixtures` shows them.

It is loaded in every test run where queuelib is installed, so it imports nothing before a test asks for a fixture.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from queuelib.dispatcher import Dispatcher
    from queuelib.testing.clock import FakeClock
    from queuelib.testing.inprocess import InProcess
    from queuelib.testing.submissions import AssertSubmitted

_OPTION = "queuelib_dispatcher"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what a project says in its pytest.ini or pyproject.toml."""
    text = "dispatchers of this project, module:name, one a line: the queuelib fixtures redirect them for each test"
    parser.addini(_OPTION, text, type="linelist", default=[])
    parser.addini("queuelib_processes", "processes of the worker that queuelib_worker starts (default: 2)", default="2")


@pytest.fixture
def queuelib_dispatchers(pytestconfig: pytest.Config) -> Sequence[Dispatcher]:
    """The dispatchers of this project, which the other queuelib fixtures redirect while a test runs.

    Those that the ini option `queuelib_dispatcher` names, as `module:name`, one a line:

        [pytest]
        queuelib_dispatcher = app.tasks:dispatcher

    Or override this fixture in conftest.py, and return them.
    """
    return [_load(name) for name in pytestconfig.getini(_OPTION)]


@pytest.fixture
def queuelib_clock(request: pytest.FixtureRequest) -> FakeClock:
    """The time of this test's dispatchers: it stands still until the test moves it.

    `queuelib_clock.advance(60)`, in seconds or as a timedelta, makes due what is delayed or waits for a retry; then
    `queuelib_run()` runs it. `queuelib_clock.now` is the time. The time of a `queuelib_worker` is real.
    """
    from queuelib.testing.clock import FakeClock  # noqa: PLC0415

    _refuse_beside_worker(request)
    return FakeClock()


@pytest.fixture
def queuelib_run(
    request: pytest.FixtureRequest,
    queuelib_dispatchers: Sequence[Dispatcher],
    queuelib_clock: FakeClock,
    _queuelib_submissions: AssertSubmitted,
) -> Generator[InProcess]:
    """Runs the jobs that this test has queued, in this process and thread, until nothing that is due is left.

    `queuelib_run()` returns the jobs that ended, and raises what the first one raised that failed: `check=False` leaves
    that to the test. `skip_delays=True` moves the clock to whatever is due next, again and again: retries run too.
    The worker is the real one: arguments and results are serialized, failures retried, colors kept.
    Whoever asks for a result need not call it: `job.result()` runs what is queued as well.
    """
    from queuelib.dispatcher import Dispatcher  # noqa: PLC0415
    from queuelib.testing.inprocess import in_process  # noqa: PLC0415
    from queuelib.testing.submissions import recorded  # noqa: PLC0415

    _refuse_beside_worker(request)
    dispatchers = list(queuelib_dispatchers) or [Dispatcher("memory://")]
    passes = (KeyboardInterrupt, pytest.exit.Exception, pytest.fail.Exception, pytest.skip.Exception)
    with (
        in_process(dispatchers, clock=queuelib_clock, passes=passes) as run,
        recorded(dispatchers, _queuelib_submissions),
    ):
        yield run


@pytest.fixture
def queuelib_dispatcher(request: pytest.FixtureRequest) -> Dispatcher:
    """The project's dispatcher (the first one), on a private memory:// server until the test ends.

    All dispatchers of the project are redirected, each to a server of its own, and connect as before afterwards; see
    `queuelib_dispatchers`. If it names none, this is a new one, for tasks that the test defines itself. Nothing runs
    before `queuelib_run()` or `job.result()` is called. In a test with `queuelib_worker` it is that one's dispatcher.
    """
    if "queuelib_worker" in request.fixturenames:
        worker: Dispatcher = request.getfixturevalue("queuelib_worker")
        return worker
    run: InProcess = request.getfixturevalue("queuelib_run")
    return run.dispatchers[0]


@pytest.fixture
def queuelib_worker(
    tmp_path: Path,
    queuelib_dispatchers: Sequence[Dispatcher],
    pytestconfig: pytest.Config,
    _queuelib_submissions: AssertSubmitted,
) -> Generator[Dispatcher]:
    """The project's dispatcher (the first one), on a SQLite file of this test, with a real worker beside it.

    The worker is a process with children, as in production: it imports the project's modules itself, so what a test
    patches does not reach it, and its time is real: give `job.result(timeout=10)` a limit. The ini option
    `queuelib_processes` says how many children it has. When the test ends, running jobs get 10 s to finish.
    """
    from queuelib.testing.beside import real_workers  # noqa: PLC0415
    from queuelib.testing.submissions import recorded  # noqa: PLC0415

    dispatchers = list(queuelib_dispatchers)
    if not any(dispatcher.definitions for dispatcher in dispatchers):
        pytest.fail(
            "queuelib_worker needs a dispatcher with tasks, in a module that its processes can import: "
            f"name it in the ini option {_OPTION}, as in `{_OPTION} = app.tasks:dispatcher`, or override the fixture "
            "queuelib_dispatchers",
            pytrace=False,
        )
    processes = int(pytestconfig.getini("queuelib_processes"))
    with real_workers(dispatchers, tmp_path, processes=processes), recorded(dispatchers, _queuelib_submissions):
        yield dispatchers[0]


@pytest.fixture
def assert_submitted(queuelib_dispatcher: Dispatcher, _queuelib_submissions: AssertSubmitted) -> AssertSubmitted:  # noqa: ARG001
    """Asserts what this test has submitted, and says what was submitted instead if it fails.

    `assert_submitted(task, *args, **kwargs)`: once or more, with these arguments; `assert_submitted(task)`: with any.
    `assert_submitted.times(2, task, ...)`: exactly so often. `assert_submitted.never(task, ...)`: not at all.
    `assert_submitted.nothing()`: no task whatsoever. The first two return the jobs. For a message:
    `assert_submitted(EvaluateGenome("sphere", [0.0]))`. Arguments are compared as handlers receive them.

    It brings `queuelib_dispatcher` with it.
    """
    return _queuelib_submissions


@pytest.fixture
def _queuelib_submissions() -> AssertSubmitted:
    from queuelib.testing.submissions import AssertSubmitted  # noqa: PLC0415

    return AssertSubmitted()


def _refuse_beside_worker(request: pytest.FixtureRequest) -> None:
    if "queuelib_worker" in request.fixturenames:
        msg = (
            "queuelib_run and queuelib_clock are for jobs that run in this process; queuelib_worker runs them in others, by "
            "the machine's clock: a test has the one or the other"
        )
        pytest.fail(msg, pytrace=False)


def _load(target: str) -> Dispatcher:
    """Return the dispatcher that the ini option names."""
    from queuelib.dispatcher import Dispatcher  # noqa: PLC0415

    module, _, name = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), name or "dispatcher")
    except (ImportError, AttributeError) as error:
        msg = f"{_OPTION} = {target}: {error}. It is module:name; is the project on sys.path (`pythonpath = .`)?"
        raise pytest.UsageError(msg) from error
    if not isinstance(found, Dispatcher):
        msg = f"{_OPTION} = {target}: that is {found!r:.100}, and no Dispatcher"
        raise pytest.UsageError(msg)
    return found
