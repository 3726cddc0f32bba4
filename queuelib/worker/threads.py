"""A worker in threads of this process, for memory://, where no other process could see the queue."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from queuelib.clock import SYSTEM
from queuelib.worker.crew import ThreadCrew
from queuelib.worker.daemon import Wishes, plan_for
from queuelib.worker.link import Link
from queuelib.worker.supervisor import Supervisor
from queuelib.worker.template import manifest_of

if TYPE_CHECKING:
    from queuelib.dispatcher import Dispatcher

__all__ = ["workers"]

_LEAVE_AFTER = 10.0


@contextmanager
def workers(dispatcher: Dispatcher, processes: int, name: str) -> Generator[None]:
    """Run a supervisor and its children as threads while the block lasts."""
    manifest = manifest_of(dispatcher)
    name = name or f"threads-{threading.get_ident():x}"
    crew = ThreadCrew(dispatcher, manifest, name)
    place = manifest["broker"], manifest["results"], manifest["namespace"], manifest["keep"]
    link = Link(*place, SYSTEM, dispatcher.keys)
    plan = plan_for(Wishes(targets=(), processes=processes, grace=_LEAVE_AFTER), manifest, name)
    supervisor = Supervisor(crew, link, plan)
    ready = threading.Event()
    supervisor.on_ready = ready.set
    thread = threading.Thread(target=supervisor.run, name="queuelib-supervisor", daemon=True)
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        supervisor.stop()
        thread.join(_LEAVE_AFTER + 1.0)
