"""Children that are no processes and no threads: their loop goes on when a test says so, in its thread."""

from __future__ import annotations

import mmap
import os
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Any

from queuelib.handle import reader
from queuelib.testing.roomy import roomy_pair
from queuelib.worker.child import steps
from queuelib.worker.children import Child
from queuelib.worker.execute import Executor
from queuelib.worker.shared import SHARED_BYTES, Slot

if TYPE_CHECKING:
    from queuelib.dispatcher import Dispatcher
    from queuelib.ids import Key
    from queuelib.outcome import Outcome
    from queuelib.task import Definition
    from queuelib.worker.child import Lot

__all__ = ["InlineChild", "InlineCrew"]


_ENDED = object()


class InlineExecutor(Executor):
    """Runs handlers, and lets pass what a test throws through them."""

    may_wait = False  # the supervisor works in the same thread

    def __init__(
        self,
        dispatcher: Dispatcher,
        worker: str,
        on_run: Callable[[Key], None],
        passes: tuple[type[BaseException], ...],
    ) -> None:
        super().__init__(dispatcher, worker)
        self._on_run = on_run
        self._passes = passes

    def outcomes(self, lot: Lot, at: int) -> Iterator[Outcome]:
        """Run jobs as any executor does, and tell of each that it runs."""
        outcomes = super().outcomes(lot, at)
        while True:
            lot.position = at
            self._on_run(lot.running().key)
            outcome = next(outcomes, None)
            if outcome is None:
                return
            yield outcome
            at += 1

    def _failure(self, definition: Definition, error: BaseException, own_frames: int) -> Outcome:
        if isinstance(error, self._passes):
            raise error
        return super()._failure(definition, error, own_frames)


class InlineChild:
    """The loop of one child, which stands still between two steps.

    Args:
        child: The same child as its supervisor sees it.
        sock, fds, slot, executor, worker: As for `steps`.

    Attributes:
        is_busy: Whether somebody is in it: a handler that waits for other jobs.
        is_over: Whether it has ended, or does so as soon as nobody is in it.
    """

    def __init__(
        self, child: Child, sock: socket.socket, fds: tuple[int, int], slot: Slot, *, executor: Executor, worker: str
    ) -> None:
        self.is_busy = False
        self.is_over = False
        self._inside = threading.Lock()  # what a thread holds that is in the loop: nothing is taken from under it
        self._is_released = False
        self._child = child
        self._sock = sock
        self._fds = fds
        self._slot = slot
        self._executor = executor
        # Empty, as in another process: a handler that needs what a request left in a context variable fails here, too.
        self._context = Context()
        self._context.run(reader.set, executor._dispatcher.sharing)  # noqa: SLF001 - as a child of a real worker does
        self._steps = steps(sock, fds, slot, executor, worker)
        self.step()

    @property
    def has_jobs(self) -> bool:
        """Whether it was handed some."""
        return bool(self._child.handed)

    def has_one_of(self, keys: Collection[Key]) -> bool:
        """Whether it was handed one of these jobs."""
        return any(part.hold.key(at) in keys for part in self._child.handed for at in range(part.at, part.end))

    def step(self) -> None:
        """Run all that it may start.

        Raises:
            BaseException: What a test throws through handlers; the child is dead then, and its supervisor will know.
        """
        try:
            with self._inside:
                if not self.is_over and self._context.run(next, self._steps, _ENDED) is _ENDED:
                    self.is_over = True  # it was told to
        except (SystemExit, OSError):  # the death of a child, as anywhere; or the supervisor has closed its end
            self.is_over = True
        except BaseException:
            self.is_over = True
            raise
        finally:
            if self.is_over:  # perhaps since another thread has closed it
                self.close()

    def close(self) -> None:
        """End it: the supervisor sees its socket close. Where a thread is in a handler, it ends when that one leaves."""
        self.is_over = True
        if not self._inside.acquire(blocking=False):
            return
        try:
            if not self._is_released:
                self._is_released = True
                self._release()
        finally:
            self._inside.release()

    def _release(self) -> None:
        self._steps.close()
        self._executor.close()
        self._slot.close()
        self._sock.close()
        for fd in self._fds:
            os.close(fd)


class InlineCrew:
    """Makes such children; they cannot be killed."""

    can_kill = False
    pid = 0

    def __init__(
        self,
        dispatcher: Dispatcher,
        manifest: Mapping[str, Any],
        worker: str,
        on_run: Callable[[Key], None],
        passes: tuple[type[BaseException], ...],
    ) -> None:
        self.manifest = manifest
        self._dispatcher = dispatcher
        self._worker = worker
        self._on_run = on_run
        self._passes = passes
        self._children: list[InlineChild] = []
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def hire(self) -> Child:
        """Return a new child."""
        ours, theirs = roomy_pair()
        tokens = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        child = Child(ours, tokens, Slot(mmap.mmap(-1, SHARED_BYTES)))
        fds = (os.dup(tokens), os.dup(self.bell))
        executor = InlineExecutor(self._dispatcher, self._worker, self._on_run, self._passes)
        self._children.append(
            InlineChild(child, theirs, fds, Slot(child.slot.memory), executor=executor, worker=self._worker)
        )
        return child

    def hire_lanes(self, count: int) -> list[Child]:
        """Return as many as that; each is for itself."""
        return [self.hire() for _ in range(count)]

    def warm(self) -> None:
        """Do nothing: all is in one process."""

    def children(self) -> list[InlineChild]:
        """Return those that live."""
        self._children = [child for child in self._children if not child.is_over]
        return list(self._children)

    def close(self) -> None:
        """End all, each once nobody is in it."""
        for child in self._children:
            child.close()
        self._children.clear()
        os.close(self.bell)
