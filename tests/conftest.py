"""Fixtures of every test: servers, a namespace of one's own, patience, and a check that nothing is left behind."""

from __future__ import annotations

import os
import secrets
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests import leaks, servers, shares, waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SERVERS = pytest.StashKey[dict[str, str]]()  # kind -> how it was found, or why it was not
_WORKER_OUTPUT = "queuelib_servers"  # the same, handed from a pytest-xdist worker to its controller
settings.register_profile("tests", settings(), deadline=None)  # how long an example takes is the scheduler's to say
settings.load_profile("tests")


@pytest.fixture(scope="session")
def redis_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a Redis that other tests use too: keep to your `namespace`, never flush."""
    yield from _url("redis", request.config)


@pytest.fixture(scope="session")
def amqp_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a RabbitMQ that other tests use too: keep to your `namespace`."""
    yield from _url("rabbitmq", request.config)


@pytest.fixture
def namespace() -> str:
    """Give a prefix no other test has, for keys, queues, streams and files."""
    return f"t{secrets.token_hex(6)}"


@pytest.fixture(scope="session")
def eventually() -> Callable[..., object]:
    """Give `tests.waiting.eventually`, for those who like fixtures better than imports."""
    return waiting.eventually


@pytest.fixture(autouse=True)
def _leaves_nothing_behind() -> Iterator[None]:
    """Fail the test that leaves a thread, a child process or a file descriptor behind."""
    before = leaks.held()
    yield
    left = leaks.leaked(before)
    if left:
        pytest.fail("left behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def _leaves_no_orphans() -> Iterator[None]:
    """Fail the run if a process that some test started outlives it, whoever its parent is by then."""
    mark = secrets.token_hex(8)
    before = os.environ.get(leaks.MARK)
    os.environ[leaks.MARK] = mark
    yield
    if before is None:
        del os.environ[leaks.MARK]
    else:
        os.environ[leaks.MARK] = before
    left = leaks.orphans(mark)
    if left:
        pytest.fail("processes that outlive the tests:\n  " + "\n  ".join(left), pytrace=False)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `tests/rounds.py` choose."""
    rounds = "those that bear company, or those marked `alone`; both unless told"
    parser.addoption("--round", choices=("together", "alone"), help=rounds)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of this round, those that wait for servers first: small files at the end fill the gaps."""
    if which := config.getoption("round"):
        items[:], rest = shares.of_round(items, which)
        config.hook.pytest_deselected(items=rest)
    items.sort(key=lambda item: "unit" in item.path.parts)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Share by file and broker, where files were to be kept together."""
    return shares.ByFileAndBroker(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_report_header() -> str:
    """Say where the servers come from."""
    if told := os.environ.get(servers.HOW_VARIABLE):
        return f"servers: {told}"
    given = [variable for variable in servers.VARIABLES.values() if os.environ.get(variable)]
    rest = "started by the first test that asks: container, else local process"
    return f"servers: {', '.join(given) + ' given, others ' if given else ''}{rest}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which servers were used, and loudly which were missing."""
    for kind, how in config.stash.get(_SERVERS, {}).items():
        terminalreporter.write_line(f"servers: {kind}: {how}", yellow=how.startswith("MISSING"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what a pytest-xdist worker found to its controller."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[_WORKER_OUTPUT] = session.config.stash.get(_SERVERS, {})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """Take what a pytest-xdist worker found."""
    config, output = getattr(node, "config"), getattr(node, "workeroutput", {})  # noqa: B009 - xdist has no types
    config.stash.setdefault(_SERVERS, {}).update(output.get(_WORKER_OUTPUT, {}))


def _url(kind: servers.Kind, config: pytest.Config) -> Iterator[str]:
    told = config.stash.setdefault(_SERVERS, {})
    with ExitStack() as stack:
        try:
            found = stack.enter_context(servers.server(kind))
        except servers.NoServer as error:
            told[kind] = f"MISSING: {error}"
            if servers.is_required():
                pytest.fail(str(error), pytrace=False)
            pytest.skip(str(error))
        told[kind] = found.how
        yield found.url
