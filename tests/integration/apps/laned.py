"""A user's module for workers whose processes run several jobs at a time."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path

from deeds import note, pass_gate, starts

from queuelib import Dispatcher, Handlers
from queuelib.errors import Shutdown, SoftTimeLimit

dispatcher = Dispatcher(
    os.environ.get("BROKER", "memory://laned"),
    results=os.environ.get("RESULTS"),
    namespace=os.environ.get("NAMESPACE", "laned"),
)


def terminated(within: float) -> int:
    """Fork a process, end it with SIGTERM as a pool of processes does, and return which signal ended it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, b"!")
            time.sleep(60)
        finally:
            os._exit(1)
    os.read(reading, 1)  # it has begun
    os.close(reading)
    os.close(writing)
    os.kill(pid, signal.SIGTERM)
    ended = os.pidfd_open(pid)
    try:
        if not select.select([ended], [], [], within)[0]:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(ended)
    return -os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@dispatcher.task
async def pause(path: str, label: str, gate: str = "") -> tuple[int, int, int]:
    """Start, wait for a file, finish; return process, event loop and thread."""
    note(path, "start", label)
    try:
        while gate and not Path(gate).exists():  # noqa: ASYNC110, ASYNC240 - a file, and a look takes microseconds
            await asyncio.sleep(0.01)
    except (SoftTimeLimit, Shutdown) as error:
        await asyncio.sleep(0.05)
        note(path, "soft" if isinstance(error, SoftTimeLimit) else "shutdown", label)
        raise
    note(path, "finish", label)
    return os.getpid(), id(asyncio.get_running_loop()), threading.get_ident()


@dispatcher.task
def hold(path: str, label: str, gate: str = "") -> tuple[int, int]:
    """Do the same in a plain function; return process and thread."""
    note(path, "start", label)
    pass_gate(gate)
    note(path, "finish", label)
    return os.getpid(), threading.get_ident()


@dispatcher.task
async def deed(path: str, label: str, how: str) -> str:
    """End the process in the first run."""
    note(path, "start", label)
    if starts(path, label) == 1:
        if how == "exit":
            sys.exit(3)
        os._exit(4)
    return label


@dispatcher.task
def end_forked(within: float) -> int:
    """Return which signal ended a process that was sent SIGTERM."""
    return terminated(within)


@dispatcher.task
async def end_forked_beside(within: float) -> int:
    """Do the same in a thread of a coroutine's."""
    return await asyncio.to_thread(terminated, within)


@dispatcher.task
def leave_fork(path: str, label: str) -> str:
    """End the thread in the first run, while a process that it has forked lives on."""
    note(path, "start", label)
    if starts(path, label) == 1:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        sys.exit(3)
    return label


@dispatcher.task
async def leave(path: str, label: str) -> None:
    """Leave a task behind that says when it is cancelled."""

    async def left() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            note(path, "left", label)

    task = asyncio.create_task(left())
    await asyncio.sleep(0)
    assert not task.done()


@dispatcher.task(hard_timeout=0.5)
async def block(path: str, label: str) -> None:
    """Keep the event loop from going on, for longer than it may."""
    note(path, "start", label)
    time.sleep(60)  # noqa: ASYNC251 - that is the point


@dispatcher.message(name="laned.question")
class Question:
    """A typed message."""

    x: int


class Answers(Handlers):
    """Its handler."""

    async def visit_Question(self, message: Question) -> tuple[int, int, int]:
        """Return where it runs."""
        return message.x, os.getpid(), id(asyncio.get_running_loop())


dispatcher.register(Answers())
