"""A worker in threads of this process, for memory://, where no other process could see the queue."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from queuelib.clock import SYSTEM
from queuelib.errors import WorkerError
from queuelib.worker.crew import ThreadCrew
from queuelib.worker.daemon import Wishes, plan_for
from queuelib.worker.link import Link
from queuelib.worker.supervisor import Supervisor
from queuelib.worker.template import manifest_of

if TYPE_CHECKING:
    from queuelib.beside import Size
    from queuelib.dispatcher import Dispatcher

__all__ = ["workers"]

_LEAVE_AFTER = 10.0


@contextmanager
def workers(dispatcher: Dispatcher, size: Size, name: str, *, may_unpickle: bool = False) -> Generator[None]:
    """Run a supervisor and its children as threads while the block lasts.

    Raises:
        WorkerError: It could not start; the cause says why.
    """
    if may_unpickle:
        dispatcher.calls.serve()
    manifest = manifest_of(dispatcher)
    name = name or f"threads-{threading.get_ident():x}"
    crew = ThreadCrew(dispatcher, manifest, name)
    place = manifest["broker"], manifest["results"], manifest["namespace"], manifest["keep"]
    link = Link(*place, SYSTEM, dispatcher.keys)
    wishes = Wishes((), (), *size, grace=_LEAVE_AFTER)
    plan = plan_for(wishes, manifest, name)
    supervisor = Supervisor(crew, link, plan)
    ready = threading.Event()
    supervisor.on_ready = ready.set
    failures: list[BaseException] = []

    def run() -> None:
        try:
            supervisor.run()
        except BaseException as error:
            if ready.is_set():
                raise  # the interpreter prints what ends a thread
            failures.append(error)
            ready.set()

    thread = threading.Thread(target=run, name="queuelib-supervisor", daemon=True)
    thread.start()
    ready.wait()
    if failures:
        thread.join()
        msg = f"the worker could not start: {failures[0]}"
        raise WorkerError(msg) from failures[0]
    try:
        yield
    finally:
        supervisor.stop()
        thread.join(_LEAVE_AFTER + 1.0)
