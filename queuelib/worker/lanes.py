"""Several lanes in one process: each is a thread, and to the supervisor a child; their coroutines share one event loop.

A lane runs one job at a time, with the loop of `child`. A plain function runs in the lane's thread. A coroutine runs in
the event loop of all of them, so that clients and sessions that belong to a loop can be shared, and its lane waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading
import traceback
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, suppress
from contextvars import Context, ContextVar, copy_context
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from queuelib.context import lending
from queuelib.errors import CancelledError, QueuelibError, Shutdown, SoftTimeLimit
from queuelib.polling import has_hung_up
from queuelib.worker.child import Lane, serve
from queuelib.worker.coroutines import Coroutines, Interruption, Steps
from queuelib.worker.execute import Executor

if TYPE_CHECKING:
    from queuelib.dispatcher import Dispatcher
    from queuelib.ids import Key

__all__ = ["LaneExecutor", "SharedLoop"]

_log = logging.getLogger("queuelib.worker")


class LaneExecutor(Executor):
    """Runs the jobs of one lane. A plain function has no soft limit of time: there is no signal but for the main thread."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        worker: str,
        loop: SharedLoop,
        read_state: Callable[[Key], bytes | None] | None = None,
    ) -> None:
        super().__init__(dispatcher, worker, read_state)
        self._shared = loop

    def _call(self, function: Callable[..., Any], call: Any, timeout: float | None) -> Any:
        value = function(*call) if type(call) is tuple else function(*call.args, **call.kwargs)
        return self._shared.complete(value, timeout, self.is_to_stop) if type(value) is CoroutineType else value

    def _complete(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._shared.complete(coroutine, None, self.is_to_stop)

    def _frames_above(self, error: BaseException) -> int:
        return Coroutines.frames_above(error)


def _serve_lane(lane: Lane, executor: Executor, worker: str) -> None:
    """Run the jobs of one lane until it is told to stop, or a job ends it."""
    try:
        serve(lane.sock, lane.fds, lane.slot, executor, worker)
    except (SystemExit, Shutdown):
        pass  # a death as any other; or the worker ends
    except OSError as error:
        if not has_hung_up(lane.sock):  # as the supervisor does when it leaves
            _log.exception("a lane of worker %s ends: %s", worker, error)
    finally:
        executor.close()


class SharedLoop:
    """One event loop for the coroutines of several lanes; `run` is for one thread, `complete` for all others."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_task_factory(_make_task)
        self._runs: set[_Run] = set()
        self._is_ending = False
        self._closing: set[asyncio.Task[Any]] = set()  # what closes generators that nobody's job has left

    def run(self) -> None:
        """Run coroutines until `stop` is called."""
        self._loop.call_soon(self._take_generators)
        while True:
            try:
                self._loop.run_forever()
            except (SystemExit, KeyboardInterrupt):  # of a task that a handler started; what it ends is that task
                continue
            break
        self._loop.close()

    def start_lanes(self, lanes: Sequence[Lane], make_executor: Callable[[], Executor], worker: str) -> None:
        """Start a thread for each lane; when the last one has ended, `run` returns."""
        left = len(lanes)

        def end(lane: Lane) -> None:
            nonlocal left
            left -= 1
            if left:
                # It says so, also where a process that a handler has forked holds it; that of the last one says that the
                # process ends.
                with suppress(OSError):
                    lane.sock.shutdown(socket.SHUT_RDWR)
                lane.sock.close()
            else:
                self._loop.stop()

        def serve_one(lane: Lane) -> None:
            try:
                _serve_lane(lane, make_executor(), worker)
            finally:
                self._loop.call_soon_threadsafe(end, lane)

        for number, lane in enumerate(lanes, 1):
            run, name = copy_context().run, f"queuelib-lane-{number}"
            threading.Thread(target=run, args=(serve_one, lane), daemon=True, name=name).start()

    def stop(self) -> None:
        """Have `run` return; what runs is left as it is."""
        with suppress(RuntimeError):  # it has returned already
            self._loop.call_soon_threadsafe(self._loop.stop)

    def end_on(self, signal_number: int) -> None:
        """Have this signal raise `Shutdown` at the await of each coroutine that runs, and in those to come."""
        self._loop.add_signal_handler(signal_number, self._interrupt_all)

    def stop_on(self, signal_number: int) -> None:
        """Have this signal raise `CancelledError` at the await of each coroutine whose job was asked to stop."""
        self._loop.add_signal_handler(signal_number, self._stop_asked)

    def complete(
        self, coroutine: Coroutine[Any, Any, Any], timeout: float | None, is_to_stop: Callable[[], bool] = bool
    ) -> Any:
        """Run a handler's coroutine to its end, from another thread, and end after it what it left.

        Args:
            coroutine: It runs with a copy of the caller's context.
            timeout: Seconds after which `SoftTimeLimit` is raised at its await; None for no limit.
            is_to_stop: Returns, once, whether its job was asked to stop.

        Raises:
            Exception: What the coroutine raises, or what interrupted it.
        """
        run = _Run(self._loop, coroutine, timeout, is_to_stop)
        self._loop.call_soon_threadsafe(self._begin, run, context=copy_context())
        run.has_ended.wait()
        error = run.error
        if error is None:
            return run.value
        traceback.clear_frames(error.__traceback__)  # what hangs on them ends now, and not in a later job
        raise error

    def _begin(self, run: _Run) -> None:
        lend = lending.get()
        if lend is not None:
            lending.set(partial(self._lend, lend))
        self._runs.add(run)
        run.start(self._runs.discard)
        if self._is_ending:
            self._loop.call_soon(_shut_down, run)

    def _lend(
        self,
        lend: Callable[[bool], AbstractContextManager[object]],
        blocks: bool,  # noqa: FBT001 - as `lending` calls it
    ) -> AbstractContextManager[object]:
        """Lend the lane's slot while one of its coroutines waits, if that keeps no other one waiting, too.

        Raises:
            QueuelibError: It does.
        """
        if blocks and self._is_running_here():
            msg = (
                "await the job: result() or another blocking wait in a coroutine would stop all others of this process, "
                "maybe also the one that it waits for"
            )
            raise QueuelibError(msg)
        return lend(blocks)

    def _is_running_here(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:  # in a thread of a handler
            return False

    def _stop_asked(self) -> None:
        for run in list(self._runs):
            if run.is_to_stop():
                run.interrupt(CancelledError("the job was asked to stop"))

    def _interrupt_all(self) -> None:
        self._is_ending = True
        for run in list(self._runs):
            _shut_down(run)

    def _take_generators(self) -> None:
        """Close generators that nobody holds any more in tasks of our own: each is waited for with the job that left it."""
        sys.set_asyncgen_hooks(finalizer=self._drop)

    def _drop(self, generator: AsyncGenerator[Any, Any]) -> None:
        if self._loop.is_closed():
            return
        owner = _owner.get()
        if owner is None:
            self._loop.call_soon_threadsafe(self._close, generator, context=Context())
        else:
            owner.dropped.append(generator)
            self._loop.call_soon_threadsafe(owner.close_dropped, context=Context())

    def _close(self, generator: AsyncGenerator[Any, Any]) -> None:
        task = self._loop.create_task(_close(generator))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class _Run(Steps):
    """One coroutine of a handler, and all tasks that it starts."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, Any],
        timeout: float | None,
        is_to_stop: Callable[[], bool],
    ) -> None:
        super().__init__()
        self._loop = loop
        self._coroutine = coroutine
        self._timeout = timeout
        self.is_to_stop = is_to_stop
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False
        self._closing: set[asyncio.Task[Any]] = set()
        self.tasks: set[asyncio.Task[Any]] = set()
        self.dropped: list[AsyncGenerator[Any, Any]] = []  # suspended generators that nobody holds any more
        self.has_ended = threading.Event()
        self.value: Any = None
        self.error: BaseException | None = None

    def start(self, on_end: Callable[[_Run], object]) -> None:
        """Begin, in the thread of the loop and in the context in which it is to run."""
        _owner.set(self)
        self._task = self._loop.create_task(self._whole())
        self._task.add_done_callback(lambda _: on_end(self))
        self._task.add_done_callback(self._end)
        if self._timeout is not None:
            error = SoftTimeLimit(f"the handler ran longer than its timeout of {self._timeout:g} s")
            self._timer = self._loop.call_later(self._timeout, self.interrupt, error)

    def interrupt(self, error: Interruption) -> None:
        """Raise an error where it waits."""
        if not self._is_over:
            self._pending = error
            self._wake()

    def close_dropped(self) -> None:
        """Close the generators that it has let go of, in tasks that are not cancelled."""
        while self.dropped:
            closing = _close(self.dropped.pop())
            task = self._loop.create_task(closing, context=Context())
            for tasks in (self.tasks, self._closing):
                tasks.add(task)
                task.add_done_callback(tasks.discard)

    async def _whole(self) -> None:
        try:
            self.value = await self._result(self._coroutine)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the job and not to the loop
            self.error = error
        self._is_over = True
        await self._end_rest()

    async def _end_rest(self) -> None:
        """Cancel the tasks that it left, and wait for them."""
        self.close_dropped()
        while left := {task for task in self.tasks if task is not self._task and not task.done()}:
            for task in left - self._closing:
                task.cancel()
            try:
                await asyncio.wait(left)
            except asyncio.CancelledError:  # one of them cancels us
                continue
            self.close_dropped()

    def _end(self, task: asyncio.Task[Any]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._is_over:  # it was interrupted before its first step
            self._coroutine.close()
            self.error = self._pending or asyncio.CancelledError()
        elif not task.cancelled():
            task.exception()
        self._task = None
        self._loop.call_soon(self.has_ended.set)


_owner: ContextVar[_Run | None] = ContextVar("queuelib_lane_run", default=None)


def _make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    """Make a task, and note whose it is."""
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
    context: Context | None = options.get("context")
    owner = _owner.get() if context is None else context.get(_owner)
    if owner is not None:
        owner.tasks.add(task)
        task.add_done_callback(owner.tasks.discard)
    return task


def _shut_down(run: _Run) -> None:
    run.interrupt(Shutdown("the worker ends, and this job runs again elsewhere"))


async def _close(generator: AsyncGenerator[Any, Any]) -> None:
    try:
        await generator.aclose()
    except Exception as error:  # noqa: BLE001 - users' code, and nobody waits for it
        message = f"an error while {generator!r} was closed"
        asyncio.get_running_loop().call_exception_handler(
            {"message": message, "exception": error, "asyncgen": generator}
        )
