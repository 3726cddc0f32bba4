"""The template process: imports the user's modules once, then forks a child whenever the supervisor asks.

Started with exec, so that it has no threads; it forks twice, so that the supervisor, a subreaper, becomes the
parent of each child and learns of its death by itself.
"""

from __future__ import annotations

import gc
import mmap
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from queuelib.errors import ConfigurationError, Shutdown, WorkerError
from queuelib.worker import process
from queuelib.worker.child import serve
from queuelib.worker.execute import Executor
from queuelib.worker.frames import FrameReader, send_frame
from queuelib.worker.loading import load
from queuelib.worker.shared import Slot

if TYPE_CHECKING:
    from queuelib.dispatcher import Dispatcher
    from queuelib.signing import Keyring

__all__ = ["main", "manifest_of"]

_FDS = 4  # a child's socket, its tokens, its shared memory, the bell of all


def main() -> None:
    """Serve the supervisor on the socket whose descriptor is the first argument."""
    supervisor = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    reader = FrameReader(control)
    order = reader.next()
    try:
        dispatcher = load(order["targets"], folders=order["folders"], tasks=order["tasks"])
        dispatcher.configure(**order["configure"])
        manifest, keys = manifest_of(dispatcher), _keys_of(dispatcher)
    except WorkerError as error:
        send_frame(control, {"error": str(error)})
        sys.exit(1)
    except BaseException:  # noqa: BLE001 - a user's module may raise anything, SystemExit included
        send_frame(control, {"error": "the worker could not import its modules:\n" + traceback.format_exc()})
        sys.exit(1)
    secret = None if keys is None else (keys.secret.reveal(), keys.accepts_unsigned)
    send_frame(control, {**manifest, "keys": secret})  # the other end takes it off what it shows
    gc.freeze()  # what is here now is shared with the children for as long as nobody writes to it
    _serve(control, dispatcher, order["worker"], supervisor)


def _keys_of(dispatcher: Dispatcher) -> Keyring | None:
    try:
        return dispatcher.keys
    except ConfigurationError as error:  # the user's modules are not to blame: no traceback
        raise WorkerError(str(error)) from error


def manifest_of(dispatcher: Dispatcher) -> dict[str, Any]:
    """Return what the supervisor must know, so that it need not import the user's modules."""
    return {
        "tasks": sorted(dispatcher.definitions),
        "broker": dispatcher.broker_url,
        "results": dispatcher.results_url,
        "namespace": dispatcher.namespace,
        "keep": dispatcher.keep,
        "palette": [(color.name, color.priority, color.share) for color in dispatcher.palette.colors],
        "default": dispatcher.palette.default,
        "taking": dispatcher.palette.taking,
        "exclusive": [name for name, d in dispatcher.definitions.items() if d.options.exclusive],
        "once": [name for name, d in dispatcher.definitions.items() if d.options.at_most_once],
    }


def _serve(control: socket.socket, dispatcher: Dispatcher, worker: str, supervisor: int) -> None:
    """Fork on demand; once the supervisor is gone, end what its children started, as they die with it."""
    children: dict[int, int] = {}  # pid to pidfd
    while True:
        data, fds, _, _ = socket.recv_fds(control, 64, _FDS)
        if not data:
            break
        pid = _fork_twice(partial(_run_child, fds, dispatcher, worker, supervisor), control)
        for fd in fds:
            os.close(fd)
        _forget_ended(children)
        if pid:
            with suppress(ProcessLookupError):  # it was killed and reaped meanwhile
                children[pid] = os.pidfd_open(pid)
    for pid in children:
        process.kill_group(pid)


def _fork_twice(run: Callable[[], None], control: socket.socket) -> int:
    """Run a function in a grandchild that nobody here has to reap; return its pid, or 0 if it has ended already."""
    reading, writing = os.pipe()
    middle = os.fork()
    if middle == 0:
        pid = os.fork()
        if pid == 0:
            control.close()
            os.close(reading)
            os.close(writing)
            run()
        os.write(writing, str(pid).encode())
        os._exit(0)
    os.close(writing)
    said = os.read(reading, 32)
    os.close(reading)
    os.waitpid(middle, 0)
    return int(said) if said and os.path.exists(f"/proc/{said.decode()}") else 0  # noqa: PTH110


def _forget_ended(children: dict[int, int]) -> None:
    for pid, fd in list(children.items()):
        if select.select([fd], [], [], 0)[0]:
            os.close(fd)
            del children[pid]


def _run_child(fds: list[int], dispatcher: Dispatcher, worker: str, supervisor: int) -> None:
    status = 1
    try:
        while os.getppid() != supervisor:  # until the middle process is gone and we are adopted
            time.sleep(0.0002)
        os.setpgid(0, 0)
        process.die_with_parent(supervisor)
        executor = Executor(dispatcher, worker)
        signal.signal(signal.SIGTERM, partial(_shut_down, executor))
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.environ["QUEUELIB_WORKER_NAME"] = worker
        sock, tokens, memory, bell = fds
        slot = Slot(mmap.mmap(memory, 0))
        os.close(memory)
        serve(socket.socket(fileno=sock), (tokens, bell), slot, executor, worker)
        status = 0
    except Shutdown:
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - the last words of a child
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


def _shut_down(executor: Executor, _number: int, frame: FrameType | None) -> None:
    msg = "the worker ends, and this job runs again elsewhere"
    executor.interrupt(Shutdown(msg), frame)


if __name__ == "__main__":
    main()
