"""The template process: imports the user's modules once, then forks a child whenever the supervisor asks.

Started with exec, so that it has no threads; it forks twice, so that the supervisor, a subreaper, becomes the
parent of each child and learns of its death by itself.
"""

from __future__ import annotations

import gc
import mmap
import os
import signal
import socket
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

from queuelib.errors import WorkerError
from queuelib.worker import process
from queuelib.worker.child import SLOT_BYTES, Slot, serve
from queuelib.worker.execute import Executor
from queuelib.worker.frames import FrameReader, send_frame
from queuelib.worker.loading import load

if TYPE_CHECKING:
    from queuelib.dispatcher import Dispatcher

__all__ = ["main", "manifest_of"]

_FDS = 3  # a child's socket, its tokens, the shared slots


def main() -> None:
    """Serve the supervisor on the socket whose descriptor is the first argument."""
    supervisor = os.getppid()
    process.die_with_parent(supervisor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    reader = FrameReader(control)
    order = reader.next()
    try:
        dispatcher = load(order["targets"], folders=order["folders"], tasks=order["tasks"])
        dispatcher.configure(**order["configure"])
        manifest = manifest_of(dispatcher)
    except WorkerError as error:
        send_frame(control, {"error": str(error)})
        sys.exit(1)
    except BaseException:  # noqa: BLE001 - a user's module may raise anything, SystemExit included
        send_frame(control, {"error": "the worker could not import its modules:\n" + traceback.format_exc()})
        sys.exit(1)
    send_frame(control, manifest)
    gc.freeze()  # what is here now is shared with the children for as long as nobody writes to it
    _serve(control, dispatcher, order["worker"], supervisor)


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
        "limits": {name: d.options.limits.timeout for name, d in dispatcher.definitions.items()},
    }


def _serve(control: socket.socket, dispatcher: Dispatcher, worker: str, supervisor: int) -> None:
    while True:
        data, fds, _, _ = socket.recv_fds(control, 64, _FDS)
        if not data:
            return
        pid = os.fork()
        if pid == 0:
            if os.fork() == 0:
                control.close()
                _run_child(fds, int(data), dispatcher, worker, supervisor)
            os._exit(0)
        os.waitpid(pid, 0)
        for fd in fds:
            os.close(fd)


def _run_child(fds: list[int], index: int, dispatcher: Dispatcher, worker: str, supervisor: int) -> None:
    status = 1
    try:
        while os.getppid() != supervisor:  # until the middle process is gone and we are adopted
            time.sleep(0.0002)
        os.setpgid(0, 0)
        process.die_with_parent(supervisor)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.environ["QUEUELIB_WORKER_NAME"] = worker
        memory = mmap.mmap(fds[2], 0)
        serve(
            socket.socket(fileno=fds[0]), fds[1], Slot(memory, index * SLOT_BYTES), Executor(dispatcher, worker), worker
        )
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


if __name__ == "__main__":
    main()
