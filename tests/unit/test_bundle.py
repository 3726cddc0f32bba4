"""Cutting a stream of calls into bundles, and a bundle into its parts."""

from __future__ import annotations

from itertools import count, islice, repeat
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuelib import codec, envelope
from queuelib.bundle import (
    MAX_BYTES_A_BUNDLE,
    MAX_JOBS_A_BUNDLE,
    QUICK,
    TARGET,
    Chunk,
    Chunks,
    Sizes,
    outgoing,
    part,
)
from queuelib.errors import DecodeError
from queuelib.message import Bundle, Limits
from tests.unit.fakes import bundles, make_bundle, quick

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LENGTHS = st.lists(st.integers(0, 5) | st.integers(0, 2 * MAX_BYTES_A_BUNDLE), max_size=20)
SECONDS = st.floats(0, 2 * QUICK) | st.floats(0, 1e6)
NOTES = st.lists(st.tuples(SECONDS, st.integers(1, 5000)), max_size=20)


def told(*notes: tuple[float, int]) -> Sizes:
    """Return sizes that were told these run times, each the mean of so many jobs."""
    sizes = Sizes()
    for seconds, jobs in notes:
        sizes.ran(seconds, jobs)
    return sizes


def grown(size: int) -> Sizes:
    """Return sizes of a task that was measured until its bundles have this many jobs."""
    sizes = told(*repeat((TARGET / (size + 0.5), 1), 14))
    assert sizes.at(0) == size
    return sizes


class TestSizes:
    """How many jobs travel together."""

    @pytest.mark.parametrize(
        ("position", "size"), [(0, 1), (255, 1), (256, 2), (511, 2), (512, 3), (63 * 256, 64), (10**9, 64)]
    )
    def test_of_a_task_that_nobody_has_timed(self, position: int, size: int) -> None:
        """The first jobs travel alone, for they may be long; then one more for every 256 before it."""
        assert Sizes().at(position) == size

    @quick
    @given(notes=NOTES, last=st.tuples(SECONDS, st.integers(1, 5000)))
    def test_it_doubles_at_most(self, notes: list[tuple[float, int]], last: tuple[float, int]) -> None:
        """One quick outcome among long ones does not make a bundle of thousands."""
        sizes = told(*notes)
        before = sizes.at(0)
        sizes.ran(*last)
        assert 1 <= sizes.at(0) <= min(2 * before, MAX_JOBS_A_BUNDLE)

    @quick
    @given(notes=NOTES, first=st.tuples(SECONDS, st.integers(1, 5000)), position=st.integers(0, 10**9))
    def test_once_timed_the_position_is_no_matter(
        self, notes: list[tuple[float, int]], first: tuple[float, int], position: int
    ) -> None:
        """What was measured counts, not where in its stream a bundle begins."""
        sizes = told(first, *notes)
        assert sizes.at(position) == sizes.at(0)

    def test_it_grows_step_by_step(self) -> None:
        """From the first measurement on it doubles, until a bundle is worth the target."""
        sizes, got = Sizes(), []
        for _ in range(9):
            sizes.ran(0.001, 1)
            got.append(sizes.at(0))
        assert got == [2, 4, 8, 16, 32, 64, *[int(TARGET / 0.001)] * 3]

    def test_it_shrinks_at_once(self) -> None:
        """Jobs that turn out long go alone from the first notice on."""
        sizes = grown(1000)
        sizes.ran(10.0, 1)
        assert sizes.at(0) == 1

    def test_it_shrinks_to_what_is_worth_the_target(self) -> None:
        """Many jobs of another length weigh more than the mean so far."""
        sizes = grown(1000)
        sizes.ran(TARGET / 10.5, 1000)
        assert sizes.at(0) == 10

    def test_one_outlier_among_many(self) -> None:
        """The mean is smoothed: one job of a hundred times the length halves nothing for long."""
        one, many = grown(1000), grown(1000)
        one.ran(0.01, 1)
        many.ran(0.01, 100)
        assert many.at(0) < one.at(0) < 1000

    @pytest.mark.parametrize(
        ("seconds", "size"), [(QUICK * 1.001, 1), (QUICK, 5), (0.03, 1), (1e9, 1), (TARGET / 64, 64)]
    )
    def test_a_slow_job_travels_alone(self, seconds: float, size: int) -> None:
        """Above 20 ms each: a bundle of two would only keep the second one waiting."""
        assert told(*repeat((seconds, 1), 20)).at(0) == size

    @quick
    @given(notes=st.lists(st.tuples(st.floats(), st.integers(1, 5000)), max_size=5))
    def test_run_times_that_cannot_be(self, notes: list[tuple[float, int]]) -> None:
        """A stored number may be anything: infinite, negative or none, it breaks nothing and is forgotten in time."""
        sizes = told(*notes)
        assert 1 <= sizes.at(0) <= MAX_JOBS_A_BUNDLE
        for _ in range(20):
            sizes.ran(TARGET / 10.5, 1000)
        assert sizes.at(0) == 10

    @pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e-6])
    def test_there_is_a_cap_in_jobs(self, seconds: float) -> None:
        """However quick they are, also below what a clock shows."""
        assert told(*repeat((seconds, 4096), 40)).at(0) == MAX_JOBS_A_BUNDLE


def packed(rows: Iterable[Any]) -> bytes:
    """Encode rows as a column."""
    return codec.encode(list(rows))


def blobs(lengths: list[int]) -> list[list[bytes]]:
    """Return argument lists with byte strings of these lengths, which differ wherever they can."""
    return [[bytes([number % 256]) * length] for number, length in enumerate(lengths)]


def opened(chunks: Iterable[Chunk]) -> list[Any]:
    """Return the rows in some columns, end to end."""
    return [row for chunk in chunks for row in codec.decode(chunk.column)]


class TestChunks:
    """A stream of calls becomes columns."""

    @quick
    @given(lengths=LENGTHS, singles=st.integers(0, 600), notes=NOTES, total=st.none() | st.integers(0, 700))
    def test_nothing_is_lost_or_reordered(
        self, lengths: list[int], singles: int, notes: list[tuple[float, int]], total: int | None
    ) -> None:
        """The columns end to end are the stream, whatever was measured, and also if its length was told wrong."""
        rows = [*repeat([b""], singles), *blobs(lengths)]
        chunks = list(Chunks(rows, packed, told(*notes), total))
        assert opened(chunks) == rows
        assert [chunk.count for chunk in chunks] == [codec.list_length(chunk.column) for chunk in chunks]

    @quick
    @given(lengths=LENGTHS, singles=st.integers(0, 600), notes=NOTES)
    def test_every_column_keeps_to_its_bounds(
        self, lengths: list[int], singles: int, notes: list[tuple[float, int]]
    ) -> None:
        """A column has no more jobs and bytes than it may; only a single job may be larger."""
        sizes = told(*notes)
        position = 0
        for chunk in Chunks([*repeat([b""], singles), *blobs(lengths)], packed, sizes):
            assert 1 <= chunk.count <= sizes.at(position)
            assert chunk.count == 1 or len(chunk.column) <= MAX_BYTES_A_BUNDLE
            position += chunk.count

    @quick
    @given(lengths=LENGTHS, stops=st.lists(st.integers(0, 4), max_size=8), size=st.integers(1, 1000))
    def test_it_is_taken_up_again(self, lengths: list[int], stops: list[int], size: int) -> None:
        """Left after any number of columns and taken up again, it loses nothing."""
        rows = blobs(lengths)
        chunks = Chunks(rows, packed, told(*repeat((TARGET / size, 1), 12)))
        got: list[Chunk] = []
        for stop in stops:
            got.extend(islice(chunks, stop))
        got.extend(chunks)
        assert opened(got) == rows

    @quick
    @given(steps=st.lists(st.tuples(st.integers(1, 5), NOTES), max_size=10), length=st.integers(0, 2000))
    def test_sizes_change_while_it_runs(self, steps: list[tuple[int, list[tuple[float, int]]]], length: int) -> None:
        """Each column asks anew, for outcomes come back while later calls still wait."""
        sizes = Sizes()
        rows = [[number] for number in range(length)]
        chunks = Chunks(rows, packed, sizes)
        got: list[Chunk] = []
        for columns, notes in steps:
            for note in notes:
                sizes.ran(*note)
            for chunk in islice(chunks, columns):
                assert chunk.count <= sizes.at(sum(earlier.count for earlier in got))
                got.append(chunk)
        got.extend(chunks)
        assert opened(got) == rows

    def test_the_first_ones_travel_alone(self) -> None:
        """A short list of long jobs spreads over every machine."""
        assert [chunk.count for chunk in Chunks([[0]] * 256, packed, Sizes())] == [1] * 256

    def test_later_ones_travel_together(self) -> None:
        """Untimed, the size of a bundle grows with its position in the stream, up to its bound."""
        counts = [chunk.count for chunk in Chunks(repeat([0], 40_000), packed, Sizes())]
        assert counts[256] == 2
        assert counts[-2] == 64
        assert sum(counts) == 40_000
        assert counts[:-1] == sorted(counts[:-1])

    def test_timed_ones_travel_together_from_the_first(self) -> None:
        """A program that ran the task before knows how long it takes."""
        counts = [chunk.count for chunk in Chunks(repeat([0], 2500), packed, grown(1000))]
        assert counts == [1000, 1000, 500]

    def test_the_tail_spreads(self) -> None:
        """Where the number of calls is known, no bundle has more than an eighth of what is left."""
        counts = [chunk.count for chunk in Chunks(repeat([0], 10_000), packed, grown(1000), 10_000)]
        assert sum(counts) == 10_000
        left = 10_000
        for size in counts:
            assert size == max(1, min(1000, left // 8))
            left -= size
        assert counts[-15:] == [1] * 15

    def test_a_short_list_spreads(self) -> None:
        """Ten calls are ten bundles, however quick they are: there may be ten children."""
        assert [chunk.count for chunk in Chunks([[0]] * 10, packed, grown(1000), 10)] == [1] * 10

    def test_large_rows_are_split_evenly(self) -> None:
        """What is too large together goes in halves, and halves of halves, in order."""
        rows = blobs([MAX_BYTES_A_BUNDLE // 3] * 8)
        chunks = list(Chunks(rows, packed, grown(1000)))
        assert [chunk.count for chunk in chunks] == [2, 2, 2, 2]
        assert opened(chunks) == rows

    def test_one_that_is_too_large_travels_alone(self) -> None:
        """Its neighbours do not travel with it, and none is dropped."""
        rows = blobs([1, 2, MAX_BYTES_A_BUNDLE + 1, 3])
        chunks = list(Chunks(rows, packed, grown(1000)))
        assert [chunk.count for chunk in chunks] == [2, 1, 1]
        assert opened(chunks) == rows

    @pytest.mark.parametrize("size", [1, 7])
    def test_it_reads_no_further_than_it_must(self, size: int) -> None:
        """An endless stream is read one column at a time, and not before a column is asked for."""
        source = ([number] for number in count())
        chunks = Chunks(source, packed, grown(size) if size > 1 else Sizes())
        assert next(source) == [0]
        assert opened([next(chunks)]) == [[number] for number in range(1, 1 + size)]
        assert next(source) == [1 + size]

    def test_an_error_of_the_source_comes_out(self) -> None:
        """At the column whose calls could not be read; those before it are there."""

        def breaking() -> Iterator[list[int]]:
            yield [1]
            yield [2]
            message = "no more"
            raise LookupError(message)

        chunks = Chunks(breaking(), packed, Sizes())
        assert opened(islice(chunks, 2)) == [[1], [2]]
        with pytest.raises(LookupError, match="no more"):
            next(chunks)

    def test_an_exhausted_stream_stays_exhausted(self) -> None:
        """After its end there is nothing more."""
        chunks = Chunks([[1]], packed, Sizes())
        assert opened(chunks) == [[1]]
        assert list(chunks) == []


class TestPart:
    """Some jobs of a bundle, as a bundle."""

    @quick
    @given(bundle=bundles(), data=st.data())
    def test_jobs_keep_their_ids_and_arguments(self, bundle: Bundle, data: st.DataObject) -> None:
        """Whichever are taken, of a whole bundle or of a part of one, and of that again."""
        piece = bundle
        for _ in range(2):
            rows = dict(zip(piece.indexes, codec.decode(piece.column), strict=True))
            positions = sorted(data.draw(st.sets(st.sampled_from(range(len(piece.indexes))), min_size=1)))
            kept = [piece.indexes[position] for position in positions]
            piece = part(piece, positions)
            assert piece._replace(indexes=[], column=b"") == bundle._replace(indexes=[], column=b"")
            assert list(piece.indexes) == kept
            assert codec.decode(piece.column) == [rows[index] for index in kept]

    @pytest.mark.parametrize("count", [1, 15, 16, 17, 65_535, 65_536])
    def test_of_any_length(self, count: int) -> None:
        """Wherever the head of the list changes its form."""
        bundle = make_bundle(65_536, arguments=[b"\x90"] * 65_536)
        piece = part(bundle, range(65_536 - count, 65_536))
        assert codec.decode(piece.column) == [[]] * count
        assert envelope.decode(envelope.encode(piece)).column == piece.column

    def test_all_of_it_is_not_even_looked_at(self) -> None:
        """A bundle that moves whole is not taken apart."""
        bundle = make_bundle(2, column=b"\x92\xc1 not msgpack")
        assert part(bundle, [0, 1], attempt=2) == bundle._replace(attempt=2)

    @pytest.mark.parametrize("column", [b"\x92\xc1 not msgpack", b"\x93\x90\x90\x90", b"\x92\x90", b"\x92\x90\x90\x90"])
    def test_a_column_that_is_none(self, column: bytes) -> None:
        """Unreadable elements, a wrong count, or something left over are a DecodeError."""
        with pytest.raises(DecodeError):
            part(make_bundle(2, column=column), [1])

    def test_changes(self) -> None:
        """What changes with the part is said by name; an unknown name is refused."""
        piece = part(make_bundle(3), [1], attempt=2, due=5.0)
        assert (piece.attempt, piece.due, piece.indexes, piece.column) == (2, 5.0, [1], codec.encode([[1]]))
        with pytest.raises((TypeError, ValueError), match="retries"):
            part(make_bundle(3), [1], retries=2)


def test_what_the_broker_gets() -> None:
    """A frame says which queue it is for, which bundle it is, from when, and how many jobs were submitted with it."""
    bundle = part(make_bundle(3, color="red", limits=Limits(retries=1)), [2], due=7.0)
    frame = outgoing(bundle, is_successor=True)
    assert (frame.color, frame.bundle, frame.due, frame.size, frame.is_successor) == ("red", bundle.id, 7.0, 3, True)
    assert envelope.decode(frame.frame) == bundle
    assert not outgoing(bundle).is_successor
