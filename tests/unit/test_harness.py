"""The tests' own tools: waiting, and the check that nothing is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from itertools import count

import pytest

from tests import leaks, rounds, servers, shares
from tests.waiting import eventually

SLEEPER = [sys.executable, "-c", "input()"]


def test_eventually_returns_the_first_true_value() -> None:
    """The value that made the condition true comes back."""
    numbers = count()
    assert eventually(lambda: next(numbers) // 3) == 1


def test_eventually_says_what_never_came() -> None:
    """The failure names the claim, the time and the last value."""
    with pytest.raises(AssertionError, match=r"not within 0\.01 s: it snows \(last value: 0\)"):
        eventually(lambda: 0, within=0.01, message="it snows")


def test_a_thread_left_behind_is_named() -> None:
    """A running thread is a leak until it ends."""
    before, stop = leaks.held(), threading.Event()
    thread = threading.Thread(target=stop.wait, name="forgotten")
    thread.start()
    assert leaks.leaked(before, within=0) == ["thread 'forgotten'"]
    stop.set()
    assert leaks.leaked(before) == []


def test_a_descriptor_left_behind_is_named() -> None:
    """An open pipe is a leak until both ends are closed."""
    before = leaks.held()
    ends = os.pipe()
    assert [line.split(":")[0] for line in leaks.leaked(before, within=0)] == [f"file descriptor {n}" for n in ends]
    for end in ends:
        os.close(end)
    assert leaks.leaked(before) == []


def test_a_child_left_behind_is_named() -> None:
    """A child process is a leak while it runs and until it was waited for."""
    before = leaks.held()
    with subprocess.Popen(SLEEPER, stdin=subprocess.PIPE) as child:
        assert any(line.startswith(f"child process {child.pid}") for line in leaks.leaked(before, within=0))
    assert leaks.leaked(before) == []


def test_an_orphan_is_found_by_its_mark() -> None:
    """Whatever carries the mark is found, even when it is nobody's child any more."""
    with subprocess.Popen(SLEEPER, stdin=subprocess.PIPE, env={**os.environ, leaks.MARK: "m"}) as child:
        eventually(lambda: [line for line in leaks.orphans("m") if line.startswith(f"process {child.pid}: ")])
    assert leaks.orphans("m") == []


def test_a_given_url_is_taken_before_anything_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable wins, and the server says where it came from."""
    monkeypatch.setenv("QUEUELIB_TEST_REDIS_URL", "redis://example.invalid/3")
    with servers.server("redis") as found:
        assert found == servers.Server("redis", "redis://example.invalid/3", "given in QUEUELIB_TEST_REDIS_URL")


def test_no_server_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a program, an engine or a URL the message names all three."""
    monkeypatch.delenv("QUEUELIB_TEST_REDIS_URL", raising=False)
    monkeypatch.setenv("QUEUELIB_TEST_WAY", "local")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(servers.NoServer, match=r"not installed.*container engine.*QUEUELIB_TEST_REDIS_URL"):
        servers.server("redis").__enter__()


@pytest.mark.parametrize(("name", "value"), [("CI", "true"), ("QUEUELIB_TEST_REQUIRE", "1")])
def test_continuous_integration_never_skips(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """There a missing server is a failure."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("QUEUELIB_TEST_REQUIRE", raising=False)
    assert not servers.is_required()
    monkeypatch.setenv(name, value)
    assert servers.is_required()


@pytest.mark.parametrize(
    ("nodeid", "expected"),
    [
        ("tests/a.py::test_b", "tests/a.py"),
        ("tests/a.py::TestB::test_c[many-few]", "tests/a.py"),
        ("tests/a.py::test_b[redis]", "tests/a.py on redis"),
        ("tests/a.py::test_b[sqlite-a[redis]]", "tests/a.py on sqlite"),
        ("tests/a.py::test_b[redis://x]", "tests/a.py"),
    ],
)
def test_a_process_gets_a_file_on_a_broker(nodeid: str, expected: str) -> None:
    """So that standing workers are shared, and few tests are left at the end."""
    assert shares.piece(nodeid) == expected


def test_every_test_is_in_one_round(request: pytest.FixtureRequest) -> None:
    """Those marked alone in the second, all others in the first."""
    items = [request.node]
    assert shares.of_round(items, "together") == (items, [])
    assert shares.of_round(items, "alone") == ([], items)
    request.node.add_marker("alone")
    assert shares.of_round(items, "together") == ([], items)
    assert shares.of_round(items, "alone") == (items, [])


@pytest.mark.parametrize(
    ("together", "alone", "expected"),
    [(0, 0, 0), (0, 5, 0), (5, 0, 0), (5, 5, 5), (1, 0, 1), (1, 5, 1), (0, 1, 1), (5, 1, 1), (3, 1, 3), (0, -9, -9)],
)
def test_one_round_that_fails_is_a_failure(together: int, alone: int, expected: int) -> None:
    """Both are; one that found nothing to run is not, unless the other found nothing either."""
    assert rounds.both(together, alone) == expected
