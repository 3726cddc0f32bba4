"""What a RabbitMQ client remembers of spans, within its bound of memory."""

from __future__ import annotations

import time

import pytest

from queuelib import body
from queuelib.ids import Key, new_bundle_id
from queuelib.outcome import FAILED, RUNNING, SUCCEEDED, Record
from queuelib.testing.conformance import single, span, success

pytest.importorskip("pika")

from queuelib_rabbitmq import wire
from queuelib_rabbitmq.known import Known
from queuelib_rabbitmq.memory import Memory


def test_kept_whole_over_states_on_the_way() -> None:
    """A span takes the place of what is no success, and is one object for all its jobs."""
    known = Known(1_000_000, lambda _: False)
    done = span(10)
    known.add(Record(done.keys[3], RUNNING, 1))
    assert not known.is_apart(done)
    assert known.add(done)
    assert all(known.get(key) is done for key in done.keys)
    assert known.get(Key(done.key.bundle, 10)) is None


def test_split_around_an_earlier_success() -> None:
    """What stands before a span stays, and the other jobs get theirs."""
    known = Known(1_000_000, lambda _: False)
    done = span(4)
    first = success(done.keys[2], b"early")
    known.add(first)
    assert not known.add(done)
    assert known.get(first.key) == first
    assert [known.get(key) for key in done.keys[:2]] == body.singles(done)[:2]


def test_dropping_one_job_leaves_the_others() -> None:
    """A span is split where a job of it is forgotten."""
    known = Known(1_000_000, lambda _: False)
    done = span(4)
    known.add(done)
    known.drop(done.keys[1])
    assert [known.get(key) is None for key in done.keys] == [False, True, False, False]


def test_oldest_spans_go_first() -> None:
    """Beyond the bound spans are dropped, except those that somebody waits for, and it is told which."""
    bundles = [new_bundle_id(time.time()) for _ in range(20)]
    dropped: list[bytes] = []
    known = Known(8_000, lambda record: record.key.bundle == bundles[0], dropped.append)
    for bundle in bundles:
        known.add(span(50, bundle=bundle))
    left = [known.get(Key(bundle, 7)) is not None for bundle in bundles]
    assert left[0]
    assert left[-1]
    assert not all(left)
    assert dropped == [bundle for bundle, is_left in zip(bundles, left, strict=True) if not is_left]


def test_limited_later() -> None:
    """What is there stays until something more comes, and then goes."""
    known = Known(1_000_000, lambda _: False)
    done = [span(50) for _ in range(20)]
    for one in done:
        known.add(one)
    known.limit(8_000)
    assert known.get(done[0].key) is not None
    known.add(span(50))
    left = [known.get(one.key) is not None for one in done]
    assert not left[0]
    assert left[-1]
    known.limit(1_000_000)
    for one in done:
        known.add(one)
    assert known.get(done[0].key) is None


def test_unreadable_span_is_as_good_as_nothing() -> None:
    """A span that does not hold as many results as it says does no harm."""
    known = Known(1_000_000, lambda _: False)
    bad = span(4)._replace(body=b"\xc1")
    known.add(success(bad.keys[0], b"early"))
    assert not known.add(bad)
    assert known.get(bad.keys[1]) is None


def test_wire_tells_spans_from_singles() -> None:
    """Counts travel only in messages of the version that has them."""
    done = span(5)
    failed = Record(Key(done.key.bundle, 9), FAILED, 2, b"no", 1.0)
    (both,) = wire.outcome_messages([done, failed], doubtful=False)
    message = wire.decode(both)
    assert message is not None
    assert wire.records_of(message[2]) == [done, failed]
    (alone,) = wire.outcome_messages([failed], doubtful=False)
    assert (both[1], alone[1]) == (2, 1)


def test_waiter_of_a_job_inside_is_woken_by_a_push() -> None:
    """Only those are woken whose job the span tells of."""
    memory = Memory(1 << 20)
    done = span(5)
    (message,) = wire.outcome_messages([done], doubtful=False)
    with memory.wanting([done.keys[4]]) as inside, memory.wanting([Key(done.key.bundle, 5)]) as outside:
        memory.push(message)
        assert inside.ended.is_set()
        assert not outside.ended.is_set()
    found = memory.best_of([*done.keys, Key(done.key.bundle, 5)])
    assert found == [done] * 5 + [None]
    assert single(found[0], done.keys[0]) is not None
    assert done.state == SUCCEEDED
