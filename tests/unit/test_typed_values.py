"""Typed values survive the trip exactly, and what does not fit is refused with its path."""

from __future__ import annotations

import datetime as dt
import enum
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from queuelib import codec
from queuelib.errors import ArgumentError, DecodeError, EncodeError
from queuelib.extensions import EXTENSIONS
from queuelib.schema import Schema, SchemaMismatch

TEXT = st.text(alphabet=st.characters(max_codepoint=0x2FF), max_size=8)
MOMENTS = st.datetimes(timezones=st.one_of(st.none(), st.just(dt.UTC), st.just(ZoneInfo("Europe/Berlin"))))


class Shade(enum.Enum):
    LIGHT = "light"
    DARK = "dark"


class Number(enum.IntEnum):
    ONE = 1
    TWO = 2


@dataclass(frozen=True)
class Point:
    x: float
    when: dt.datetime


@dataclass
class Outline:
    start: Point
    points: list[Point]
    shade: Shade
    weights: dict[tuple[int, int], float]


POINTS = st.builds(Point, st.floats(), MOMENTS)
KINDS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers()),
    (float, st.floats()),
    (str, st.one_of(TEXT, st.just("\ud800"))),
    (bytes, st.binary(max_size=20)),
    (bool, st.booleans()),
    (dt.datetime, MOMENTS),
    (dt.date, st.dates()),
    (dt.time, st.times()),
    (dt.timedelta, st.timedeltas()),
    (Decimal, st.one_of(st.decimals(allow_nan=False), st.sampled_from([Decimal("sNaN"), Decimal("-0")]))),
    (Fraction, st.fractions()),
    (uuid.UUID, st.uuids()),
    (complex, st.complex_numbers()),
    (Path, st.sampled_from([Path("/a b"), Path("é")])),
    (Shade, st.sampled_from(Shade)),
    (Number, st.sampled_from(Number)),
    (set[int], st.sets(st.integers())),
    (frozenset[str], st.frozensets(TEXT)),
    (tuple[int, str], st.tuples(st.integers(), TEXT)),
    (tuple[float, ...], st.lists(st.floats()).map(tuple)),
    (dict[int, str], st.dictionaries(st.integers(), TEXT)),
    (dict[tuple[int, int], float], st.dictionaries(st.tuples(st.integers(), st.integers()), st.floats())),
    (int | None, st.one_of(st.none(), st.integers())),
    (list[Point], st.lists(POINTS, max_size=3)),
    (
        Outline,
        st.builds(
            Outline,
            POINTS,
            st.lists(POINTS, max_size=2),
            st.sampled_from(Shade),
            st.dictionaries(st.tuples(st.integers(), st.integers()), st.floats(), max_size=2),
        ),
    ),
]


def schema_of(annotation: Any) -> Schema:
    """Return the schema of a function that takes and returns this."""

    def function(value):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return value

    function.__annotations__ = {"value": annotation, "return": annotation}
    return Schema.of_function(function)


@pytest.mark.parametrize(("annotation", "values"), KINDS, ids=[str(annotation) for annotation, _ in KINDS])
def test_typed_values_survive_exactly(annotation: Any, values: st.SearchStrategy[Any]) -> None:
    """An annotated argument and result arrive as they left, in type and value, NaN and signs of zero included."""
    schema = schema_of(annotation)

    @settings(max_examples=40, deadline=None)
    @given(values)
    def check(value: Any) -> None:
        (argument,) = schema.load(schema.pack((value,), {}), schema.hash).args
        result = schema.load_result(schema.dump_result(value))
        for arrived in (argument, result):
            assert type(arrived) is type(value)
            if isinstance(value, set | frozenset):
                assert arrived == value
            else:
                assert repr(arrived) == repr(value)  # which tells NaN and the sign of zero

    check()


@pytest.mark.parametrize("dtype", ["f8", "f4", "i2", "u1", "?", "c16", "M8[ns]", "m8[s]", "U3", "S2", ">i4"])
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3)])
def test_arrays_survive_exactly(dtype: str, shape: tuple[int, ...]) -> None:
    """Arrays keep dtype, shape and every element, in C or Fortran order, annotated or not."""
    array = np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)
    for sent in (array, np.array(array, order="F")):
        arrived = codec.decode(codec.encode(sent))
        assert arrived.dtype == array.dtype
        assert np.array_equal(arrived, array)
    schema = schema_of(np.ndarray)
    assert np.array_equal(schema.load(schema.pack((array,), {})).args[0], array)


def test_numpy_passes_where_plain_values_are_annotated() -> None:
    """Scalars and arrays of numpy become what the annotation says, in arguments and in results."""
    vector = schema_of(list[float])
    assert vector.load(vector.pack((np.arange(3.0),), {})).args == ([0.0, 1.0, 2.0],)
    assert vector.load(vector.pack(([np.float32(1), 2],), {})).args == ([1.0, 2.0],)
    number, whole = schema_of(float), schema_of(int)
    assert number.load_result(number.dump_result(np.sum(np.ones(3)))) == 3.0
    assert type(whole.load(whole.pack((np.int64(7),), {})).args[0]) is int


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_decoder_raises_nothing_else(data: bytes) -> None:
    """Whatever the bytes, decoding returns a value or raises DecodeError."""
    try:
        codec.decode(data)
    except DecodeError:
        pass


def test_bombs_are_refused() -> None:
    """Sets within sets, lists within lists, forged lengths and keys given twice are a DecodeError, not a crash."""
    nested = msgpack.packb(1)
    for _ in range(300):
        nested = msgpack.packb(msgpack.ExtType(EXTENSIONS["frozenset"], b"\x91" + nested))
    for data in (nested, b"\x91" * 1000 + b"\x90", b"\xdd\xff\xff\xff\xff", b"\x82\xa1a\x01\xa1a\x02"):
        with pytest.raises(DecodeError):
            codec.decode(data)


def evaluate(domain: str, genome: list[float]) -> float:
    """Stand for a task."""
    return sum(genome) + len(domain)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (("a", [1.0, "x"]), {}, r"genome\[1\]: expected float, got str"),
        ((1, [2.0]), {}, "domain: expected str, got int"),
        (("a",), {}, "missing a required argument: 'genome'"),
        (("a", [1.0], 3), {}, "too many positional arguments"),
        (("a", [1.0]), {"z": 1}, "unexpected keyword argument 'z'"),
    ],
)
def test_wrong_arguments_are_named(args: tuple[Any, ...], kwargs: dict[str, Any], message: str) -> None:
    """Wrong types, counts and names are an ArgumentError at the submitter, with the path."""
    with pytest.raises(ArgumentError, match=message):
        Schema.of_function(evaluate).pack(args, kwargs)


def test_what_cannot_travel_is_named() -> None:
    """Unserializable, cyclic, too deep and too large values are an EncodeError that says where or how much."""
    cycle: list[Any] = []
    cycle.append(cycle)
    for value, message in (
        ({"a": [object()]}, r"value\['a'\]\[0\]: cannot encode object"),
        (cycle, "contains itself"),
        (np.array([object()]), "dtype object"),
        ("x" * (17 * 1024 * 1024), "at most"),
    ):
        with pytest.raises(EncodeError, match=message):
            codec.encode(value)


def test_other_versions_are_read_by_name() -> None:
    """An added default is filled in; swapped or removed parameters are a SchemaMismatch with both shapes."""

    def old(a: int, b: int) -> None: ...
    def swapped(b: int, a: int) -> None: ...
    def longer(a: int, b: int, c: int = 7) -> None: ...

    here, there, more = (Schema.of_function(function) for function in (old, swapped, longer))
    data = here.pack((1, 2), {})
    assert more.load(data, here.hash).args == (1, 2, 7)
    with pytest.raises(SchemaMismatch, match=r"b: int, a: int"):
        there.load(data, here.hash)
    with pytest.raises(SchemaMismatch, match="shape"):
        here.load(more.pack((1, 2), {}), more.hash)


def test_annotated_arrays_keep_their_dtype() -> None:
    """A list given for an annotated array becomes one of the annotated dtype."""
    schema = schema_of(NDArray[np.float32])
    arrived = schema.load(schema.pack(([1, 2],), {})).args[0]
    assert arrived.dtype == np.float32


class Level(enum.Enum):
    """An enum whose values msgpack does not know by itself."""

    FIRST = dt.date(2026, 1, 1)


def test_enum_of_typed_values_travels() -> None:
    """An enum's value is written as what it is."""
    assert codec.decode(codec.encode(Level.FIRST)) == dt.date(2026, 1, 1)


def test_numpy_inside_sets_and_keys_becomes_plain() -> None:
    """`set[int]` accepts numpy integers, and so do the keys of a dict."""
    assert codec.plain({np.int64(1), np.int64(2)}) == {1, 2}
    schema = schema_of(dict[int, float])
    assert schema.load(schema.pack(({np.int64(3): np.float64(0.5)},), {})).args == ({3: 0.5},)


def test_forged_fraction_is_refused_quickly() -> None:
    """A fraction in text form could ask for a number of a billion digits."""
    forged = msgpack.ExtType(EXTENSIONS["Fraction"], msgpack.packb(["1e999999999", 1]))
    with pytest.raises(DecodeError):
        codec.decode(msgpack.packb(forged))


def test_small_integers_do_not_wrap_around() -> None:
    """300 is no int8, and 1.5 is no integer."""
    schema = schema_of(np.int8)
    assert schema.load(schema.pack((100,), {})).args == (100,)
    for value in (300, 1.5):
        with pytest.raises(ArgumentError):
            schema.pack((value,), {})


def test_cycles_are_refused_soon_however_often_they_meet() -> None:
    """What contains itself twice doubles from level to level unless each object is looked at once."""
    value: list[Any] = []
    value += [value, value, value]
    with pytest.raises(EncodeError):
        codec.encode(value)


@dataclass
class Unset:
    """One whose second field the test leaves out."""

    first: int
    second: int = field(init=False)


@pytest.mark.parametrize("value", [Unset(1), [Unset(1)], {"x": (1, Unset(1))}, [[Unset(1)]] * 100])
def test_a_field_that_was_never_set_is_named(value: Any) -> None:
    """It is an error of the value, not of ours."""
    with pytest.raises(EncodeError, match=r"Unset\.second was never set"):
        codec.encode(value)
