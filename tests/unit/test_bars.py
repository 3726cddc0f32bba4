"""Bars: what they count, and what they print where nobody sees them move."""

from __future__ import annotations

import io
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

from queuelib import Dispatcher
from queuelib.bars import Bar, Interrupt
from queuelib.testing import in_process

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _usual_ctrl_c() -> Iterator[None]:
    """Have Ctrl-C mean what it means by default: a shell has it ignored by what it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Terminal(io.StringIO):
    """Says that it is one."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def test_without_a_terminal_few_lines() -> None:
    """A line now and then, and one at the end, with failures, rate and the time left."""
    now = [100.0]
    stream = io.StringIO()
    bar = Bar("work", 1000, stream, monotonic=lambda: now[0])
    for _ in range(400):
        now[0] += 0.0625
        bar.count()
    bar.count(600, failed=3)
    now[0] += 20.0
    bar.close()
    assert stream.getvalue().splitlines() == [
        "work: 160 of 1,000, 16/s, 52 s left",
        "work: 320 of 1,000, 16/s, 42 s left",
        "work: 1,000 of 1,000, 22.2/s, 3 failed",
    ]


def test_of_an_unknown_number() -> None:
    """It counts all the same."""
    now = [0.0]
    stream = io.StringIO()
    bar = Bar("work", None, stream, monotonic=lambda: now[0])
    bar.count(5)
    now[0] = 2.0
    bar.close()
    assert stream.getvalue() == "work: 5, 2.5/s\n"


def test_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """It moves."""
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    bar = Bar("work", 10, stream)
    bar.count(10, failed=2)
    bar.close()
    assert "work" in stream.getvalue()
    assert "10/10" in stream.getvalue()
    assert "2 failed" in stream.getvalue()
    assert "\x1b[" in stream.getvalue()


def test_bars_of_waits(capsys: pytest.CaptureFixture[str]) -> None:
    """`gather`, `as_completed` and `map` count items, failures among them, and results are as without."""
    dispatcher = Dispatcher("memory://bars")

    @dispatcher.task
    def half(x: int) -> int:
        """Fail of odd numbers."""
        if x % 2:
            raise ValueError(x)
        return x // 2

    with in_process([dispatcher]):
        jobs = half.submit_many([(2 * x,) for x in range(20)])
        assert dispatcher.gather(jobs, progress=True) == list(range(20))
        assert "jobs: 20 of 20" in capsys.readouterr().err
        jobs = half.submit_many([(x,) for x in range(10)])
        assert set(dispatcher.as_completed(jobs, progress=True)) == set(jobs)
        err = capsys.readouterr().err
        assert "jobs: 10 of 10" in err
        assert "5 failed" in err
        assert list(half.map(range(0, 100, 2), progress=True)) == list(range(50))
        assert ".half: 50 of 50" in capsys.readouterr().err
        with pytest.raises(ValueError, match="1"):
            dispatcher.gather(half.submit_many([(0,), (2,), (1,)]), progress=True)
        with pytest.raises(ValueError, match="7"):
            list(half.map([2, 4, 7], progress=True))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_who_has_an_own_handler_keeps_it() -> None:
    """A program that has said what Ctrl-C means is not overruled, nor is a thread."""
    interrupt = Interrupt(list)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupt.waiting():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    seen: list[Any] = []

    def wait() -> None:
        with interrupt.waiting():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()
    assert seen == [before]


def test_errors_without_ctrl_c_are_themselves() -> None:
    """What a wait raises passes, and the handler of before is back."""
    interrupt = Interrupt(list)
    with pytest.raises(ValueError, match="own"), interrupt.waiting():
        raise ValueError("own")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    interrupt.end()
    assert not interrupt.has_struck


def test_a_second_ctrl_c_between_two_waits() -> None:
    """It stops what runs, there too; and once the wait is over Ctrl-C is what it was."""
    asked, gate = list[str](), threading.Event()

    def find() -> list[Any]:
        asked.append("open")
        gate.wait(10.0)
        return []

    interrupt = Interrupt(find)
    with interrupt.waiting():
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    gate.set()
    for thread in threading.enumerate():
        if thread.name == "queuelib-interrupt":
            thread.join()
    assert asked == ["open", "open"]  # to cancel, and to stop
    with pytest.raises(KeyboardInterrupt):
        interrupt.end()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
