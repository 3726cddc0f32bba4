"""Attacks on the decoders: sizes, nesting, wide bombs, forged lengths, foreign values; each ends in one error of ours."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Generator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import msgpack
import pytest

from queuelib import body, codec, envelope
from queuelib.errors import DecodeError, EncodeError, RemoteError, TooLarge
from queuelib.extensions import EXTENSIONS
from queuelib.message import Bundle
from queuelib.outcome import SUCCEEDED, Record
from queuelib.schema import Schema
from queuelib.settings import MAX_CONTAINERS, MAX_DEPTH, MAX_MESSAGE_BYTES

MIB = 1024 * 1024
_ID = bytes(16)
BUNDLE = Bundle(id=_ID, task="lab.echo", color="red", size=1, indexes=[0], column=b"\x91\x91\x01", submitted=1.0)
DECODERS: dict[str, Callable[[bytes], Any]] = {
    "envelope": envelope.decode,
    "value": codec.decode,
    "arguments": codec.decode_list,
    "record": body.read,
    "column": lambda data: codec.split_list(data, 1),
}


@contextmanager
def memory_below(most: int) -> Generator[None]:
    """Fail if the block takes more than so many bytes at its peak, besides what was there."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak < most, f"{peak / MIB:.1f} MiB"


def array(count: int, items: bytes = b"") -> bytes:
    """Return a list header that claims so many items, and what follows it."""
    return b"\xdd" + count.to_bytes(4, "big") + items


def frame_with(**fields: Any) -> bytes:
    """Return a frame whose payload has other values in some fields, whatever they are."""
    names = ("call", "id", "size", "indexes", "submitted", "due", "expires", "attempt", "deaths", "trace", "column")
    outer = msgpack.unpackb(envelope.encode(BUNDLE))
    payload = dict(zip(names, msgpack.unpackb(outer[3]), strict=True)) | fields
    return msgpack.packb([*outer[:3], msgpack.packb(list(payload.values()))])  # type: ignore[no-any-return]


# Sizes, number 4


def test_s04_what_is_too_large_is_neither_sent_nor_parsed() -> None:
    """A frame above 16 MiB is refused by its length alone, before any of it is read; a submitter makes none."""
    with pytest.raises(TooLarge, match="16,777,216"):
        envelope.encode(BUNDLE._replace(column=b"\x91\xc6" + (17 * MIB).to_bytes(4, "big") + bytes(17 * MIB)))
    frame = b"\x94" + bytes(MAX_MESSAGE_BYTES + 2048)
    with memory_below(MIB), pytest.raises(DecodeError, match="at most 16,777,216 are read"):
        envelope.decode(frame)


def test_s04_names_are_not_remembered_at_any_length() -> None:
    """What bundles of one call have in common is kept between messages, so it is short."""
    call = msgpack.packb(["x" * 5000, "red", b"", [None, None, 0, 0, 0], ""])
    with pytest.raises(DecodeError, match="the call has 5,0.* bytes; at most 4,096 are read"):
        envelope.decode(frame_with(call=call))


# Nesting, number 5


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 500, 1023, 1025, 100_000])
@pytest.mark.parametrize("decoder", [name for name in DECODERS if name != "column"])
def test_s05_deep_nesting_is_refused(decoder: str, depth: int) -> None:
    """Lists within lists end in a DecodeError at any depth: no RecursionError, no end of the stack."""
    for data in (b"\x91" * depth + b"\x90", b"\x81\x01" * depth + b"\x80"):
        with pytest.raises(DecodeError):
            DECODERS[decoder](b"\x91" + data if decoder == "arguments" else data)


def test_s05_deep_extensions_are_refused() -> None:
    """Sets within sets are counted as levels, though C code that reads one knows nothing of the others."""
    data = b"\x90"
    for _ in range(500):
        data = msgpack.packb([msgpack.ExtType(EXTENSIONS["frozenset"], data)])
    with pytest.raises(DecodeError, match="nested"):
        codec.decode(data)


# Wide bombs (S6)


@pytest.fixture
def few_containers(monkeypatch: pytest.MonkeyPatch) -> int:
    """Lower the limit of lists and maps in a value: a million of them, watched one by one, take a minute to make."""
    assert MAX_CONTAINERS == 1_000_000
    monkeypatch.setattr(codec, "MAX_CONTAINERS", 20_000)
    return 20_000


@pytest.mark.parametrize("item", [b"\x90", b"\x80", b"\x91\x90", b"\x91\x80"], ids=["lists", "maps", "nested", "mixed"])
def test_s06_a_wide_bomb_costs_no_memory(few_containers: int, item: bytes) -> None:
    """16 MiB of empty lists would be a gigabyte of Python objects; the reading stops at a million of them."""
    count = 10 * few_containers
    with memory_below(100 * few_containers + 4 * MIB), pytest.raises(DecodeError, match="lists and maps"):
        codec.decode(array(count, item * count))


@pytest.mark.parametrize("decoder", ["envelope", "record"])
def test_s06_a_wide_bomb_costs_the_supervisor_nothing(decoder: str) -> None:
    """What a supervisor and a client read besides arguments has no lists within lists, so none are made."""
    count = 2_000_000
    bombs = [array(count, b"\x90" * count), b"\x94" + array(count, b"\x90" * count), b"\x9f" * 3 * MIB]
    for bomb in bombs:
        with memory_below(20 * MIB), pytest.raises(DecodeError):  # copies of the bytes, at the most
            DECODERS[decoder](bomb)


def test_s06_a_bomb_in_the_column_stays_bytes_in_the_supervisor(few_containers: int) -> None:
    """The supervisor passes 3.8 MiB of empty lists on without making one of them; the child stops at its limit."""
    count = 3_984_588
    frame = envelope.encode(BUNDLE._replace(column=b"\x91\x91" + array(count, b"\x90" * count)))
    with memory_below(16 * MIB):
        bundle = envelope.decode(frame)
        assert codec.split_list(bundle.column, 1)[0][0] == 0x91
    with memory_below(100 * few_containers + 4 * MIB), pytest.raises(DecodeError, match="lists and maps"):
        codec.decode_list(bundle.column)


def test_s06_a_bomb_in_the_indexes() -> None:
    """A field that is a list of numbers has no more of them than a bundle has jobs."""
    bombs: list[list[Any]] = [[0] * 1_000_000, [[]] * 1_000_000]
    for indexes in bombs:
        frame = frame_with(indexes=indexes)
        with memory_below(40 * MIB), pytest.raises(DecodeError):
            envelope.decode(frame)


def test_s06_what_is_just_wide_enough_travels_and_what_is_wider_fails_at_submit(few_containers: int) -> None:
    """The limit is the submitter's as well: what has more lists is an error there; numbers are no lists."""

    def anything(value: Any) -> Any:
        return value

    schema = Schema.of_function(anything)
    value: list[list[int]] = [[] for _ in range(few_containers - 2)]
    assert codec.decode(codec.encode(value)) == value
    assert len(codec.decode(codec.encode([0.5] * 100_000))) == 100_000
    with pytest.raises(EncodeError, match="lists and maps"):
        schema.pack(([[] for _ in range(few_containers + 1)],), {})


def test_s06_extensions_within_each_other_are_not_copied_without_end() -> None:
    """Each level of an extension is a copy of all below it: 60 of them around 8 MiB would be half a gigabyte."""
    data = msgpack.packb([bytes(8 * MIB)])
    for _ in range(60):
        data = msgpack.packb([msgpack.ExtType(EXTENSIONS["set"], data)])
    with memory_below(6 * 16 * MIB), pytest.raises(DecodeError, match="in extensions within each other"):
        codec.decode(data)


# Forged lengths, truncation, trailing bytes (S7)


FORGED = {
    "array of 4G": array(2**32 - 1),
    "map of 4G": b"\xdf\xff\xff\xff\xff",
    "bytes of 4G": b"\xc6\xff\xff\xff\xff",
    "text of 4G": b"\xdb\xff\xff\xff\xff",
    "extension of 4G": b"\xc9\xff\xff\xff\xff\x01",
    "in a list": b"\x94\x02\xc0\xc0\xdd\xff\xff\xff\xff",
    "never used": b"\xc1",
    "never used in a list": b"\x91\xc1",
    "nothing": b"",
    "a number": b"\x01",
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", FORGED)
def test_s07_a_forged_length_allocates_nothing(decoder: str, name: str) -> None:
    """Five bytes that claim four billion items are refused for what they are."""
    data = FORGED[name]
    if (decoder, name) in {("value", "a number"), ("arguments", "a number"), ("record", "nothing")}:
        pytest.skip("that is one")
    with memory_below(MIB), pytest.raises(DecodeError):
        DECODERS[decoder](data)


def test_s07_every_truncation_and_every_addition_is_refused() -> None:
    """A frame and a record are what they are as a whole: a byte less or more is an error, wherever it is cut."""
    frame, record = envelope.encode(BUNDLE), body.of_result("lab.echo", b"\x01", "w/1", 0.5)
    for data, decode in ((frame, envelope.decode), (record, body.read), (codec.encode([1, "x", 2.5]), codec.decode)):
        for end in range(1, len(data)):
            with pytest.raises(DecodeError):
                decode(data[:end])
        for tail in (b"\x00", b"\x91", data):
            with pytest.raises(DecodeError):
                decode(data + tail)


# Foreign values (S8)


@pytest.mark.parametrize("fields", [
    {"submitted": 1e300}, {"submitted": -1.0}, {"submitted": float("nan")}, {"due": 1e300}, {"due": -1e9},
    {"due": float("inf")}, {"expires": 1e300}, {"expires": -1}, {"due": "soon"}, {"due": True}, {"attempt": 0},
    {"attempt": 2**63}, {"attempt": -1}, {"deaths": -1}, {"deaths": 2**64 - 1}, {"size": 2**40}, {"size": 0},
    {"id": b""}, {"id": b"x" * 1000}, {"id": "text"}, {"column": "text"}, {"column": [1]}, {"column": {}}, {"trace": 1},
    {"indexes": [2**63]}, {"indexes": [-1]}, {"indexes": [1.0]}, {"indexes": "0"}, {"call": b"\xc1"}, {"call": None},
], ids=repr)  # fmt: skip
def test_s08_an_absurd_field_is_refused(fields: dict[str, Any]) -> None:
    """Times that no clock shows, counts below zero or beyond all limits, and other types, in a short or a long frame."""
    for padding in (b"", bytes(300)):
        with pytest.raises(DecodeError):
            envelope.decode(frame_with(**{"trace": padding, **fields}))


def test_s08_foreign_values_inside_arguments_are_refused() -> None:
    """Duplicate keys, bad UTF-8, unknown extensions, msgpack's own timestamps, and constructors' refusals."""
    ext, codes = msgpack.ExtType, EXTENSIONS
    hostile = [
        b"\x82\x01\x02\x01\x03",  # the same key twice
        b"\x82\xa1a\x02\xa1a\x03",
        b"\xa2\xff\xfe",  # bad UTF-8
        msgpack.packb(ext(99, b"")),
        msgpack.packb(ext(codes["datetime"], msgpack.packb([10**9, 1, 1, 0, 0, 0, 0, 0, None]))),
        msgpack.packb(ext(codes["datetime"], msgpack.packb([2026, 1, 1, 0, 0, 0, 0, 0, "../../etc/passwd"]))),
        msgpack.packb(ext(codes["datetime"], msgpack.packb([2026, 1, 1, 0, 0, 0, 0, 0, "os.path/x"]))),
        msgpack.packb(ext(codes["datetime"], msgpack.packb([2026, 1, 1, 0, 0, 0, 0, 0, "x" * 100_000]))),
        msgpack.packb(ext(codes["datetime"], msgpack.packb([2026, 1, 1, 0, 0, 0, 0, 0, float("nan")]))),
        msgpack.packb(ext(codes["timedelta"], msgpack.packb([10**18, 0, 0]))),
        msgpack.packb(ext(codes["Decimal"], b"__import__('os')")),
        msgpack.packb(ext(codes["UUID"], b"short")),
        msgpack.packb(ext(codes["Fraction"], msgpack.packb(["1e999999999", 1]))),
        msgpack.packb(ext(codes["Fraction"], msgpack.packb([1, 0]))),
    ]
    for data in hostile:
        with memory_below(MIB), pytest.raises(DecodeError):
            codec.decode(data)


def test_s08_a_fraction_that_takes_hours_to_reduce_is_refused() -> None:
    """The common divisor of two integers of some megabytes takes hours, so their length is bounded."""
    number = msgpack.ExtType(EXTENSIONS["int"], b"\x7f" + bytes(1 * MIB) + b"\x01")
    data = msgpack.packb(msgpack.ExtType(EXTENSIONS["Fraction"], msgpack.packb([number, number])))
    with pytest.raises(DecodeError, match="at most 65,536 bits"):
        codec.decode(data)
    honest = Fraction(3**10_000, 2**10_000)
    assert codec.decode(codec.encode(honest)) == honest


@pytest.mark.parametrize("fields", [
    ["O", [1], bytes(8)], ["f8,f8", [1], bytes(16)], ["(2,3)f8", [1], bytes(48)], ["f8" + ",f8" * 100_000, [1], b""],
    ["<f8", [10**9, 0], b""], ["<f8", [-1], bytes(8)], ["<f8", [2**62, 2**62, 0], b""],
    ["<f8", [2], bytes(8)], ["<U999999999", [1], b""], ["builtins.int", [1], bytes(8)], ["|S0", [1], b""],
    [b"<f8", [1], bytes(8)], ["<f8", 1, bytes(8)], ["<f8", [1] * 200, bytes(8)], ["<f8", ["1"], bytes(8)],
], ids=lambda fields: repr(fields)[:40])  # fmt: skip
def test_s08_an_array_is_what_its_bytes_are(fields: list[Any]) -> None:
    """Arrays of Python objects, of structures, of shapes that their bytes do not fill: refused, and nothing is made."""
    pytest.importorskip("numpy").zeros(1)
    data = msgpack.packb(msgpack.ExtType(EXTENSIONS["ndarray"], msgpack.packb(fields)))
    with memory_below(4 * MIB), pytest.raises(DecodeError):
        codec.decode(data)


# Forged results (S11)


@pytest.mark.parametrize("name", [
    "SystemExit", "builtins.SystemExit", "KeyboardInterrupt", "GeneratorExit", "BaseException", "os.system",
    "subprocess.Popen", "builtins.exec", "queuelib.errors.BrokerUnavailable", "Warning", "x" * 1000, "a..b", "", "__main__.Boom",
])  # fmt: skip
def test_s11_a_forged_exception_class_is_only_a_name(name: str) -> None:
    """Whatever class a failure names, it is raised as RemoteError unless it is on the fixed list."""
    report = body.of_failure("lab.echo", name, "touch /tmp/pwned", codec.encode(["touch /tmp/pwned"]), "text")
    error = body.rebuild(body.read(report), {})
    assert type(error) is RemoteError
    assert error.type_name == name


def test_s11_a_listed_class_takes_only_plain_arguments() -> None:
    """Of a class on the list an instance is made; hostile arguments leave a RemoteError or text, and raise nothing."""
    for arguments in (b"\xc1", b"\x90" * 100, array(2**32 - 1), codec.encode({"a": 1}), codec.encode([1] * 50)):
        for name in ("ValueError", "OSError", "UnicodeError", "ImportError", "KeyError", "StopIteration"):
            error = body.rebuild(body.read(body.of_failure("t", name, "text", arguments)), {})
            assert isinstance(error, Exception)


def test_s11_a_forged_row_of_results_is_refused() -> None:
    """A record that claims more results than it holds tells of none."""
    record = Record(body_key(), SUCCEEDED, 1, body.of_results("t", [b"\x01", b"\x02"]), 0.0, 60_000)
    with memory_below(8 * MIB), pytest.raises(DecodeError):
        body.singles(record)


def body_key() -> Any:
    """Return a job's key."""
    from queuelib.ids import Key  # noqa: PLC0415

    return Key(_ID, 0)


def test_s37_a_forged_start_mark_is_no_memory() -> None:
    """A state that a supervisor reads is one small number; anything else may have been one: it counts as a start."""
    for data in (array(MIB, b"\x90" * MIB), b"\x91\x01", msgpack.packb(10**9), msgpack.packb(-1), b"\xc1", b"\xa1x"):
        with memory_below(MIB):
            assert body.starts_in(data) == 1
    assert body.starts_in(b"") == 0
    assert body.starts_in(body.of_starts(2)) == 2
