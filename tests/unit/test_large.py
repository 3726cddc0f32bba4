"""Large values: kept apart once they are seen again, and what stands for them."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from queuelib import codec, plugins
from queuelib.codec import StoredInside, resolving
from queuelib.errors import BrokerUnavailable, ConfigurationError, DecodeError, SharedGone
from queuelib.handle import ARGUMENT, RESULT, Stored
from queuelib.large import Repeats, Store
from queuelib.settings import LARGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuelib.ports import Blobs

BIG, OTHER = bytes(LARGE_BYTES), b"\1" * LARGE_BYTES  # with what msgpack writes before them, these are large
SMALL = bytes(LARGE_BYTES - 10)


class Desk:
    """A keeper of blobs, a store on it, and time."""

    def __init__(self) -> None:
        url = f"memory://{uuid.uuid4().hex}"
        self.now = 1000.0
        self.opened: list[float] = []
        self.error: Exception | None = None
        self.puts = 0

        def connect(keep: float) -> Blobs:
            self.opened.append(keep)
            if self.error is not None:
                raise self.error
            return plugins.blobs_for(url, "x", keep)

        self.store = Store(connect, 3600.0)
        self.repeats = Repeats(self.store, lambda: self.now)
        put = self.store.put

        def counted(kind: int, value: bytes) -> Stored:
            self.puts += 1
            return put(kind, value)

        self.store.put = counted  # type: ignore[method-assign]

    def column(self, *calls: Sequence[object] | dict[str, object]) -> bytes:
        """Return the column of these calls, with what is large moved out of it."""
        return self.repeats.moved(codec.encoded_list([codec.encode(call) for call in calls]), len(calls))

    def read(self, column: bytes) -> list[object]:
        with resolving(self.store.get):
            return codec.decode_list(column)


@pytest.fixture
def it() -> Desk:
    """A desk of its own for each test."""
    return Desk()


def test_what_is_seen_again_is_moved(it: Desk) -> None:
    """The first time it travels; then what stands for it does, however often, and it is sent once."""
    first = it.column([BIG, 1])
    assert len(first) > LARGE_BYTES
    again = [it.column([BIG, number]) for number in range(100)]
    assert max(map(len, again)) < 100
    assert it.puts == 1
    assert [it.read(column) for column in (first, again[7])] == [[[BIG, 1]], [[BIG, 7]]]


def test_only_what_is_large_and_the_same(it: Desk) -> None:
    """Small ones stay, however often they come; of two of one length each is itself."""
    for _ in range(3):
        assert it.column([SMALL, SMALL]) == codec.encode([[SMALL, SMALL]])
    for value in (BIG, OTHER, BIG, OTHER):
        column = it.column([value])
    assert it.read(column) == [[OTHER]]
    assert it.puts == 2


def test_rows_and_fields(it: Desk) -> None:
    """Each call of a column, and each field of a message."""
    calls: list[dict[str, object]] = [{"a": BIG, "n": 1}, {"n": 2, "a": BIG}]
    column = it.column(*calls)
    assert LARGE_BYTES < len(column) < LARGE_BYTES + 200
    assert it.read(column) == calls


def test_a_checksum_that_two_have(it: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs a copy, and mixes nothing up."""
    monkeypatch.setattr("queuelib.large.zlib.crc32", lambda _: 7)
    columns = [(value, it.column([value])) for value in (BIG, OTHER, BIG, OTHER, OTHER)]
    assert all(it.read(column) == [[value]] for value, column in columns)


def test_it_is_looked_for_again_after_a_while(it: Desk) -> None:
    """So that what relies on it outlives it; it is not sent again if it is there."""
    it.column([BIG])
    it.column([BIG])
    it.now += 599.0
    it.column([BIG])
    assert it.puts == 1
    it.now += 2.0
    it.column([BIG])
    assert it.puts == 2


@pytest.mark.parametrize("error", [BrokerUnavailable("away"), ConfigurationError("keeps nothing")])
def test_where_nothing_can_be_kept_it_travels(it: Desk, error: Exception) -> None:
    """As before there was anywhere to keep it; and whoever does not answer is left alone for a minute."""
    it.error = error
    for _ in range(5):
        assert it.column([BIG]) == codec.encode([[BIG]])
    assert it.puts == 1
    it.error = None
    it.now += 61.0
    assert len(it.column([BIG])) < 100


def test_memory_is_bounded(it: Desk) -> None:
    """Of what was not used lately only that it was seen is remembered."""
    values = [bytes([number]) * 16_000_000 for number in range(6)]
    for value in values * 2:
        it.column([value])
    kept = [one for one in it.repeats._seen.values() if one is not None]
    assert sum(len(one.value) for one in kept) <= 64 * 1024**2
    assert len(it.column([values[0]])) < 100


def test_arguments_and_results_are_kept_for_different_times(it: Desk) -> None:
    """An argument for as long as a job may wait, a result for longer than its outcome."""
    stored = {kind: it.store.put(kind, codec.encode(BIG)) for kind in (ARGUMENT, RESULT)}
    assert stored[ARGUMENT].hash != stored[RESULT].hash
    assert it.opened == [30 * 86_400.0, 7200.0]
    assert it.store.get(stored[RESULT]) == codec.encode(BIG)


def test_what_is_gone_says_so(it: Desk) -> None:
    """With what it was."""
    with pytest.raises(SharedGone, match="the result of this job takes 9 bytes"):
        it.store.get(Stored(RESULT, bytes(32), 9))
    with resolving(it.store.get), pytest.raises(SharedGone, match="an argument"):
        codec.decode(codec.encode([Stored(ARGUMENT, bytes(32), 9)]))


def test_it_is_read_only_where_it_is_asked_for(it: Desk) -> None:
    """Elsewhere the bytes are not readable, and say why."""
    data = codec.encode({"x": [it.store.put(RESULT, codec.encode([1, 2]))]})
    with pytest.raises(StoredInside, match="kept elsewhere"):
        codec.decode(data)
    with resolving(it.store.get):
        assert codec.decode(data) == {"x": [[1, 2]]}


def test_what_is_kept_holds_nothing_that_is_kept_elsewhere(it: Desk) -> None:
    """Nobody writes that: it could go on for ever."""
    inner = it.store.put(RESULT, codec.encode(1))
    outer = it.store.put(RESULT, codec.encode(inner))
    with resolving(it.store.get), pytest.raises(DecodeError, match="kept elsewhere"):
        codec.decode(codec.encode(outer))


@pytest.mark.parametrize(
    "payload", [b"", bytes(40), b"\2" + bytes(39) + b"\1", bytes(41), bytes(33) + b"\xff" * 8, bytes(42)]
)
def test_foreign_bytes(payload: bytes) -> None:
    """What stands for nothing is refused before anybody is asked for it."""
    data = b"\xc7" + bytes([len(payload), 17]) + payload
    with resolving(lambda _: b"\x01"), pytest.raises(DecodeError, match="a kind, a hash and a length"):
        codec.decode(data)
