"""Where children come from: processes forked from a template, or threads for `memory://`."""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from queuelib import naming
from queuelib.errors import DecodeError, WorkerError
from queuelib.signing import Keyring
from queuelib.worker import process
from queuelib.worker.child import serve
from queuelib.worker.children import Child
from queuelib.worker.execute import Executor
from queuelib.worker.frames import FrameReader, send_frame
from queuelib.worker.shared import SHARED_BYTES, Slot

if TYPE_CHECKING:
    from queuelib.dispatcher import Dispatcher

__all__ = ["Crew", "TemplateCrew", "ThreadCrew"]

_THREAD_CAPS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_MOST_STILLBORN = 10


class Crew(Protocol):
    """Makes children."""

    manifest: Mapping[str, Any]
    can_kill: bool
    pid: int  # of the process that makes them; 0 for none
    bell: int  # an eventfd that each child writes to when it has reported something

    def hire(self) -> Child:
        """Return a new child, ready for jobs."""
        ...

    def close(self) -> None:
        """End whatever makes children."""
        ...


class TemplateCrew:
    """Children forked from a template process that has imported the user's modules.

    Args:
        order: What the template is to import and be called: see template.main.

    Raises:
        WorkerError: The modules could not be imported; the message holds their traceback.
    """

    can_kill = True

    def __init__(self, order: Mapping[str, Any]) -> None:
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
            WorkerError: The template is gone, or several children in a row died before they could say who they are.
        """
        for _ in range(_MOST_STILLBORN):
            child = self._fork()
            if child is not None:
                return child
        msg = f"{_MOST_STILLBORN} children in a row died as soon as they were made"
        raise WorkerError(msg)

    def _fork(self) -> Child | None:
        """Return a new child; None if it was killed at once, as one may be when memory is short."""
        ours, theirs = socket.socketpair()
        tokens = _make_tokens()
        memory = os.memfd_create("queuelib-child", os.MFD_CLOEXEC)
        os.ftruncate(memory, SHARED_BYTES)
        child = Child(ours, tokens, Slot(mmap.mmap(memory, 0)))
        try:
            socket.send_fds(self._control, [b"+"], [theirs.fileno(), tokens, memory, self.bell])
            theirs.close()
            child.learn_pid()
        except EOFError:
            child.close()
            return None  # or the template is gone: the next attempt will tell
        except (OSError, DecodeError) as error:
            child.close()
            msg = "the process that makes children has ended"
            raise WorkerError(msg) from error
        finally:
            theirs.close()
            os.close(memory)
        child.pidfd = os.pidfd_open(child.pid)
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

    def hire(self) -> Child:
        """Start a thread."""
        ours, theirs = socket.socketpair()
        tokens = _make_tokens()
        child = Child(ours, tokens, Slot(mmap.mmap(-1, SHARED_BYTES)))
        fds = (os.dup(tokens), os.dup(self.bell))
        arguments = (theirs, fds, Slot(child.slot.memory), Executor(self._dispatcher, self._worker), self._worker)
        thread = threading.Thread(target=_serve_in_thread, args=arguments, daemon=True, name=f"queuelib-{self._worker}")
        thread.start()
        self._threads.append(thread)
        return child

    def close(self) -> None:
        """Wait for the threads; each ends once its socket is closed."""
        for thread in self._threads:
            thread.join(1.0)
        os.close(self.bell)


def _serve_in_thread(sock: socket.socket, fds: tuple[int, int], slot: Slot, executor: Executor, worker: str) -> None:
    try:
        serve(sock, fds, slot, executor, worker)
    except OSError:
        pass  # the supervisor has closed its end
    except SystemExit:
        pass  # sys.exit() in a handler ends the thread; the supervisor sees its socket close
    finally:
        executor.close()
        sock.close()
        for fd in fds:
            os.close(fd)


def _make_tokens() -> int:
    return os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC)


def _make_bell() -> int:
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
