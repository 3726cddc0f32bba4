"""Columns: what `pack` and `load` do to one call, done to many at once with the same results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuelib import codec
from queuelib.errors import ArgumentError, DecodeError, EncodeError
from queuelib.schema import Call, Schema, SchemaMismatch
from queuelib.settings import MAX_DEPTH
from tests.unit.fakes import quick

NUMBERS = st.integers(-(2**70), 2**70)
PLAIN_ROWS = st.lists(st.tuples(NUMBERS, st.text("ab", max_size=3)), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats() | st.text("ab", max_size=2) | st.binary(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=2),
    max_leaves=5,
)


@dataclass(frozen=True)
class Point:
    """A message class, also an argument."""

    x: int
    y: float = 0.5

    def __post_init__(self) -> None:
        """Check itself."""
        if self.x < 0:
            message = f"{self.x} is negative"
            raise LookupError(message)


def exact(a: int, b: str) -> None: ...
def nested(a: list[float], b: dict[str, int], c: Point | None = None) -> None: ...
def defaults(a: int, b: float = 1.5, c: str = "c") -> None: ...
def bare(a, b=2) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001
def stars(a: int, *rest: float, key: str = "k", **more: int) -> None: ...
def only(a: int, /, b: float) -> None: ...
def nothing() -> None: ...


FUNCTIONS = [exact, nested, defaults, bare, stars, only, nothing]
SCALARS = st.one_of(
    st.integers(-5, 5),
    st.integers(-5, 5).map(np.int64),
    st.floats(-5, 5).map(np.float64),
    st.floats(-5, 5).map(np.float32),
    st.floats(-5, 5),
    st.sampled_from(["", "a", None, True, Point(1), Point(2, 2.5)]),
    st.lists(st.floats(0, 1), max_size=2),
    st.lists(st.floats(0, 1), max_size=2).map(np.array),
    st.dictionaries(st.sampled_from("ab"), st.integers(0, 3).map(np.int64), max_size=2),
)


def as_call(found: Any) -> Any:
    """Return one element of a loaded column in the form that `load` has."""
    return Call(found, {}) if type(found) is tuple else found


def one_by_one(schema: Schema, rows: list[bytes], schema_hash: bytes | None) -> list[Any]:
    """Return what `load` returns or raises for each."""
    found: list[Any] = []
    for row in rows:
        try:
            found.append(schema.load(row, schema_hash))
        except Exception as error:  # noqa: BLE001 - to be compared
            found.append(error)
    return found


def assert_same(column: list[Any], single: list[Any]) -> None:
    """Compare calls by value and type, and errors by their text."""
    assert len(column) == len(single)
    for one, other in zip(map(as_call, column), single, strict=True):
        if isinstance(other, ArgumentError):
            assert type(one) is type(other)
            assert str(one) == str(other)
        elif isinstance(other, Exception):
            assert isinstance(one, ArgumentError)
            assert str(other) in str(one)
        else:
            assert repr(one) == repr(other)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_packed_together_or_alone(function: Any) -> None:
    """The rows of any signature, numpy values among them, become the same bytes, or the same error."""
    schema = Schema.of_function(function)

    @quick
    @given(st.lists(st.lists(SCALARS, max_size=4).map(tuple), max_size=4))
    def check(rows: list[tuple[Any, ...]]) -> None:
        try:
            single = [schema.pack(row, {}) for row in rows]
        except (ArgumentError, EncodeError, LookupError) as error:
            with pytest.raises(type(error)) as caught:
                schema.pack_rows(rows)
            assert str(caught.value) == str(error)  # noqa: PT017 - the error is what is compared with
        else:
            assert schema.pack_rows(rows) == codec.encoded_list(single)

    check()


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("is_known", [True, False])
def test_loaded_together_or_alone(function: Any, is_known: bool) -> None:  # noqa: FBT001 - a parameter
    """Whatever a column holds, each of its jobs gets what it would get alone; an error is that job's only."""
    schema = Schema.of_function(function)
    schema_hash = schema.hash if is_known else None

    @quick
    @given(st.lists(st.lists(VALUES, max_size=4) | VALUES, max_size=5))
    def check(rows: list[Any]) -> None:
        encoded = [codec.encode(row) for row in rows]
        assert_same(
            schema.load_column(codec.encoded_list(encoded), schema_hash), one_by_one(schema, encoded, schema_hash)
        )

    check()


@quick
@given(rows=PLAIN_ROWS)
def test_what_was_packed_is_loaded(rows: list[tuple[int, str]]) -> None:
    """Values of exactly the annotated types arrive as they left, integers beyond 64 bits too."""
    schema = Schema.of_function(exact)
    assert schema.load_column(schema.pack_rows(rows), schema.hash) == rows


def test_one_bad_row_is_its_own_error() -> None:
    """The others of the column run; the message has the path."""
    schema = Schema.of_function(nested)
    rows = [[[1.0], {}, None], [[1.0, "x"], {}, None], [[], {"a": 1}, {"x": 3, "y": 1.0}]]
    first, second, third = schema.load_column(codec.encode(rows), schema.hash)
    assert as_call(first).args == ([1.0], {}, None)
    assert isinstance(second, ArgumentError)
    assert str(second).startswith("a[1]: expected float, got str")
    assert as_call(third).args == ([], {"a": 1}, Point(3, 1.0))


def test_a_class_that_checks_itself() -> None:
    """What its constructor raises is the error of the one job, an ArgumentError that says it."""
    for schema, wrap in ((Schema.of_class(Point), dict), (Schema.of_function(nested), lambda p: [[], {}, p])):
        column = codec.encode([wrap({"x": x, "y": 1.0}) for x in (1, -1, 2)])
        found = schema.load_column(column, schema.hash)
        assert isinstance(found[1], ArgumentError)
        assert "-1 is negative" in str(found[1])
        assert not any(isinstance(found[position], Exception) for position in (0, 2))


def test_the_first_row_that_does_not_fit_is_named() -> None:
    """With the path in it, at the submitter."""
    schema = Schema.of_function(nested)
    with pytest.raises(ArgumentError, match=r"^b\[\.\.\.\]: expected int, got str"):
        schema.pack_rows([([1.0], {"a": 1}), ([1.0], {"a": "x"}), (["y"], {})])
    with pytest.raises(ArgumentError, match="missing a required argument: 'b'"):
        schema.pack_rows([([1.0], {}), ([1.0],)])
    with pytest.raises(EncodeError, match=r"a\[0\]: cannot encode object"):
        schema.pack_rows([([1.0], {}), ([object()], {})])


def test_of_another_shape() -> None:
    """Parameters that were added take their defaults; what was swapped is a mismatch for every job."""

    def old(a: int, b: int) -> None: ...
    def swapped(b: int, a: int) -> None: ...
    def longer(a: int, b: int, c: int = 7) -> None: ...

    here, there, more = (Schema.of_function(function) for function in (old, swapped, longer))
    column = here.pack_rows([(1, 2), (3, 4)])
    assert [as_call(call).args for call in more.load_column(column, here.hash)] == [(1, 2, 7), (3, 4, 7)]
    assert [type(error) for error in there.load_column(column, here.hash)] == [SchemaMismatch] * 2


def test_messages() -> None:
    """They are packed and loaded as each alone is."""
    schema = Schema.of_class(Point)
    messages = [Point(1), Point(2, 2.5)]
    column = schema.pack_messages(messages)
    assert column == codec.encoded_list([schema.pack_message(message) for message in messages])
    assert schema.load_column(column, schema.hash) == schema.load_column(column, b"otherone") == messages


@pytest.mark.parametrize("column", [b"", b"\xc1", b"\x92\x90", b"\x91\x90\x90"])
def test_an_unreadable_column(column: bytes) -> None:
    """It is a DecodeError for all of it."""
    with pytest.raises(DecodeError):
        Schema.of_function(exact).load_column(column)


def test_one_value_that_cannot_be_read_spoils_no_other() -> None:
    """A time zone that is not known here, say, is the error of the one job."""
    schema = Schema.of_function(bare)
    unknown = codec.encode([msgpack.ExtType(99, b""), 2])
    column = codec.encoded_list([codec.encode([1, 2]), unknown, codec.encode([3, 4])])
    first, second, third = schema.load_column(column, schema.hash)
    assert [as_call(call).args for call in (first, third)] == [(1, 2), (3, 4)]
    assert isinstance(second, DecodeError)


def test_a_column_is_no_level_of_its_values() -> None:
    """What is nested as deeply as one call or result may be travels in a column too."""
    value: list[Any] = []
    for _ in range(MAX_DEPTH - 2):
        value = [value]
    schema = Schema.of_function(bare)
    (call,) = schema.load_column(codec.encoded_list([schema.pack((value,), {})]), schema.hash)
    assert as_call(call).args == (value, 2)
    results = codec.encoded_list([codec.encode([value])])
    assert Schema.of_function(returns_anything).load_results(results) == codec.decode_list(results) == [[value]]


def returns_number() -> int: ...  # type: ignore[empty-body]
def returns_points() -> list[Point]: ...  # type: ignore[empty-body]
def returns_anything(): ...  # type: ignore[no-untyped-def]  # noqa: ANN201
def returns_nothing() -> None: ...


@pytest.mark.parametrize(
    ("function", "values"),
    [
        (returns_number, NUMBERS),
        (returns_points, st.lists(st.builds(Point, st.integers(0, 5), st.floats(0, 1)), max_size=3)),
        (returns_anything, VALUES),
        (returns_nothing, st.none()),
    ],
)
def test_results_together_or_alone(function: Any, values: st.SearchStrategy[Any]) -> None:
    """Results of several jobs are those of each."""
    schema = Schema.of_function(function)

    @quick
    @given(st.lists(values, max_size=20))
    def check(results: list[Any]) -> None:
        encoded = [schema.dump_result(result) for result in results]
        found = schema.load_results(codec.encoded_list(encoded))
        assert repr(found) == repr([schema.load_result(one) for one in encoded]) == repr(results)

    check()


def test_results_of_another_type() -> None:
    """A result that does not fit this program's annotation is named."""
    with pytest.raises(ArgumentError, match="result: expected int, got str"):
        Schema.of_function(returns_number).load_results(codec.encode([1, "x"]))


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 65_535, 65_536, 70_000])
def test_the_length_of_a_list(count: int) -> None:
    """It is read from the first bytes, whatever follows, wherever msgpack changes its form."""
    encoded = codec.encode([0] * count)
    assert codec.list_length(encoded) == count
    assert codec.encoded_list([b"\x00"] * count) == encoded
    assert codec.list_length(encoded[:5]) == count


@quick
@given(value=VALUES)
def test_the_length_of_what_is_no_list(value: Any) -> None:
    """It is below zero."""
    length = len(value) if isinstance(value, list) else -1
    assert codec.list_length(codec.encode(value)) == length


@pytest.mark.parametrize("data", [b"", b"\xdc", b"\xdc\x00", b"\xdd", b"\xdd\x00\x00\x01"])
def test_the_length_of_a_list_that_is_cut_off(data: bytes) -> None:
    """Its head must be there."""
    assert codec.list_length(data) == -1


@quick
@given(value=NUMBERS | st.floats() | st.booleans())
def test_numbers_are_encoded_as_all_values_are(value: float) -> None:
    """Or refused, beyond 64 bits."""
    try:
        data = codec.encode_number(value)
    except OverflowError:
        assert not -(2**63) <= value < 2**64
    else:
        assert data == codec.encode(value)
