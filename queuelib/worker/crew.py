"""Where children come from: processes forked from a template, or threads for `memory://`."""

from __future__ import annotations

import errno
import logging
import mmap
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from queuelib import naming
from queuelib.errors import DecodeError, WorkerError
from queuelib.handle import Reader, reader
from queuelib.polling import has_hung_up
from queuelib.signing import Keyring
from queuelib.worker import process
from queuelib.worker.child import serve
from queuelib.worker.children import Child
from queuelib.worker.execute import Executor
from queuelib.worker.frames import FrameReader, send_frame
from queuelib.worker.lending import COLD, MOST_FDS, WARM
from queuelib.worker.shared import LANE_BYTES, SHARED_BYTES, Slot

if TYPE_CHECKING:
    from queuelib.dispatcher import Dispatcher
    from queuelib.worker.lanes import SharedLoop

__all__ = ["Crew", "NoRoomError", "TemplateCrew", "ThreadCrew"]

_log = logging.getLogger("queuelib.worker")
_THREAD_CAPS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_MOST_STILLBORN = 10
_FDS_OF_ONE = 4  # a child's socket, its tokens, its shared memory, and its process, or the other end while it is made
_FDS_TO_SPARE = 16  # for connections and files
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})


class NoRoomError(WorkerError):
    """There is no room for one more process; once another one has ended there may be."""


class Crew(Protocol):
    """Makes children."""

    manifest: Mapping[str, Any]
    can_kill: bool
    pid: int  # of the process that makes them; 0 for none
    bell: int  # an eventfd that each child writes to when it has reported something

    def hire(self) -> Child:
        """Return a new child, ready for jobs."""
        ...

    def hire_lanes(self, count: int) -> list[Child]:
        """Return new children that share a process and an event loop, ready for jobs."""
        ...

    def warm(self) -> None:
        """Have those that come be ready to submit jobs, as handlers here do."""
        ...

    def close(self) -> None:
        """End whatever makes children."""
        ...


class TemplateCrew:
    """Children forked from a template process that has imported the user's modules.

    Args:
        order: What the template is to import and be called: see template.main.
        door: On which children ask for what is shared; a copy goes to each.

    Raises:
        WorkerError: The modules could not be imported; the message holds their traceback.
    """

    can_kill = True
    _order = COLD

    def __init__(self, order: Mapping[str, Any], door: socket.socket) -> None:
        self._door = door
        process.become_subreaper()
        ours, theirs = socket.socketpair()
        environment = dict(os.environ)
        naming.make_importable(environment)
        for name in _THREAD_CAPS:  # a thread pool made at import would be missing in a forked copy
            environment.setdefault(name, "1")
        self._template = subprocess.Popen(
            # -P: the current folder is put on the path by what loads the user's modules, behind the standard library.
            [sys.executable, "-P", "-m", "queuelib.worker.template", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment,
            start_new_session=True,
        )
        theirs.close()
        self.pid = self._template.pid
        self._control = ours
        self.bell = _make_bell()
        send_frame(ours, dict(order))
        try:
            manifest = dict(FrameReader(ours).next())
        except EOFError:
            manifest = {"error": "the process that imports the modules ended without a word"}
        secret = manifest.pop("keys", None)
        self.keys = None if secret is None else Keyring(secret[0], accepts_unsigned=bool(secret[1]))
        self.manifest: Mapping[str, Any] = manifest
        if "error" in self.manifest:
            self.close()
            raise WorkerError(self.manifest["error"])

    def hire(self) -> Child:
        """Fork a child; it is ready in a few milliseconds.

        Raises:
            NoRoomError: There are too few file descriptors, or several children in a row died before they could say who
                they are.
            WorkerError: The template is gone.
        """
        _need_fds(1)
        for _ in range(_MOST_STILLBORN):
            child = self._fork()
            if child is not None:
                return child
        raise self._stillborn()

    def hire_lanes(self, count: int) -> list[Child]:
        """Fork a process with several lanes.

        Raises:
            WorkerError: As in `hire`.
        """
        _need_fds(count)
        for _ in range(_MOST_STILLBORN):
            lanes = self._fork_lanes(count)
            if lanes:
                return lanes
        raise self._stillborn()

    def _stillborn(self) -> WorkerError:
        kind = NoRoomError if self._template.poll() is None else WorkerError
        msg = f"{_MOST_STILLBORN} children in a row died as soon as they were made"
        return kind(msg)

    def _fork_lanes(self, count: int) -> list[Child]:
        """Return the lanes of a new process; none if it was killed at once."""
        memory = os.memfd_create("queuelib-lanes", os.MFD_CLOEXEC)
        os.ftruncate(memory, count * LANE_BYTES)
        lanes: list[Child] = []
        theirs: list[socket.socket] = []
        try:
            for number in range(count):
                ours, other = socket.socketpair()
                slot = Slot(mmap.mmap(memory, SHARED_BYTES, offset=number * LANE_BYTES))
                lanes.append(Child(ours, _make_tokens(), slot, mates=lanes[0].mates if lanes else []))
                theirs.append(other)
            self._order_lanes(lanes, theirs, memory)
            for other in theirs:
                other.close()
            for lane in lanes:
                lane.learn_pid()
                lane.pidfd = os.pidfd_open(lane.pid)
        except (EOFError, ProcessLookupError):
            for lane in lanes:
                lane.close()
            return []  # or the template is gone: the next attempt will tell
        except (OSError, DecodeError) as error:
            for lane in lanes:
                lane.close()
            raise _failure(error) from error
        finally:
            for other in theirs:
                other.close()
            os.close(memory)
        return lanes

    def _order_lanes(self, lanes: Sequence[Child], theirs: Sequence[socket.socket], memory: int) -> None:
        """Send the template what a process with lanes needs: what all share, then what each has of its own."""
        socket.send_fds(self._control, [b"%d" % len(lanes)], [memory, self.bell, self._door.fileno()])
        fds = [fd for lane, other in zip(lanes, theirs, strict=True) for fd in (other.fileno(), lane.tokens)]
        for start in range(0, len(fds), MOST_FDS):
            socket.send_fds(self._control, [COLD], fds[start : start + MOST_FDS])

    def warm(self) -> None:
        """Have the template import what a child would import when a handler first submits a job."""
        self._order = WARM

    def _fork(self) -> Child | None:
        """Return a new child; None if it was killed at once, as one may be when memory is short."""
        ours, theirs = socket.socketpair()
        tokens = _make_tokens()
        memory = os.memfd_create("queuelib-child", os.MFD_CLOEXEC)
        os.ftruncate(memory, SHARED_BYTES)
        child = Child(ours, tokens, Slot(mmap.mmap(memory, 0)))
        try:
            socket.send_fds(
                self._control, [self._order], [theirs.fileno(), tokens, memory, self.bell, self._door.fileno()]
            )
            theirs.close()
            child.learn_pid()
            child.pidfd = os.pidfd_open(child.pid)
            self._order = COLD  # what was imported once is there for all to come
        except (EOFError, ProcessLookupError):
            child.close()
            return None  # or the template is gone: the next attempt will tell
        except (OSError, DecodeError) as error:
            child.close()
            raise _failure(error) from error
        finally:
            theirs.close()
            os.close(memory)
        return child

    def close(self) -> None:
        """End the template."""
        self._control.close()
        try:
            self._template.wait(2)
        except subprocess.TimeoutExpired:
            self._template.kill()
            self._template.wait()
        os.close(self.bell)


class ThreadCrew:
    """Children that are threads of this process, for memory://; they cannot be killed."""

    can_kill = False
    pid = 0

    def __init__(self, dispatcher: Dispatcher, manifest: Mapping[str, Any], worker: str) -> None:
        self.manifest = manifest
        self._dispatcher = dispatcher
        self._worker = worker
        self.bell = _make_bell()
        self._threads: list[threading.Thread] = []
        self._loops: list[SharedLoop] = []

    def hire_lanes(self, count: int) -> list[Child]:
        """Start a thread for each, and one for their event loop."""
        from queuelib.worker.lanes import LaneExecutor, SharedLoop  # noqa: PLC0415 - 20 ms of import, for asyncio

        loop = SharedLoop()
        thread = threading.Thread(target=loop.run, daemon=True, name=f"queuelib-{self._worker}-loop")
        thread.start()
        self._threads.append(thread)
        self._loops.append(loop)
        mates: list[Child] = []
        return [self._start(LaneExecutor(self._dispatcher, self._worker, loop), mates) for _ in range(count)]

    def hire(self) -> Child:
        """Start a thread."""
        return self._start(Executor(self._dispatcher, self._worker), [])

    def _start(self, executor: Executor, mates: list[Child]) -> Child:
        ours, theirs = socket.socketpair()
        tokens = _make_tokens()
        child = Child(ours, tokens, Slot(mmap.mmap(-1, SHARED_BYTES)), mates=mates)
        fds = (os.dup(tokens), os.dup(self.bell))
        arguments = (theirs, fds, Slot(child.slot.memory), executor, self._worker)
        thread = threading.Thread(
            target=_serve_in_thread,
            args=(self._dispatcher.sharing, *arguments),
            daemon=True,
            name=f"queuelib-{self._worker}",
        )
        thread.start()
        self._threads.append(thread)
        return child

    def warm(self) -> None:
        """Do nothing: threads share what was imported."""

    def close(self) -> None:
        """Wait for the threads; each ends once its socket is closed."""
        for loop in self._loops:
            loop.stop()
        for thread in self._threads:
            thread.join(1.0)
        os.close(self.bell)


def _serve_in_thread(  # noqa: PLR0917 - those of `serve`, and one more
    sharing: Reader, sock: socket.socket, fds: tuple[int, int], slot: Slot, executor: Executor, worker: str
) -> None:
    reader.set(sharing)
    try:
        serve(sock, fds, slot, executor, worker)
    except OSError as error:
        if not has_hung_up(sock):  # as the supervisor does when it leaves
            _log.exception("a thread of worker %s ends: %s", worker, error)
    except SystemExit:
        pass  # sys.exit() in a handler ends the thread; the supervisor sees its socket close
    finally:
        executor.close()
        sock.close()
        for fd in fds:
            os.close(fd)


def _need_fds(lanes: int) -> None:
    """See whether there are file descriptors for a process with so many lanes.

    Raises:
        NoRoomError: There are too few.
    """
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    needed = _FDS_OF_ONE * lanes + _FDS_TO_SPARE
    if most != resource.RLIM_INFINITY and needed > most - (used := len(os.listdir("/proc/self/fd"))):  # noqa: PTH208
        msg = f"one more process needs {needed} file descriptors: {used} of {most} (ulimit -n) are in use"
        raise NoRoomError(msg)


def _failure(error: Exception) -> WorkerError:
    if isinstance(error, OSError) and error.errno in _EXHAUSTED:
        return NoRoomError(f"one more process could not be made: {error}")
    return WorkerError("the process that makes children has ended")


def _make_tokens() -> int:
    return os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC)


def _make_bell() -> int:
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
