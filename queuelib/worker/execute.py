"""Runs one handler and returns how it went, as a value: never raises, touches no broker."""

from __future__ import annotations

import inspect
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from queuelib import body
from queuelib.context import Running, running
from queuelib.errors import ArgumentError, DecodeError, QueuelibError, Retry, SoftTimeLimit
from queuelib.outcome import Again, Done, Failed, Outcome, Quarantined
from queuelib.schema import SchemaMismatch

if TYPE_CHECKING:
    from queuelib.dispatcher import Dispatcher
    from queuelib.task import Definition

__all__ = ["Executor"]

_OWN_FRAMES = 3  # of this module, above the handler's in a traceback


class Executor:
    """Runs the jobs of one child, one after the other."""

    def __init__(self, dispatcher: Dispatcher, worker: str) -> None:
        self._dispatcher = dispatcher
        self._ran_by = f"{worker}/{os.getpid()}"
        self._loop: Any = None

    def run(self, job: Running, schema: bytes, arguments: bytes, timeout: float | None) -> Outcome:
        """Run one job.

        Args:
            job: Which job this is.
            schema: Digest of the argument types at the submitter.
            arguments: Encoded arguments.
            timeout: Soft time limit in seconds, or None.
        """
        definition = self._dispatcher.definitions.get(job.task)
        if definition is None:
            return Quarantined(f"no task is called {job.task!r} here")
        try:
            call = self._bind(definition, schema, arguments)
        except SchemaMismatch as error:
            return Quarantined(str(error))
        except (ArgumentError, DecodeError) as error:
            return Failed(body.of_error(job.task, error, self._ran_by))
        if call is None:
            return Quarantined(f"no visitor handles the message {job.task!r}, and none has a generic_visit")
        token = running.set(job)
        try:
            value = self._call(call, timeout)
        except SystemExit:
            raise  # the child ends, and that is a death like any other
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is an outcome and not our end
            return self._failure(definition, error)
        finally:
            running.reset(token)
        try:
            return Done(body.of_result(job.task, definition.schema.dump_result(value), self._ran_by))
        except QueuelibError as error:
            return Failed(body.of_error(job.task, error, self._ran_by))
        except Exception as error:  # noqa: BLE001 - a result's own methods may raise while it is encoded
            return Failed(body.of_error(job.task, error, self._ran_by))

    def _bind(self, definition: Definition, schema: bytes, arguments: bytes) -> Callable[[], Any] | None:
        loaded: Any = definition.schema.load(arguments, schema)
        if definition.function is not None:
            function = definition.function
            return lambda: function(*loaded.args, **loaded.kwargs)
        method = self._dispatcher.handlers.find(loaded)
        return None if method is None else lambda: method(loaded)

    def _call(self, call: Callable[[], Any], timeout: float | None) -> Any:
        with _soft_limit(timeout):
            value = call()
            return self._complete(value) if inspect.iscoroutine(value) else value

    def _complete(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        if self._loop is None:
            import asyncio  # noqa: PLC0415 - only children that run coroutines pay for it

            self._loop = asyncio.Runner()
        return self._loop.run(coroutine)

    def _failure(self, definition: Definition, error: BaseException) -> Outcome:
        options = definition.options
        report = body.of_error(definition.name, error, self._ran_by, skip_frames=_OWN_FRAMES)
        if isinstance(error, Retry):
            return Again(error.delay, report)
        if isinstance(error, SoftTimeLimit) and SoftTimeLimit not in options.give_up_on:
            return Again(None, report)
        may_retry = isinstance(error, options.retry_for) and not isinstance(error, options.give_up_on)
        return Again(None, report) if may_retry else Failed(report)


@contextmanager
def _soft_limit(timeout: float | None) -> Generator[None]:
    """Raise SoftTimeLimit in the block after `timeout` seconds; a thread other than the main one has no such alarm."""
    if timeout is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        msg = f"the handler ran longer than its timeout of {timeout:g} s"
        raise SoftTimeLimit(msg)

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, timeout)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, previous)
