"""What a child and its supervisor share in memory: what runs, and a ring of results."""

from __future__ import annotations

import mmap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuelib.worker.shared import NUMBER, RING_AT, SHARED_BYTES, STARTED, Batch, Damaged, Ring, Slot, outbox
from tests.unit.fakes import quick

RESULTS = st.binary(max_size=40) | st.integers(0, 70_000).map(bytes)


class Pair:
    """Both ends of a ring."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, SHARED_BYTES)
        self.slot = Slot(self.memory)
        self.put, self.ring = outbox(self.slot), Ring(self.slot)


class TestSlot:
    """The words beside the ring."""

    def test_it_begins_and_ends(self) -> None:
        """Number and start are there while a job runs; the count of recalls is left alone."""
        slot = Slot(mmap.mmap(-1, SHARED_BYTES))
        assert slot.running()[0] == 0
        slot.epoch = 3
        slot.times[STARTED], slot.words[NUMBER] = 77.5, 12
        assert slot.running() == (12, 77.5)
        slot.words[NUMBER] = 0
        assert slot.running()[0] == 0
        assert slot.epoch == 3

    def test_two_views_are_one_memory(self) -> None:
        """What one end writes, the other reads."""
        memory = mmap.mmap(-1, SHARED_BYTES)
        ours, theirs = Slot(memory), Slot(memory)
        theirs.times[STARTED], theirs.words[NUMBER] = 1.25, 5
        ours.epoch = 2**40
        assert ours.running() == (5, 1.25)
        assert theirs.epoch == 2**40


class TestRing:
    """Results on their way."""

    @quick
    @given(results=st.lists(RESULTS, max_size=30), pace=st.integers(1, 5))
    def test_everything_arrives_in_order(self, results: list[bytes], pace: int) -> None:
        """Of every size, read at any pace; what has no room goes another way, and the next ones do not suffer."""
        pair, kept, read = Pair(), b"", b""
        count = 0
        for number, result in enumerate(results, 1):
            if pair.put(result, 0.25):
                kept += result
                count += 1
            if number % pace == 0:
                batch = pair.ring.read()
                read += batch.data
                count -= batch.count
        batch = pair.ring.read()
        assert read + batch.data == kept
        assert batch.count == count
        assert not pair.ring.has_more

    def test_it_goes_round_many_times(self) -> None:
        """Far more passes through than fits at once, over every counter's end."""
        pair = Pair()
        for number in range(70_000):
            result = bytes([number % 251]) * (number % 977)
            assert pair.put(result, 0.0)
            assert pair.ring.read()[:2] == (1, result)

    def test_it_is_full_until_it_is_read(self) -> None:
        """What does not fit is not written, nor is anything of it."""
        pair = Pair()
        results: list[bytes] = []
        while pair.put(bytes([len(results)]) * 60_000, 0.0):
            results.append(bytes([len(results)]) * 60_000)
        assert len(results) == 4
        assert pair.ring.read().data == b"".join(results)
        assert pair.put(b"next", 0.0)
        assert pair.ring.read() == Batch(1, b"next", 0.0)

    def test_seconds_are_added_up(self) -> None:
        """Of all that is read at once."""
        pair = Pair()
        for seconds in (0.25, 0.5):
            pair.put(b"r", seconds)
        assert pair.ring.read() == Batch(2, b"rr", 0.75)
        pair.put(b"s", 1.0)
        assert pair.ring.read() == Batch(1, b"s", 1.0)
        assert pair.ring.read() == Batch(0, b"", 0.0)

    @quick
    @given(place=st.integers(RING_AT, RING_AT + 8), value=st.integers(1, 255))
    def test_scribbled_results_are_not_read(self, place: int, value: int) -> None:
        """Nor are those behind them, however often they are looked at; put right, they are."""
        pair = Pair()
        pair.put(b"a result", 0.0)
        pair.put(b"another", 0.0)
        pair.memory[place] ^= value
        for _ in range(2):
            with pytest.raises(Damaged):
                pair.ring.read()
        pair.memory[place] ^= value
        assert pair.ring.read() == Batch(2, b"a resultanother", 0.0)

    @quick
    @given(commit=st.integers(1, 2**64 - 1))
    def test_a_scribbled_count_is_not_believed(self, commit: int) -> None:
        """The check over the bytes tells, but for one in sixteen million."""
        pair = Pair()
        pair.put(b"a result", 0.0)
        right = pair.slot.words[3]
        pair.slot.words[3] = commit
        try:
            batch = pair.ring.read()
        except Damaged:
            return
        assert commit >> 40 == right >> 40 or batch.data == b""
