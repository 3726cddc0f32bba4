"""Looking up in a long stream of RabbitMQ: within a bound of time, and going on where the last try ended."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

import pytest

from queuelib.errors import BrokerUnavailable
from queuelib.ids import Key, new_bundle_id
from queuelib.outcome import FAILED, QUARANTINED, SUCCEEDED, Record
from queuelib.ports import LongReader, StillReading
from queuelib.testing.conformance import span
from queuelib_rabbitmq import wire
from queuelib_rabbitmq.results import RabbitResults
from tests.waiting import eventually

if TYPE_CHECKING:
    from queuelib_rabbitmq.io import Io, Reading

BEGIN = 1_700_000_000.0
NOTHING_READ = (float("inf"), False)  # as a reader says it
A_TRY = 40  # messages that are read in one


class SlowServer:
    """One stream, of which some messages are read whenever something is written to it."""

    is_dead = False

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.reading: Reading | None = None
        self.begun: list[int] = []
        self.begun_at: list[object] = []
        self.at = 0
        self.a_try = A_TRY

    def publish(self, stream: str, body: bytes, reply: str = "") -> Future[None]:
        assert (stream, reply) == ("lab.results", "")
        self.messages.append(body)
        for _ in range(self.a_try):
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
        self.begun_at.append(reading.offset)

    def stop(self, _: Reading) -> None:
        self.reading = None


class Desk:
    """A worker's results, over a server with outcomes of many jobs, the first of them that of `job`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, others: int) -> None:
        self.server = SlowServer()
        self.results = RabbitResults("amqp://host//", "lab", 3600.0)
        folded = self.results._client.memory.folded
        folded._max_bytes = folded._full_at = 20 * 700  # of far fewer than are read
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
    late = it.ended(BEGIN + 100.0, FAILED)
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


def test_what_is_followed_is_not_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a job that runs for long what comes is kept, however much else goes by between two questions."""
    it = Desk(monkeypatch, others=10)
    late = Key(new_bundle_id(BEGIN + 30.0), 0)
    assert it.look_up(late)[1] == [None]
    for _ in range(5):
        for number in range(2 * A_TRY):
            it.ended(BEGIN + 100.0 + number, SUCCEEDED)
        assert it.look_up(late)[1] == [None]
    it.server.messages += wire.outcome_messages([Record(late, FAILED, 1, b"", BEGIN)], doubtful=False)
    for number in range(2 * A_TRY):
        it.ended(BEGIN + 100.0 + number, SUCCEEDED)
    assert it.look_up(late)[1] == [FAILED]
    assert it.server.begun == [0]


def test_in_the_order_of_submission_many_are_found_by_each_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though fewer are kept than there are: a loop over results does not read the stream for each."""
    it = Desk(monkeypatch, others=0)
    it.server.a_try = 1000
    began = time.time() - 1000.0
    keys = [it.ended(began + number, FAILED) for number in range(100)]
    assert [it.look_up(key)[1] for key in keys] == [[FAILED]] * 100
    assert 100 / 20 <= len(it.server.begun) <= 100 / 20 * 5


def test_what_is_followed_is_kept_where_others_are_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading begins again for a younger job only: what is known of the older one has no gap."""
    it = Desk(monkeypatch, others=0)
    now = time.time()
    old = Key(new_bundle_id(now - 3600.0), 0)
    for number in range(A_TRY):
        it.ended(now - 3000.0 + number, SUCCEEDED)
    young = it.ended(now - 100.0, FAILED)
    for number in range(A_TRY):
        it.ended(now - 60.0 + number, SUCCEEDED)
    assert it.look_up(old)[1] == [None]
    assert it.look_up(young)[1] == [FAILED]
    first, second = it.server.begun_at
    assert isinstance(first, datetime)
    assert isinstance(second, datetime)
    assert (second - first).total_seconds() == pytest.approx(3500.0)
    it.server.messages += wire.outcome_messages([Record(old, FAILED, 1, b"", now)], doubtful=False)
    assert it.look_up(old, young)[1] == [FAILED, FAILED]
    assert len(it.server.begun_at) == 2


def test_what_was_told_goes_before_what_nobody_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked up if it is asked for again; what waits for its first question stays."""
    it = Desk(monkeypatch, others=0)
    memory = it.results._client.memory
    memory._told._max_bytes = memory._told._full_at = 10 * 700
    keys = [Key(new_bundle_id(BEGIN + number), 0) for number in range(100)]
    memory.add_own(key.bundle for key in keys)
    for key in keys:
        for message in wire.outcome_messages([Record(key, SUCCEEDED, 1, b"", BEGIN)], doubtful=False):
            memory.push(message)
            it.server.messages.append(message)
    for key in keys[:50]:
        assert it.look_up(key)[1] == [SUCCEEDED]
    assert it.server.begun == []
    assert len(memory._pushed._records) == 50
    assert len(memory._told._records) <= 10
    assert it.look_up(*keys)[1] == [SUCCEEDED] * 100
    assert len(it.server.begun) == 1


def test_a_failed_connection_changes_nothing_of_what_is_to_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was dropped of a job is read anew once the server is back."""
    it = Desk(monkeypatch, others=0)
    began = time.time() - 1000.0
    keys = [it.ended(began + number, FAILED) for number in range(100)]
    it.server.a_try = 1000
    assert it.look_up(keys[0])[1] == [FAILED]
    assert it.results._client.memory.folded.lacks(began + 50.0)

    def refuse() -> Io:
        raise BrokerUnavailable("it is away")

    with monkeypatch.context() as patch:
        patch.setattr(it.results._client.outcomes, "_open_io", refuse)
        with pytest.raises(BrokerUnavailable):
            it.results.fetch([keys[50]])
    assert it.look_up(keys[50])[1] == [FAILED]


def test_what_two_ask_for_at_once_is_there_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one's answer ends nothing for the second, whose record may have been dropped by then."""
    it = Desk(monkeypatch, others=0)
    memory, began = it.results._client.memory, time.time() - 1000.0
    keys = [it.ended(began + number, SUCCEEDED) for number in range(100)]
    it.server.a_try = 1000
    assert it.look_up(keys[10])[1] == [SUCCEEDED]
    assert it.look_up(keys[60])[1] == [SUCCEEDED]
    assert memory.best(keys[10]) is None
    memory.set_read([keys[10]], time.time())  # the second one's look-up ends
    assert it.look_up(keys[10])[1] == [SUCCEEDED]


def test_each_job_is_checked_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose push was lost is found, though others are looked up ever again."""
    it = Desk(monkeypatch, others=0)
    memory, now = it.results._client.memory, time.time()
    lost, young = Key(new_bundle_id(now - 100.0), 0), Key(new_bundle_id(now - 50.0), 0)
    memory.add_own([lost.bundle, young.bundle])
    assert memory.unanswered([lost, young], now) == [lost, young]
    memory.seek([young], *NOTHING_READ)
    memory.set_read([young], now)
    assert memory.unanswered([lost, young], now) == [lost]


def test_what_was_told_is_forgotten_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that was set aside and is tried again has no ending meanwhile, whoever had asked for the first."""
    it = Desk(monkeypatch, others=0)
    memory, key = it.results._client.memory, Key(new_bundle_id(time.time()), 0)
    memory.add_own([key.bundle])
    (message,) = wire.outcome_messages([Record(key, QUARANTINED, 1, b"", 1.0)], doubtful=False)
    memory.push(message)
    assert it.results.fetch([key])[0] is not None
    memory.forget([key])
    assert memory.best(key) is None
    assert not memory.has_news([key])


def test_records_of_many_jobs_are_told_by_any_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """`map` asks for the first ones and hands all of them on."""
    it = Desk(monkeypatch, others=0)
    memory, done = it.results._client.memory, span(64)
    memory.add_own([done.key.bundle])
    (message,) = wire.outcome_messages([done], doubtful=False)
    memory.push(message)
    assert it.results.fetch(done.keys[:32]) == [done] * 32
    assert memory._pushed._size == 0
    assert memory._told.get(done.keys[40]) == done
    assert it.results.fetch(done.keys[32:]) == [done] * 32


def test_who_waits_notices_a_lost_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes back and asks again, over a new one."""
    it = Desk(monkeypatch, others=0)
    key = Key(new_bundle_id(time.time()), 0)
    it.server.a_try = 1000
    monkeypatch.setattr("queuelib_rabbitmq.results._LOOK_EVERY", 0.01)
    waiting = threading.Thread(target=it.results.wait, args=([key], 60.0))
    waiting.start()
    eventually(lambda: it.server.reading is not None)
    it.server.is_dead = True
    waiting.join(10.0)
    assert not waiting.is_alive()


def test_who_waits_is_followed_for_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is only waited for is asked for seldom, and stays sought."""
    it = Desk(monkeypatch, others=0)
    memory, key = it.results._client.memory, Key(new_bundle_id(time.time()), 0)
    memory.seek([key], *NOTHING_READ)
    with memory.wanting([key]):
        memory._clean(time.monotonic() + 1000.0)
        assert key in memory._sought
    memory._clean(time.monotonic() + 2000.0)
    assert key not in memory._sought


def test_a_look_up_is_not_stopped_amid_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else follows the stream, and it takes longer than a reader lingers."""
    it = Desk(monkeypatch, others=0)
    reader = it.results._client.outcomes
    seen: list[bool] = []

    def publish(stream: str, body: bytes, reply: str = "") -> Future[None]:
        reader._used = float("-inf")
        reader.tick()
        seen.append(reader.is_running)
        return SlowServer.publish(it.server, stream, body, reply)

    monkeypatch.setattr(it.server, "publish", publish)
    assert it.results.fetch([Key(new_bundle_id(time.time() - 10.0), 0)]) == [None]
    assert seen == [True]
    reader._used = float("-inf")
    reader.tick()
    assert not reader.is_running
