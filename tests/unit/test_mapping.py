"""`map` over outcomes that the test decides: bounded, in order, and cancelled when it is left."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count, islice
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuelib.bundle import MAX_JOBS_A_BUNDLE, Chunks
from queuelib.ids import Key
from queuelib.mapping import AHEAD, Stream
from queuelib.outcome import FAILED, QUEUED, SUCCEEDED, Record
from tests.unit.fakes import FakeResults, quick

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class LabError(Exception):
    """What a handler raised."""


@dataclass
class FakeOutcomes:
    """Jobs of a map: each ends when somebody waits, in an order of the test's, with its own argument as its value.

    Attributes:
        seed: Decides which of the jobs that are waited for ends first.
        failing: Arguments whose jobs fail.
        stuck: Arguments whose jobs never end.
        is_instant: Whether jobs end when they are submitted.
    """

    seed: int = 0
    failing: set[int] = field(default_factory=set[int])
    stuck: set[int] = field(default_factory=set[int])
    is_instant: bool = False
    results: FakeResults = field(default_factory=FakeResults)
    arguments: dict[Key, int] = field(default_factory=dict[Key, int])
    ended: dict[Key, Record] = field(default_factory=dict[Key, Record])
    abouts: set[tuple[str, str]] = field(default_factory=set["tuple[str, str]"])

    def __post_init__(self) -> None:
        self._random = Random(self.seed)

    def send(self, columns: list[list[bytes]]) -> list[bytes]:
        """Take bundles, and return their ids."""
        ids = []
        for column in columns:
            bundle = len(self.arguments).to_bytes(16, "big")
            ids.append(bundle)
            new = {Key(bundle, i): int(argument) for i, argument in enumerate(column)}
            self.arguments.update(new)
            if self.is_instant:
                self.ended.update({key: Record(key, SUCCEEDED) for key in new})
        return ids

    def records(self, keys: Sequence[Key]) -> list[Record]:
        """Return what is known of each."""
        return [self.ended.get(key) or Record(key, QUEUED) for key in keys]

    def wait_for(self, keys: Sequence[Key], timeout: float | None, about: tuple[str, str]) -> Record:
        """End one of the jobs, and sometimes more."""
        assert timeout is None
        self.abouts.add(about)
        able = [key for key in keys if self.arguments[key] not in self.stuck]
        for key in self._random.sample(able, min(len(able), self._random.randint(1, 3))):
            state = FAILED if self.arguments[key] in self.failing else SUCCEEDED
            self.ended.setdefault(key, Record(key, state))
        return next(self.ended[key] for key in keys if key in self.ended)

    def value(self, record: Record) -> int:
        """Return the argument as the value."""
        argument = self.arguments[record.key]
        if record.state == FAILED:
            raise LabError(argument)
        return argument

    def open_results(self) -> FakeResults:
        """Return where cancellations are written down."""
        return self.results

    @property
    def cancelled(self) -> set[int]:
        """Arguments of the jobs that were cancelled."""
        return {self.arguments[key] for key in self.results.cancelled_keys}


def stream(outcomes: Any, arguments: Iterable[int]) -> Stream:
    """Return a map over these arguments that has begun to submit, as the dispatcher begins it."""
    made = Stream(Chunks(b"%d" % argument for argument in arguments), outcomes.send, outcomes, ("lab.work", "red"))
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
    @given(length=st.integers(0, 400), seed=st.integers())
    def test_ordered(self, length: int, seed: int) -> None:
        """Results come in the order of the calls, in whichever order jobs end."""
        assert list(stream(FakeOutcomes(seed), range(length)).results(ordered=True)) == list(range(length))

    @quick
    @given(length=st.integers(0, 100), seed=st.integers())
    def test_unordered(self, length: int, seed: int) -> None:
        """Each result comes once, beside the position of its call."""
        pairs = list(stream(FakeOutcomes(seed), range(length)).results(ordered=False))
        assert sorted(pairs) == [(number, number) for number in range(length)]

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


class TestBounds:
    """An endless stream in constant memory."""

    @pytest.mark.parametrize("ordered", [True, False])
    def test_a_bounded_number_is_on_the_way(self, ordered: bool) -> None:  # noqa: FBT001 - a parameter
        """It never submits more than a fixed number of jobs ahead of what was consumed, nor reads further."""
        outcomes, source = FakeOutcomes(is_instant=True), count()
        made = stream(outcomes, source)
        assert AHEAD <= len(outcomes.arguments) < AHEAD + MAX_JOBS_A_BUNDLE
        results = made.results(ordered=ordered)
        ahead = [len(outcomes.arguments) - consumed for consumed, _ in enumerate(islice(results, AHEAD), 1)]
        assert max(ahead) < AHEAD + MAX_JOBS_A_BUNDLE
        assert len(outcomes.arguments) > AHEAD + MAX_JOBS_A_BUNDLE  # it went on submitting
        assert next(source) <= len(outcomes.arguments) + 1
        results.close()

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
    @given(length=st.integers(1, 200), seed=st.integers(), data=st.data())
    def test_it_raises_at_the_failing_position(self, length: int, seed: int, data: st.DataObject) -> None:
        """All results before it come first, and everything that has not ended is cancelled."""
        bad = data.draw(st.integers(0, length - 1))
        outcomes = FakeOutcomes(seed, failing={bad})
        results = stream(outcomes, range(length)).results(ordered=True)
        assert list(islice(results, bad)) == list(range(bad))
        with pytest.raises(LabError, match=f"^{bad}$"):
            next(results)
        ended = {outcomes.arguments[key] for key in outcomes.ended}
        assert outcomes.cancelled == set(range(length)) - ended
        with pytest.raises(StopIteration):
            next(results)

    def test_unordered_raises_when_it_ends(self) -> None:
        """The first failure that is seen raises, and the rest is cancelled."""
        outcomes = FakeOutcomes(failing={5})
        results = stream(outcomes, range(50)).results(ordered=False)
        got: list[tuple[int, int]] = []
        with pytest.raises(LabError, match="^5$"):
            got.extend(results)
        ended = {outcomes.arguments[key] for key in outcomes.ended}
        assert outcomes.cancelled == set(range(50)) - ended
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
        results = stream(outcomes, breaking_after(AHEAD + 2000)).results(ordered=ordered)
        outcomes.ended = {key: Record(key, SUCCEEDED) for key, value in outcomes.arguments.items() if value < 4000}
        got: list[Any] = []
        with pytest.raises(LabError, match="no more"):
            got.extend(results)
        assert got
        ended = {outcomes.arguments[key] for key in outcomes.ended}
        assert outcomes.cancelled == set(outcomes.arguments.values()) - ended


class TestClose:
    """Whoever leaves early leaves nothing running."""

    @pytest.mark.parametrize("consumed", [0, 1, 3])
    @pytest.mark.parametrize("ordered", [True, False])
    def test_what_has_not_ended_is_cancelled(self, consumed: int, ordered: bool) -> None:  # noqa: FBT001
        """Closed at any point, even before the first result, it cancels what has not ended and nothing else."""
        outcomes = FakeOutcomes(seed=consumed)
        made = stream(outcomes, range(20))
        results = made.results(ordered=ordered)
        assert len(list(islice(results, consumed))) == consumed
        results.close()
        ended = {outcomes.arguments[key] for key in outcomes.ended}
        assert outcomes.cancelled == set(range(20)) - ended

    def test_at_the_end_nothing_is_cancelled(self) -> None:
        """A map that was read to its end has nothing left."""
        outcomes = FakeOutcomes()
        assert list(stream(outcomes, range(20)).results(ordered=True)) == list(range(20))
        assert outcomes.cancelled == set()
