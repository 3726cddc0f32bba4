"""Attacks by user code on its own worker: what a handler writes where only its child's loop should."""

from __future__ import annotations

import math
import socket
from typing import TYPE_CHECKING, Any

import msgpack
import pytest

from queuelib.errors import DecodeError, Retry
from queuelib.outcome import Again
from queuelib.settings import LONGEST_DELAY
from queuelib.worker.child import outcome_from
from queuelib.worker.execute import _delay_of
from queuelib.worker.frames import FrameReader, pack_frame
from queuelib.worker.shared import EPOCH, NUMBER, STARTED, Damaged, Ring, Slot

if TYPE_CHECKING:
    from collections.abc import Generator

MIB = 1024 * 1024


@pytest.fixture
def pipe() -> Generator[tuple[socket.socket, FrameReader]]:
    """Return a child's end of its socket, and what its supervisor reads the other with."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MIB)
        yield theirs, FrameReader(ours, most=MIB, is_flat=True)


@pytest.mark.parametrize("value", [
    [[[]]] * 1000, [1, 0.5, [[1]]], {"a": 1}, [1, 0.5, 0, {"a": 1}], 7, None, "text", [msgpack.ExtType(1, b"x")], [0] * 33,
], ids=lambda value: repr(value)[:30])  # fmt: skip
def test_s38_a_report_is_flat_or_nothing(pipe: tuple[socket.socket, FrameReader], value: Any) -> None:
    """Lists in lists, maps and extensions are refused before they are made: a child's bytes stay as small as they are."""
    theirs, reader = pipe
    theirs.sendall(pack_frame(value))
    with pytest.raises(DecodeError):
        reader.ready()


@pytest.mark.parametrize(
    "data", [b"\xff" * 64, b"GET / HTTP/1.1\r\n\r\n", (MIB + 1).to_bytes(4, "little") + bytes(60), bytes(8)]
)
def test_s38_garbage_on_the_socket_is_no_frame(pipe: tuple[socket.socket, FrameReader], data: bytes) -> None:
    """A length beyond the cap, a wrong check, no msgpack."""
    theirs, reader = pipe
    theirs.sendall(data)
    with pytest.raises(DecodeError):
        reader.ready()


def test_s38_a_child_that_never_stops_writing_does_not_keep_its_supervisor(
    pipe: tuple[socket.socket, FrameReader],
) -> None:
    """What is read at once ends with the longest frame, however much more there is."""
    theirs, _ = pipe
    most = 100_000

    class Endless:
        """A socket that always has more."""

        taken = 0

        def recv_into(self, buffer: memoryview, *_: int) -> int:
            self.taken += len(buffer)
            assert self.taken < 4 * most
            buffer[:] = (most - 1).to_bytes(4, "little") * (len(buffer) // 4)
            return len(buffer)

    reader = FrameReader(Endless(), most=most, is_flat=True)  # type: ignore[arg-type]
    with pytest.raises(DecodeError):
        reader.ready()
    assert theirs.fileno() >= 0


@pytest.mark.parametrize("fields", [
    [1, math.nan, b""], [1, math.inf, b""], [1, -1.0, b""], [1, "soon", b""], [1, None, "text"], [0], [0, "text"], [9, b""], [],
    [3, b"bytes"], [2, None], ["0", b""],
], ids=repr)  # fmt: skip
def test_s38_an_outcome_that_cannot_be_is_refused(fields: list[Any]) -> None:
    """Delays that no clock knows, other kinds and other types."""
    with pytest.raises(ValueError, match="not a report of a child"):
        outcome_from(fields)


def test_s31_no_delay_is_longer_than_ten_years() -> None:
    """A handler's wish, its subclass of Retry or a forged frame: what reaches a server is a number it can hold."""
    assert outcome_from([1, 1e300, b""]) == Again(LONGEST_DELAY, b"")

    class Odd(Retry):
        """Leaves out our checks."""

        def __init__(self, delay: Any) -> None:
            self.delay = delay

    wishes = {1e300: LONGEST_DELAY, 2.5: 2.5, 3: 3.0, math.inf: None, -1: None, "soon": None, True: None}
    for wish, delay in wishes.items():
        assert _delay_of(Odd(wish)) == delay
    assert _delay_of(Odd(math.nan)) is None


def test_s38_what_stands_in_the_shared_memory_is_doubted() -> None:
    """A handler may write anywhere in it: sums that do not fit, times that cannot be, and places of nothing are no result."""
    slot = Slot(memory := __import__("mmap").mmap(-1, 64 + 256 * 1024))
    ring = Ring(slot)
    for commit in (1, 2**64 - 1, 1 << 24, (1 << 40) - 1, 0x4141414141414141):
        slot.words[3] = commit
        try:
            batch = ring.read()
        except Damaged:
            continue
        assert 0.0 <= batch.seconds < math.inf
    slot.words[NUMBER] = 2**64 - 1
    slot.times[STARTED] = math.nan
    slot.words[EPOCH] = 7
    assert slot.running()[0] == 2**64 - 1  # a number that it was not handed: nothing is looked up by it
    slot.close()
    memory.close()


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf, -5.0, 1e300])
def test_s38_forged_times_do_not_spoil_the_pace(seconds: float) -> None:
    """How long quick jobs ran is added up by the child; a sum that cannot be counts as none."""
    import mmap  # noqa: PLC0415

    from queuelib.worker.shared import outbox  # noqa: PLC0415

    slot = Slot(mmap.mmap(-1, 64 + 256 * 1024))
    put, ring = outbox(slot), Ring(slot)
    assert put(b"\x01", 0.001)
    slot.times[5] = seconds
    assert ring.read().seconds == 0.0
    slot.close()
