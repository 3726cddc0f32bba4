"""Outcomes at the client: the values in records of one job and of several."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuelib import body, codec
from queuelib.bundle import Chunk, Sizes
from queuelib.errors import BrokerUnavailable, CancelledError, DecodeError, SoftTimeLimit
from queuelib.events import Events
from queuelib.futures import gather
from queuelib.ids import Key
from queuelib.job import Job, Outcomes
from queuelib.mapping import Stream
from queuelib.outcome import CANCELLED, FAILED, SUCCEEDED, Record
from tests.unit.fakes import BUNDLE_ID, FakeResults, quick


def outcomes() -> Outcomes:
    """Return outcomes of a task whose results are plain values."""
    results: Any = FakeResults()
    return Outcomes(
        lambda: results, lambda _task, data: codec.decode(data), {}, 60.0, lambda *_: "", Events(), lambda: results
    )


@quick
@given(values=st.lists(st.integers() | st.text("ab"), min_size=1, max_size=40), first=st.integers(0, 1000))
def test_values_of_a_record(values: list[Any], first: int) -> None:
    """One job or several in a row: the values in order, each under its own key, and the mean run time."""
    encoded = [codec.encode(value) for value in values]
    made = body.of_result if len(values) == 1 else body.of_results
    data = made("lab.work", encoded[0] if len(values) == 1 else encoded, "w/1", 0.25)  # type: ignore[arg-type]
    record = Record(Key(BUNDLE_ID, first), SUCCEEDED, body=data, count=len(values))
    found = outcomes()
    assert found.values(record) == (values, 0.25)
    assert [found.value(record, key) for key in record.keys] == values


def test_a_result_that_cannot_be_read_here_is_its_own_jobs() -> None:
    """Its neighbors in a record of several have theirs."""
    unknown = b"\xd4\x63\x00"  # an extension that nobody knows
    data = body.of_results("lab.work", [codec.encode(1), unknown, codec.encode(3)])
    record = Record(Key(BUNDLE_ID, 4), SUCCEEDED, body=data, count=3)
    first, second, third = record.keys
    found = outcomes()
    assert (found.value(record, first), found.value(record, third)) == (1, 3)
    with pytest.raises(DecodeError):
        found.value(record, second)


def test_a_neighbor_that_cannot_be_read_here_is_nobody_elses() -> None:
    """`gather` and `map` raise in its place, after what comes before it, and not for those that share its record."""
    unknown = b"\xd4\x63\x00"
    data = body.of_results("lab.work", [codec.encode(1), codec.encode(2), unknown, codec.encode(4)])
    record = Record(Key(BUNDLE_ID, 0), SUCCEEDED, body=data, count=4)
    found = outcomes()
    fake: Any = found.open_results()
    fake.records.update(dict.fromkeys(record.keys, record))
    jobs = [Job[int](found, key) for key in record.keys]
    assert gather([jobs[3], jobs[0], jobs[1]], 0.0) == [4, 1, 2]
    with pytest.raises(DecodeError):
        gather(jobs, 0.0)
    for ordered in (True, False):
        chunks = iter([Chunk(b"", 4)])
        stream: Any = Stream(chunks, lambda _: [BUNDLE_ID], found, Sizes(), ("", ""))  # type: ignore[arg-type]
        stream.refill()
        results = stream.results(ordered=ordered)
        assert [next(results), next(results)] == ([1, 2] if ordered else [(0, 1), (1, 2)])
        with pytest.raises(DecodeError):
            next(results)


@pytest.mark.parametrize(
    ("state", "data", "error"),
    [(FAILED, body.of_error("lab.work", KeyError("k")), KeyError), (CANCELLED, b"", CancelledError)],
)
def test_another_ending_is_raised(state: str, data: bytes, error: type[Exception]) -> None:
    """By value and values alike."""
    record = Record(Key(BUNDLE_ID, 3), state, body=data)
    with pytest.raises(error):
        outcomes().values(record)
    with pytest.raises(error):
        outcomes().value(record, record.key)


def test_a_time_limit_that_strikes_in_a_wait_is_no_outage() -> None:
    """A driver takes it for its own timeout, so that it comes as a server that does not answer; nobody asks again then."""
    found, results = outcomes(), FakeResults()
    unready: Any = results
    limit = SoftTimeLimit("the handler ran longer than its timeout")

    def wait(*_: object) -> None:
        try:
            raise ConnectionError from limit
        except ConnectionError as error:
            raise BrokerUnavailable("gone") from error

    unready.wait = wait
    found.open_results = lambda: unready
    with pytest.raises(SoftTimeLimit) as caught:
        found.wait_for([Key(BUNDLE_ID, 0)], None, are_open=True)
    assert caught.value is limit
