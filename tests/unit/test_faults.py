"""Fault points: what the variable may say, when a point strikes, and that it costs nothing when nobody asks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from queuelib import faults
from queuelib.errors import ConfigurationError
from queuelib.faults import POINTS, Fault, FaultInjected, parse

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("before_ack", Fault("before_ack", 1, "exit", 60.0)),
        ("before_ack:3", Fault("before_ack", 3, "exit", 60.0)),
        ("after_run:2:raise", Fault("after_run", 2, "raise", 60.0)),
        ("after_take:1:sleep:0.5", Fault("after_take", 1, "sleep", 0.5)),
    ],
)
def test_all_but_the_name_may_be_left_out(text: str, fault: Fault) -> None:
    """Name, times, what, seconds."""
    assert parse(text) == fault


@pytest.mark.parametrize(
    "text",
    ["", "nowhere", "before_ack:0", "before_ack:x", "before_ack:1:burn", "before_ack:1:sleep:-1", "a:1:exit:1:1"],
)
def test_what_does_not_exist_is_refused(text: str) -> None:
    """A misspelled point would otherwise be a test that proves nothing."""
    with pytest.raises(ConfigurationError, match="before_settle"):
        parse(text)


def test_point_strikes_once_and_at_its_time() -> None:
    """The second passing of that very point, and no other."""
    fault = Fault("before_ack", 2)
    struck = [fault.is_struck(name) for name in ("before_ack", "after_run", "before_ack", "before_ack")]
    assert struck == [False, False, True, False]


def test_raising_is_loud(capfd: pytest.CaptureFixture[str]) -> None:
    """What a point raises is no error that a worker expects, and stderr names the point."""
    with pytest.raises(FaultInjected, match="before_ack"):
        Fault("before_ack", what="raise").strike()
    assert capfd.readouterr().err == "fault point before_ack passed 1 times: raise\n"


def test_without_the_variable_nothing_strikes() -> None:
    """What costs a test in the hot path is a constant."""
    assert not faults.ACTIVE
    for name in POINTS:
        faults.point(name)


@pytest.mark.parametrize(("what", "status"), [("exit", 9), ("kill", -9)])
def test_process_ends_at_the_point(what: str, status: int) -> None:
    """The variable is read when the module is imported."""
    done = subprocess.run(
        [sys.executable, "-c", "from queuelib import faults; faults.point('before_ack'); print('still there')"],
        env={**os.environ, "QUEUELIB_FAULT": f"before_ack:1:{what}", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    assert (done.returncode, done.stdout) == (status, "")


def test_every_point_is_passed_somewhere() -> None:
    """A point that no code passes would be a row that proves nothing; one that is not listed could not be asked for."""
    sources = [*(ROOT / "queuelib").rglob("*.py"), *(ROOT / "backends").rglob("*.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    named = {part.partition('"')[0] for part in text.split('faults.point("')[1:]}
    assert named == set(POINTS)


def test_every_point_is_in_the_docs() -> None:
    """The table in docs/architecture.md has them all."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [name for name in POINTS if f"| `{name}` |" not in text] == []
