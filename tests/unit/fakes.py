"""Stand-ins for clocks, lanes and result backends, and makers of bundles: what the unit tests share."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hypothesis import settings
from hypothesis import strategies as st

from queuelib import codec, envelope, plugins
from queuelib.clock import Clock
from queuelib.errors import BrokerUnavailable
from queuelib.message import Bundle, Limits
from queuelib.ports import Delivery, ResultCapabilities
from queuelib.settings import MAX_RETRIES
from queuelib.worker.lease import Hold, Part

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from queuelib.ids import Key
    from queuelib.outcome import Record
    from queuelib.ports import Memo, QuarantineItem, Settled

quick = settings(max_examples=25, deadline=None)
BUNDLE_ID = bytes(range(16))
LETTERS = "abfzAFZ0159 ._-+/:;,@%#=&'\"\\\n\0\u00e9\u6f22\U0001f600"  # few: all of Unicode takes hypothesis 2 s to load


@dataclass
class Time:
    """Clocks that stand still until the test moves them."""

    now: float = 1_000_000.0

    @property
    def clock(self) -> Clock:
        """Both clocks, showing `now`."""
        return Clock(wall=lambda: self.now, monotonic=lambda: self.now)


@dataclass
class FakeResults:
    """Remembers records, and writes down every call in `log`, which it may share with a lane."""

    log: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])
    records: dict[Key, Record] = field(default_factory=dict["Key", "Record"])
    error: Exception | None = None
    cancelled_keys: list[Key] = field(default_factory=list["Key"])
    set_aside: list[QuarantineItem] = field(default_factory=list["QuarantineItem"])
    capabilities: ResultCapabilities = field(default_factory=lambda: ResultCapabilities(records=True))

    def store(self, records: Sequence[Record], reply: str = "") -> list[bool]:
        """Keep the records."""
        self.log.append(("store", (list(records), reply)))
        if self.error is not None:
            raise self.error
        self.records.update({record.key: record for record in records})
        return [True] * len(records)

    def fetch(self, keys: Sequence[Key]) -> list[Record | None]:
        """Return what is kept."""
        self.log.append(("fetch", list(keys)))
        if self.error is not None:
            raise self.error
        return [self.records.get(key) for key in keys]

    def quarantine(self, items: Sequence[QuarantineItem]) -> None:
        """Write it down, and keep it."""
        self.log.append(("quarantine", list(items)))
        self.set_aside += items

    def quarantined(self) -> list[QuarantineItem]:
        """Return what is kept."""
        return self.set_aside

    def cancel(self, keys: Sequence[Key]) -> None:
        """Write it down."""
        self.cancelled_keys.extend(keys)


@dataclass
class FakeLane:
    """Writes down every call in `log`; `lost` are deliveries that belong to another worker by now."""

    log: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])
    lost: list[Delivery] = field(default_factory=list[Delivery])
    error: Exception | None = None

    def publish(self, frames: Sequence[Any], deadline: float) -> None:
        """Write it down."""
        assert deadline > 0
        self.log.append(("publish", list(frames)))
        if self.error is not None:
            raise self.error

    def find_lost(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Return those that are lost."""
        self.log.append(("find_lost", list(deliveries)))
        if self.error is not None:
            raise self.error
        return [delivery for delivery in deliveries if delivery in self.lost]

    def acknowledge(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Return those that are lost."""
        self.log.append(("acknowledge", list(deliveries)))
        return [delivery for delivery in deliveries if delivery in self.lost]


@dataclass
class FakeDoor:
    """A settlement in one step."""

    log: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])
    is_ours: bool = True

    def settle(self, batch: Sequence[Settled]) -> list[bool]:
        """Write it down."""
        self.log.append(("settle", list(batch)))
        return [self.is_ours] * len(batch)


class FakeMemos:
    """A keeper of memos that writes down what it is given, and may be away."""

    def __init__(self) -> None:
        self.inner = plugins.memos_for(f"memory://{uuid.uuid4().hex}", "x")
        self.writes: list[list[Memo]] = []
        self.is_away = False

    def write(self, memos: Sequence[Memo]) -> None:
        """Write it down, and keep it."""
        self._answer()
        self.writes.append(list(memos))
        self.inner.write(memos)

    def read(self, kind: str, keys: Sequence[Key]) -> list[bytes | None]:
        """Return what is kept."""
        return self.inner.read(kind, keys)

    def drop(self, kind: str, keys: Sequence[Key]) -> None:
        """Remove."""
        self._answer()
        self.inner.drop(kind, keys)

    def close(self) -> None:
        """Nothing is open."""

    def _answer(self) -> None:
        if self.is_away:
            msg = "away"
            raise BrokerUnavailable(msg)


def make_bundle(count: int = 1, **changes: Any) -> Bundle:
    """Return a bundle of `count` jobs of the task `lab.work` in yellow, each with its place as its argument.

    `arguments`, one encoded list for each job, stands for `column`.
    """
    arguments = changes.pop("arguments", [codec.encode([number]) for number in range(count)])
    fields: dict[str, Any] = {
        "id": BUNDLE_ID,
        "task": "lab.work",
        "color": "yellow",
        "size": count,
        "indexes": range(count),
        "column": codec.encoded_list(arguments),
        **changes,
    }
    return Bundle(**fields)


def make_delivery(bundle: Bundle | None = None, **changes: Any) -> Delivery:
    """Return a delivery of a bundle, by its own color unless said otherwise."""
    bundle = bundle or make_bundle()
    fields: dict[str, Any] = {"frame": envelope.encode(bundle), "color": bundle.color, "tag": object(), **changes}
    return Delivery(**fields)


def make_hold(bundle: Bundle | None = None) -> Hold:
    """Return a delivery in hand, with every job of it waiting."""
    bundle = bundle or make_bundle()
    return Hold(make_delivery(bundle), bundle)


def make_part(bundle: Bundle | None = None) -> Part:
    """Return all jobs of a bundle in hand, as one part."""
    hold = make_hold(bundle)
    return Part(hold, 0, len(hold.bundle.indexes))


def positions(parts: Iterable[Part]) -> list[int]:
    """Return the positions of the jobs in some parts, in order."""
    return [at for part in parts for at in range(part.at, part.end)]


def verbs(log: Iterable[tuple[str, Any]]) -> list[str]:
    """Return the names of the calls in a log, in order."""
    return [verb for verb, _ in log]


TIMES = st.floats(0, 1e11) | st.integers(0, 2**36)
NAMES = st.text(LETTERS, max_size=12)
LIMITS = st.builds(
    Limits,
    timeout=st.none() | TIMES,
    hard_timeout=st.none() | TIMES,
    retries=st.integers(0, MAX_RETRIES),
    backoff=TIMES,
    max_backoff=TIMES,
)


@st.composite
def bundles(draw: st.DrawFn) -> Bundle:
    """Any bundle that may travel: whole, or a part of one."""
    size = draw(st.integers(1, 8))
    indexes = sorted(draw(st.sets(st.integers(0, size - 1), min_size=1)))
    return Bundle(
        id=draw(st.binary(min_size=16, max_size=16)),
        task=draw(NAMES),
        color=draw(NAMES),
        size=size,
        indexes=indexes,
        column=codec.encoded_list([codec.encode([draw(st.integers(0, 9))]) for _ in indexes]),
        schema=draw(st.binary(max_size=8)),
        limits=draw(LIMITS),
        submitted=draw(TIMES),
        due=draw(st.none() | TIMES),
        expires=draw(st.none() | TIMES),
        attempt=draw(st.integers(1, MAX_RETRIES + 1)),
        deaths=draw(st.integers(0, MAX_RETRIES)),
        reply=draw(NAMES),
        trace=draw(st.binary(max_size=8)),
    )
