"""Ids: given out, read back, sorted, and told from made-up ones."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from queuelib.errors import UnknownJob
from queuelib.ids import BUNDLE_BYTES, Key, created_at, job_id, new_bundle_id, parse_job_id
from tests.unit.fakes import BUNDLE_ID, LETTERS, quick

BUNDLES = st.binary(min_size=BUNDLE_BYTES, max_size=BUNDLE_BYTES)
INDEXES = st.integers(0, 70_000) | st.integers(0, 2**32 - 1)
WALLS = st.floats(0, 2**48 / 1000 - 1)


@quick
@given(bundle=BUNDLES, index=INDEXES)
def test_an_id_names_its_job(bundle: bytes, index: int) -> None:
    """What was given out is read back to the same bundle and index."""
    assert parse_job_id(job_id(bundle, index)) == Key(bundle, index)


@quick
@given(bundle=BUNDLES, index=INDEXES, place=st.integers(0, 200), character=st.sampled_from(LETTERS))
def test_one_changed_character_is_noticed(bundle: bytes, index: int, place: int, character: str) -> None:
    """A mistyped id names no job, whichever character it is."""
    text = job_id(bundle, index)
    place %= len(text)
    assume(text[place] != character)
    with pytest.raises(UnknownJob, match="mistyped or was never given out"):
        parse_job_id(text[:place] + character + text[place + 1 :])


@pytest.mark.parametrize("index", [0, 1, 15, 16, 65_535])
def test_no_hex_digit_can_be_exchanged(index: int) -> None:
    """Every other digit at every place is noticed; the check is linear, so that one id stands for all."""
    text = job_id(BUNDLE_ID, index)
    for place, right in enumerate(text):
        for digit in set(string.hexdigits.lower()) - {right}:
            with pytest.raises(UnknownJob):
                parse_job_id(text[:place] + digit + text[place + 1 :])


@quick
@given(bundle=BUNDLES, index=INDEXES, tail=st.text("0123456789abcdef", min_size=6, max_size=6))
def test_a_made_up_tail_is_noticed(bundle: bytes, index: int, tail: str) -> None:
    """Whoever knows a bundle cannot guess at the check of a job in it."""
    text = job_id(bundle, index)
    assume(tail != text[-6:])
    with pytest.raises(UnknownJob):
        parse_job_id(text[:-6] + tail)


@quick
@given(bundle=BUNDLES, index=INDEXES, other=INDEXES)
def test_the_tail_of_one_job_does_not_do_for_another(bundle: bytes, index: int, other: int) -> None:
    """An id with another job's index is noticed: it is one that the bundle may not have."""
    assume(index != other)
    check = job_id(bundle, index)[-6:]
    assume(job_id(bundle, other)[-6:] != check)  # 24 bits cannot tell all of 32 apart
    with pytest.raises(UnknownJob):
        parse_job_id(f"{bundle.hex()}{other:x}{check}")


@quick
@given(text=st.text(LETTERS, max_size=60))
def test_other_text_is_no_id(text: str) -> None:
    """Any text may be asked for, and the only error is ours."""
    with pytest.raises(UnknownJob):
        parse_job_id(text)


@pytest.mark.parametrize(
    "spell",
    [
        str.upper,
        lambda text: f" {text}",
        lambda text: f"{text}\n",
        lambda text: f"{text[:2]} {text[2:]}",
        lambda text: f"{text[:32]}0{text[32:]}",
        lambda text: f"{text[:32]}+{text[32:]}",
        lambda text: f"{text[:33]}_{text[33:]}",
        lambda text: text[:-1],
        lambda text: text[:32],
    ],
)
def test_an_id_has_one_spelling(spell: object) -> None:
    """What Python's own parsers of hex would let pass is refused, so that ids can be compared as text."""
    assert callable(spell)
    with pytest.raises(UnknownJob):
        parse_job_id(spell(job_id(bytes(range(200, 216)), 0x12)))


def test_a_long_made_up_id_is_cut_in_the_message() -> None:
    """An error never repeats a megabyte of input."""
    with pytest.raises(UnknownJob) as caught:
        parse_job_id("f" * 1_000_000)
    assert len(str(caught.value)) < 200


@quick
@given(wall=WALLS)
def test_a_bundle_id_knows_its_time(wall: float) -> None:
    """The time of creation comes back, to the millisecond."""
    assert created_at(new_bundle_id(wall)) == pytest.approx(wall, abs=0.001)


@quick
@given(earlier=WALLS, later=WALLS)
def test_ids_sort_by_time(earlier: float, later: float) -> None:
    """Of two ids made a millisecond apart the earlier sorts first, as bytes and as text."""
    assume(later - earlier > 0.0011)
    first, second = new_bundle_id(earlier), new_bundle_id(later)
    assert first < second
    assert job_id(first, 70_000) < job_id(second, 0)


def test_the_random_part_comes_from_the_source_given() -> None:
    """Tests bring their own random bytes; 10 of them are asked for."""
    assert new_bundle_id(0.001, lambda count: b"r" * count) == b"\0\0\0\0\0\1" + b"r" * 10


def test_two_ids_of_one_millisecond_differ() -> None:
    """80 random bits tell them apart."""
    assert len({new_bundle_id(1.0) for _ in range(100)}) == 100


def test_an_id_is_short_lower_case_hex() -> None:
    """It can be selected by a double click and put into a URL."""
    assert re.fullmatch("[0-9a-f]{39}", job_id(BUNDLE_ID, 7))
