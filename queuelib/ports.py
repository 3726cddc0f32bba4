"""The doors between the core and its backends: what a server's package must offer, and nothing of any server.

Everything moves in batches; one is a batch of one. A backend that fulfils these protocols is right when it passes
the conformance classes in `queuelib.testing`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from queuelib.clock import Clock
from queuelib.errors import BrokerUnavailable
from queuelib.ids import Key
from queuelib.message import Outgoing
from queuelib.outcome import Record

__all__ = [
    "Backend",
    "BlobBackend",
    "Blobs",
    "Cancelled",
    "DelayExchanges",
    "Delivery",
    "Follower",
    "HeldQueues",
    "InProcess",
    "Lane",
    "Listening",
    "LongReader",
    "Outgoing",
    "QuarantineItem",
    "Redelivery",
    "ResultBackend",
    "ResultCapabilities",
    "Settled",
    "Settlement",
    "Span",
    "StillReading",
    "Teller",
    "TransportCapabilities",
    "TransportSettings",
    "WorkerInfo",
]


@dataclass(slots=True, eq=False)
class Delivery:
    """A frame in hand: it must be settled or given back.

    Attributes:
        frame: The bytes as they were published.
        color: The color it was taken from.
        tag: The transport's own handle.
        redelivered: Whether somebody took it before and died, or gave it back.
        published: Wall time of its first publication, as far as the transport knows; else of its arrival.
        is_lost: Whether the core has learned that it is not ours any more; no transport sets it.
    """

    frame: bytes
    color: str
    tag: Any
    redelivered: bool = False
    published: float = 0.0
    is_lost: bool = False


@dataclass(frozen=True, slots=True)
class QuarantineItem:
    """A message that nobody may lose and nobody can run.

    Attributes:
        id: Id of the job, or of the item where no job could be read from it.
        color: Where it came from.
        reason: Why it is here, for people.
        frame: The envelope, to be published again on request.
        at: Wall time in seconds.
    """

    id: str
    color: str
    reason: str
    frame: bytes
    at: float


@dataclass(slots=True, eq=False)
class Settled:
    """All that one delivery asks to be written, in the order of `queuelib.worker.settle`.

    Attributes:
        delivery: The delivery.
        records: Outcomes and states of its jobs.
        successors: Frames that continue some of its jobs.
        quarantined: What is set aside.
        is_complete: Whether the delivery is acknowledged: no job of it is left.
        reply: Where a waiting client is told; empty for nowhere.
    """

    delivery: Delivery
    records: Sequence[Record] = ()
    successors: Sequence[Outgoing] = ()
    quarantined: Sequence[QuarantineItem] = ()
    is_complete: bool = False
    reply: str = ""


class Redelivery(enum.Enum):
    """What the redelivery of a dead taker's messages rests on."""

    LEASE = "lease"  # a claim that the living renew, or a lock that dies with its owner
    CONNECTION = "connection"  # the broker sees the connection end
    VISIBILITY = "visibility"  # a fixed time, whether the taker lives or not
    NONE = "none"  # a message taken is gone


@dataclass(frozen=True, slots=True)
class TransportCapabilities:
    """What a transport can promise; broker.py emulates or refuses what is missing, by these and never by name.

    Attributes:
        has_batch_verbs: Its channel offers the verbs of `Lane` itself.
        redelivery: What happens to a dead taker's messages.
        recovery: Seconds until they are taken again, or None for never or unknown.
        lease: Seconds for which a taker may be silent before others take what it holds; None where no time decides.
        delays: It holds a frame back until it is due.
        deduplicates: It accepts each bundle id once.
        wakes: Its `fileno` becomes readable when there may be something to take.
        crosses_processes: Other processes see what is published.
        survives_restart: A confirmed frame survives the death of the server process.
    """

    has_batch_verbs: bool = False
    redelivery: Redelivery = Redelivery.NONE
    recovery: float | None = None
    lease: float | None = None
    delays: bool = False
    deduplicates: bool = False
    wakes: bool = False
    crosses_processes: bool = True
    survives_restart: bool = False


@dataclass(frozen=True, slots=True)
class ResultCapabilities:
    """What a result backend can promise.

    Attributes:
        records: It knows which ids were given out, so that a made-up one is told from a queued one.
        crosses_processes: Other processes read what is stored.
        survives_restart: A stored outcome survives the death of the server process.
        cancels_at_once: A queued job that is cancelled ends so without a worker.
        large_apart: A large result costs no more as blobs than in its outcome, so that it had better be there.
    """

    records: bool = False
    crosses_processes: bool = True
    survives_restart: bool = False
    cancels_at_once: bool = False
    large_apart: bool = True


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """How broker.py opens and uses a kombu transport.

    Attributes:
        url: URL for `kombu.Connection`, with a scheme that kombu or `alias` knows.
        capabilities: What it can promise.
        alias: `(scheme, "module:Class")` to add to kombu's table of transports, or None.
        options: kombu's transport options.
        connection: Further keyword arguments for `kombu.Connection` (heartbeat, ssl, ...).
        queue_arguments: Arguments with which each color's queue is declared.
        confirms: Publishes are confirmed by the server, in batches, and unroutable ones returned.
        notes: Looks at the very server and returns what a worker should say at its start; may take a second.
        delays: Ladder of waiting queues, where the transport has no delays of its own: see `DelayExchanges`.
        held: Queues for what is in hand for long, where the server bounds that: see `HeldQueues`.
    """

    url: str = field(repr=False)  # it may hold a password, as may the options
    capabilities: TransportCapabilities
    alias: tuple[str, str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    connection: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    queue_arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    confirms: bool = False
    delays: DelayExchanges | None = None
    held: HeldQueues | None = None
    notes: Callable[[], Sequence[str]] = tuple


class DelayExchanges(Protocol):
    """Waiting queues behind exchanges: a frame's routing key says how long it waits, and the server moves it on."""

    @property
    def longest(self) -> float:
        """Longest delay in seconds; what has to wait longer is sent round again by whoever takes it."""
        ...

    def address(self, queue: str, delay: float) -> tuple[str, str]:
        """Return exchange and routing key by which a frame reaches `queue` after `delay` seconds."""
        ...

    def declare(self, connection: Any, queue: str) -> None:
        """Make sure, through a kombu connection, that every way to `queue` exists."""
        ...


class HeldQueues(Protocol):
    """Queues of a worker's own, to which it moves what it has in hand before the server takes that back."""

    @property
    def limit(self) -> float:
        """Seconds for which the server lets a message be in hand."""
        ...

    def learn(self, complaint: str) -> None:
        """Read from an error of the server that the limit is another one."""
        ...

    def arguments(self, queue: str) -> Mapping[str, Any]:
        """Return with which arguments one is declared from which `queue` gets at once what nobody holds any more."""
        ...


class Lane(Protocol):
    """The verbs by which the core moves frames; one thread at a time.

    Every verb raises `BrokerUnavailable` when the server is gone. The lane is then closed and built anew, unless its
    redelivery rests on a lease: such a lane goes on as the same taker when the server is back.
    """

    @property
    def capabilities(self) -> TransportCapabilities:
        """What the transport below can promise."""
        ...

    def publish(self, frames: Sequence[Outgoing], deadline: float) -> None:
        """Return when the server has accepted every frame.

        Args:
            frames: What to publish.
            deadline: Seconds the call may take.

        Raises:
            BrokerUnavailable: None was accepted but those in `error.accepted` (bundle ids in hex).
            SubmitUnknown: Nobody knows of `error.frames`: their confirmation was lost. All others were accepted.
            QueuelibError: Any other one: nothing was accepted.
        """
        ...

    def take(self, room: Mapping[str, int]) -> list[Delivery]:
        """Return what is ready now, at most `room[color]` more frames of each color; never wait."""
        ...

    def acknowledge(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Settle for good; return those that were not ours any more."""
        ...

    def give_back(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """Return deliveries to their queues, unchanged, for others to take after `delay` seconds."""
        ...

    def stop_taking(self) -> None:
        """Let nothing more come here: what was sent ahead and not taken is for others at once; what was taken stays."""
        ...

    def renew(self) -> float:
        """Keep the claim on what was taken, and return the messages of the dead to their queues.

        Returns:
            For how many seconds nothing has been heard from the server: 0 where it has just answered.
        """
        ...

    def find_lost(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Ask the server, and return those of these deliveries that are not ours any more."""
        ...

    def fileno(self) -> int | None:
        """Return a descriptor that is readable when `take` may find something, or None: poll."""
        ...

    def next_due(self) -> float | None:
        """Return the wall time at which a delayed frame becomes ready, or None."""
        ...

    def waiting(self, colors: Sequence[str]) -> dict[str, int]:
        """Return the number of frames that wait in each color's queue, due or not."""
        ...

    def notes(self) -> list[str]:
        """Return what a worker on this very server should say at its start: promises that are weaker here."""
        ...

    @property
    def handle(self) -> Any:
        """What `Backend.join` is given: the kombu channel of batch verbs, or this lane itself."""
        ...

    def close(self) -> None:
        """Give up the connection; what was taken and not settled is for others at once."""
        ...


class Settlement(Protocol):
    """Records, successors and acknowledgements in one step, where broker and results are one server."""

    def settle(self, batch: Sequence[Settled]) -> list[bool]:
        """Write the batch; return for each entry whether its delivery was still ours.

        Where it was not, only successes are written: another worker speaks for the rest.
        """
        ...


class Cancelled(NamedTuple):
    """Cancel marks read so far: the keys that are new, and the cursor for the next call."""

    keys: Sequence[Key]
    cursor: Any


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A live worker, as others see it."""

    name: str
    host: str
    pid: int
    colors: tuple[str, ...]
    tasks: tuple[str, ...]
    at: float = 0.0
    processes: int = 1


class ResultBackend(Protocol):
    """Keeps outcomes, records of accepted jobs, cancel marks, the quarantine and the list of live workers.

    It handles ids, states and opaque bytes only. All methods may be called from any thread.
    """

    @property
    def capabilities(self) -> ResultCapabilities:
        """What it can promise."""
        ...

    def accept(self, frames: Sequence[Outgoing]) -> None:
        """Remember that these bundles were given out, before they are published."""
        ...

    def expect(self, frames: Sequence[Outgoing]) -> None:
        """Note that this client is about to publish bundles, of which the transport itself keeps the record."""
        ...

    def store(self, records: Sequence[Record], reply: str = "") -> list[bool]:
        """Store records as `supersedes` in outcome.py decides; return which of them now stand, for all their jobs.

        Args:
            records: Any number of jobs, each at most once. A record of several successes (`count` above 1) is decided
                job by job; a backend that cannot keep it whole stores `body.singles` of it.
            reply: Inbox of the client to wake, from the bundle; empty for none.
        """
        ...

    def fetch(self, keys: Sequence[Key]) -> list[Record | None]:
        """Return what is known of each job, in order: its record, a `queued` one if it was only accepted, or None.

        A record of several successes is returned whole for each of its jobs that is asked for.
        """
        ...

    def wait(self, keys: Sequence[Key], timeout: float) -> Sequence[Record | None] | None:
        """Return when at least one of these jobs may have ended, or after `timeout` seconds; may return early.

        Returns:
            What `fetch` says by now, if that was read on the way; None if it is to be asked.
        """
        ...

    def forget(self, keys: Sequence[Key]) -> None:
        """Drop what is stored of these jobs' endings, so that they may end again."""
        ...

    def inbox(self) -> str:
        """Return the address on which this client waits, to travel with its bundles; empty if none is needed."""
        ...

    def cancel(self, keys: Sequence[Key]) -> None:
        """Mark jobs so that no worker starts them any more."""
        ...

    def cancelled(self, cursor: Any) -> Cancelled:
        """Return the marks made since `cursor` (None: all that are kept)."""
        ...

    def quarantine(self, items: Sequence[QuarantineItem]) -> None:
        """Set messages aside, for good."""
        ...

    def quarantined(self) -> list[QuarantineItem]:
        """Return all that is set aside, oldest first; this consumes nothing."""
        ...

    def release(self, ids: Sequence[str]) -> None:
        """Remove items from the quarantine, after they were published again or dropped on request."""
        ...

    def announce(self, worker: WorkerInfo, lifetime: float) -> None:
        """Say that a worker lives, for `lifetime` seconds from now; 0 takes it off the list."""
        ...

    def workers(self) -> list[WorkerInfo]:
        """Return the workers that live."""
        ...

    def close(self) -> None:
        """Give up connections; a later call opens them again."""
        ...


class StillReading(BrokerUnavailable):
    """A look-up has to read more than was possible in the time that it was given; asked again, it goes on."""


@runtime_checkable
class LongReader(Protocol):
    """A result backend whose look-ups may have to read for long; a worker, which has one thread, bounds them."""

    def limit_look_ups(self, seconds: float) -> None:
        """Have `fetch` and `cancelled` raise `StillReading` after so many seconds.

        What was read by then is not read again where the same jobs are asked for within a minute.
        """
        ...


@runtime_checkable
class Follower(Protocol):
    """A result backend that looks up the better the earlier it knows what it will be asked for, ever again."""

    def follow(self, keys: Sequence[Key]) -> None:
        """Keep at hand what is stored of these jobs from now on, and what was before.

        Raises:
            StillReading: It is on its way.
            BrokerUnavailable: The server does not answer.
        """
        ...


@runtime_checkable
class InProcess(Protocol):
    """A backend whose servers live in this process: a test gives one its own time, and ends it."""

    def set_clock(self, url: str, clock: Clock) -> None:
        """Have the server of a URL take its time from a clock: what is due, and for how long outcomes are kept."""
        ...

    def drop(self, url: str) -> None:
        """Forget the server of a URL and all that it keeps; nobody may be connected to it."""
        ...


Span = tuple[bytes, int, int]
"""Jobs of one bundle in a row: the bundle's id, the index of the first, and how many."""


class Listening(Protocol):
    """What one thread hears of jobs that have ended, while it looks at none of them.

    It may miss some, and name some that have not ended. Records are stored before they are told of.
    """

    def wait(self, timeout: float) -> Sequence[Span] | None:
        """Return which jobs were told of since the last call, once there are any or after `timeout` seconds.

        Returns:
            The jobs, of whichever client, perhaps none; None if some have ended and nobody knows which.

        Raises:
            BrokerUnavailable: The server is gone.
        """
        ...

    def wake(self) -> None:
        """Have the wait that is under way return soon, or the next one; from any thread, and after `close` too."""
        ...

    def tells_of(self, key: Key) -> bool:
        """Return whether the end of this job will be told here; a job of another client's perhaps will not."""
        ...

    def close(self) -> None:
        """Listen no more."""
        ...


class Blobs(Protocol):
    """Keeps pieces of what is shared between jobs, apart from outcomes: large, the same for many, and made again if lost.

    A piece is there wholly or not at all, and stays for `keep` seconds after it was put, read or renewed last. Its content
    never changes, as its name is made from it. All methods may be called from any thread, and after a fork on both sides.
    """

    def put(self, pieces: Mapping[bytes, bytes]) -> None:
        """Keep pieces; of one that is there already only the time begins anew.

        Args:
            pieces: Contents by name. Names have at most 64 bytes, contents little more than `BLOB_BYTES` in settings.py.
                A call has some MiB; nothing else waits for longer than one piece of it takes.
        """
        ...

    def get(self, names: Sequence[bytes]) -> list[bytes | None]:
        """Return pieces, in order, None for each that is not there; the time of those that are begins anew."""
        ...

    def renew(self, names: Sequence[bytes]) -> list[bool]:
        """Have the time of pieces begin anew; return which are there. One that is there may rarely seem not to be."""
        ...

    def drop(self, names: Sequence[bytes]) -> None:
        """Remove pieces, as far as they are there."""
        ...

    def close(self) -> None:
        """Give up connections; a later call opens them again."""
        ...


class Memo(NamedTuple):
    """The newest word of one kind about one job that has not ended.

    Attributes:
        key: The job.
        kind: What it is: a short word in ASCII letters.
        data: Its content, opaque here.
        keep: Seconds for which it stays unless it is written anew.
    """

    key: Key
    kind: str
    data: bytes
    keep: float


class Memos(Protocol):
    """Keeps the newest memo of each job and kind: what handlers tell and save while they run.

    Apart from outcomes, because these are written often, read rarely, and mean nothing once the job has ended. Who writes
    has to know that the job is its own. All methods may be called from any thread.
    """

    def write(self, memos: Sequence[Memo]) -> None:
        """Keep memos, each in place of the one before it; each is there wholly or not at all."""
        ...

    def read(self, kind: str, keys: Sequence[Key]) -> list[bytes | None]:
        """Return the newest of one kind of each job, in order; None where there is none."""
        ...

    def drop(self, kind: str, keys: Sequence[Key]) -> None:
        """Remove those of one kind, as far as they are there."""
        ...

    def close(self) -> None:
        """Give up connections; a later call opens them again."""
        ...


@runtime_checkable
class Teller(Protocol):
    """A result backend that tells of ends without being asked for certain jobs; any other is asked 20 times a second."""

    def listen(self) -> Listening | None:
        """Begin to listen, in this process; None if that is not possible after all."""
        ...


@runtime_checkable
class BlobBackend(Protocol):
    """A backend that also keeps what is shared; one of others that does not is a backend all the same."""

    def blobs(self, url: str, namespace: str, keep: float) -> Blobs:
        """Return the keeper of blobs; it connects on first use.

        Args:
            url: The results URL.
            namespace: Every key, queue and file begins with it.
            keep: Seconds for which a piece stays after its last use.
        """
        ...


@runtime_checkable
class MemoBackend(Protocol):
    """A backend that also keeps memos; one of others that does not is a backend all the same."""

    def memos(self, url: str, namespace: str) -> Memos:
        """Return the keeper of memos; it connects on first use.

        Args:
            url: The results URL.
            namespace: Every key, queue and file begins with it.
        """
        ...


class Backend(Protocol):
    """The package of one server: found by its URL schemes through the entry points `queuelib.backends`."""

    @property
    def name(self) -> str:
        """Short name, for messages."""
        ...

    @property
    def schemes(self) -> tuple[str, ...]:
        """URL schemes it serves."""
        ...

    def transport(self, url: str, namespace: str) -> TransportSettings:
        """Return how to open its kombu transport.

        Raises:
            ConfigurationError: The URL cannot work; the message says why.
            MissingDriver: The driver is not installed; the message names the extra.
        """
        ...

    def results(self, url: str, namespace: str, keep: float) -> ResultBackend:
        """Return its result backend; it connects on first use.

        Args:
            url: The results URL.
            namespace: Every key, queue and file begins with it.
            keep: Seconds for which outcomes are kept.
        """
        ...

    def join(self, channel: Any, results: ResultBackend) -> Settlement | None:
        """Return one door for records and acknowledgements if both are the same server of ours, else None."""
        ...
