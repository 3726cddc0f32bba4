"""What a handler can know about the job it is running."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

from queuelib.errors import QueuelibError
from queuelib.ids import Key, job_id

__all__ = ["Running", "current_job", "running"]


@dataclass(frozen=True, slots=True)
class Running:
    """The job that this handler runs.

    Attributes:
        key: The job.
        task: Wire name of its task.
        attempt: 1 for the first run, one more for each retry.
        worker: Name of the worker.
    """

    key: Key
    task: str
    attempt: int
    worker: str

    @property
    def id(self) -> str:
        """Public id."""
        return job_id(*self.key)


running: ContextVar[Callable[[], Running] | None] = ContextVar("queuelib_running", default=None)


def current_job() -> Running:
    """Return the job that is running here.

    Raises:
        QueuelibError: No worker called this code.
    """
    describe = running.get()
    if describe is None:
        msg = "current_job() was called outside of a worker: no job is running here"
        raise QueuelibError(msg)
    return describe()
