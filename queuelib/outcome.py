"""How a job ends, as values, and the one rule that says which of two records of a job stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from queuelib.ids import Key

__all__ = [
    "CANCELLED",
    "EXPIRED",
    "FAILED",
    "FORGED",
    "QUARANTINED",
    "QUEUED",
    "RETRYING",
    "RUNNING",
    "SCHEDULED",
    "SUCCEEDED",
    "TERMINAL",
    "Again",
    "Failed",
    "Failure",
    "Inherited",
    "NotRun",
    "Outcome",
    "Quarantined",
    "Record",
    "Released",
    "supersedes",
]

QUEUED: Final = "queued"
SCHEDULED: Final = "scheduled"
RUNNING: Final = "running"
RETRYING: Final = "retrying"
SUCCEEDED: Final = "succeeded"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
EXPIRED: Final = "expired"
QUARANTINED: Final = "quarantined"
FORGED: Final = "forged"  # never stored: what a reader who has keys sees where another signature, or none, is stored
TERMINAL: Final = frozenset({SUCCEEDED, FAILED, CANCELLED, EXPIRED, QUARANTINED, FORGED})


@dataclass(frozen=True, slots=True)
class Again:
    """The handler failed or asked for it, and the job may be tried again after `delay` seconds (None: back-off)."""

    delay: float | None
    body: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """The handler failed for good; `body` is the encoded error."""

    body: bytes


@dataclass(frozen=True, slots=True)
class Quarantined:
    """Nobody can run this; it is set aside with its `reason` and never retried by itself."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotRun:
    """The job ended before it started: `cancelled` or `expired`."""

    state: str


@dataclass(frozen=True, slots=True)
class Released:
    """What the job waited for is there: it goes on as a message with all its arguments, `column`."""

    column: bytes


@dataclass(frozen=True, slots=True)
class Inherited:
    """What the job waited for ended otherwise than well, and so does it: in that state and with that body."""

    state: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Failure:
    """How a job ended that did not end well, as a value among the results of others: see `settled`.

    Attributes:
        state: failed, cancelled, expired or quarantined.
        type: Name of the exception's class, with its module unless it is builtin; empty if nothing was raised.
        message: The exception's text, of a long one both ends; or why the job was set aside.
        job: Id of the job; `dispatcher.job(failure.job).exception()` has the rest.
    """

    state: str
    type: str
    message: str
    job: str


Outcome = bytes | Again | Failed | Quarantined | NotRun | Released | Inherited
"""How a job ended; bytes are the encoded result of one that returned."""


class Record(NamedTuple):
    """What a result backend keeps of one job, or of several successes in a row: a state and opaque bytes.

    Attributes:
        key: The job; the first one of several.
        state: One of the states above.
        attempt: The attempt that this record tells of, 1 for the first.
        body: Encoded result or error; empty for a state without one.
        at: Wall time in seconds at which it was made.
        count: Number of consecutive jobs of the bundle, from `key` on, that it tells of; more than 1 only for
            successes, whose body then holds a column of results: see `body.singles`.
    """

    key: Key
    state: str
    attempt: int = 1
    body: bytes = b""
    at: float = 0.0
    count: int = 1  # type: ignore[assignment]  # tuple.count is not missed

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self.state in TERMINAL

    @property
    def keys(self) -> list[Key]:
        """The jobs it tells of."""
        bundle, first = self.key
        return [Key(bundle, index) for index in range(first, first + self.count)]


def supersedes(new: Record, old: Record | None) -> bool:
    """Return whether `new` takes the place of `old` for one job.

    A success stands for ever; any other ending gives way to a success only; a state on the way gives way to
    every ending and to a state of the same or a later attempt. But `retrying` only announces an attempt, and is stored once
    its message was accepted: it does not take the place of what that attempt has said itself by then, its start above all.
    """
    if old is None:
        return True
    if old.state == SUCCEEDED:
        return False
    if old.is_final:
        return new.state == SUCCEEDED
    if new.is_final or new.attempt != old.attempt:
        return new.is_final or new.attempt > old.attempt
    return new.state != RETRYING or old.state == RETRYING
