"""`map` over outcomes that the test decides: bounded, in order, and cancelled when it is left."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import count, islice
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuelib import codec
from queuelib.bundle import TARGET, Chunk, Chunks, Sizes
from queuelib.errors import JobTimeout
from queuelib.ids import Key
from queuelib.mapping import FEWEST_AHEAD, NO_LIMITS, Limits, Stream
from queuelib.outcome import FAILED, QUEUED, SUCCEEDED, Record
from tests.unit.fakes import FakeResults, quick

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


SIZES = st.just(1) | st.integers(5, 64)  # jobs so slow that fewer than five are worth a bundle travel alone


class LabError(Exception):
    """What a handler raised."""


@dataclass
class FakeOutcomes:
    """Jobs of a map: they end when somebody waits, in an order of the test's, each with its own argument as its value.

    Successes that end together are told of in records of up to `span` in a row.

    Attributes:
        seed: Decides which of the jobs that are waited for end first, and how many share a record.
        failing: Arguments whose jobs fail.
        stuck: Arguments whose jobs never end.
        is_instant: Whether jobs end when they are submitted.
        span: Most successes in one record.
        seconds: How long each job ran.
    """

    seed: int = 0
    failing: set[int] = field(default_factory=set[int])
    stuck: set[int] = field(default_factory=set[int])
    is_instant: bool = False
    span: int = 1
    seconds: float = 1.0
    results: FakeResults = field(default_factory=FakeResults)
    arguments: dict[Key, int] = field(default_factory=dict[Key, int])
    abouts: set[tuple[str, str]] = field(default_factory=set["tuple[str, str]"])
    counts: list[int] = field(default_factory=list[int])

    def __post_init__(self) -> None:
        self._random = Random(self.seed)

    @property
    def ended(self) -> dict[Key, Record]:
        """The record of each job that ended."""
        return self.results.records

    def send(self, chunks: list[Chunk]) -> list[bytes]:
        """Take bundles, and return their ids."""
        ids = []
        for chunk in chunks:
            bundle = len(self.arguments).to_bytes(16, "big")
            ids.append(bundle)
            rows = codec.decode(chunk.column)
            assert len(rows) == chunk.count
            self.arguments.update({Key(bundle, i): argument for i, (argument,) in enumerate(rows)})
            if self.is_instant:
                for index in range(chunk.count):
                    self.end(Key(bundle, index))
        return ids

    def end(self, key: Key) -> None:
        """End a job, and as many after it as share its record."""
        if key in self.ended or self.arguments[key] in self.stuck:
            return
        if self.arguments[key] in self.failing:
            self.ended[key] = Record(key, FAILED)
            return
        last = key.index
        most = key.index + self._random.randint(1, self.span)
        while last < most and self._succeeds(Key(key.bundle, last)):
            last += 1
        record = Record(key, SUCCEEDED, count=last - key.index)
        self.counts.append(record.count)
        self.ended.update(dict.fromkeys(record.keys, record))

    def _succeeds(self, key: Key) -> bool:
        return key not in self.ended and self.arguments.get(key, -1) not in {-1, *self.failing, *self.stuck}

    def records(self, keys: Sequence[Key]) -> list[Record]:
        """Return what is known of each."""
        return [self.ended.get(key) or Record(key, QUEUED) for key in keys]

    def wait_for(self, keys: Sequence[Key], timeout: float | None, about: tuple[str, str], *, are_open: bool) -> Record:
        """End one of the jobs, and sometimes more, also some that nobody waits for yet."""
        assert are_open
        if timeout is not None and timeout <= 0.0:
            raise JobTimeout
        self.abouts.add(about)
        able = [key for key in keys if self.arguments[key] not in self.stuck]
        others = [key for key in self.arguments if key not in self.ended]
        chosen = self._random.sample(able, min(len(able), self._random.randint(1, 3)))
        for key in [*chosen, *self._random.sample(others, min(len(others), self._random.randint(0, 3)))]:
            self.end(key)
        return next(self.ended[key] for key in keys if key in self.ended)

    def values(self, record: Record) -> tuple[list[int], float]:
        """Return the arguments as the values."""
        if record.state == FAILED:
            raise LabError(self.arguments[record.key])
        return [self.arguments[key] for key in record.keys], self.seconds

    def value(self, record: Record, key: Key) -> int:
        """Return the argument as the value."""
        return self.values(record)[0][key.index - record.key.index]

    def open_results(self) -> FakeResults:
        """Return where cancellations are written down."""
        return self.results

    @property
    def cancelled(self) -> set[int]:
        """Arguments of the jobs that were cancelled."""
        return {self.arguments[key] for key in self.results.cancelled_keys}

    @property
    def unfinished(self) -> set[int]:
        """Arguments of the jobs that have not ended."""
        return {argument for key, argument in self.arguments.items() if key not in self.ended}


def packed(rows: Sequence[int]) -> bytes:
    """Encode a column of arguments."""
    return codec.encode([[argument] for argument in rows])


def timed(size: int) -> Sizes:
    """Return sizes of a task whose bundles have this many jobs, by its run times."""
    sizes = Sizes()
    while sizes.at(0) < size:
        sizes.ran(TARGET / (size + 0.5), 1)
    return sizes


def stream(
    outcomes: Any,
    arguments: Iterable[int],
    sizes: Sizes | None = None,
    total: int | None = None,
    limits: Limits = NO_LIMITS,
) -> Stream:
    """Return a map over these arguments that has begun to submit, as the dispatcher begins it."""
    sizes = limits.sizes(sizes or Sizes())
    made = Stream(Chunks(arguments, packed, sizes, total), outcomes.send, outcomes, sizes, ("lab.work", "red"), limits)
    made.refill()
    return made


def breaking_after(length: int) -> Iterator[int]:
    """Yield numbers, then raise."""
    yield from range(length)
    message = "no more"
    raise LabError(message)


class TestOrder:
    """Every result comes once, where it belongs."""

    @quick
    @given(length=st.integers(0, 400), seed=st.integers(), span=st.integers(1, 40), size=SIZES)
    def test_ordered(self, length: int, seed: int, span: int, size: int) -> None:
        """Results come in the order of the calls, in whichever order jobs end and however many share a record."""
        made = stream(FakeOutcomes(seed, span=span, seconds=TARGET / (size + 0.5)), range(length), timed(size))
        assert list(made.results(ordered=True)) == list(range(length))

    @quick
    @given(length=st.integers(0, 200), seed=st.integers(), span=st.integers(1, 40), size=SIZES)
    def test_unordered(self, length: int, seed: int, span: int, size: int) -> None:
        """Each result comes once, beside the position of its call."""
        made = stream(FakeOutcomes(seed, span=span, seconds=TARGET / (size + 0.5)), range(length), timed(size))
        assert sorted(made.results(ordered=False)) == [(number, number) for number in range(length)]

    @quick
    @given(length=st.integers(1, 300), seed=st.integers(), total=st.integers(0, 400), ordered=st.booleans())
    def test_with_a_known_length(self, length: int, seed: int, total: int, ordered: bool) -> None:  # noqa: FBT001
        """The length only spreads the bundles: if it was told wrong, all results come nevertheless."""
        outcomes = FakeOutcomes(seed, span=10, seconds=0.0)
        got = list(stream(outcomes, range(length), timed(64), total).results(ordered=ordered))
        assert sorted(got) == (list(range(length)) if ordered else [(n, n) for n in range(length)])

    @quick
    @given(cuts=st.sets(st.integers(1, 99)), ordered=st.booleans(), consumed=st.integers(0, 100))
    def test_any_split_into_records(self, cuts: set[int], ordered: bool, consumed: int) -> None:  # noqa: FBT001
        """A bundle of which all has ended is read from whichever records tell of it, and left at any place."""
        outcomes = FakeOutcomes()
        made = stream(outcomes, range(100), timed(100))
        (bundle,) = {key.bundle for key in outcomes.arguments}
        edges = [0, *sorted(cuts), 100]
        for first, end in zip(edges, edges[1:], strict=False):
            record = Record(Key(bundle, first), SUCCEEDED, count=end - first)
            outcomes.ended.update(dict.fromkeys(record.keys, record))
        results = made.results(ordered=ordered)
        got = list(islice(results, consumed))
        assert got == [number if ordered else (number, number) for number in range(consumed)]
        results.close()
        assert outcomes.cancelled == set()
        assert outcomes.abouts == set()  # nothing was waited for

    @pytest.mark.parametrize("ordered", [True, False])
    def test_records_are_shared(self, ordered: bool) -> None:  # noqa: FBT001 - a parameter
        """These tests do see records of many jobs."""
        outcomes = FakeOutcomes(seed=1, span=40, seconds=0.0)
        assert len(list(stream(outcomes, range(400), timed(64)).results(ordered=ordered))) == 400
        assert max(outcomes.counts) > 20
        assert min(outcomes.counts) < 10

    def test_unordered_yields_what_has_ended(self) -> None:
        """A job that never ends holds back nobody else."""
        outcomes = FakeOutcomes(stuck={0})
        results = stream(outcomes, range(100)).results(ordered=False)
        assert {value for _, value in islice(results, 99)} == set(range(1, 100))
        results.close()
        assert outcomes.cancelled == {0}

    def test_whom_it_is_about(self) -> None:
        """Waiting says for which task and color, for the notice that nobody serves them."""
        outcomes = FakeOutcomes()
        assert list(stream(outcomes, range(3)).results(ordered=True)) == [0, 1, 2]
        assert outcomes.abouts == {("lab.work", "red")}


class TestLimits:
    """What a caller allows."""

    @quick
    @given(
        length=st.integers(0, 200), seed=st.integers(), room=st.integers(1, 50), size=SIZES, ordered=st.booleans(),
        chunk=st.none() | st.integers(1, 30),
    )  # fmt: skip
    def test_room(self, length: int, seed: int, room: int, size: int, ordered: bool, chunk: int | None) -> None:  # noqa: FBT001, PLR0917
        """No more is taken than there is room for beside what was handed on; and all of it comes."""
        taken: list[int] = []

        def numbers() -> Iterator[int]:
            for number in range(length):
                taken.append(number)
                yield number

        outcomes = FakeOutcomes(seed, span=10, seconds=TARGET / (size + 0.5))
        results = stream(outcomes, numbers(), timed(size), limits=Limits(room=room, chunk=chunk)).results(
            ordered=ordered
        )
        got = []
        assert len(taken) == min(room, length) or (room >= 16 and len(taken) > room * 7 // 8 - 1)
        for value in results:
            got.append(value)
            assert len(taken) <= len(got) + room
        assert sorted(got) == (list(range(length)) if ordered else [(n, n) for n in range(length)])

    def test_chunk(self) -> None:
        """So many calls share a message, whatever is known of their run times; but never more than a message may hold."""
        for chunk, size in ((7, 7), (5000, 4096)):
            outcomes = FakeOutcomes()
            made = stream(outcomes, range(10_000), limits=Limits(chunk=chunk))
            assert {made.sizes.at(position) for position in (0, 5000)} == {size}
            first = next(iter(outcomes.arguments))
            assert sum(key.bundle == first.bundle for key in outcomes.arguments) == size

    @pytest.mark.parametrize("ordered", [True, False])
    def test_time(self, ordered: bool) -> None:  # noqa: FBT001 - a parameter
        """What is there when the time is over is still handed on; then it raises, and the rest is cancelled."""
        outcomes = FakeOutcomes()
        made = stream(outcomes, range(3), limits=Limits(until=time.monotonic(), timeout=0.5))
        outcomes.end(next(iter(outcomes.arguments)))
        results = made.results(ordered=ordered)
        assert next(results) == (0 if ordered else (0, 0))
        with pytest.raises(JobTimeout, match=r"within 0\.5 s"):
            next(results)
        assert outcomes.cancelled == {1, 2}

    def test_cut(self) -> None:
        """Nothing more is submitted; whether that was all is known in the end."""
        for length, is_short in ((5, False), (FEWEST_AHEAD, False), (FEWEST_AHEAD + 1, True)):
            made = stream(FakeOutcomes(), range(length), limits=Limits(chunk=1))
            made.cut()
            assert list(made.results(ordered=True)) == list(range(min(length, FEWEST_AHEAD)))
            assert made.is_short is is_short

    @pytest.mark.parametrize("ordered", [True, False])
    def test_ctrl_c_cuts_what_shows_a_bar(self, ordered: bool) -> None:  # noqa: FBT001 - a parameter
        """Nothing is submitted after it, however long the wait for what runs is."""
        outcomes = FakeOutcomes()
        made = stream(outcomes, range(5000), limits=Limits(chunk=1))
        results = made.shown("lab", None, ordered=ordered)
        next(results)
        with pytest.raises(KeyboardInterrupt):
            for at, _ in enumerate(results):
                if at == 5:
                    made.cut_off()
                    raise KeyboardInterrupt
        results.close()
        assert len(outcomes.arguments) == FEWEST_AHEAD

    def test_rest_of_a_source_that_raises(self) -> None:
        """What came before it is run and read, then the reader gets the error as well."""
        outcomes = FakeOutcomes()
        made = stream(outcomes, breaking_after(5000))
        with pytest.raises(LabError, match="no more"):
            made.submit_rest()
        assert outcomes.cancelled == set()
        got: list[Any] = []
        with pytest.raises(LabError, match="no more"):
            got.extend(made.results(ordered=True))
        assert got == list(range(5000))

    def test_cancelled_while_it_submits(self) -> None:
        """What was just on its way out is cancelled, too."""
        outcomes = FakeOutcomes()
        made = stream(outcomes, range(5000), limits=Limits(chunk=1))
        send = made.send

        def strike(batch: list[Chunk]) -> list[bytes]:
            made.cancel()
            return send(batch)

        made.send = strike
        made.submit_rest()
        assert len(outcomes.arguments) > FEWEST_AHEAD
        assert outcomes.cancelled == set(outcomes.arguments.values())

    def test_rest(self) -> None:
        """All that is left is submitted at once, before anything is read."""
        outcomes = FakeOutcomes()
        made = stream(outcomes, range(5000), limits=Limits(chunk=1))
        assert len(outcomes.arguments) == FEWEST_AHEAD
        made.submit_rest()
        assert len(outcomes.arguments) == 5000
        assert made.is_exhausted
        made.wait()
        assert len(outcomes.ended) == 5000
        assert list(made.results(ordered=True)) == list(range(5000))

    def test_cancel(self) -> None:
        """What is on the way is cancelled, and still read: it may have ended nevertheless."""
        outcomes = FakeOutcomes()
        made = stream(outcomes, range(10))
        made.cancel()
        assert outcomes.cancelled == set(range(10))
        assert list(made.results(ordered=True)) == list(range(10))


class TestBounds:
    """An endless stream in constant memory."""

    @pytest.mark.parametrize("ordered", [True, False])
    def test_a_bounded_number_is_on_the_way(self, ordered: bool) -> None:  # noqa: FBT001 - a parameter
        """Of long jobs it submits few ahead of what was consumed, and reads no further."""
        outcomes, source = FakeOutcomes(), count()
        made = stream(outcomes, source)
        assert FEWEST_AHEAD <= len(outcomes.arguments) <= 2 * FEWEST_AHEAD
        assert next(source) == len(outcomes.arguments)
        results = made.results(ordered=ordered)
        for key in list(outcomes.arguments)[: FEWEST_AHEAD * 3 // 4]:
            outcomes.end(key)
        assert len(list(islice(results, FEWEST_AHEAD * 3 // 4 + 1))) == FEWEST_AHEAD * 3 // 4 + 1
        assert next(source) > FEWEST_AHEAD * 3 // 2  # it went on submitting
        results.close()

    @pytest.mark.parametrize("ordered", [True, False])
    def test_an_endless_stream(self, ordered: bool) -> None:  # noqa: FBT001 - a parameter
        """What has come back makes room for what follows, on and on."""
        outcomes = FakeOutcomes(is_instant=True, span=100, seconds=0.0)
        results = stream(outcomes, count()).results(ordered=ordered)
        got = list(islice(results, 20 * FEWEST_AHEAD))
        if ordered:
            assert got == list(range(20 * FEWEST_AHEAD))
        else:
            assert all(index == value for index, value in got)
            assert len(set(got)) == 20 * FEWEST_AHEAD
        results.close()
        assert outcomes.cancelled == set()

    def test_quick_jobs_travel_together(self) -> None:
        """The run times that come back decide how many jobs the next bundles have."""
        outcomes = FakeOutcomes(is_instant=True, seconds=TARGET / 500.5)
        sizes = Sizes()
        assert list(stream(outcomes, range(20_000), sizes).results(ordered=True)) == list(range(20_000))
        assert sizes.at(0) == 500
        bundles = [key.bundle for key in outcomes.arguments]
        assert max(bundles.count(bundle) for bundle in set(bundles[-1000:])) > 100

    def test_slow_jobs_travel_alone(self) -> None:
        """As soon as one is seen to be slow, no more bundles of several are made."""
        outcomes = FakeOutcomes(is_instant=True, seconds=3600.0)
        sizes = timed(100)
        assert list(stream(outcomes, range(2000), sizes).results(ordered=True)) == list(range(2000))
        assert sizes.at(0) == 1

    def test_it_begins_at_the_call(self) -> None:
        """Jobs are on the way before the first result is asked for."""
        outcomes = FakeOutcomes()
        results = stream(outcomes, range(10)).results(ordered=True)
        assert len(outcomes.arguments) == 10
        assert next(results) == 0
        results.close()


class TestError:
    """A job that failed."""

    @quick
    @given(length=st.integers(1, 200), seed=st.integers(), size=SIZES, data=st.data())
    def test_it_raises_at_the_failing_position(self, length: int, seed: int, size: int, data: st.DataObject) -> None:
        """All results before it come first, and everything that has not ended is cancelled."""
        bad = data.draw(st.integers(0, length - 1))
        outcomes = FakeOutcomes(seed, failing={bad}, span=data.draw(st.integers(1, 20)))
        results = stream(outcomes, range(length), timed(size)).results(ordered=True)
        assert list(islice(results, bad)) == list(range(bad))
        with pytest.raises(LabError, match=f"^{bad}$"):
            next(results)
        assert outcomes.cancelled == outcomes.unfinished
        with pytest.raises(StopIteration):
            next(results)

    def test_unordered_raises_when_it_ends(self) -> None:
        """The first failure that is seen raises, and the rest is cancelled."""
        outcomes = FakeOutcomes(failing={5})
        results = stream(outcomes, range(50)).results(ordered=False)
        got: list[tuple[int, int]] = []
        with pytest.raises(LabError, match="^5$"):
            got.extend(results)
        assert outcomes.cancelled == outcomes.unfinished
        assert 5 not in outcomes.cancelled

    def test_a_source_that_raises_at_the_call(self) -> None:
        """An error in the caller's own iterator comes out at once, and what was submitted before is cancelled."""
        outcomes = FakeOutcomes()
        with pytest.raises(LabError, match="no more"):
            stream(outcomes, breaking_after(40))
        assert outcomes.arguments
        assert outcomes.cancelled == set(outcomes.arguments.values())

    @pytest.mark.parametrize("ordered", [True, False])
    def test_a_source_that_raises_later(self, ordered: bool) -> None:  # noqa: FBT001 - a parameter
        """Read while results are consumed, its error comes out there; what has not ended is cancelled."""
        outcomes = FakeOutcomes()
        results = stream(outcomes, breaking_after(2 * FEWEST_AHEAD + 1)).results(ordered=ordered)
        for key in list(outcomes.arguments)[: FEWEST_AHEAD - 10]:
            outcomes.end(key)
        got: list[Any] = []
        with pytest.raises(LabError, match="no more"):
            got.extend(results)
        assert got
        assert outcomes.cancelled == outcomes.unfinished


class TestClose:
    """Whoever leaves early leaves nothing running."""

    @pytest.mark.parametrize("consumed", [0, 1, 3, 17])
    @pytest.mark.parametrize("size", [1, 7, 20])
    @pytest.mark.parametrize("ordered", [True, False])
    def test_what_has_not_ended_is_cancelled(self, consumed: int, size: int, ordered: bool) -> None:  # noqa: FBT001
        """Closed at any point, even before the first result, it cancels what has not ended and nothing else."""
        outcomes = FakeOutcomes(seed=consumed, stuck={18, 19}, span=4)
        made = stream(outcomes, range(20), timed(size))
        results = made.results(ordered=ordered)
        assert len(list(islice(results, consumed))) == consumed
        results.close()
        assert outcomes.cancelled == outcomes.unfinished

    @pytest.mark.parametrize("ordered", [True, False])
    def test_in_the_middle_of_a_record(self, ordered: bool) -> None:  # noqa: FBT001 - a parameter
        """What a record tells of has ended, also if it was not yet consumed: only the rest is cancelled."""
        outcomes = FakeOutcomes()
        results = stream(outcomes, range(20), timed(20)).results(ordered=ordered)
        (bundle,) = {key.bundle for key in outcomes.arguments}
        record = Record(Key(bundle, 0), SUCCEEDED, count=12)
        outcomes.ended.update(dict.fromkeys(record.keys, record))
        assert len(list(islice(results, 5))) == 5
        results.close()
        assert outcomes.cancelled == set(range(12, 20))

    def test_what_failed_later_is_not_cancelled(self) -> None:
        """Any ending is one."""
        outcomes = FakeOutcomes(failing={2}, stuck={1})
        results = stream(outcomes, range(4), timed(7)).results(ordered=True)
        for key in outcomes.arguments:
            outcomes.end(key)
        assert next(results) == 0
        results.close()
        assert outcomes.cancelled == {1}

    def test_at_the_end_nothing_is_cancelled(self) -> None:
        """A map that was read to its end has nothing left."""
        outcomes = FakeOutcomes()
        assert list(stream(outcomes, range(20)).results(ordered=True)) == list(range(20))
        assert outcomes.cancelled == set()
