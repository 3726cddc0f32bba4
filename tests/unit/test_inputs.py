"""Arguments with gaps where results belong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuelib import codec
from queuelib.errors import DecodeError
from queuelib.ids import Key
from queuelib.inputs import cut, filled, keys_of, pieces, runs_of, stand_in
from queuelib.message import Input, Run
from tests.unit.fakes import BUNDLE_ID, quick

OTHER = bytes(16)
VALUES = st.lists(st.recursive(st.none() | st.integers(-5, 300) | st.text("ab"), st.lists, max_leaves=5), max_size=5)


@quick
@given(before=VALUES, results=VALUES, after=VALUES)
def test_what_is_cut_and_filled_is_what_it_would_have_been(
    before: list[object], results: list[object], after: list[object]
) -> None:
    """Byte by byte, whatever stands around."""
    marks = [stand_in() for _ in results]
    arguments = codec.encoded_list([*map(codec.encode, before), *marks, *map(codec.encode, after)])
    column = filled(cut(arguments, marks), [codec.encode(result) for result in results])
    assert column == codec.encoded_list([codec.encode([*before, *results, *after])])


@pytest.mark.parametrize("column", [b"\xc1", codec.encode(1), codec.encode([b"a", 1]), codec.encode([])])
def test_other_columns_are_refused(column: bytes) -> None:
    """Whoever sent them."""
    with pytest.raises(DecodeError):
        filled(column, [codec.encode(1)])


@pytest.mark.parametrize("values", [[], [b"\x01", b"\x01"], [b""], [b"\x01\x01"], [b"\xc1"], [b"\x92\x01"]])
def test_what_fits_no_gap_is_refused(values: list[bytes]) -> None:
    """Too few, too many, none, several, broken and cut off ones: nothing of it becomes arguments."""
    mark = stand_in()
    column = cut(codec.encoded_list([mark]), [mark])
    assert len(pieces(column)) == 2
    with pytest.raises(DecodeError):
        filled(column, values)


def test_jobs_in_a_row_are_one_run() -> None:
    """In the order in which they were given, also where it goes back."""
    keys = [Key(BUNDLE_ID, 0), Key(BUNDLE_ID, 1), Key(OTHER, 0), Key(BUNDLE_ID, 2), Key(BUNDLE_ID, 1)]
    runs = runs_of(keys)
    assert runs == [Run(BUNDLE_ID, 0, 2), Run(OTHER, 0), Run(BUNDLE_ID, 2), Run(BUNDLE_ID, 1)]
    assert keys_of(Input(runs, is_list=True)) == keys
