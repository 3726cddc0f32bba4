"""Runs one handler and returns how it went, as a value: never raises, touches no broker."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from itertools import islice
from types import CoroutineType, FrameType
from typing import TYPE_CHECKING, Any

from queuelib import body, faults
from queuelib.codec import StoredInside, encode, encoded_list, joined_lists, list_length, resolving
from queuelib.context import Place, limit_behind, place_of
from queuelib.errors import (
    BrokerUnavailable,
    CancelledError,
    DecodeError,
    EncodeError,
    QueuelibError,
    Retry,
    Shutdown,
    SoftTimeLimit,
    SubmitUnknown,
)
from queuelib.handle import reader
from queuelib.outcome import CANCELLED, Again, Failed, NotRun, Outcome, Quarantined
from queuelib.schema import SchemaMismatch
from queuelib.settings import LONGEST_DELAY
from queuelib.shown import shown, words_of

if TYPE_CHECKING:
    from queuelib.dispatcher import Dispatcher
    from queuelib.ids import Key
    from queuelib.task import Definition
    from queuelib.worker.child import Lot
    from queuelib.worker.coroutines import Coroutines
    from queuelib.worker.desk import Desk, Interruption

__all__ = ["Executor"]


class Executor:
    """Runs the jobs of one child, one after the other.

    Args:
        dispatcher: Where tasks and handlers are found.
        worker: Name of the worker.
        read_state: Returns the stored state of a job; None: it is read from here.

    Attributes:
        desk: Where handlers tell and save; the child's loop sets it.
        may_wait: Whether the supervisor works while a handler waits for it.
    """

    may_wait = True

    def __init__(
        self, dispatcher: Dispatcher, worker: str, read_state: Callable[[Key], bytes | None] | None = None
    ) -> None:
        self.desk: Desk | None = None
        self.read_state = read_state or dispatcher.read_state
        self._stopped = 0  # the last job that was interrupted because somebody wanted it to stop
        self._places: dict[Any, Place | None] = {}  # where methods of visitors want their context
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
                outcome = self._run_otherwise(definition, function, call, lot)
                if lot.context is not None:
                    lot.leave()
                yield outcome
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
            if lot.context is not None:
                lot.leave()
            yield outcome

    def _run_otherwise(
        self, definition: Definition, function: Callable[..., Any] | None, call: Any, lot: Lot
    ) -> Outcome:
        """Run what is no plain call by position without a limit of time."""
        if isinstance(call, StoredInside):
            call = _completed(definition, call.data, lot.schema)
            if definition.function is None and not isinstance(call, QueuelibError):
                function, call = self._method_for(call, lot), (call,)
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

    def moved(self, result: bytes) -> bytes:
        """Keep a large result apart; return what is the job's outcome: what stands for it, or itself if it is not kept."""
        keeper = reader.get()
        if keeper is None:
            return result
        try:
            stored = keeper.keep(result)
        except (QueuelibError, OSError):  # the latter where the handler has left no descriptor
            return result  # it travels as if it were small, which it can
        if faults.ACTIVE:
            faults.point("after_value")
        return encode(stored)

    def _dumped(self, definition: Definition, value: object) -> Outcome:
        try:
            return definition.schema.dump_result(value)
        except Shutdown:
            raise
        except QueuelibError as error:
            return Failed(body.of_error(definition.name, error, self._ran_by))
        except BaseException as error:  # noqa: BLE001 - its own methods may do anything while it is encoded
            made = EncodeError(f"{definition.name}: its result cannot be encoded: {words_of(error)}")
            made.__cause__ = error
            return Failed(body.of_error(definition.name, made, self._ran_by))

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
        others, every = signal.getitimer(signal.ITIMER_REAL)
        if 0.0 < others <= timeout:  # in a test: whoever set it ends the job before we would
            yield
            return

        def ring(_: int, frame: FrameType | None) -> None:
            if _is_deaf(frame):
                signal.setitimer(signal.ITIMER_REAL, _AGAIN)
                return
            msg = f"the handler ran longer than its timeout of {timeout:g} s"
            self.interrupt(SoftTimeLimit(msg), frame)

        started = time.monotonic()
        previous = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, timeout)
        try:
            yield
        except (BrokerUnavailable, SubmitUnknown) as error:
            limit = limit_behind(error)
            if limit is None:
                raise
            raise limit from error
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, previous)
            if others:
                signal.setitimer(signal.ITIMER_REAL, max(others - (time.monotonic() - started), 1e-6), every)

    def interrupt(self, error: Interruption, frame: FrameType | None) -> None:
        """Raise an error in the handler that runs, from a signal handler that struck in this frame: here, or at its await."""
        if self.desk is not None and self.desk.holds(error):
            return
        if self._coroutines is None or not self._coroutines.interrupt(error, frame):
            raise error

    def stop_job(self, frame: FrameType | None) -> None:
        """Interrupt the handler that runs, once, if its job was to stop; from a signal handler that struck in this frame.

        Where the signal has struck code of ours it does nothing: the job has just ended, or the signal comes again.
        """
        if _is_in_handler(frame) and self.is_to_stop():
            self.interrupt(CancelledError("the job was asked to stop"), frame)

    def is_to_stop(self) -> bool:
        """Return, once for each job, whether the one that runs was asked to stop."""
        number = 0 if self.desk is None else self.desk.cancelled()
        if not number or number == self._stopped:
            return False
        self._stopped = number
        return True

    def close(self) -> None:
        """End the event loop, if handlers needed one."""
        if self._coroutines is not None:
            self._coroutines.close()

    def _read(self, lot: Lot) -> list[Any]:
        """Find the task and the handler of a lot, and return what each of its jobs is called with."""
        definition = lot.definition = self._dispatcher.definition(lot.task)
        if definition is None:
            return []
        if isinstance(lot.column, bytes):
            calls = _calls(definition, lot.column, lot.schema)
        elif (joined := joined_lists(lot.column)) is not None:
            calls = _calls(definition, joined, lot.schema)
        else:  # one of them is broken, and takes nothing from its neighbors
            calls = [_calls(definition, one, lot.schema)[0] for one in lot.column]
        lot.function, place = definition.function, definition.schema.context
        if definition.function is None:  # messages of one class
            message = next((call for call in calls if not isinstance(call, QueuelibError)), None)
            lot.function = None if message is None else self._method_for(message, lot)
            calls = [call if isinstance(call, QueuelibError) else (call,) for call in calls]
        elif place is not None:
            lot.function = place.fill(definition.function, lot.running)
        lot.calls = calls
        return calls

    def _method_for(self, message: object, lot: Lot) -> Callable[..., Any] | None:
        """Return what handles a message, given its context if it wants that."""
        method = self._dispatcher.handlers.find(message)
        place = None if method is None else self._place_of(method)
        return method if place is None or method is None else place.fill(method, lot.running)

    def _place_of(self, method: Callable[..., Any]) -> Place | None:
        key = getattr(method, "__func__", method)
        if key not in self._places:
            self._places[key] = place_of(method)
        return self._places[key]

    def _complete(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        if self._coroutines is None:
            from queuelib.worker.coroutines import Coroutines  # noqa: PLC0415 - only children that run some pay for asyncio

            self._coroutines = Coroutines()
        return self._coroutines.run(coroutine)

    def _failure(self, definition: Definition, error: BaseException, own_frames: int) -> Outcome:
        """Return what an exception leads to; so many frames of ours stand above the handler's in its traceback."""
        try:
            return self._judged(definition, error, own_frames)
        except Shutdown:
            raise
        except BaseException as failure:  # noqa: BLE001 - its class may do anything when it is looked at
            text = f"(nothing more can be said of it: {words_of(failure)})"
            return Failed(body.of_failure(definition.name, type(error).__qualname__, text, ran_by=self._ran_by))

    def _judged(self, definition: Definition, error: BaseException, own_frames: int) -> Outcome:
        options = definition.options
        if isinstance(error, CancelledError) and self.desk is not None and self.desk.cancelled():
            return NotRun(CANCELLED)
        skipped = max(own_frames, self._frames_above(error))
        skipped += _is_filled(error, skipped)
        report = body.of_error(definition.name, error, self._ran_by, skip_frames=skipped)
        if options.at_most_once:
            return Failed(report)
        if isinstance(error, Retry):
            return Again(_delay_of(error), report)
        may_retry = isinstance(error, options.retry_for) and not isinstance(error, options.give_up_on)
        return Again(None, report) if may_retry else Failed(report)

    def _frames_above(self, error: BaseException) -> int:
        """Return how many frames of a traceback stand above those of a coroutine; 0 if none was run."""
        return 0 if self._coroutines is None else self._coroutines.frames_above(error)


def _is_filled(error: BaseException, skipped: int) -> bool:
    """Whether behind so many frames of a traceback comes the one that has filled in a context."""
    frames = list(islice(traceback.walk_tb(error.__traceback__), skipped, skipped + 1))
    return bool(frames) and frames[0][0].f_globals.get("__name__") == place_of.__module__


def _is_in_handler(frame: FrameType | None) -> bool:
    """Whether a frame is of what a handler runs: below the code that calls handlers, and not of what comes before or after."""
    callers = {Executor.outcomes.__code__, Executor._call.__code__}  # noqa: SLF001 - our own
    callee = None
    while frame is not None and frame.f_code not in callers:
        callee, frame = frame, frame.f_back
    if frame is None or callee is None:
        return False
    name = callee.f_globals.get("__name__")
    return callee.f_code is Executor._complete.__code__ or name not in _OURS  # noqa: SLF001


def _is_deaf(frame: FrameType | None) -> bool:
    """Whether an error that is raised in this frame may be lost: where Python looks for a module, or starts a thread.

    The one takes a TimeoutError for a file that cannot be read, and goes on; the other gives up a thread that runs by then.
    """
    return frame is not None and (frame.f_code.co_filename.startswith(_IMPORT) or frame.f_code in _STARTS_OF_THREADS)


_AGAIN = 0.001  # seconds until an alarm rings again that found nobody to hear it: an import looks at a file for less
_IMPORT = "<frozen importlib."
_STARTS_OF_THREADS = frozenset({threading.Thread.start.__code__})
_OURS = frozenset({__name__, "queuelib.schema", "queuelib.worker.child"})  # what callers of handlers call besides


def _delay_of(error: Retry) -> float | None:
    """Return the wait that a handler asks for; None where there is none that makes sense."""
    delay: object = getattr(error, "delay", None)  # a subclass may leave out our __init__, or have its own idea of it
    if isinstance(delay, int | float) and not isinstance(delay, bool) and 0 <= delay < math.inf:
        return min(float(delay), LONGEST_DELAY)
    return None


def _completed(definition: Definition, row: bytes, schema: bytes) -> Any:
    """Return what a job is called with of whose arguments some are kept elsewhere, or why it cannot be."""
    keeper = reader.get()
    if keeper is None:
        return DecodeError("a part of its arguments is kept elsewhere, and nobody here fetches it")
    try:
        with resolving(keeper.load):
            return _calls(definition, encoded_list([row]), schema)[0]
    except QueuelibError as error:
        return error


def _calls(definition: Definition, column: bytes, schema: bytes) -> list[Any]:
    """Return what each job of a column is called with, or why it cannot be."""
    try:
        return definition.schema.load_column(column, schema or None)  # empty: its writer did not say
    except DecodeError as error:
        return [error] * max(1, list_length(column))
