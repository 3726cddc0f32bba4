"""Typed tasks, on priority-colored queues, over whichever broker you have, with results you can trust.

Example:
    >>> from queuelib import Dispatcher
    >>> dispatcher = Dispatcher("memory://package-example")
    >>> @dispatcher.task
    ... def sphere(genome: list[float]) -> float:
    ...     return sum(g * g for g in genome)
    >>> with dispatcher.workers(processes=2):
    ...     list(sphere.map([[1.0, 2.0], [3.0]]))
    [5.0, 9.0]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from queuelib.color import Color, Palette
from queuelib.context import Context, Progress, current_job
from queuelib.dispatcher import Dispatcher
from queuelib.errors import (
    AccessRefused,
    ArgumentError,
    BadSignature,
    BrokerFull,
    BrokerUnavailable,
    CancelledError,
    CannotDecrypt,
    ConfigurationError,
    DecodeError,
    EncodeError,
    ForgedOutcome,
    InputError,
    JobExpired,
    JobFailed,
    JobLost,
    JobQuarantined,
    JobTimeout,
    MissingDriver,
    PickleRefused,
    QueuelibError,
    QueueRefused,
    RegistrationError,
    RemoteError,
    RemoteTraceback,
    Retry,
    SharedGone,
    Shutdown,
    SoftTimeLimit,
    SubmitUnknown,
    TooLarge,
    UnknownJob,
    UnknownTask,
    UnsupportedVersion,
    WorkerError,
)
from queuelib.handle import Shared
from queuelib.handlers import Handlers
from queuelib.job import Job
from queuelib.message import Message
from queuelib.outcome import Failure
from queuelib.reductions import topk
from queuelib.task import Signature
from queuelib.workflow import Group, chain, chord, group, settled

if TYPE_CHECKING:
    from queuelib.executor import Executor

__all__ = [
    "AccessRefused",
    "ArgumentError",
    "BadSignature",
    "BrokerFull",
    "BrokerUnavailable",
    "CancelledError",
    "CannotDecrypt",
    "Color",
    "ConfigurationError",
    "Context",
    "DecodeError",
    "Dispatcher",
    "EncodeError",
    "Executor",
    "Failure",
    "ForgedOutcome",
    "Group",
    "Handlers",
    "InputError",
    "Job",
    "JobExpired",
    "JobFailed",
    "JobLost",
    "JobQuarantined",
    "JobTimeout",
    "Message",
    "MissingDriver",
    "Palette",
    "PickleRefused",
    "Progress",
    "QueueRefused",
    "QueuelibError",
    "RegistrationError",
    "RemoteError",
    "RemoteTraceback",
    "Retry",
    "Shared",
    "SharedGone",
    "Shutdown",
    "Signature",
    "SoftTimeLimit",
    "SubmitUnknown",
    "TooLarge",
    "UnknownJob",
    "UnknownTask",
    "UnsupportedVersion",
    "WorkerError",
    "chain",
    "chord",
    "current_job",
    "group",
    "settled",
    "topk",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "Executor":
        from queuelib.executor import Executor  # noqa: PLC0415 - concurrent.futures, which few programs need

        return Executor
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
