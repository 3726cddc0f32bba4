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

from queuelib.color import Color, Palette
from queuelib.context import current_job
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
    JobExpired,
    JobFailed,
    JobLost,
    JobQuarantined,
    JobTimeout,
    MissingDriver,
    QueuelibError,
    QueueRefused,
    RegistrationError,
    RemoteError,
    RemoteTraceback,
    Retry,
    Shutdown,
    SoftTimeLimit,
    SubmitUnknown,
    TooLarge,
    UnknownJob,
    UnknownTask,
    UnsupportedVersion,
    WorkerError,
)
from queuelib.handlers import Handlers
from queuelib.job import Job
from queuelib.message import Message

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
    "DecodeError",
    "Dispatcher",
    "EncodeError",
    "ForgedOutcome",
    "Handlers",
    "Job",
    "JobExpired",
    "JobFailed",
    "JobLost",
    "JobQuarantined",
    "JobTimeout",
    "Message",
    "MissingDriver",
    "Palette",
    "QueueRefused",
    "QueuelibError",
    "RegistrationError",
    "RemoteError",
    "RemoteTraceback",
    "Retry",
    "Shutdown",
    "SoftTimeLimit",
    "SubmitUnknown",
    "TooLarge",
    "UnknownJob",
    "UnknownTask",
    "UnsupportedVersion",
    "WorkerError",
    "current_job",
]

__version__ = "0.1.0"
