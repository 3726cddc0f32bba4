"""Every error queuelib raises on purpose, as one tree.

QueuelibError
├── ConfigurationError (ValueError)      a setting, URL, palette or registration that cannot work
│   ├── MissingDriver (ImportError)      the URL, or a key, needs an extra that is not installed
│   ├── AccessRefused (BrokerUnavailable)  the server answers, and refuses this user or certificate
│   ├── QueueRefused (BrokerUnavailable)  it answers, and refuses a queue
│   ├── PickleRefused                    a function, or a result, that travels by pickle only, where that is not allowed
│   └── RegistrationError                two handlers for one message, a task name taken twice, ...
├── BrokerUnavailable (ConnectionError)  the server did not answer in time; nothing was accepted
│   └── BrokerFull                       it answered: there is no memory or disk left for more
├── SubmitUnknown (ConnectionError)      the confirmation was lost: accepted or not, nobody knows
├── EncodeError (ValueError)             a value that does not fit on the wire
│   └── TooLarge                         it is larger than a message may be
├── DecodeError (ValueError)             bytes that are not what they should be
│   ├── UnsupportedVersion               written by a newer queuelib
│   ├── BadSignature                     not signed by a key that is known here
│   └── CannotDecrypt                    encrypted, and this program has no key or not the package for it
├── ArgumentError (TypeError)            an argument or result that does not fit its annotation
├── UnknownTask (LookupError)            no handler is registered under this name
├── UnknownJob (LookupError)             no job has this id
├── SharedGone (LookupError)             what a handle stands for is not kept any more
├── ForgedOutcome                        what is stored as a job's outcome was signed by no key that is known here
├── JobTimeout (TimeoutError)            the result did not come within the time the caller gave
├── JobFailed                            how a job ended, other than well
│   ├── RemoteError                      the handler raised; carries the type's name and the traceback
│   ├── RemoteTraceback                  that traceback as text: the cause of what is raised here
│   ├── InputError                       what it waited for cannot be had
│   ├── JobExpired                       it was not started before its expiry
│   ├── JobLost                          its process died, and it must not start a second time
│   ├── JobQuarantined                   it was set aside; `queuelib failed ls` tells why
│   └── CancelledError (concurrent.futures.CancelledError)
├── SoftTimeLimit (TimeoutError)         raised inside a handler that ran longer than `timeout`
├── Retry                                raised by a handler: run me again later
└── WorkerError (RuntimeError)           a worker could not start

Apart from them stands `Shutdown`, a BaseException: raised inside a handler whose worker is told to end at once.
"""

from __future__ import annotations

import concurrent.futures
import math
from collections.abc import Sequence
from datetime import timedelta
from typing import SupportsFloat

__all__ = [
    "AccessRefused",
    "ArgumentError",
    "BadSignature",
    "BrokerFull",
    "BrokerUnavailable",
    "CancelledError",
    "CannotDecrypt",
    "ConfigurationError",
    "DecodeError",
    "EncodeError",
    "ForgedOutcome",
    "InputError",
    "JobExpired",
    "JobFailed",
    "JobLost",
    "JobQuarantined",
    "JobTimeout",
    "MissingDriver",
    "PickleRefused",
    "QueueRefused",
    "QueuelibError",
    "RegistrationError",
    "RemoteError",
    "RemoteTraceback",
    "Retry",
    "SharedGone",
    "Shutdown",
    "SoftTimeLimit",
    "SubmitUnknown",
    "TooLarge",
    "UnknownJob",
    "UnknownTask",
    "UnsupportedVersion",
    "WorkerError",
]


class QueuelibError(Exception):
    """Root of every error that queuelib raises on purpose."""


class ConfigurationError(QueuelibError, ValueError):
    """A setting, URL, palette or registration that cannot work."""


class MissingDriver(ConfigurationError, ImportError):
    """The URL's scheme, or a key that encrypts, needs a package that is not installed; the message names the extra."""


class PickleRefused(ConfigurationError):
    """A function that is no task, or a result that is not plain: they travel by pickle, which one side does not allow.

    Nothing was unpickled. At the client nothing was submitted; from a worker it is how the job failed.
    """


class RegistrationError(ConfigurationError):
    """A task, message or visitor that contradicts one that is registered already."""


class BrokerUnavailable(QueuelibError, ConnectionError):
    """The server did not answer in time, and nothing was accepted.

    After a `submit_many` that failed half-way, `accepted` holds the ids of the jobs that were
    accepted before and `unknown` those whose confirmation was lost.
    """

    def __init__(self, message: str, *, accepted: Sequence[str] = (), unknown: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.accepted = tuple(accepted)
        self.unknown = tuple(unknown)


class AccessRefused(ConfigurationError, BrokerUnavailable):
    """The server answers, and refuses this user, database, virtual host or certificate; nothing was accepted.

    A worker cannot start with it; one that has served before tries again, as after every failure.
    """


class QueueRefused(ConfigurationError, BrokerUnavailable):
    """The server answers, and refuses a queue: it was made with other arguments, or this user may not make it.

    Nothing but `accepted` was accepted. A worker that has to write there tries again, as after every failure.
    """


class BrokerFull(BrokerUnavailable):
    """The server has no memory or disk left for what was to be written, and did not accept it."""


class SubmitUnknown(QueuelibError, ConnectionError):
    """The broker may or may not have accepted these jobs: its confirmation was lost.

    Submitting `frames` again with `dispatcher.resubmit(error)` completes the call and gives one job each, whatever
    happened.

    Attributes:
        ids: Ids of all jobs of the call that were not confirmed: those in doubt, and those that were not sent any more.
        frames: `(color, bundle id, frame, due)` of each of their broker messages.
        accepted: Ids that were confirmed before the connection was lost.
    """

    def __init__(
        self,
        message: str,
        *,
        ids: Sequence[str] = (),
        frames: Sequence[object] = (),
        accepted: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.ids = tuple(ids)
        self.unknown = self.ids
        self.frames = tuple(frames)
        self.accepted = tuple(accepted)


class EncodeError(QueuelibError, ValueError):
    """A value that does not fit on the wire; the message names its path."""


class TooLarge(EncodeError):
    """A value or message larger than the limit, in bytes."""


class DecodeError(QueuelibError, ValueError):
    """Bytes that are not what they should be: truncated, foreign, too deep or too large."""


class UnsupportedVersion(DecodeError):
    """An envelope written by a newer queuelib."""


class BadSignature(DecodeError):
    """A signature is missing, wrong, truncated or made with an unknown key, and QUEUELIB_KEY asks for one."""


class CannotDecrypt(DecodeError):
    """It is encrypted, and this program has no key, or lacks the package that decrypts; another one may read it."""


class ArgumentError(QueuelibError, TypeError):
    """An argument or a result that does not fit its annotation; the message names its path."""


class UnknownTask(QueuelibError, LookupError):
    """No handler is registered under this name."""


class UnknownJob(QueuelibError, LookupError):
    """No job has this id: it was never given out, or its outcome was kept long enough and forgotten."""


class SharedGone(QueuelibError, LookupError):
    """What a handle stands for is not kept any more, or was never kept whole: share it again."""


class ForgedOutcome(QueuelibError):
    """What is stored as this job's outcome was signed by no key of QUEUELIB_KEY, so that nobody knows who wrote it."""


class JobTimeout(QueuelibError, TimeoutError):
    """The result did not come within the time the caller gave; the job itself goes on."""


class JobFailed(QueuelibError):
    """How a job ended, other than well."""


class RemoteError(JobFailed):
    """The handler raised an exception that is not rebuilt here by its type.

    Attributes:
        type_name: Name of the exception's class, as text; it is never imported.
        traceback_text: Traceback of the worker, as text.
    """

    def __init__(self, message: str, *, type_name: str = "", traceback_text: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        self.traceback_text = traceback_text


class RemoteTraceback(JobFailed):
    """The traceback of the worker, as text; it stands as the cause of the exception that is raised here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class JobExpired(JobFailed):
    """The job was not started before its expiry."""


class JobLost(JobFailed):
    """The job was started once and nobody knows how far it came; its task is `at_most_once`, so it does not run again."""


class InputError(JobFailed):
    """What the job waited for cannot be had: it was set aside or forgotten, or is too large to travel."""


class JobQuarantined(JobFailed):
    """The job was set aside because nobody can run it; `queuelib failed ls` tells why."""


class CancelledError(JobFailed, concurrent.futures.CancelledError):
    """The job was cancelled: before it started, or, where that was asked for, while it ran.

    In the handler of a job that is to stop while it runs this is raised wherever it is; left to pass it ends the job as
    `cancelled`. A handler that has seen `context.cancelled` may raise it itself.
    """


class Shutdown(BaseException):
    """Raised inside a handler whose worker is told to end at once: two seconds to put things in order.

    The job runs again elsewhere, and neither an attempt nor a death is counted. Not an Exception, so that handlers
    that catch all of those do not swallow it.
    """


class SoftTimeLimit(QueuelibError, TimeoutError):
    """Raised inside a handler that ran longer than its task's `timeout`; a failure that may retry."""


class Retry(QueuelibError):
    """Raised by a handler: run this job again, after `delay` seconds where given.

    It counts as one of the task's `retries`; when those are used up the job fails.

    Raises:
        ArgumentError: The delay is no number of seconds or timedelta.
        ConfigurationError: It is negative or not finite.
    """

    def __init__(self, delay: float | timedelta | None = None, *, reason: str = "retry asked for") -> None:
        super().__init__(reason)
        self.delay = None if delay is None else _delay(delay)


class WorkerError(QueuelibError, RuntimeError):
    """A worker could not start; the message holds its own words or traceback."""


def _delay(value: object) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, SupportsFloat):
        msg = f"Retry takes a delay in seconds or as timedelta, not {value!r}; for a text write Retry(reason=...)"
        raise ArgumentError(msg)
    seconds = float(seconds)
    if not (math.isfinite(seconds) and seconds >= 0):
        msg = f"Retry takes a delay of zero or more, finite seconds, not {value!r}"
        raise ConfigurationError(msg)
    return seconds
