"""What is shared becomes bytes and comes back; arrays map into memory."""

from __future__ import annotations

import io
import mmap
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, cast

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from queuelib import codec, content
from queuelib.errors import ArgumentError, DecodeError, EncodeError, QueuelibError, TooLarge
from queuelib.extensions import EXTENSIONS
from queuelib.handle import Shared, Stored, reader
from queuelib.schema import Call, Schema, converted
from queuelib.settings import MAX_SHARED_BYTES

HASH = bytes(range(32))
packb = cast("Callable[..., bytes]", msgpack.packb)  # which says that it may return None, and never does
DTYPES = st.one_of(
    arrays.boolean_dtypes(),
    arrays.integer_dtypes(),
    arrays.floating_dtypes(sizes=(32, 64)),
    arrays.complex_number_dtypes(sizes=(64, 128)),
    arrays.datetime64_dtypes(),
    arrays.timedelta64_dtypes(),
    arrays.unicode_string_dtypes(max_len=5),
    arrays.byte_string_dtypes(max_len=5),
)


@given(arrays.arrays(DTYPES, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)))
def test_arrays_come_back(array: NDArray[Any]) -> None:
    """Any array of plain values is the same again, bit for bit, with its order in memory, and cannot be written to."""
    for given_one in (array, np.asfortranarray(array), array[::-1] if array.ndim else array):
        found = content.decode(bytes(content.encode(given_one)))
        assert found.dtype == given_one.dtype
        assert found.shape == given_one.shape
        assert found.tobytes() == given_one.tobytes()
        assert not found.flags.writeable


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text() | st.binary(), st.lists))
def test_values_come_back(value: Any) -> None:
    """Anything that can be an argument can be shared."""
    assert content.decode(bytes(content.encode(value))) == value


@pytest.mark.parametrize("tail", [b"", b"PY", b"PY\x01\x00"])
def test_no_value_is_taken_for_an_array(tail: bytes) -> None:
    """The list whose encoding begins as an array's does, is itself."""
    value = [0x4E, 0x55, 0x4D, *tail]
    assert bytes(content.encode([0x4E, 0x55, 0x4D])) == b"\x93NUM"
    assert content.decode(bytes(content.encode(value))) == value


def test_a_mapped_array_is_not_copied(tmp_path: Path) -> None:
    """An array in a mapped file uses the file's memory."""
    array = np.arange(100_000.0).reshape(100, 1000)
    path = tmp_path / "array"
    path.write_bytes(content.encode(array))
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    found = content.decode(mapped)
    assert np.array_equal(found, array)
    with pytest.raises(BufferError):
        mapped.close()  # somebody uses it
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0] = 1.0


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (np.array([object()]), "dtype object"),
        (np.zeros(2, dtype=[("a", "<i4")]), "dtype"),
        (np.ma.masked_array([1.0], [True]), "masked"),
        (object(), "object"),
        ({"a": [1, {2: sys}]}, "module"),
    ],
)
def test_what_cannot_travel_is_refused(value: object, why: str) -> None:
    """The error comes where it is shared, and says why."""
    with pytest.raises(EncodeError, match=why):
        content.encode(value)


def test_what_nobody_could_read_is_refused() -> None:
    """More lists than anybody reads are refused where they are shared, and not in every worker."""
    with pytest.raises(EncodeError, match="lists and maps"):
        content.encode([[]] * 1_000_001)


def test_a_huge_array_is_refused_before_it_is_copied() -> None:
    """It costs no memory to learn that an array is too large."""
    huge = np.broadcast_to(np.float64(1.0), (MAX_SHARED_BYTES,))
    with pytest.raises(TooLarge, match="Pass a path"):
        content.encode(huge)


def npy(header: str, data: bytes = b"") -> bytes:
    """Return an array file with a header of one's own."""
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


@pytest.mark.parametrize(
    "data",
    [
        b"\x93NUMPY",
        b"\x93NUMPY\x09\x09",
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", bytes(8)),
        npy("{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1,)}", bytes(4)),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (2,)}", bytes(8)),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}", bytes(8)),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,)}", bytes(8)),
        npy("__import__('os').abort()", bytes(8)),
        npy("{'descr': '<f8', 'fortran_order': False}", bytes(8)),
        b"",
        b"\xc1",
    ],
)
def test_foreign_bytes_are_refused(data: bytes) -> None:
    """What is no content of ours is an error, and neither code nor a large array."""
    with pytest.raises(DecodeError):
        content.decode(data)


def test_numpys_own_files_are_read() -> None:
    """The format is numpy's."""
    file = io.BytesIO()
    np.save(file, np.arange(5))
    assert content.decode(file.getvalue()).tolist() == [0, 1, 2, 3, 4]


# Handles


class Here:
    """A reader that has one object."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def read(self, hash: bytes, size_bytes: int, wanted: Any) -> Any:  # noqa: A002 - as in `Reader`
        """Return it."""
        assert (hash, size_bytes) == (HASH, 5)
        return converted(self.value, wanted)

    def load(self, stored: Stored) -> bytes:
        """Have no values."""
        raise NotImplementedError(stored)

    def keep(self, result: bytes) -> Stored:
        """Keep none."""
        raise NotImplementedError(result)


def test_handles_travel() -> None:
    """A handle arrives as an equal one, also as a key, and is small."""
    handle = Shared[Any](HASH, 5)
    data = codec.encode({"a": [handle, {handle: 1}]})
    found = codec.decode(data)
    assert found == {"a": [handle, {handle: 1}]}
    assert hash(found["a"][0]) == hash(handle)
    assert found["a"][0] != Shared[Any](HASH, 6)
    assert len(codec.encode(handle)) < 50
    assert repr(handle) == "<Shared 000102030405, 5 bytes>"


def test_a_pickled_handle_reads_where_it_was_unpickled() -> None:
    """A handle inside of what is pickled is as good as one that was decoded."""
    data = pickle.dumps(Shared[Any](HASH, 5, Here("left behind")))
    before = reader.set(Here("value"))
    try:
        found = pickle.loads(data)  # noqa: S301 - our own
    finally:
        reader.reset(before)
    assert found == Shared[Any](HASH, 5)
    assert found.get() == "value"


def test_a_handle_reads_where_it_was_decoded() -> None:
    """It uses the reader of the job for which it came, also in threads that know of none; without one it says so."""
    data = codec.encode(Shared[Any](HASH, 5))
    with pytest.raises(QueuelibError, match="neither"):
        codec.decode(data).get()
    before = reader.set(Here("value"))
    try:
        handle = codec.decode(data)
    finally:
        reader.reset(before)
    assert handle.get() == "value"


@pytest.mark.parametrize(
    "fields",
    [
        [HASH],
        [HASH[:-1], 5],
        ["x" * 32, 5],
        [HASH, -1],
        [HASH, 0],
        [HASH, True],
        [HASH, 5.0],
        [HASH, MAX_SHARED_BYTES + 1],
        [HASH, 5, "queuelib"],
    ],
)
def test_forged_handles_are_refused(fields: list[Any]) -> None:
    """A handle is a hash and a length, and nothing else."""
    with pytest.raises(DecodeError):
        codec.decode(packb(msgpack.ExtType(EXTENSIONS["Shared"], packb(fields))))


@dataclass(frozen=True)
class Graph:
    """What a user shares."""

    edges: list[tuple[int, int]]
    made: date


def length(graph: Shared[Graph], weights: Shared[NDArray[np.float64]], factor: float = 1.0) -> float:
    """Take handles."""
    return len(graph.get().edges) * factor + float(weights.get()[0])


def test_a_handle_knows_what_its_parameter_wants() -> None:
    """`Shared[Graph]` has `get()` return a Graph."""
    schema = Schema.of_function(length)
    data = schema.pack((Shared[Any](HASH, 5), Shared[Any](HASH, 5)), {})
    before = reader.set(Here({"edges": [[1, 2]], "made": date(2026, 1, 1)}))
    try:
        call = schema.load(data, schema.hash)
    finally:
        reader.reset(before)
    assert isinstance(call, Call)
    assert call.args[0].get() == Graph([(1, 2)], date(2026, 1, 1))
    with pytest.raises(ArgumentError):
        call.args[1].get()  # it is no array


@dataclass(frozen=True)
class Measure:
    """A message with a handle."""

    graph: Shared[Graph]
    more: list[Shared[Graph]]


def test_messages_have_handles_too() -> None:
    """A field of a message class takes a handle, and so does a list of them."""
    schema = Schema.of_class(Measure)
    handle = Shared[Any](HASH, 5)
    before = reader.set(Here({"edges": [[1, 2]], "made": date(2026, 1, 1)}))
    try:
        (found,) = schema.load_column(schema.pack_messages([Measure(handle, [handle])]), schema.hash)
    finally:
        reader.reset(before)
    assert found == Measure(handle, [handle])
    assert found.graph.get() == found.more[0].get() == Graph([(1, 2)], date(2026, 1, 1))


def test_a_handle_is_no_value_and_a_value_no_handle() -> None:
    """Where the annotation is the object's type, a handle is refused, as a type checker does; and the other way round."""

    def plain(numbers: list[float]) -> float:
        return sum(numbers)

    with pytest.raises(ArgumentError, match="numbers"):
        Schema.of_function(plain).pack((Shared[Any](HASH, 5),), {})
    with pytest.raises(ArgumentError, match="graph"):
        Schema.of_function(length).pack(([1.0], Shared[Any](HASH, 5)), {})


def test_what_is_shared_is_converted_as_arguments_are() -> None:
    """Any keeps it, a class makes it, and what does not fit is an error with its path."""
    value = OrderedDict(edges=[[1, 2]], made=date(2026, 1, 1))
    assert converted(value, Any) is value
    assert converted(dict(value), Graph) == Graph([(1, 2)], date(2026, 1, 1))
    with pytest.raises(ArgumentError, match=r"shared\.edges\[0\]"):
        converted({"edges": [["x", 2]], "made": date(2026, 1, 1)}, Graph)
