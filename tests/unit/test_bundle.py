"""Cutting a stream of calls into bundles, and a bundle into its parts."""

from __future__ import annotations

from itertools import chain, islice, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuelib import envelope
from queuelib.bundle import MAX_BYTES_A_BUNDLE, MAX_JOBS_A_BUNDLE, Chunks, outgoing, part, size_at
from queuelib.message import Bundle, Limits
from tests.unit.fakes import bundles, make_bundle, quick

LENGTHS = st.lists(st.integers(0, 5) | st.integers(0, 2 * MAX_BYTES_A_BUNDLE), max_size=20)


def calls(lengths: list[int]) -> list[bytes]:
    """Return argument lists of these lengths that differ wherever they can."""
    return [bytes([number % 256]) * length for number, length in enumerate(lengths)]


class TestChunks:
    """A stream of argument lists becomes columns."""

    @quick
    @given(lengths=LENGTHS, singles=st.integers(0, 600))
    def test_nothing_is_lost_or_reordered(self, lengths: list[int], singles: int) -> None:
        """The columns end to end are the stream."""
        column = [*repeat(b"", singles), *calls(lengths)]
        assert list(chain.from_iterable(Chunks(column))) == column

    @quick
    @given(lengths=LENGTHS, singles=st.integers(0, 600))
    def test_every_column_keeps_to_its_bounds(self, lengths: list[int], singles: int) -> None:
        """A column has as many jobs and bytes as its place in the stream allows; only a single job may be larger."""
        position = 0
        for chunk in Chunks([*repeat(b"", singles), *calls(lengths)]):
            assert 1 <= len(chunk) <= size_at(position)
            assert len(chunk) == 1 or sum(map(len, chunk)) <= MAX_BYTES_A_BUNDLE
            position += len(chunk)

    @quick
    @given(lengths=LENGTHS, stops=st.lists(st.integers(0, 4), max_size=8))
    def test_it_is_taken_up_again(self, lengths: list[int], stops: list[int]) -> None:
        """Left after any number of columns and taken up again, it loses nothing."""
        column = calls(lengths)
        chunks = Chunks(column)
        got: list[list[bytes]] = []
        for stop in stops:
            got.extend(islice(chunks, stop))
        got.extend(chunks)
        assert list(chain.from_iterable(got)) == column

    def test_the_first_ones_travel_alone(self) -> None:
        """A short list of long jobs spreads over every machine."""
        assert [len(chunk) for chunk in Chunks([b""] * 256)] == [1] * 256

    def test_later_ones_travel_together(self) -> None:
        """The size of a bundle grows with its position in the stream, up to its bound."""
        sizes = [len(chunk) for chunk in Chunks(repeat(b"", 40_000))]
        assert sizes[256] == 2
        assert sizes[-2] == MAX_JOBS_A_BUNDLE
        assert sum(sizes) == 40_000
        assert sizes[:-1] == sorted(sizes[:-1])

    def test_it_reads_no_further_than_it_must(self) -> None:
        """An endless stream is read one column at a time."""
        source = iter(calls([0] * 10))
        next(Chunks(source))
        assert len(list(source)) == 9

    def test_an_argument_list_that_did_not_fit_begins_the_next_column(self) -> None:
        """It is not dropped with the column that it was too large for."""
        half = bytes(MAX_BYTES_A_BUNDLE // 2)
        small = [b""] * 300
        chunks = Chunks([*small, half, half, b"x", b"y"])
        columns = list(chunks)
        assert columns[-2:] == [[half, half], [b"x", b"y"]]

    def test_an_exhausted_stream_stays_exhausted(self) -> None:
        """After its end there is nothing more."""
        chunks = Chunks([b"1"])
        assert list(chunks) == [[b"1"]]
        assert list(chunks) == []


@pytest.mark.parametrize(
    ("position", "size"), [(0, 1), (255, 1), (256, 2), (511, 2), (512, 3), (63 * 256, 64), (10**9, 64)]
)
def test_the_size_follows_the_position(position: int, size: int) -> None:
    """One more job for every 256 before it."""
    assert size_at(position) == size


class TestPart:
    """Some jobs of a bundle, as a bundle."""

    @quick
    @given(bundle=bundles(), data=st.data())
    def test_jobs_keep_their_ids_and_arguments(self, bundle: Bundle, data: st.DataObject) -> None:
        """Whichever are taken, of a whole bundle or of a part of one."""
        positions = sorted(data.draw(st.sets(st.sampled_from(range(len(bundle.indexes))), min_size=1)))
        piece = part(bundle, positions)
        assert (piece.id, piece.size, piece.task) == (bundle.id, bundle.size, bundle.task)
        assert dict(zip(piece.indexes, piece.arguments, strict=True)) == {
            bundle.indexes[p]: bundle.arguments[p] for p in positions
        }

    def test_changes(self) -> None:
        """What changes with the part is said by name; an unknown name is refused."""
        piece = part(make_bundle(3), [1], attempt=2, due=5.0)
        assert (piece.attempt, piece.due, piece.indexes, piece.arguments) == (2, 5.0, [1], [b"1"])
        with pytest.raises(TypeError, match="retries"):
            part(make_bundle(3), [1], retries=2)


def test_what_the_broker_gets() -> None:
    """A frame says which queue it is for, which bundle it is, from when, and how many jobs were submitted with it."""
    bundle = part(make_bundle(3, color="red", limits=Limits(retries=1)), [2], due=7.0)
    frame = outgoing(bundle, is_successor=True)
    assert (frame.color, frame.bundle, frame.due, frame.size, frame.is_successor) == ("red", bundle.id, 7.0, 3, True)
    assert envelope.decode(frame.frame) == bundle
    assert not outgoing(bundle).is_successor
