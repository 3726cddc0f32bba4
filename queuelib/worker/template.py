"""The template process: imports the user's modules once, then forks a child whenever the supervisor asks.

Started with exec, so that it has no threads; it forks twice, so that the supervisor, a subreaper, becomes the
parent of each child and learns of its death by itself.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import itertools
import logging
import mmap
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from queuelib import naming, plugins
from queuelib.errors import ConfigurationError, Shutdown, WorkerError
from queuelib.handle import reader
from queuelib.polling import is_readable
from queuelib.worker import process
from queuelib.worker.cache import Cache
from queuelib.worker.child import Lane, serve
from queuelib.worker.execute import Executor
from queuelib.worker.fetch import Asking
from queuelib.worker.frames import FrameReader, send_frame
from queuelib.worker.lending import MOST_FDS, WARM
from queuelib.worker.loading import bare, load
from queuelib.worker.shared import LANE_BYTES, SHARED_BYTES, Slot

if TYPE_CHECKING:
    from queuelib.dispatcher import Dispatcher
    from queuelib.signing import Keyring
    from queuelib.task import Definition

__all__ = ["main", "manifest_of"]

_log = logging.getLogger("queuelib.worker")

_FDS = 5  # a child's socket, its tokens, its shared memory, the bell of all, the door of who fetches for all


def main() -> None:
    """Serve the supervisor on the socket whose descriptor is the first argument."""
    supervisor = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    order = FrameReader(control).next()
    try:
        dispatcher = _dispatcher(order)
        dispatcher.configure(**order["configure"])
        if order["may_unpickle"]:
            dispatcher.calls.serve()
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
    _serve(control, dispatcher, (order["worker"], Cache(Path(order["cache"]))), supervisor)


def _dispatcher(order: Mapping[str, Any]) -> Dispatcher:
    if order["targets"]:
        return load(order["targets"], folders=order["folders"], tasks=order["tasks"])
    return bare(order["bare"], folders=order["folders"])


def _keys_of(dispatcher: Dispatcher) -> Keyring | None:
    try:
        return dispatcher.keys
    except ConfigurationError as error:  # the user's modules are not to blame: no traceback
        raise WorkerError(str(error)) from error


def manifest_of(dispatcher: Dispatcher) -> dict[str, Any]:
    """Return what the supervisor must know, so that it need not import the user's modules."""
    return {
        "tasks": sorted([*dispatcher.definitions, naming.CALL]),
        "broker": dispatcher.broker_url,
        "results": dispatcher.results_url,
        "namespace": dispatcher.namespace,
        "keep": dispatcher.keep,
        "palette": [(color.name, color.priority, color.share) for color in dispatcher.palette.colors],
        "default": dispatcher.palette.default,
        "taking": dispatcher.palette.taking,
        "exclusive": [name for name, d in dispatcher.definitions.items() if d.options.exclusive],
        "coroutines": [name for name, d in dispatcher.definitions.items() if _is_coroutine(dispatcher, d)],
        "once": [name for name, d in dispatcher.definitions.items() if d.options.at_most_once],
    }


def _is_coroutine(dispatcher: Dispatcher, definition: Definition) -> bool:
    function = definition.function
    if function is None and definition.message_class is not None:
        function = dispatcher.handlers.method_of(definition.message_class)
    return inspect.iscoroutinefunction(function)


def _serve(control: socket.socket, dispatcher: Dispatcher, about: tuple[str, Cache], supervisor: int) -> None:
    """Fork on demand; once the supervisor is gone, end what its children started, as they die with it."""
    children: dict[int, int] = {}  # pid to pidfd
    while True:
        data, fds, flags, _ = socket.recv_fds(control, 64, _FDS)
        if data == WARM:
            _warm(dispatcher)
        lanes = int(data) if data.isdigit() else 0
        for _ in range(0, 2 * lanes, MOST_FDS):
            data, more, more_flags, _ = socket.recv_fds(control, 64, MOST_FDS)
            fds += more
            flags |= more_flags
        if not data:
            break
        pid = 0
        try:
            if flags & socket.MSG_CTRUNC:
                _log.error("there are too few file descriptors (ulimit -n) to make a child")
            else:
                pid = _fork_twice(partial(_run_child, fds, dispatcher, about, supervisor), control)
        except OSError as error:  # of memory or processes
            _log.error("a child could not be made: %s", error)
        finally:
            for fd in fds:  # the supervisor sees by that if there is no child
                os.close(fd)
        _forget_ended(children)
        if pid:
            with suppress(ProcessLookupError):  # it was killed and reaped meanwhile
                children[pid] = os.pidfd_open(pid)
    for pid in children:
        process.kill_group(pid)


def _warm(dispatcher: Dispatcher) -> None:
    """Import once, for all children to come, what one imports when its handlers submit jobs: that takes 0.2 s."""
    try:
        from queuelib import broker  # noqa: PLC0415 - most workers run handlers that submit nothing

        broker.preload(dispatcher.broker_url, dispatcher.namespace)
        backend = plugins.find_backend(dispatcher.results_url)
        if backend is not None:
            importlib.import_module(type(backend).__module__ + ".results")  # where a backend has them
    except Exception as error:  # noqa: BLE001 - it is for speed alone, and a child that needs one of them says what is wrong
        _log.debug("what connections need could not be imported before it is needed: %s", error)
    gc.freeze()


def _fork_twice(run: Callable[[], None], control: socket.socket) -> int:
    """Run a function in a grandchild that nobody here has to reap; return its pid, or 0 if it has ended already."""
    reading, writing = os.pipe()
    try:
        middle = os.fork()
    except OSError:
        os.close(reading)
        os.close(writing)
        raise
    if middle == 0:
        try:
            pid = os.fork()
        except OSError:
            os._exit(1)
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
        if is_readable(fd, 0.0):
            os.close(fd)
            del children[pid]


def _run_child(fds: list[int], dispatcher: Dispatcher, about: tuple[str, Cache], supervisor: int) -> None:
    worker, cache = about
    status = 1
    try:
        while os.getppid() != supervisor:  # until the middle process is gone and we are adopted
            time.sleep(0.0002)
        os.setpgid(0, 0)
        process.die_with_parent(supervisor)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.environ["QUEUELIB_WORKER_NAME"] = worker
        *own, memory, bell, door = fds if len(fds) == _FDS else (*fds[3:], *fds[:3])
        asking = Asking(socket.socket(fileno=door), cache)
        reader.set(asking)
        lanes = [
            Lane(socket.socket(fileno=sock), (tokens, bell), Slot(mmap.mmap(memory, SHARED_BYTES, offset=at)))
            for sock, tokens, at in zip(own[::2], own[1::2], itertools.count(0, LANE_BYTES), strict=False)
        ]
        os.close(memory)
        if len(fds) == _FDS:
            _serve_alone(lanes[0], dispatcher, worker, asking)
        else:
            _serve_lanes(lanes, dispatcher, worker, asking)
        status = 0
        with suppress(Exception):  # whatever it is, all that this child ran was reported
            dispatcher.close()  # what handlers opened to submit jobs
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


def _serve_alone(lane: Lane, dispatcher: Dispatcher, worker: str, asking: Asking) -> None:
    executor = Executor(dispatcher, worker, asking.read_state)
    signal.signal(signal.SIGTERM, partial(_shut_down, executor))
    signal.signal(process.STOP_JOB, lambda _, frame: executor.stop_job(frame))
    process.keep_signals((signal.SIGTERM, process.STOP_JOB))
    serve(lane.sock, lane.fds, lane.slot, executor, worker)


def _serve_lanes(lanes: Sequence[Lane], dispatcher: Dispatcher, worker: str, asking: Asking) -> None:
    from queuelib.worker.lanes import LaneExecutor, SharedLoop  # noqa: PLC0415 - only workers that have some need asyncio

    loop = SharedLoop()
    loop.end_on(signal.SIGTERM)
    loop.stop_on(process.STOP_JOB)
    process.keep_signals((signal.SIGTERM, process.STOP_JOB))
    loop.start_lanes(lanes, lambda: LaneExecutor(dispatcher, worker, loop, asking.read_state), worker)
    loop.run()


def _shut_down(executor: Executor, _number: int, frame: FrameType | None) -> None:
    msg = "the worker ends, and this job runs again elsewhere"
    executor.interrupt(Shutdown(msg), frame)


if __name__ == "__main__":
    main()
