"""What a handler can know about the job it is running."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

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
    _is_lost: Callable[[], bool] = field(default=bool, repr=False, compare=False)

    @property
    def id(self) -> str:
        """Public id."""
        return job_id(*self.key)

    @property
    def lost_lease(self) -> bool:
        """Whether the worker has lost its claim on this job, so that another one may run it by now.

        A handler that asks from time to time can stop; of what it still brings only a success is stored, and only if no
        other was. It is told within about a second after the worker itself has learned of it.
        """
        return self._is_lost()


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
