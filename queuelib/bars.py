"""A bar for whoever waits at a terminal or in a notebook, and what Ctrl-C means to a wait that shows one.

Bars count jobs that have ended, not messages. Without a terminal a line is printed now and then. Nothing here is loaded
by a program that shows no bars.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from queuelib.ids import Key, job_id, running_mark
from queuelib.outcome import CANCELLED, RUNNING, Record

if TYPE_CHECKING:
    from queuelib.job import Outcomes

__all__ = ["Bar", "Interrupt", "Open"]

_DRAW_EVERY = 0.1  # seconds
_PRINT_EVERY = 10.0  # seconds between two lines where there is no terminal
_SHOWN_AFTER = 1.25  # seconds after its start until a running job's record says so
_LOOK_EVERY = 0.25
_MOST_NAMED = 5  # jobs, by their ids
_WINDOW = 4096  # jobs looked up at once
Open = Sequence[tuple["Outcomes", Sequence[Key]]]
"""Jobs that are waited for, by what tells of them."""


class Bar:
    """Counts jobs that have ended: how many of how many, failures, how many a second, the time left.

    Args:
        label: What they are, for people.
        total: How many there will be, None if nobody knows.
        stream: Where it is shown; None: stderr.
        monotonic: The clock.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        stream: TextIO | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        from rich.console import Console  # noqa: PLC0415 - 40 ms, for those who look

        self.done = self.failed = 0
        self.total = total
        self._label = label
        self._now = monotonic
        self._began = self._drawn = monotonic()
        self._stream = stream or sys.stderr
        console = Console(file=self._stream)
        self._progress: Any = None
        if console.is_terminal or console.is_jupyter:
            from rich import progress  # noqa: PLC0415

            self._progress = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("{task.fields[more]}"),
                progress.TimeRemainingColumn(),
                console=console,
            )
            self._line = self._progress.add_task(label, total=total, more="")
            self._progress.start()

    def count(self, ended: int = 1, failed: int = 0) -> None:
        """Note that jobs have ended, some of them other than well."""
        self.done += ended
        self.failed += failed
        now = self._now()
        if now - self._drawn >= (_PRINT_EVERY if self._progress is None else _DRAW_EVERY):
            self._draw(now)

    def close(self) -> None:
        """Show how it ended."""
        self._draw(self._now())
        if self._progress is not None:
            self._progress.stop()

    def _draw(self, now: float) -> None:
        self._drawn = now
        rate = self.done / max(now - self._began, 1e-6)
        words = [f"{rate:,.3g}/s"] + ([f"{self.failed:,} failed"] if self.failed else [])
        if self._progress is not None:
            self._progress.update(self._line, completed=self.done, total=self.total, more=", ".join(words))
            return
        of = "" if self.total is None else f" of {self.total:,}"
        if self.total is not None and self.done < self.total and rate > 0:
            words.append(f"{(self.total - self.done) / rate:,.0f} s left")
        print(f"{self._label}: {self.done:,}{of}, {', '.join(words)}", file=self._stream, flush=True)


class Interrupt:
    """What Ctrl-C means while a wait shows a bar; in the main thread of a program that has not said otherwise itself.

    Once, it cancels what has not started, says what goes on and how to come back to it, and waits for that; then
    `KeyboardInterrupt` is raised. Twice, it stops what runs as well, and raises at once. Cancelling is done by a thread: a
    signal may strike anywhere.

    Args:
        find_open: Returns the jobs that are waited for.
        on_first: Called at the first Ctrl-C.
    """

    def __init__(self, find_open: Callable[[], Open], on_first: Callable[[], None] = lambda: None) -> None:
        self._find_open = find_open
        self._on_first = on_first
        self._count = 0
        self._is_over = False
        # A thread does not interrupt a wait that is just over; no signal handler takes it.
        self._lock = threading.Lock()

    @property
    def has_struck(self) -> bool:
        """Whether there was one."""
        return self._count > 0

    @contextmanager
    def waiting(self) -> Generator[None]:
        """Listen while the block waits; whatever ends it after a Ctrl-C is a `KeyboardInterrupt`.

        After the first one it goes on to listen between two such blocks, until the wait is over: that is when the second
        one comes.
        """
        is_main = threading.current_thread() is threading.main_thread()
        if not is_main or signal.getsignal(signal.SIGINT) not in {signal.default_int_handler, self._strike}:
            yield
            return
        signal.signal(signal.SIGINT, self._strike)
        try:
            yield
        except Exception as error:  # what a wait raises whose jobs were cancelled is no news
            if self._count:
                raise KeyboardInterrupt from error
            raise
        finally:
            if not self._count or self._is_over:
                signal.signal(signal.SIGINT, signal.default_int_handler)

    def end(self) -> None:
        """Note that the wait is over.

        Raises:
            KeyboardInterrupt: There was one.
        """
        self.close()
        if self._count:
            raise KeyboardInterrupt

    def close(self) -> None:
        """Note that nobody waits any more."""
        with self._lock:
            self._is_over = True
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) == self._strike:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _strike(self, _number: int, _frame: FrameType | None) -> None:
        self._count += 1
        if self._is_over or self._count > 1:
            if not self._is_over:
                _start(self._stop)
            self._is_over = True
            raise KeyboardInterrupt
        self._on_first()
        _start(self._cancel)

    def _cancel(self) -> None:
        """Cancel what has not started, and wait for the rest; then have the main thread leave its wait."""
        _say("interrupted: what has not started is cancelled. Ctrl-C again stops what runs, too")
        found = self._find_open()
        _each(found, lambda outcomes, keys: outcomes.open_results().cancel(keys))
        pause = threading.Event()
        began, has_said = time.monotonic(), False
        while not self._is_over:
            records = _each(found, lambda outcomes, keys: outcomes.endings(keys))
            running = [one for one in records if isinstance(one, Record) and one.state == RUNNING]
            is_shown = time.monotonic() - began >= _SHOWN_AFTER
            if is_shown and not has_said:
                _say(_summary(records, running))
                has_said = True
            if (is_shown and not running) or all(isinstance(one, Record) and one.is_final for one in records):
                break
            pause.wait(_LOOK_EVERY)
        if not has_said:
            records = _each(found, lambda outcomes, keys: outcomes.endings(keys))
            _say(_summary(records, [one for one in records if isinstance(one, Record) and one.state == RUNNING]))
        with self._lock:
            if not self._is_over:
                self._is_over = True
                # To that very thread: a signal to any other would not wake it.
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _stop(self) -> None:
        _each(
            self._find_open(),
            lambda outcomes, keys: outcomes.open_results().cancel([*keys, *map(running_mark, keys)]),
        )


def _start(what: Callable[[], None]) -> None:
    def run() -> None:
        try:
            what()
        except Exception as error:  # noqa: BLE001 - it is told to the person who pressed the key
            _say(f"what was waited for could not be cancelled: {error}")

    threading.Thread(target=run, name="queuelib-interrupt").start()  # no daemon: the program waits for it at its end


def _each(found: Open, what: Callable[[Outcomes, Sequence[Key]], Sequence[Any] | None]) -> list[Any]:
    """Return what a function of some jobs says of all."""
    said: list[Any] = []
    for outcomes, keys in found:
        for start in range(0, len(keys), _WINDOW):
            said += what(outcomes, keys[start : start + _WINDOW]) or ()
    return said


def _summary(records: Sequence[Any], running: Sequence[Record]) -> str:
    cancelled = sum(not isinstance(one, Record) or one.state == CANCELLED or not one.is_final for one in records)
    text = f"cancelled: {cancelled - len(running):,}; still running: {len(running):,}"
    if running:
        names = ", ".join(f'dispatcher.job("{job_id(*one.key)}")' for one in running[:_MOST_NAMED])
        more = ", ..." if len(running) > _MOST_NAMED else ""
        text += f", which go on also without this program. To come back to them: {names}{more}"
    return text


def _say(text: str) -> None:
    print(f"queuelib: {text}", file=sys.stderr, flush=True)  # noqa: T201 - for the person at the keyboard
