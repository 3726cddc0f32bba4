"""What travels: the base of typed messages, the limits of a task, and the bundle that a broker message carries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

__all__ = ["INPUTS", "NO_LIMITS", "Bundle", "Input", "Limits", "Message", "Outgoing", "Run", "queue_of"]

R = TypeVar("R")


class Message(Generic[R]):
    """Optional base of a message class, for type checkers: `class Evaluate(Message[float])` says what its job returns."""

    __slots__ = ()


class Limits(NamedTuple):
    """What a job may take, in seconds and attempts.

    Attributes:
        timeout: Soft limit: `SoftTimeLimit` is raised in the handler; None for no limit.
        hard_timeout: The child is killed; 10 s after the soft limit unless said otherwise.
        retries: How often the job is run again after a failure.
        backoff: Longest wait before the first retry; it doubles with each, with full jitter.
        max_backoff: Cap of that wait.
    """

    timeout: float | None = None
    hard_timeout: float | None = None
    retries: int = 0
    backoff: float = 1.0
    max_backoff: float = 600.0


NO_LIMITS = Limits()
INPUTS = "inputs"  # the queue of what waits for results of others: no color can have this name


class Run(NamedTuple):
    """Jobs whose indexes in one bundle follow each other."""

    bundle: bytes
    first: int
    count: int = 1  # type: ignore[assignment]  # tuple.count is not missed


class Input(NamedTuple):
    """Results that an argument is made of, once they are there.

    Attributes:
        runs: The jobs, in order.
        is_list: Whether the argument is the list of their results; else it is the result of the one job.
        passes: Whether a job that did not end well is given as a value, `Failure`; else nothing is run.
    """

    runs: Sequence[Run]
    is_list: bool = False
    passes: bool = False


class Bundle(NamedTuple):
    """Jobs of one task that travel in one broker message; a single job is a bundle of one.

    Attributes:
        id: 16 bytes, shared by every part that is split off later.
        task: Wire name of the task.
        color: Queue it belongs to.
        size: Number of jobs the bundle was submitted with.
        indexes: Which of them travel here, ascending.
        column: The encoded list of their argument lists, one for each of `indexes`. With `inputs` it is the encoded list
            of the pieces, as byte strings, between which the results belong that make them whole.
        schema: Digest of the argument types at the submitter.
        limits: Time limits and retries.
        submitted: Wall time of submission.
        due: Wall time before which it must not start, or None.
        expires: Wall time after which it must not start, or None.
        attempt: 1 for the first run, one more for each retry.
        deaths: Not used: starts without an outcome are counted in records. A field of the wire.
        reply: Where a waiting client is told of outcomes; empty for nowhere.
        trace: Opaque tracing context.
        inputs: What a single job waits for before it can run. Such a bundle travels by the queue `INPUTS`, has the
            attempt 0, and becomes one without inputs and with the attempt 1.
        seed: Root of the random numbers of its call; None: each job's own are made from its id.
        first: Place in the call of the job with the index 0, where there is a seed.
    """

    id: bytes
    task: str
    color: str
    size: int
    indexes: Sequence[int]
    column: bytes
    schema: bytes = b""
    limits: Limits = NO_LIMITS
    submitted: float = 0.0
    due: float | None = None
    expires: float | None = None
    attempt: int = 1
    deaths: int = 0
    reply: str = ""
    trace: bytes = b""
    inputs: Sequence[Input] = ()
    seed: int | None = None
    first: int = 0


class Outgoing(NamedTuple):
    """A frame on its way to the broker.

    Attributes:
        color: Name of the color whose queue it goes to.
        bundle: Id of its bundle.
        frame: The envelope.
        due: Wall time before which nobody takes it, or None.
        size: Number of jobs in the bundle as submitted.
        is_successor: Whether it continues jobs that were accepted before (a retry, a split). A transport that
            accepts each bundle id only once must let successors pass.
    """

    color: str
    bundle: bytes
    frame: bytes
    due: float | None = None
    size: int = 1
    is_successor: bool = False


def queue_of(bundle: Bundle) -> str:
    """Return by which queue a bundle travels: its color's, or that of what waits for inputs."""
    return INPUTS if bundle.inputs else bundle.color
