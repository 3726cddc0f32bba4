"""Runs one handler and returns how it went, as a value: never raises, touches no broker."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from types import CoroutineType, FrameType
from typing import TYPE_CHECKING, Any

from queuelib import body
from queuelib.codec import joined_lists, list_length
from queuelib.errors import DecodeError, QueuelibError, Retry, Shutdown, SoftTimeLimit
from queuelib.outcome import Again, Failed, Outcome, Quarantined
from queuelib.schema import SchemaMismatch
from queuelib.settings import LONGEST_DELAY
from queuelib.shown import shown

if TYPE_CHECKING:
    from queuelib.dispatcher import Dispatcher
    from queuelib.task import Definition
    from queuelib.worker.child import Lot
    from queuelib.worker.coroutines import Coroutines

__all__ = ["Executor"]


class Executor:
    """Runs the jobs of one child, one after the other."""

    def __init__(self, dispatcher: Dispatcher, worker: str) -> None:
        self._dispatcher = dispatcher
        self._ran_by = f"{worker}/{os.getpid()}"
        self._coroutines: Coroutines | None = None

    def outcomes(self, lot: Lot, at: int) -> Iterator[Outcome]:
        """Run one job of a lot for each item that is asked for, from a position on; each position is run once.

        Yields:
            The outcome of each.
        """
        calls = self._read(lot) if lot.calls is None else lot.calls
        definition, function = lot.definition, lot.function
        if definition is None:
            count = list_length(lot.column) if isinstance(lot.column, bytes) else len(lot.column)
            yield from [Quarantined(f"no task is called {lot.task!r} here")] * count
            return
        for position in range(at, len(calls)):
            lot.position = position
            call, calls[position] = calls[position], None  # what it holds can go when the handler returns
            if function is None or type(call) is not tuple or lot.timeout is not None:
                yield self._run_otherwise(definition, function, call, lot)
                continue
            try:
                value = function(*call)
                if type(value) is CoroutineType:
                    value = self._complete(value)
            except (SystemExit, Shutdown):
                raise  # the child ends, and that is a death like any other
            except BaseException as error:  # noqa: BLE001 - whatever a handler raises is an outcome and not our end
                outcome = self._failure(definition, error, 1)
            else:
                outcome = self._dumped(definition, value)
            value = None  # it can go, too, before the next job starts
            yield outcome

    def _run_otherwise(
        self, definition: Definition, function: Callable[..., Any] | None, call: Any, lot: Lot
    ) -> Outcome:
        """Run what is no plain call by position without a limit of time."""
        if isinstance(call, QueuelibError):
            if isinstance(call, SchemaMismatch):
                return Quarantined(shown(str(call)))
            return Failed(body.of_error(definition.name, call, self._ran_by))
        if function is None:
            return Quarantined(f"no visitor handles the message {lot.task!r}, and none has a generic_visit")
        try:
            value = self._call(function, call, lot.timeout)
        except (SystemExit, Shutdown):
            raise
        except BaseException as error:  # noqa: BLE001
            return self._failure(definition, error, 2 + (lot.timeout is not None))
        return self._dumped(definition, value)

    def _dumped(self, definition: Definition, value: object) -> Outcome:
        try:
            return definition.schema.dump_result(value)
        except Exception as error:  # noqa: BLE001 - it does not fit, or its own methods raise while it is encoded
            return Failed(body.of_error(definition.name, error, self._ran_by))

    def _call(self, function: Callable[..., Any], call: Any, timeout: float | None) -> Any:
        if timeout is not None:
            with self._soft_limit(timeout):
                return self._call(function, call, None)
        value = function(*call) if type(call) is tuple else function(*call.args, **call.kwargs)
        return self._complete(value) if type(value) is CoroutineType else value

    @contextmanager
    def _soft_limit(self, timeout: float) -> Generator[None]:
        """Raise SoftTimeLimit in the block after `timeout` seconds; a thread other than the main one has no such alarm."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ring(_: int, frame: FrameType | None) -> None:
            msg = f"the handler ran longer than its timeout of {timeout:g} s"
            self.interrupt(SoftTimeLimit(msg), frame)

        previous = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, timeout)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, previous)

    def interrupt(self, error: SoftTimeLimit | Shutdown, frame: FrameType | None) -> None:
        """Raise an error in the handler that runs, from a signal handler that struck in this frame: here, or at its await."""
        if self._coroutines is None or not self._coroutines.interrupt(error, frame):
            raise error

    def close(self) -> None:
        """End the event loop, if handlers needed one."""
        if self._coroutines is not None:
            self._coroutines.close()

    def _read(self, lot: Lot) -> list[Any]:
        """Find the task and the handler of a lot, and return what each of its jobs is called with."""
        definition = lot.definition = self._dispatcher.definitions.get(lot.task)
        if definition is None:
            return []
        if isinstance(lot.column, bytes):
            calls = _calls(definition, lot.column, lot.schema)
        elif (joined := joined_lists(lot.column)) is not None:
            calls = _calls(definition, joined, lot.schema)
        else:  # one of them is broken, and takes nothing from its neighbors
            calls = [_calls(definition, one, lot.schema)[0] for one in lot.column]
        lot.function = definition.function
        if definition.function is None:  # messages of one class
            message = next((call for call in calls if not isinstance(call, QueuelibError)), None)
            lot.function = None if message is None else self._dispatcher.handlers.find(message)
            calls = [call if isinstance(call, QueuelibError) else (call,) for call in calls]
        lot.calls = calls
        return calls

    def _complete(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        if self._coroutines is None:
            from queuelib.worker.coroutines import Coroutines  # noqa: PLC0415 - only children that run some pay for asyncio

            self._coroutines = Coroutines()
        return self._coroutines.run(coroutine)

    def _failure(self, definition: Definition, error: BaseException, own_frames: int) -> Outcome:
        """Return what an exception leads to; so many frames of ours stand above the handler's in its traceback."""
        options = definition.options
        if self._coroutines is not None:
            own_frames = max(own_frames, self._coroutines.frames_above(error))
        report = body.of_error(definition.name, error, self._ran_by, skip_frames=own_frames)
        if options.at_most_once:
            return Failed(report)
        if isinstance(error, Retry):
            return Again(_delay_of(error), report)
        may_retry = isinstance(error, options.retry_for) and not isinstance(error, options.give_up_on)
        return Again(None, report) if may_retry else Failed(report)


def _delay_of(error: Retry) -> float | None:
    """Return the wait that a handler asks for; None where there is none that makes sense."""
    delay: object = getattr(error, "delay", None)  # a subclass may leave out our __init__, or have its own idea of it
    if isinstance(delay, int | float) and not isinstance(delay, bool) and 0 <= delay < math.inf:
        return min(float(delay), LONGEST_DELAY)
    return None


def _calls(definition: Definition, column: bytes, schema: bytes) -> list[Any]:
    """Return what each job of a column is called with, or why it cannot be."""
    try:
        return definition.schema.load_column(column, schema or None)  # empty: its writer did not say
    except DecodeError as error:
        return [error] * max(1, list_length(column))
