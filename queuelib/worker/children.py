"""The supervisor's side of its children: handing jobs over, recalling them, hearing of outcomes and deaths."""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from queuelib.errors import WorkerError
from queuelib.outcome import Outcome
from queuelib.worker import process
from queuelib.worker.child import DROP, HELLO, JOBS, SLOT_BYTES, STOP, Slot, outcome_from, serve
from queuelib.worker.execute import Executor
from queuelib.worker.frames import FrameReader, pack_frame, send_frame

if TYPE_CHECKING:
    from queuelib.dispatcher import Dispatcher
    from queuelib.worker.lease import Member

__all__ = ["Child", "Crew", "Report", "TemplateCrew", "ThreadCrew"]

_THREAD_CAPS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_MOST_CHILDREN = 1024


@dataclass(slots=True)
class Report:
    """What a child says of one job."""

    member: Member
    elapsed: float
    outcome: Outcome


@dataclass(eq=False)
class Child:
    """One child, and the jobs it was handed and has not reported."""

    index: int
    sock: socket.socket
    tokens: int
    slot: Slot
    pid: int = 0
    pidfd: int = -1
    handed: deque[Member] = field(default_factory=deque["Member"])
    done: int = 0
    is_retiring: bool = False
    doomed: Member | None = None  # the job for which we killed it
    death_note: str = ""  # why we killed it; empty if it died by itself
    _next: int = 1
    _epoch: int = 0

    def __post_init__(self) -> None:
        self._reader = FrameReader(self.sock)
        self.slot.clear()

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do."""
        return not self.handed and not self.is_retiring

    def hand(self, members: Sequence[Member]) -> None:
        """Give it jobs, and the tokens to start them."""
        entries: list[Any] = []
        for member in members:
            member.number = self._next
            self._next += 1
            bundle = member.bundle
            entries.append(
                (
                    member.number,
                    bundle.task,
                    bundle.schema,
                    *member.key,
                    bundle.attempt,
                    bundle.limits.timeout,
                    bundle.arguments[member.position],
                )
            )
        self.handed.extend(members)
        frame = pack_frame((JOBS, entries))
        # Tokens first: an idle child reads only once it has one, and a frame larger than the socket's buffer needs a reader.
        os.eventfd_write(self.tokens, len(members))
        self._send(frame)

    def recall(self) -> list[Member]:
        """Take back what it has not started, in order."""
        if self.is_retiring:
            return []  # it was recalled before, and the token that is left is that of its stop
        count = 0
        while count < len(self.handed):
            try:
                os.eventfd_read(self.tokens)
            except BlockingIOError:
                break
            count += 1
        if not count:
            return []
        recalled = [self.handed.pop() for _ in range(count)][::-1]
        self._epoch += 1
        if self._send(pack_frame((DROP, (recalled[0].number, self._epoch)))):
            self.slot.epoch = self._epoch
        for member in recalled:
            member.number = 0
        return recalled

    def reports(self) -> tuple[list[Report], bool]:
        """Return what it has reported, and whether it has closed its end.

        Raises:
            ValueError: It wrote something that is no report of a job it was handed.
        """
        values, is_closed = self._reader.ready()
        reports: list[Report] = []
        for value in values:
            if value[0] == HELLO:
                continue
            number, elapsed, *fields = value
            if not self.handed or self.handed[0].number != number:
                msg = f"child {self.pid} reported a job that it does not run"
                raise ValueError(msg)
            member = self.handed.popleft()
            member.number = 0
            self.done += 1
            reports.append(Report(member, float(elapsed), outcome_from(fields)))
        return reports, is_closed

    def stop(self) -> None:
        """Have it end once it has run what it was handed."""
        self.is_retiring = True
        if self._send(pack_frame((STOP, None))):
            os.eventfd_write(self.tokens, 1)

    def started_but_unreported(self) -> Member | None:
        """Return the job that a dead child was running: its token is gone and its outcome is not here."""
        left = 0
        while True:
            try:
                os.eventfd_read(self.tokens)
            except BlockingIOError:
                break
            left += 1
        return self.handed[0] if len(self.handed) > left else None

    def kill(self, why: str) -> None:
        """Kill it and what it started, at once."""
        self.death_note = self.death_note or why
        if self.pid:
            process.kill_group(self.pid)

    def memory_bytes(self) -> int:
        """Return its resident memory."""
        try:
            with open(f"/proc/{self.pid}/statm", encoding="ascii") as file:  # noqa: PTH123 - a virtual file, often read
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError, ValueError):
            return 0

    def close(self) -> None:
        """Release the descriptors."""
        self.sock.close()
        os.close(self.tokens)
        if self.pidfd >= 0:
            os.close(self.pidfd)

    def learn_pid(self) -> None:
        """Wait for its first frame, which has its pid."""
        self.pid = int(self._reader.next()[1])

    def _send(self, frame: bytes) -> bool:
        try:
            self.sock.sendall(frame)
        except OSError:
            return False  # it is dying; its death is noticed by its pidfd
        return True


class Crew(Protocol):
    """Makes children."""

    manifest: Mapping[str, Any]
    can_kill: bool
    pid: int  # of the process that makes them; 0 for none

    def hire(self) -> Child:
        """Return a new child, ready for jobs."""
        ...

    def fire(self, child: Child) -> None:
        """Forget a child that has ended."""
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
        for name in _THREAD_CAPS:  # a thread pool made at import would be missing in a forked copy
            environment.setdefault(name, "1")
        self._template = subprocess.Popen(
            [sys.executable, "-m", "queuelib.worker.template", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment,
            start_new_session=True,
        )
        theirs.close()
        self.pid = self._template.pid
        self._control = ours
        self._slots = os.memfd_create("queuelib-slots", os.MFD_CLOEXEC)
        os.ftruncate(self._slots, SLOT_BYTES * _MOST_CHILDREN)
        self._memory = mmap.mmap(self._slots, 0)
        self._free = list(range(_MOST_CHILDREN - 1, -1, -1))
        send_frame(ours, dict(order))
        try:
            self.manifest: Mapping[str, Any] = FrameReader(ours).next()
        except EOFError:
            self.manifest = {"error": "the process that imports the modules ended without a word"}
        if "error" in self.manifest:
            self.close()
            raise WorkerError(self.manifest["error"])

    def hire(self) -> Child:
        """Fork a child; it is ready in a few milliseconds.

        Raises:
            WorkerError: The template is gone.
        """
        index = self._free.pop()
        ours, theirs = socket.socketpair()
        tokens = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        child = Child(index, ours, tokens, Slot(self._memory, index * SLOT_BYTES))
        try:
            socket.send_fds(self._control, [str(index).encode()], [theirs.fileno(), tokens, self._slots])
            theirs.close()
            child.learn_pid()
        except (OSError, EOFError) as error:
            child.close()
            msg = "the process that makes children has ended"
            raise WorkerError(msg) from error
        child.pidfd = os.pidfd_open(child.pid)
        return child

    def fire(self, child: Child) -> None:
        """Forget a child that has ended."""
        self._free.append(child.index)

    def close(self) -> None:
        """End the template."""
        self._control.close()
        try:
            self._template.wait(2)
        except subprocess.TimeoutExpired:
            self._template.kill()
            self._template.wait()
        self._memory.close()
        os.close(self._slots)


class ThreadCrew:
    """Children that are threads of this process, for memory://; they cannot be killed."""

    can_kill = False
    pid = 0

    def __init__(self, dispatcher: Dispatcher, manifest: Mapping[str, Any], worker: str) -> None:
        self.manifest = manifest
        self._dispatcher = dispatcher
        self._worker = worker
        self._threads: list[threading.Thread] = []

    def hire(self) -> Child:
        """Start a thread."""
        ours, theirs = socket.socketpair()
        tokens = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        child = Child(0, ours, tokens, Slot(mmap.mmap(-1, SLOT_BYTES), 0))
        slot = Slot(child.slot.memory, 0)
        arguments = (theirs, os.dup(tokens), slot, Executor(self._dispatcher, self._worker), self._worker)
        thread = threading.Thread(target=_serve_in_thread, args=arguments, daemon=True, name=f"queuelib-{self._worker}")
        thread.start()
        self._threads.append(thread)
        return child

    def fire(self, child: Child) -> None:
        """Nothing to free."""

    def close(self) -> None:
        """Wait for the threads; each ends once its socket is closed."""
        for thread in self._threads:
            thread.join(1.0)


def _serve_in_thread(sock: socket.socket, tokens: int, slot: Slot, executor: Executor, worker: str) -> None:
    try:
        serve(sock, tokens, slot, executor, worker)
    except OSError:
        pass  # the supervisor has closed its end
    except SystemExit:
        pass  # sys.exit() in a handler ends the thread; the supervisor sees its socket close
    finally:
        sock.close()
        os.close(tokens)
