"""Looking up in a long stream of RabbitMQ: within a bound of time, and going on where the last try ended."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, cast

import pytest

from queuelib.ids import Key, new_bundle_id
from queuelib.outcome import FAILED, SUCCEEDED, Record
from queuelib.ports import LongReader, StillReading
from queuelib_rabbitmq import wire
from queuelib_rabbitmq.results import RabbitResults

if TYPE_CHECKING:
    from queuelib_rabbitmq.io import Reading

BEGIN = 1_800_000_000.0
A_TRY = 40  # messages that are read in one


class SlowServer:
    """One stream, of which some messages are read whenever something is written to it."""

    is_dead = False

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.reading: Reading | None = None
        self.begun: list[int] = []
        self.at = 0

    def publish(self, stream: str, body: bytes, reply: str = "") -> Future[None]:
        assert (stream, reply) == ("lab.results", "")
        self.messages.append(body)
        for _ in range(A_TRY):
            if self.reading is not None and self.at < len(self.messages):
                self.at += 1
                self.reading.on_message(self.at - 1, self.messages[self.at - 1])
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def read(self, reading: Reading) -> None:
        self.reading = reading
        self.at = reading.offset if isinstance(reading.offset, int) else 0
        self.begun.append(self.at)

    def stop(self, _: Reading) -> None:
        self.reading = None


class Desk:
    """A worker's results, over a server with outcomes of many jobs, the first of them that of `job`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, others: int) -> None:
        self.server = SlowServer()
        self.results = RabbitResults("amqp://host//", "lab", 3600.0)
        self.results._client.memory.folded._max_bytes = 20 * 700  # of far fewer than are read
        monkeypatch.setattr(self.results._client, "open", lambda: self.server)
        monkeypatch.setattr(self.results._client.outcomes, "_open_io", lambda: self.server)
        self.results.limit_look_ups(0.02)
        self.job = self.ended(BEGIN, FAILED)
        for number in range(others):
            self.ended(BEGIN + 60.0 + number, FAILED)

    def ended(self, at: float, state: str) -> Key:
        key = Key(new_bundle_id(at), 0)
        record = Record(key, state, 1, b"", at)
        self.server.messages += wire.outcome_messages([record], doubtful=False)
        return key

    def look_up(self, *keys: Key) -> tuple[int, list[str | None]]:
        """Return after how many tries there was an answer, and the states in it."""
        for tries in range(1, 50):
            try:
                found = self.results.fetch(keys)
            except StillReading:
                continue
            return tries, [record and record.state for record in found]
        return 0, []


def test_a_look_up_goes_on_where_the_last_try_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though far more was read than is kept: what is looked for is kept, or it would never come to an end."""
    it = Desk(monkeypatch, others=5 * A_TRY)
    assert isinstance(it.results, LongReader)
    tries, states = it.look_up(it.job)
    assert states == [FAILED]
    assert 5 <= tries < 10
    assert it.server.begun == [0]


def test_what_came_meanwhile_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is that of the last try, not of the first."""
    it = Desk(monkeypatch, others=5 * A_TRY)
    with pytest.raises(StillReading):
        it.results.fetch([it.job])
    success = Record(it.job, SUCCEEDED, 1, b"", BEGIN)
    it.server.messages += wire.outcome_messages([success], doubtful=False)
    assert it.look_up(it.job)[1] == [SUCCEEDED]


def test_what_is_looked_for_later_begins_anew_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been read and dropped; what was looked for before is read again with it, and both end."""
    it = Desk(monkeypatch, others=5 * A_TRY)
    early = it.job
    late = it.ended(BEGIN + 30.0, FAILED)
    for _ in range(3):
        with pytest.raises(StillReading):
            it.results.fetch([early])
    assert it.look_up(late)[1] == [FAILED]
    assert it.look_up(early)[1] == [FAILED]
    assert it.server.begun == [0, 0]


def test_a_success_needs_no_reading_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands, whatever comes behind it."""
    it = Desk(monkeypatch, others=0)
    done = it.ended(BEGIN + 1.0, SUCCEEDED)
    assert it.look_up(done) == (1, [SUCCEEDED])
    reader = cast("Any", it.results._client.outcomes)
    assert reader.start < BEGIN
