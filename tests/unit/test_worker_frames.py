"""Frames between the processes of one worker: whole values or an error, however the bytes arrive."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuelib.errors import DecodeError
from queuelib.worker.frames import FrameReader, pack_frame, send_frame
from tests.unit.fakes import LETTERS, quick

if TYPE_CHECKING:
    from collections.abc import Iterator

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=8) | st.text(LETTERS, max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(LETTERS, max_size=3), inner, max_size=2),
    max_leaves=8,
)


class Arriving:
    """Stands in for a socket on which bytes arrive in pieces; empty pieces are moments at which nothing has come."""

    def __init__(self, pieces: list[bytes], *, is_closed: bool = True) -> None:
        self._pieces = [piece for piece in pieces if piece]
        self._is_closed = is_closed

    def recv_into(self, buffer: memoryview, size: int = 0, flags: int = 0) -> int:
        """Put the next piece into the buffer; raise as a socket does where nothing has come yet."""
        if self._pieces:
            piece = self._pieces.pop(0)
            assert len(piece) <= (size or len(buffer))
            buffer[: len(piece)] = piece
            return len(piece)
        if self._is_closed:
            return 0
        assert flags & socket.MSG_DONTWAIT, "it would wait for ever"
        raise BlockingIOError


def reader_of(data: bytes, cuts: list[int], *, is_closed: bool = True) -> FrameReader:
    """Return a reader to which the bytes arrive cut at these places."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    pieces = [data[start:end] for start, end in zip(places, places[1:], strict=False)]
    arriving: Any = Arriving(pieces, is_closed=is_closed)
    return FrameReader(arriving)


def read_all(reader: FrameReader) -> list[Any]:
    """Return values one by one until the end."""
    values: list[Any] = []
    while True:
        try:
            values.append(reader.next())
        except EOFError:
            return values


def ready_all(reader: FrameReader) -> list[Any]:
    """Return values as they are ready until the other end is closed."""
    values: list[Any] = []
    is_closed = False
    while not is_closed:
        found, is_closed = reader.ready()
        values += found
    return values


CUTS = st.lists(st.integers(0, 400), max_size=12)
STREAMS = st.lists(VALUES, max_size=5)


@quick
@given(values=STREAMS, cuts=CUTS)
def test_any_cutting_gives_the_same_values(values: list[Any], cuts: list[int]) -> None:
    """Wherever the stream of bytes is cut, every value arrives whole, once and in order, waited for or not."""
    data = b"".join(map(pack_frame, values))
    assert read_all(reader_of(data, cuts)) == values
    assert ready_all(reader_of(data, cuts)) == values


@quick
@given(values=STREAMS, cuts=CUTS, left=st.integers(1, 200))
def test_half_a_frame_is_no_value(values: list[Any], cuts: list[int], left: int) -> None:
    """What the other end had not finished when it died is not read."""
    last = pack_frame("x" * 200)
    data = b"".join(map(pack_frame, values)) + last[:left]
    assert read_all(reader_of(data, cuts)) == values


@quick
@given(values=st.lists(VALUES, min_size=1, max_size=3), place=st.integers(0), change=st.integers(1, 255), cuts=CUTS)
def test_a_damaged_byte_is_noticed(values: list[Any], place: int, change: int, cuts: list[int]) -> None:
    """A changed byte never makes another value: all that comes out is right, and then there is an error or an end."""
    data = bytearray(b"".join(map(pack_frame, values)))
    data[place % len(data)] ^= change
    got: list[Any] = []
    try:
        got = read_all(reader_of(bytes(data), cuts))
    except DecodeError:
        pass
    assert got == values[: len(got)]
    assert len(got) < len(values)


def test_the_check_is_over_the_payload() -> None:
    """A frame of the right length with another content is a DecodeError, at once."""
    frame = pack_frame([1, 2, 3])
    with pytest.raises(DecodeError, match="a damaged frame on an internal pipe"):
        reader_of(frame[:-1] + b"\x04", []).ready()


@pytest.mark.parametrize("data", [b"Hello from a handler that prints to the wrong place", b"\xff" * 8])
def test_foreign_bytes(data: bytes) -> None:
    """What a handler writes to the pipe is refused by its length, without waiting for gigabytes."""
    with pytest.raises(DecodeError, match="at most 67,108,864 are read"):
        reader_of(data, []).next()


def test_good_values_before_damage_are_read_one_by_one() -> None:
    """A reader that takes one at a time gets all that came before the damage."""
    reader = reader_of(pack_frame(1) + pack_frame(2) + b"\xff" * 8, [])
    assert [reader.next(), reader.next()] == [1, 2]
    with pytest.raises(DecodeError):
        reader.next()


def test_nothing_has_come_yet() -> None:
    """`ready` returns at once, with nothing, while the other end lives."""
    reader = reader_of(pack_frame("early") + pack_frame("late")[:5], [], is_closed=False)
    assert reader.ready() == (["early"], False)
    assert reader.ready() == ([], False)


def test_text_with_half_a_character() -> None:
    """Names of files that are no Unicode pass between the processes."""
    assert read_all(reader_of(pack_frame("caf\udce9"), [])) == ["caf\udce9"]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give two connected sockets."""
    one, other = socket.socketpair()
    with closing(one), closing(other):
        yield one, other


def test_over_a_socket(pair: tuple[socket.socket, socket.socket]) -> None:
    """What is sent is read, and the end of the other side is seen by both ways of reading."""
    ours, theirs = pair
    reader = FrameReader(ours)
    assert reader.ready() == ([], False)
    send_frame(theirs, ("hello", 7))
    assert reader.next() == ["hello", 7]
    theirs.close()
    assert reader.ready() == ([], True)
    with pytest.raises(EOFError, match="the other end of the pipe was closed"):
        reader.next()
