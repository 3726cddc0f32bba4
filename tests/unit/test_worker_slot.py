"""What a child and its supervisor share beside the jobs: a corner of memory, and the shape of a report."""

from __future__ import annotations

import mmap
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuelib.outcome import Again, Done, Failed, Quarantined
from queuelib.worker.child import SLOT_BYTES, Slot, outcome_from
from tests.unit.fakes import quick


class TestSlot:
    """A child's corner of the shared memory."""

    def test_it_begins_and_ends(self) -> None:
        """Number and start are there while a job runs; the count of recalls is left alone."""
        slot = Slot(mmap.mmap(-1, SLOT_BYTES), 0)
        slot.clear()
        assert slot.running() == (-1, 0.0)
        slot.epoch = 3
        slot.begin(12)
        number, start = slot.running()
        assert number == 12
        assert start > 0.0
        slot.end()
        assert slot.running() == (-1, 0.0)
        assert slot.epoch == 3
        slot.clear()
        assert slot.epoch == 0

    def test_neighbors_do_not_touch(self) -> None:
        """What one child writes, no other reads."""
        memory = mmap.mmap(-1, 3 * SLOT_BYTES)
        slots = [Slot(memory, place * SLOT_BYTES) for place in range(3)]
        for slot in slots:
            slot.clear()
        slots[1].begin(5)
        slots[1].epoch = 2**40
        assert [slot.running()[0] for slot in slots] == [-1, 5, -1]
        assert [slot.epoch for slot in slots] == [0, 2**40, 0]


@quick
@given(fields=st.lists(st.none() | st.integers(-1, 5) | st.floats() | st.binary(max_size=3) | st.just("x"), max_size=4))
def test_what_is_no_report_is_refused(fields: list[Any]) -> None:
    """User code that writes to the pipe cannot make another outcome: it is one of four shapes or a ValueError."""
    try:
        outcome = outcome_from(fields)
    except ValueError as error:
        assert "not a report of a child" in str(error)  # noqa: PT017 - either is right
    else:
        assert fields[0] in {0, 1, 2, 3}
        assert isinstance(outcome, (Done, Again, Failed, Quarantined)[fields[0]])


@pytest.mark.parametrize(
    "fields", [[], [0], [0, "text"], [4, b""], [1, b""], [1, "soon", b""], [3, b"why"], [2, b"", 0]]
)
def test_shapes_that_are_none(fields: list[Any]) -> None:
    """A field too few, too many or of another type."""
    with pytest.raises(ValueError, match="not a report of a child"):
        outcome_from(fields)
