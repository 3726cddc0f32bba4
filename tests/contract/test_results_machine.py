"""Any interleaving of storing, reading, forgetting, cancelling and setting aside, on every result backend, beside a dict."""

from __future__ import annotations

import time
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from queuelib import body, codec, plugins
from queuelib.ids import Key, new_bundle_id
from queuelib.outcome import (
    CANCELLED,
    FAILED,
    QUARANTINED,
    QUEUED,
    RETRYING,
    RUNNING,
    SUCCEEDED,
    Record,
    supersedes,
)
from queuelib.ports import QuarantineItem
from tests.integration.lab import clean

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from queuelib.ports import ResultBackend

_BUNDLES, _SIZE = 3, 4
_places = st.tuples(st.integers(0, _BUNDLES - 1), st.integers(0, _SIZE - 1))
_some_places = st.lists(_places, min_size=1, max_size=6, unique=True)
_states = st.sampled_from([QUEUED, RUNNING, RETRYING, SUCCEEDED, FAILED, CANCELLED, QUARANTINED])


class Results(RuleBasedStateMachine):
    """A backend, and what a dict says that it must hold."""

    url = ""
    kind = ""

    def __init__(self) -> None:
        super().__init__()
        self.namespace = f"m{uuid.uuid4().hex[:12]}"
        self.ids = [new_bundle_id(time.time()) for _ in range(_BUNDLES)]
        self.unseen = new_bundle_id(time.time())
        self.results = self.open()
        self.expected: dict[Key, Record] = {}
        self.marks: set[Key] = set()
        self.aside: dict[str, QuarantineItem] = {}
        self.now = float(round(time.time()))  # an id's own time is where a stream is read from

    def open(self) -> ResultBackend:
        """Return a new instance."""
        return plugins.backend_for(self.url).results(self.url, self.namespace, 3600.0)

    def key(self, place: tuple[int, int]) -> Key:
        """Return the job at a place."""
        return Key(self.ids[place[0]], place[1])

    @rule(places=_some_places, state=_states, attempt=st.integers(1, 3))
    def store(self, places: list[tuple[int, int]], state: str, attempt: int) -> None:
        """Store one record for each of some jobs; which one stands is decided by one rule."""
        self.now += 1.0
        data = body.of_result("lab.work", codec.encode(self.now)) if state == SUCCEEDED else b"\x01"
        records = [Record(self.key(place), state, attempt, data, self.now) for place in places]
        self.results.store(records)
        self.note(records)

    @rule(bundle=st.integers(0, _BUNDLES - 1), first=st.integers(0, _SIZE - 2), count=st.integers(2, _SIZE))
    def store_span(self, bundle: int, first: int, count: int) -> None:
        """Store one record for several successes in a row; each is decided by itself."""
        self.now += 1.0
        count = min(count, _SIZE - first)
        values = [codec.encode(self.now + index) for index in range(count)]
        key = Key(self.ids[bundle], first)
        record = Record(key, SUCCEEDED, 1, body.of_results("lab.work", values), self.now, count)
        self.results.store([record] if count > 1 else body.singles(record))
        self.note(body.singles(record))

    def note(self, records: list[Record]) -> None:
        """Do to the dict what the backend is to do."""
        for record in records:
            if supersedes(record, self.expected.get(record.key)):
                self.expected[record.key] = record

    @rule(places=_some_places)
    def fetch(self, places: list[tuple[int, int]]) -> None:
        """Read; what comes is what the dict says, in the order asked for."""
        keys = [self.key(place) for place in places]
        found = [_single(record, key) for key, record in zip(keys, self.results.fetch(keys), strict=True)]
        assert found == [self.expected.get(key) for key in keys]

    @rule(places=_some_places)
    def forget(self, places: list[tuple[int, int]]) -> None:
        """Forget endings; those jobs may end again."""
        keys = [key for place in places if (known := self.expected.get(key := self.key(place))) and known.is_final]
        if keys:
            self.results.forget(keys)
            for key in keys:
                del self.expected[key]

    @rule(indexes=st.sets(st.integers(0, 9), min_size=1))
    def cancel(self, indexes: set[int]) -> None:
        """Mark jobs that nobody has; who reads from the beginning finds all marks, and behind the cursor none."""
        keys = [Key(self.unseen, index) for index in sorted(indexes)]
        self.results.cancel(keys)
        self.marks.update(keys)
        seen = self.results.cancelled(None)
        assert set(seen.keys) >= self.marks
        assert list(self.results.cancelled(seen.cursor).keys) == []

    @rule(number=st.integers(0, 3), reason=st.text("ab\u00e9", max_size=5))
    def set_aside(self, number: int, reason: str) -> None:
        """Set a message aside; it is listed until it is released."""
        self.now += 1.0
        item = QuarantineItem(f"item-{number}-{len(self.aside)}", "red", reason, b"\x00\xff", self.now)
        self.results.quarantine([item])
        self.aside[item.id] = item
        self.listed()

    @rule()
    def release(self) -> None:
        """Release the oldest one."""
        for name in list(self.aside)[:1]:
            self.results.release([name])
            del self.aside[name]
        self.listed()

    def listed(self) -> None:
        """The quarantine is what the dict says."""
        assert {item.id: item for item in self.results.quarantined()} == self.aside

    @rule()
    def reopen(self) -> None:
        """Another process takes over."""
        if self.results.capabilities.crosses_processes:
            self.results.close()
            self.results = self.open()

    def teardown(self) -> None:
        """Leave nothing behind."""
        with suppress(Exception):
            self.results.close()
        clean(self.kind, self.url, self.namespace)


def _single(record: Record | None, key: Key) -> Record | None:
    if record is None or record.count == 1:
        return record
    return next(one for one in body.singles(record) if one.key == key)


def check(kind: str, url: str, examples: int, steps: int) -> None:
    """Run so many histories of so many steps."""
    attributes: dict[str, Any] = {"url": url, "kind": kind}
    run_state_machine_as_test(
        type("Machine", (Results,), attributes),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_memory() -> None:
    """The backend to read first."""
    check("memory", f"memory://m{uuid.uuid4().hex}", 60, 25)


def test_sqlite(tmp_path: Path) -> None:
    """A file for all histories, each with its own namespace."""
    check("sqlite", f"sqlite:///{tmp_path}/results.db", 30, 25)


def test_redis(redis_url: str) -> None:
    """Keys of each history's own."""
    check("redis", redis_url, 40, 25)


@pytest.mark.parametrize("examples", [6])
def test_rabbitmq(amqp_url: str, examples: int) -> None:
    """Streams of each history's own."""
    check("amqp", amqp_url, examples, 15)
