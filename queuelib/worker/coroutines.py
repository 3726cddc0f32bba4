"""The coroutines of handlers, each run to its end: what interrupts one is raised at its await, and nothing outlives it."""

from __future__ import annotations

import asyncio
import sys
import traceback
import types
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextvars import copy_context
from types import FrameType
from typing import Any, TypeVar

from queuelib.errors import CancelledError, Shutdown, SoftTimeLimit

__all__ = ["Coroutines", "Interruption", "Steps"]

R = TypeVar("R")
Interruption = SoftTimeLimit | Shutdown | CancelledError


class _SoftTimeLimitAtAwait(SoftTimeLimit, asyncio.CancelledError):
    """What a handler sees: also a cancellation, so that whatever it waits with puts its own things in order."""


class _CancelledAtAwait(CancelledError, asyncio.CancelledError):
    """The same for a job that was asked to stop."""


class _ShutdownAtAwait(Shutdown, asyncio.CancelledError):
    """The same for the end of its worker."""


class Steps:
    """Goes with a handler's coroutine from await to await, and raises there what interrupts it."""

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None  # the handler that runs
        self._pending: Interruption | None = None  # to be raised when it goes on
        self._is_cancelled = False  # so that it does
        self._raised: Interruption | None = None

    def _wake(self) -> None:
        if self._task is not None and self._pending is not None:
            self._is_cancelled = True
            self._task.cancel()

    async def _result(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Return what the coroutine returns, or raise: what interrupted it also where that came out as a cancellation."""
        try:
            return await self._steps(coroutine)
        except BaseException as error:
            raised = self._raised
            if raised is None or not _is_only(error, (asyncio.CancelledError, type(raised))):
                raise
            cause = error if isinstance(error, BaseExceptionGroup) else None
            raise raised.with_traceback(error.__traceback__) from cause

    @types.coroutine
    def _steps(self, coroutine: Coroutine[Any, Any, R]) -> Generator[Any, Any, R]:
        """Pass everything between the task and the coroutine, but an interruption for the cancellation that it needs."""
        error: BaseException | None = None
        while True:
            try:
                awaited = coroutine.send(None) if error is None else coroutine.throw(error)
            except StopIteration as end:
                result: R = end.value
                return result
            error = None
            try:
                yield awaited
            except BaseException as thrown:  # noqa: BLE001 - whatever it is, it is the coroutine's
                error = thrown
            if self._pending is not None:
                error = self._take_pending(self._pending)

    def _take_pending(self, pending: Interruption) -> BaseException:
        self._raised, self._pending = pending, None
        if self._is_cancelled and self._task is not None:
            self._is_cancelled = False
            self._task.uncancel()  # nobody else is to think that it ends
        if isinstance(pending, Shutdown):
            return _ShutdownAtAwait(*pending.args)
        return (_CancelledAtAwait if isinstance(pending, CancelledError) else _SoftTimeLimitAtAwait)(*pending.args)


class Coroutines(Steps):
    """Runs coroutines one after the other, in one event loop."""

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._loop = self._runner.get_loop()
        self._dropped: list[AsyncGenerator[Any, Any]] = []  # suspended generators that nobody holds any more
        self._closing: set[asyncio.Task[None]] = set()  # what closes them

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Run a handler's coroutine to its end, and after it end what it left: tasks are cancelled and waited for.

        Raises:
            Exception: What the coroutine raises; what interrupted it, also where that came out as a cancellation.
        """
        task = self._loop.create_task(self._whole(coroutine), context=copy_context())
        self._task = task
        try:
            return self._loop.run_until_complete(task)
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # what hangs on them ends now, and not in a later job
            raise
        finally:
            self._end_rest()
            self._task = self._pending = self._raised = None
            self._is_cancelled = False

    def interrupt(self, error: Interruption, frame: FrameType | None) -> bool:
        """Have the handler that runs see an error; for signal handlers.

        Args:
            error: The error.
            frame: Where the signal struck.

        Returns:
            Whether it was seen to. If not the caller raises it on the spot: no coroutine runs, or it is in its own code.
        """
        if self._task is None:
            return False
        if self._task.done():  # what it left is being ended
            return not isinstance(error, Shutdown)
        if _is_in_handler(frame):
            self._raised = error
            return False
        self._pending = error
        self._loop.call_soon_threadsafe(self._wake)  # raised in the loop itself, it would be the loop that breaks
        return True

    @staticmethod
    def frames_above(error: BaseException) -> int:
        """Return how many frames of a traceback stand above those of a coroutine that was run here; 0 if none was."""
        for place, (frame, _) in enumerate(traceback.walk_tb(error.__traceback__), 1):
            if frame.f_code is Steps._steps.__code__:  # noqa: SLF001 - our own
                return place
        return 0

    def close(self) -> None:
        """Close the loop."""
        self._runner.close()

    async def _whole(self, coroutine: Coroutine[Any, Any, R]) -> R:
        # What the loop makes for it looks like any task, and would be cancelled.
        sys.set_asyncgen_hooks(finalizer=self._drop)
        return await self._result(coroutine)

    def _end_rest(self) -> None:
        self._close_dropped()
        while tasks := asyncio.all_tasks(self._loop):
            for task in tasks - self._closing:
                task.cancel()
            self._loop.run_until_complete(asyncio.wait(tasks))
            self._close_dropped()

    def _drop(self, generator: AsyncGenerator[Any, Any]) -> None:
        if not self._loop.is_closed():
            self._dropped.append(generator)
            self._loop.call_soon_threadsafe(self._close_dropped)

    def _close_dropped(self) -> None:
        while self._dropped:
            task = self._loop.create_task(self._close(self._dropped.pop()))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _close(self, generator: AsyncGenerator[Any, Any]) -> None:
        try:
            await generator.aclose()
        except Exception as error:  # noqa: BLE001 - users' code, and nobody waits for it
            message = f"an error while {generator!r} was closed"
            self._loop.call_exception_handler({"message": message, "exception": error, "asyncgen": generator})


def _is_in_handler(frame: FrameType | None) -> bool:
    """Whether a frame is code that the handler runs and not code of the event loop, which must not be left half-way."""
    steps = Steps._steps.__code__  # noqa: SLF001 - our own
    if frame is None or frame.f_code is steps or frame.f_globals.get("__name__", "").partition(".")[0] == "asyncio":
        return False
    while frame is not None:
        if frame.f_code is steps:
            return True
        frame = frame.f_back
    return False


def _is_only(error: BaseException, classes: tuple[type[BaseException], ...]) -> bool:
    """Whether an exception is one of these, or a group of nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(classes)[1] is None
    return isinstance(error, classes)
