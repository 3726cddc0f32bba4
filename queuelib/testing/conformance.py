"""Three classes of tests: for transports, for result backends, and for the settlement of both together."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest

from queuelib import body, broker, codec, plugins
from queuelib.ids import Key, new_bundle_id
from queuelib.outcome import (
    CANCELLED,
    EXPIRED,
    FAILED,
    QUARANTINED,
    QUEUED,
    RETRYING,
    RUNNING,
    SCHEDULED,
    SUCCEEDED,
    Record,
    supersedes,
)
from queuelib.ports import (
    Delivery,
    Lane,
    Listening,
    Outgoing,
    QuarantineItem,
    Redelivery,
    ResultBackend,
    ResultCapabilities,
    Settled,
    Settlement,
    Teller,
    TransportCapabilities,
    WorkerInfo,
)
from queuelib.testing.waiting import eventually

__all__ = ["ResultConformance", "SettlementConformance", "TransportConformance"]

WITHIN = 10.0
DEADLINE = 5.0
_TAKE_AND_DIE = """
import sys, time
from queuelib import broker
lane = broker.open_lane(broker.settings_for(sys.argv[1], sys.argv[2]), sys.argv[2], 5.0)
end = time.monotonic() + 10
taken = []
while len(taken) < int(sys.argv[3]) and time.monotonic() < end:
    taken += lane.take({"red": int(sys.argv[3])})
print(len(taken), flush=True)
sys.stdin.read()
"""


class _Core:
    """Refuses subclasses that replace or disable a test of the core."""

    CORE: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in cls.__mro__[1:]:
            core = vars(base).get("CORE", ())
            changed = [name for name in core if name in vars(cls)]
            if changed:
                msg = f"{cls.__name__} replaces {', '.join(changed)}: the core of the suite cannot be switched off"
                raise TypeError(msg)


class TransportConformance(_Core):
    """What every transport must do.

    A subclass defines the fixture `url` and the attribute `expected`, its exact capabilities.
    """

    CORE = (
        "test_capabilities_are_as_declared",
        "test_what_is_published_is_taken_once",
        "test_order_is_kept",
        "test_two_takers_never_share",
        "test_acknowledged_is_gone",
        "test_who_asks_learns_what_is_lost",
        "test_given_back_is_taken_again",
        "test_dead_takers_messages_come_back",
        "test_a_dead_takers_message_stays_marked",
        "test_room_of_one_color_never_blocks_another",
        "test_batch_equals_its_singles",
        "test_any_bytes_travel",
    )
    expected: TransportCapabilities

    @pytest.fixture
    def place(self) -> str:
        """A namespace of this test's own."""
        return f"c{uuid.uuid4().hex[:12]}"

    @contextmanager
    def lane(self, url: str, place: str) -> Generator[Lane]:
        """Open a lane, and close it whatever happens."""
        lane = broker.open_lane(broker.settings_for(url, place), place, DEADLINE)
        try:
            yield lane
        finally:
            lane.close()

    def test_capabilities_are_as_declared(self, url: str, place: str) -> None:
        """A transport promises exactly what its backend's tests expect."""
        with self.lane(url, place) as lane:
            assert lane.capabilities == self.expected

    def test_what_is_published_is_taken_once(self, url: str, place: str) -> None:
        """Every published frame is delivered, unchanged and once, by the color it was published to."""
        with self.lane(url, place) as lane:
            sent = {color: frames(color, 5) for color in ("red", "green")}
            lane.publish([*sent["red"], *sent["green"]], DEADLINE)
            taken = take(lane, {"red": 10, "green": 10}, 10)
            for color, outgoing in sent.items():
                assert [d.frame for d in taken if d.color == color] == [o.frame for o in outgoing]
            assert not any(delivery.redelivered for delivery in taken)
            assert lane.take({"red": 10, "green": 10}) == []
            lane.acknowledge(taken)

    def test_order_is_kept(self, url: str, place: str) -> None:
        """A color is first in, first out."""
        with self.lane(url, place) as lane:
            sent = frames("red", 30)
            for start in range(0, 30, 10):
                lane.publish(sent[start : start + 10], DEADLINE)
            taken = take(lane, {"red": 30}, 30)
            assert [d.frame for d in taken] == [o.frame for o in sent]
            lane.acknowledge(taken)

    def test_two_takers_never_share(self, url: str, place: str) -> None:
        """What one taker has, another does not get."""
        with self.lane(url, place) as one, self.lane(url, place) as two:
            one.publish(frames("red", 20), DEADLINE)
            taken: list[Delivery] = []
            mine: list[Delivery] = []

            def all_taken() -> bool:
                taken.extend(one.take({"red": 10 - len(taken)}))
                mine.extend(two.take({"red": 20}))
                return len(taken) + len(mine) == 20

            eventually(all_taken, within=WITHIN)
            assert len({d.frame for d in (*taken, *mine)}) == 20
            one.acknowledge(taken)
            two.acknowledge(mine)

    def test_acknowledged_is_gone(self, url: str, place: str) -> None:
        """An acknowledged frame never comes back, not even when its taker leaves."""
        with self.lane(url, place) as lane:
            lane.publish(frames("red", 3), DEADLINE)
            assert lane.acknowledge(take(lane, {"red": 3}, 3)) == []
        with self.lane(url, place) as other:
            assert other.take({"red": 3}) == []
            eventually(lambda: other.waiting(["red"])["red"] == 0, within=WITHIN)

    def test_who_asks_learns_what_is_lost(self, url: str, place: str) -> None:
        """What is in hand is not lost; what was acknowledged or given back is."""
        with self.lane(url, place) as lane:
            lane.publish(frames("red", 3), DEADLINE)
            kept, returned, done = take(lane, {"red": 3}, 3)
            assert lane.find_lost([kept, returned, done]) == []
            lane.acknowledge([done])
            lane.give_back([returned])
            assert lane.find_lost([kept, returned, done]) == [returned, done]
            lane.acknowledge([kept, *take(lane, {"red": 1}, 1)])

    def test_given_back_is_taken_again(self, url: str, place: str) -> None:
        """What is given back is there for the next taker, unchanged."""
        with self.lane(url, place) as lane:
            sent = frames("red", 3)
            lane.publish(sent, DEADLINE)
            lane.give_back(take(lane, {"red": 3}, 3))
            again = take(lane, {"red": 3}, 3)
            assert sorted(d.frame for d in again) == sorted(o.frame for o in sent)
            lane.acknowledge(again)

    def test_who_stops_taking_gets_nothing_more(self, url: str, place: str) -> None:
        """What comes after that is for others, while what was taken stays in hand."""
        with self.lane(url, place) as lane, self.lane(url, place) as other:
            lane.publish(frames("red", 1), DEADLINE)
            mine = take(lane, {"red": 1}, 1)
            lane.take({"red": 5})
            lane.stop_taking()
            sent = frames("red", 5)
            lane.publish(sent, DEADLINE)
            taken = take(other, {"red": 5}, 5)
            assert sorted(d.frame for d in taken) == sorted(o.frame for o in sent)
            other.acknowledge(taken)
            assert lane.acknowledge(mine) == []

    def test_dead_takers_messages_come_back(self, url: str, place: str) -> None:
        """What a taker held when it was killed is delivered to another, marked as redelivered."""
        with self.lane(url, place) as lane:
            sent = frames("red", 3)
            lane.publish(sent, DEADLINE)
            taken = self.taken_after_a_death(lane, url, place, 3)
            assert lane.capabilities.redelivery is not Redelivery.NONE
            assert sorted(d.frame for d in taken) == sorted(o.frame for o in sent)
            if lane.capabilities.redelivery is not Redelivery.VISIBILITY:
                assert all(delivery.redelivered for delivery in taken)
            lane.acknowledge(taken)

    def test_a_dead_takers_message_stays_marked(self, url: str, place: str) -> None:
        """What was redelivered and is given back for a while is still marked: whoever takes it next has to look it up."""
        with self.lane(url, place) as lane:
            if not lane.capabilities.delays or lane.capabilities.redelivery is Redelivery.VISIBILITY:
                pytest.skip("capability: this transport has no delays, or marks nothing")
            lane.publish(frames("red", 1), DEADLINE)
            taken = self.taken_after_a_death(lane, url, place, 1)
            for _ in range(2):
                lane.give_back(taken, 0.2)
                taken = take(lane, {"red": 1}, 1)
                assert taken[0].redelivered
            lane.acknowledge(taken)

    def taken_after_a_death(self, lane: Lane, url: str, place: str, count: int) -> list[Delivery]:
        """Let another taker die with so many red messages in hand, and take them."""
        if lane.capabilities.crosses_processes:
            self.kill_a_taker(url, place, count)
        else:
            self.end_a_taker(url, place, count)
        taken: list[Delivery] = []

        def came_back() -> bool:
            lane.renew()
            taken.extend(lane.take({"red": count - len(taken)}))
            return len(taken) == count

        eventually(came_back, within=(lane.capabilities.recovery or 0.0) + WITHIN)
        return taken

    def test_room_of_one_color_never_blocks_another(self, url: str, place: str) -> None:
        """A color that waits with no room left does not keep another from being taken."""
        with self.lane(url, place) as lane:
            lane.publish([*frames("green", 50), *frames("red", 1)], DEADLINE)
            first = take(lane, {"green": 2, "red": 1}, 3)
            assert sorted(d.color for d in first) == ["green", "green", "red"]
            lane.give_back([d for d in first if d.color == "green"])
            lane.acknowledge([d for d in first if d.color == "red"])

    def test_batch_equals_its_singles(self, url: str, place: str) -> None:
        """Publishing and acknowledging many at once is the same as one by one."""
        with self.lane(url, place) as lane:
            sent = frames("red", 6)
            lane.publish(sent[:3], DEADLINE)
            for outgoing in sent[3:]:
                lane.publish([outgoing], DEADLINE)
            taken = take(lane, {"red": 6}, 6)
            assert [d.frame for d in taken] == [o.frame for o in sent]
            assert lane.acknowledge(taken[:3]) == []
            assert [lost for delivery in taken[3:] for lost in lane.acknowledge([delivery])] == []

    def test_any_bytes_travel(self, url: str, place: str) -> None:
        """A transport does not look into frames: empty ones, zeros and 1 MB of noise arrive as they were."""
        with self.lane(url, place) as lane:
            bodies = [b"\x00", bytes(range(256)), os.urandom(1_000_000)]
            lane.publish([Outgoing("red", new_bundle_id(time.time()), one) for one in bodies], DEADLINE)
            taken = take(lane, {"red": 3}, 3)
            assert [d.frame for d in taken] == bodies
            lane.acknowledge(taken)

    def test_delayed_frame_comes_when_it_is_due(self, url: str, place: str) -> None:
        """A frame with a due time is not delivered before it, and soon after."""
        with self.lane(url, place) as lane:
            if not lane.capabilities.delays:
                pytest.skip("capability: this transport has no delays")
            due = time.time() + 0.6
            lane.publish([frames("red", 1)[0]._replace(due=due)], DEADLINE)
            assert lane.take({"red": 1}) == []
            taken = take(lane, {"red": 1}, 1)
            assert due - 0.01 <= time.time() <= due + 3.0
            lane.acknowledge(taken)

    def test_given_back_with_delay_waits(self, url: str, place: str) -> None:
        """What is given back with a delay is not delivered before it has passed, and keeps its age."""
        with self.lane(url, place) as lane:
            if not lane.capabilities.delays:
                pytest.skip("capability: this transport has no delays")
            lane.publish(frames("red", 1), DEADLINE)
            taken = take(lane, {"red": 1}, 1)
            began = time.time()
            lane.give_back(taken, 0.5)
            again = take(lane, {"red": 1}, 1)
            assert time.time() - began >= 0.4
            assert again[0].published == pytest.approx(taken[0].published, abs=1.0)
            lane.acknowledge(again)

    def test_bundle_id_is_accepted_once(self, url: str, place: str) -> None:
        """The same bundle id published again is accepted and not delivered again; a successor is."""
        with self.lane(url, place) as lane:
            if not lane.capabilities.deduplicates:
                pytest.skip("capability: this transport does not deduplicate")
            one = frames("red", 1)[0]
            lane.publish([one], DEADLINE)
            lane.publish([one], DEADLINE)
            lane.publish([one._replace(is_successor=True)], DEADLINE)
            taken = take(lane, {"red": 5}, 2)
            assert lane.take({"red": 5}) == []
            lane.acknowledge(taken)

    def test_arrivals_ring(self, url: str, place: str) -> None:
        """The descriptor of a waiting taker becomes readable when something is published."""
        with self.lane(url, place) as taker, self.lane(url, place) as other:
            if not taker.capabilities.wakes:
                pytest.skip("capability: this transport does not wake its takers")
            assert taker.take({"red": 1}) == []
            fd = taker.fileno()
            assert fd is not None
            taker.take({"red": 1})
            other.publish(frames("red", 1), DEADLINE)
            assert select.select([fd], [], [], WITHIN)[0]
            taker.acknowledge(take(taker, {"red": 1}, 1))

    def test_leaving_returns_what_was_held(self, url: str, place: str) -> None:
        """A lane that is closed leaves what it had taken to others at once."""
        with self.lane(url, place) as other:
            with self.lane(url, place) as lane:
                lane.publish(frames("red", 2), DEADLINE)
                take(lane, {"red": 2}, 2)
            other.acknowledge(take(other, {"red": 2}, 2))

    def kill_a_taker(self, url: str, place: str, count: int) -> None:
        """Have another process take frames, and kill it."""
        with subprocess.Popen(
            [sys.executable, "-c", _TAKE_AND_DIE, url, place, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as taker:
            assert taker.stdout is not None
            assert taker.stdout.readline().strip() == str(count)
            taker.send_signal(signal.SIGKILL)

    def end_a_taker(self, url: str, place: str, count: int) -> None:
        """Have a lane of this process take frames, and end as a killed one would."""
        with self.lane(url, place) as lane:
            take(lane, {"red": count}, count)
            lane.handle.die()


class ResultConformance(_Core):
    """What every result backend must do.

    A subclass defines the fixture `url`, or overrides `open`, and sets `expected`, its exact capabilities.
    """

    CORE = (
        "test_capabilities_are_as_declared",
        "test_stored_is_fetched_by_others_again_and_again",
        "test_what_stands_is_decided_by_one_rule",
        "test_first_success_stands",
        "test_waiting_ends_with_the_outcome",
        "test_waiting_ends_with_the_time",
        "test_forgotten_may_end_again",
        "test_span_is_read_for_each_of_its_jobs",
        "test_earlier_success_stands_under_a_span",
        "test_span_takes_the_place_of_what_is_no_success",
        "test_spans_and_singles_are_decided_job_by_job",
        "test_cancel_marks_are_read_from_a_cursor",
        "test_quarantine_keeps_until_released",
        "test_workers_live_until_they_leave",
    )
    expected: ResultCapabilities

    @pytest.fixture
    def place(self) -> str:
        """A namespace of this test's own."""
        return f"c{uuid.uuid4().hex[:12]}"

    def open(self, url: str, place: str) -> ResultBackend:
        """Return a backend, opened anew."""
        return plugins.backend_for(url).results(url, place, 3600.0)

    @contextmanager
    def results(self, url: str, place: str) -> Generator[ResultBackend]:
        """Open a backend, and close it whatever happens."""
        results = self.open(url, place)
        try:
            yield results
        finally:
            results.close()

    def test_capabilities_are_as_declared(self, url: str, place: str) -> None:
        """A result backend promises exactly what its tests expect."""
        with self.results(url, place) as results:
            assert results.capabilities == self.expected

    def test_stored_is_fetched_by_others_again_and_again(self, url: str, place: str) -> None:
        """What one instance stores another reads, in the order asked for, as often as it likes."""
        with self.results(url, place) as writer, self.results(url, place) as reader:
            bodies = [b"", b"\x00\xff", os.urandom(100_000)]
            records = [record(SUCCEEDED, body=body) for body in bodies]
            writer.store(records)
            for _ in range(2):
                assert reader.fetch([r.key for r in reversed(records)]) == records[::-1]

    def test_what_stands_is_decided_by_one_rule(self, url: str, place: str) -> None:
        """Whatever comes in whichever order, what stands is what `outcome.supersedes` says."""
        states = (QUEUED, RUNNING, RETRYING, FAILED, CANCELLED, SUCCEEDED)
        with self.results(url, place) as results:
            for first in states:
                for second in states:
                    for attempts in ((1, 1), (1, 2), (2, 1)):
                        old = record(first, attempt=attempts[0], body=b"old")
                        new = Record(old.key, second, attempts[1], b"new", time.time())
                        results.store([old])
                        results.store([new])
                        wanted = new if supersedes(new, old) else old
                        assert results.fetch([old.key]) == [wanted], (first, second, attempts)

    def test_first_success_stands(self, url: str, place: str) -> None:
        """Once a job has succeeded, it has succeeded with that value."""
        with self.results(url, place) as results:
            won = record(SUCCEEDED, body=b"first")
            results.store([won])
            results.store([Record(won.key, SUCCEEDED, 2, b"second", time.time())])
            results.store([Record(won.key, FAILED, 3, b"no", time.time())])
            assert results.fetch([won.key]) == [won]

    def test_waiting_ends_with_the_outcome(self, url: str, place: str) -> None:
        """Whoever waits for a job is woken when another instance stores its outcome."""
        with self.results(url, place) as waiter, self.results(url, place) as writer:
            wanted = record(SUCCEEDED)
            waiter.accept([Outgoing("red", wanted.key.bundle, b"")])
            reply = waiter.inbox()
            threading.Timer(0.2, writer.store, ([wanted], reply)).start()
            began = time.monotonic()
            while waiter.fetch([wanted.key]) != [wanted]:
                assert time.monotonic() - began < WITHIN
                waiter.wait([wanted.key], WITHIN)

    def test_a_listener_hears_of_ends(self, url: str, place: str) -> None:
        """Whoever listens is told of its own jobs when another instance stores their outcomes, before it looks."""
        with self.results(url, place) as client, self.results(url, place) as writer:
            done, single = span(9), record(FAILED)
            for one in (done, single):
                client.accept([Outgoing("red", one.key.bundle, b"", None, one.count)])
            reply = client.inbox()
            with listening_to(client) as listening:
                assert listening.tells_of(done.keys[4])
                assert listening.tells_of(single.key)
                threading.Timer(0.2, writer.store, ([done, single], reply)).start()
                heard: set[Key] = set()
                end = time.monotonic() + WITHIN
                while not heard >= {*done.keys, single.key}:
                    assert time.monotonic() < end
                    spans = listening.wait(WITHIN)
                    if spans is None and client.fetch([single.key]) == [single]:
                        break  # it rings, and does not say for whom
                    heard.update(Key(bundle, first + i) for bundle, first, count in spans or () for i in range(count))
            assert client.fetch([done.keys[4], single.key]) == [done, single]

    def test_a_listener_is_woken(self, url: str, place: str) -> None:
        """Its wait ends when another thread says so, and so does the next one where none was under way."""
        with self.results(url, place) as client:
            key = record(SUCCEEDED).key
            client.accept([Outgoing("red", key.bundle, b"")])
            client.inbox()
            with listening_to(client) as listening:
                for delay in (0.2, 0.0):
                    began = time.monotonic()
                    if delay:
                        threading.Timer(delay, listening.wake).start()
                    else:
                        listening.wake()
                    heard = listening.wait(5 * WITHIN)
                    assert heard is not None
                    assert list(heard) == []
                    assert time.monotonic() - began < WITHIN
            listening.wake()

    def test_waiting_ends_with_the_time(self, url: str, place: str) -> None:
        """Waiting for what does not come ends after the time given."""
        with self.results(url, place) as results:
            key = record(SUCCEEDED).key
            results.accept([Outgoing("red", key.bundle, b"")])
            began = time.monotonic()
            results.wait([key], 0.2)
            assert time.monotonic() - began < 5.0

    def test_forgotten_may_end_again(self, url: str, place: str) -> None:
        """After `forget` an ending is as if it had not been."""
        with self.results(url, place) as results:
            lost = record(FAILED, body=b"no")
            results.store([lost])
            results.forget([lost.key])
            found = results.fetch([lost.key])[0]
            assert found is None or not found.is_final
            won = Record(lost.key, FAILED, 1, b"again", time.time())
            results.store([won])
            assert results.fetch([lost.key]) == [won]

    def test_span_is_read_for_each_of_its_jobs(self, url: str, place: str) -> None:
        """Each job of a record of several successes is read with its own result; its neighbors are untouched."""
        with self.results(url, place) as writer, self.results(url, place) as reader:
            done = span(5, first=3)
            bundle = done.key.bundle
            writer.accept([Outgoing("red", bundle, b"", None, 10)])
            assert writer.store([done]) == [True]
            keys = [Key(bundle, index) for index in (7, 3, 5, 4, 6, 3)]
            for results in (reader, writer):
                assert fetched(results, keys) == [b"%d" % key.index for key in keys]
                found = results.fetch([keys[2]])[0]
                assert found is not None
                assert (found.state, found.attempt, found.at) == (SUCCEEDED, 1, done.at)
                outside = results.fetch([Key(bundle, 2), Key(bundle, 8)])
                assert [one is not None and one.is_final for one in outside] == [False, False]

    def test_earlier_success_stands_under_a_span(self, url: str, place: str) -> None:
        """A job that has succeeded keeps its result when a span comes over it; the others get theirs."""
        with self.results(url, place) as results:
            late = span(6, first=2)
            bundle = late.key.bundle
            keys = [Key(bundle, index) for index in range(2, 8)]
            results.store([success(keys[1], b"early")])
            assert results.store([late]) == [False]
            assert fetched(results, keys) == [b"2", b"early", b"4", b"5", b"6", b"7"]
            assert results.store([success(keys[1], b"later"), success(Key(bundle, 8), b"8")]) == [False, True]
            assert fetched(results, [*keys, Key(bundle, 8)]) == [b"2", b"early", b"4", b"5", b"6", b"7", b"8"]

    def test_span_takes_the_place_of_what_is_no_success(self, url: str, place: str) -> None:
        """Failures, cancellings and states on the way give way to a span, for each of its jobs."""
        with self.results(url, place) as results:
            done = span(6)
            states = [FAILED, CANCELLED, RUNNING, QUEUED, RETRYING, EXPIRED]
            results.store([Record(k, s, 2, b"old", 5.0) for k, s in zip(done.keys, states, strict=True)])
            assert results.store([done]) == [True]
            assert fetched(results, done.keys) == [b"%d" % index for index in range(6)]

    def test_nothing_takes_the_place_of_a_span(self, url: str, place: str) -> None:
        """No other state, of whichever attempt, changes a job in the middle of a span, nor its neighbors."""
        with self.results(url, place) as results:
            done = span(5)
            results.store([done])
            for state in (FAILED, CANCELLED, RUNNING, RETRYING, QUARANTINED):
                assert results.store([Record(done.keys[2], state, 9, b"late", time.time())]) == [False]
            assert fetched(results, done.keys) == [b"0", b"1", b"2", b"3", b"4"]

    @pytest.mark.parametrize(
        "pieces", [((0, 6), (3, 7)), ((3, 7), (0, 6)), ((0, 10), (2, 3)), ((2, 3), (0, 10)), ((1, 2), (5, 2), (0, 10))]
    )
    def test_overlapping_spans_keep_the_first_of_each_job(
        self, url: str, place: str, pieces: Sequence[tuple[int, int]]
    ) -> None:
        """Where spans overlap, each job keeps the result of the first one that told of it."""
        with self.results(url, place) as results:
            bundle = new_bundle_id(time.time())
            wanted: dict[Key, bytes] = {}
            for number, (first, count) in enumerate(pieces):
                done = span(count, first=first, bundle=bundle, prefix=b"%d:" % number)
                results.store([done])
                wanted = {key: b"%d:%d" % (number, key.index) for key in done.keys} | wanted
            assert fetched(results, list(wanted)) == list(wanted.values())

    def test_spans_and_singles_travel_together(self, url: str, place: str) -> None:
        """One batch may tell of a bundle in spans and singles, and of many bundles."""
        with self.results(url, place) as results:
            bundle = new_bundle_id(time.time())
            before, after = span(4, bundle=bundle), span(3, first=5, bundle=bundle)
            failed = Record(Key(bundle, 4), FAILED, 1, b"no", time.time())
            others = [span(2 + i % 3) for i in range(20)]
            assert results.store([before, failed, *others, after]) == [True] * 23
            assert fetched(results, [*before.keys, *after.keys]) == [b"%d" % i for i in (0, 1, 2, 3, 5, 6, 7)]
            assert results.fetch([failed.key]) == [failed]
            last = [other.keys[-1] for other in others]
            assert fetched(results, last) == [b"%d" % key.index for key in last]

    def test_forgotten_job_of_a_span_leaves_the_others(self, url: str, place: str) -> None:
        """Forgetting one job inside a span forgets it alone, and it may end again in another way."""
        with self.results(url, place) as results:
            done = span(5)
            results.store([done])
            results.forget([done.keys[2]])
            found = results.fetch([done.keys[2]])[0]
            assert found is None or not found.is_final
            rest = [done.keys[index] for index in (0, 1, 3, 4)]
            assert fetched(results, rest) == [b"0", b"1", b"3", b"4"]
            again = Record(done.keys[2], FAILED, 1, b"no", time.time())
            results.store([again])
            assert results.fetch([again.key]) == [again]
            assert fetched(results, rest) == [b"0", b"1", b"3", b"4"]

    def test_waiting_ends_with_a_span(self, url: str, place: str) -> None:
        """Whoever waits for a job in the middle of a span is woken when another instance stores it."""
        with self.results(url, place) as waiter, self.results(url, place) as writer:
            done = span(9)
            key = done.keys[4]
            waiter.accept([Outgoing("red", key.bundle, b"", None, 9)])
            reply = waiter.inbox()
            threading.Timer(0.2, writer.store, ([done], reply)).start()
            began = time.monotonic()
            while (found := waiter.fetch([key])[0]) is None or not found.is_final:
                assert time.monotonic() - began < WITHIN
                waiter.wait([key], WITHIN)
            assert fetched(waiter, [key]) == [b"4"]

    def test_large_span_is_kept(self, url: str, place: str) -> None:
        """A span of thousands of small results is read back, whole and in parts."""
        with self.results(url, place) as writer, self.results(url, place) as reader:
            done = span(4096)
            writer.accept([Outgoing("red", done.key.bundle, b"", None, 4096)])
            writer.store([done])
            assert fetched(reader, done.keys) == [b"%d" % index for index in range(4096)]
            assert fetched(reader, [done.keys[4095], done.keys[0], done.keys[2048]]) == [b"4095", b"0", b"2048"]

    @pytest.mark.parametrize("seed", range(3))
    def test_spans_and_singles_are_decided_job_by_job(self, url: str, place: str, seed: int) -> None:
        """Whatever spans and singles come in whichever order, each job has what `outcome.supersedes` says."""
        chance = random.Random(seed)
        wanted: dict[Key, Record] = {}
        with self.results(url, place) as results:
            bundle = new_bundle_id(time.time())
            for number in range(40):
                first = chance.randrange(24)
                if chance.random() < 0.4:
                    new = span(chance.randint(2, 8), first=first, bundle=bundle, prefix=b"%d:" % number)
                else:
                    state = chance.choice((RUNNING, RETRYING, FAILED, CANCELLED, SUCCEEDED))
                    result = body.of_result("lab.task", b"%d" % number)
                    new = Record(Key(bundle, first), state, chance.randint(1, 3), result, time.time())
                if chance.random() < 0.2:
                    results.forget([Key(bundle, first)])
                    wanted.pop(Key(bundle, first), None)
                results.store([new])
                wanted |= {one.key: one for one in body.singles(new) if supersedes(one, wanted.get(one.key))}
            keys = [Key(bundle, index) for index in range(32)]
            assert [single(r, k) for r, k in zip(results.fetch(keys), keys, strict=True)] == list(map(wanted.get, keys))

    def test_cancel_marks_are_read_from_a_cursor(self, url: str, place: str) -> None:
        """Marks reach other instances, each once for a reader that keeps its cursor."""
        with self.results(url, place) as client, self.results(url, place) as worker:
            first, second = record(QUEUED).key, record(QUEUED).key
            client.cancel([first])
            marks = worker.cancelled(None)
            assert list(marks.keys) == [first]
            client.cancel([second])
            seen: list[Key] = []
            cursor = marks.cursor

            def has_second() -> bool:
                nonlocal cursor
                marks = worker.cancelled(cursor)
                cursor = marks.cursor
                seen.extend(marks.keys)
                return bool(seen)

            eventually(has_second, within=WITHIN)
            assert seen == [second]
            assert list(worker.cancelled(cursor).keys) == []

    def test_quarantine_keeps_until_released(self, url: str, place: str) -> None:
        """What is set aside is listed, oldest first, as often as anybody asks, until it is released by its id."""
        with self.results(url, place) as one, self.results(url, place) as two:
            items = [QuarantineItem(f"id{i}", "red", "a reason: é", bytes([i]), 1000.0 + i) for i in range(3)]
            one.quarantine(items[:2])
            one.quarantine(items[2:])
            for _ in range(2):
                assert two.quarantined() == items
            two.release(["id1"])
            assert one.quarantined() == [items[0], items[2]]

    def test_workers_live_until_they_leave(self, url: str, place: str) -> None:
        """An announced worker is listed until its lifetime ends or it says that it leaves."""
        with self.results(url, place) as worker, self.results(url, place) as client:
            info = WorkerInfo("w1", "host", 7, ("red",), ("task",), 12.5, 3)
            worker.announce(info, 60.0)
            assert client.workers() == [info]
            worker.announce(info, 0.0)
            assert client.workers() == []

    def test_unknown_ids_are_told_from_queued_ones(self, url: str, place: str) -> None:
        """A backend with records knows which jobs were accepted, up to the size of their bundle."""
        with self.results(url, place) as results, self.results(url, place) as other:
            if not results.capabilities.records:
                pytest.skip("capability: this backend keeps no records")
            bundle, later = new_bundle_id(time.time()), new_bundle_id(time.time())
            results.accept([Outgoing("red", bundle, b"", None, 2)])
            results.accept([Outgoing("red", later, b"", time.time() + 60, 1)])
            found = other.fetch([Key(bundle, 0), Key(bundle, 1), Key(bundle, 2), Key(later, 0), record(QUEUED).key])
            assert [r and r.state for r in found] == [QUEUED, QUEUED, None, SCHEDULED, None]

    def test_queued_job_ends_with_its_cancelling(self, url: str, place: str) -> None:
        """A backend that cancels at once ends a queued job without any worker."""
        with self.results(url, place) as results:
            if not results.capabilities.cancels_at_once:
                pytest.skip("capability: a worker ends what is cancelled")
            key = record(QUEUED).key
            results.accept([Outgoing("red", key.bundle, b"")])
            results.cancel([key])
            found = results.fetch([key])[0]
            assert found is not None
            assert found.state == CANCELLED


class SettlementConformance(_Core):
    """What settling must do, through one door or in steps; a subclass defines the fixtures `url` and `results_url`."""

    CORE = (
        "test_complete_delivery_is_stored_and_gone",
        "test_partial_settlement_keeps_the_delivery",
        "test_successors_and_quarantine_are_written",
        "test_settled_spans_are_stored_and_gone",
    )

    @pytest.fixture
    def place(self) -> str:
        """A namespace of this test's own."""
        return f"c{uuid.uuid4().hex[:12]}"

    @contextmanager
    def desk(self, url: str, results_url: str, place: str) -> Generator[tuple[Lane, ResultBackend, Settlement | None]]:
        """Open a lane, a result backend, and the door between them if there is one."""
        lane = broker.open_lane(broker.settings_for(url, place), place, DEADLINE)
        results = plugins.backend_for(results_url).results(results_url, place, 3600.0)
        backend = plugins.find_backend(url)
        try:
            yield lane, results, backend.join(lane.handle, results) if backend is not None else None
        finally:
            lane.close()
            results.close()

    def test_complete_delivery_is_stored_and_gone(self, url: str, results_url: str, place: str) -> None:
        """A settled delivery's outcome can be read, and its message does not come back."""
        with self.desk(url, results_url, place) as (lane, results, door):
            lane.publish(frames("red", 4), DEADLINE)
            taken = take(lane, {"red": 4}, 4)
            done = [record(SUCCEEDED, body=b"value") for _ in taken]
            batch = [Settled(d, records=[r], is_complete=True) for d, r in zip(taken, done, strict=True)]
            assert settle(batch, lane, results, door) == [True] * 4
            assert results.fetch([r.key for r in done]) == done
        with self.desk(url, results_url, place) as (lane, _, _):
            assert lane.take({"red": 4}) == []

    def test_partial_settlement_keeps_the_delivery(self, url: str, results_url: str, place: str) -> None:
        """Outcomes of a part are stored while the delivery stays in hand, and comes back if it is left."""
        with self.desk(url, results_url, place) as (lane, results, door):
            lane.publish(frames("red", 1), DEADLINE)
            taken = take(lane, {"red": 1}, 1)
            done = record(SUCCEEDED)
            settle([Settled(taken[0], records=[done])], lane, results, door)
            assert results.fetch([done.key]) == [done]
        with self.desk(url, results_url, place) as (lane, _, _):
            lane.acknowledge(take(lane, {"red": 1}, 1))

    def test_successors_and_quarantine_are_written(self, url: str, results_url: str, place: str) -> None:
        """Successors are in their color's queue, and what is set aside is listed, once the delivery is gone."""
        with self.desk(url, results_url, place) as (lane, results, door):
            lane.publish(frames("red", 1), DEADLINE)
            following = Outgoing("green", new_bundle_id(time.time()), b"next", None, 1, is_successor=True)
            item = QuarantineItem("item", "red", "because", b"frame", 1.0)
            taken_one = take(lane, {"red": 1}, 1)[0]
            settle([Settled(taken_one, [], [following], [item], is_complete=True)], lane, results, door)
            taken = take(lane, {"green": 5, "red": 5}, 1)
            assert [(d.color, d.frame) for d in taken] == [("green", b"next")]
            assert [item.id for item in results.quarantined()] == ["item"]
            lane.acknowledge(taken)

    def test_settled_spans_are_stored_and_gone(self, url: str, results_url: str, place: str) -> None:
        """A delivery settled in parts, by spans and singles, is gone with the last part, and each job can be read."""
        with self.desk(url, results_url, place) as (lane, results, door):
            sent = frames("red", 2)
            lane.publish([frame._replace(size=40) for frame in sent], DEADLINE)
            for delivery, frame in zip(take(lane, {"red": 2}, 2), sent, strict=True):
                early, late = span(20, bundle=frame.bundle), span(19, first=21, bundle=frame.bundle)
                failed = Record(Key(frame.bundle, 20), FAILED, 1, b"no", time.time())
                assert settle([Settled(delivery, records=[early])], lane, results, door) == [True]
                rest = Settled(delivery, records=[failed, late], is_complete=True)
                assert settle([rest], lane, results, door) == [True]
                keys = [*early.keys, *late.keys]
                assert fetched(results, keys) == [b"%d" % key.index for key in keys]
                assert results.fetch([failed.key]) == [failed]
        with self.desk(url, results_url, place) as (lane, _, _):
            assert lane.take({"red": 2}) == []

    def test_waiting_client_is_told_of_settled_spans(self, url: str, results_url: str, place: str) -> None:
        """A client that waits for a job in the middle of a span is woken when the span is settled."""
        with self.desk(url, results_url, place) as (lane, results, door):
            client = plugins.backend_for(results_url).results(results_url, place, 3600.0)
            try:
                frame = frames("red", 1)[0]._replace(size=9)
                done = span(9, bundle=frame.bundle)
                client.accept([frame])
                reply = client.inbox()
                lane.publish([frame], DEADLINE)
                entry = Settled(take(lane, {"red": 1}, 1)[0], records=[done], is_complete=True, reply=reply)
                settle([entry], lane, results, door)
                began = time.monotonic()
                while (found := client.fetch([done.keys[4]])[0]) is None or not found.is_final:
                    assert time.monotonic() - began < WITHIN
                    client.wait([done.keys[4]], WITHIN)
                assert fetched(client, done.keys) == [b"%d" % index for index in range(9)]
            finally:
                client.close()

    def test_lost_delivery_brings_only_its_success(self, url: str, results_url: str, place: str) -> None:
        """Through one door, of a delivery that is not ours any more only successes are written."""
        with self.desk(url, results_url, place) as (lane, results, door):
            if door is None:
                pytest.skip("capability: there is no door between these two")
            lane.publish(frames("red", 1), DEADLINE)
            taken = take(lane, {"red": 1}, 1)
            lane.acknowledge(taken)
            failed, won, spanned = record(FAILED), record(SUCCEEDED), span(5)
            entry = Settled(taken[0], records=[failed, won, spanned], is_complete=True)
            if door.settle([entry]) == [True]:
                pytest.skip("capability: this broker does not tell what it holds from what it has let go")
            assert results.fetch([won.key]) == [won]
            assert fetched(results, spanned.keys) == [b"0", b"1", b"2", b"3", b"4"]
            found = results.fetch([failed.key])[0]
            assert found is None or not found.is_final


def settle(batch: Sequence[Settled], lane: Lane, results: ResultBackend, door: Settlement | None) -> list[bool]:
    """Settle through the door, or in the order that workers keep where there is none."""
    if door is not None:
        return door.settle(batch)
    for entry in batch:
        results.store(entry.records, entry.reply)
    results.quarantine([item for entry in batch for item in entry.quarantined])
    successors = [frame for entry in batch for frame in entry.successors]
    if successors:
        lane.publish(successors, DEADLINE)
    lost = lane.acknowledge([entry.delivery for entry in batch if entry.is_complete])
    return [entry.delivery not in lost for entry in batch]


def frames(color: str, count: int) -> list[Outgoing]:
    """Return frames with bodies of their own."""
    now = time.time()
    return [Outgoing(color, new_bundle_id(now), f"{color} {i} {uuid.uuid4().hex}".encode()) for i in range(count)]


def take(lane: Lane, room: dict[str, int], count: int) -> list[Delivery]:
    """Take until there are so many, as a transport may deliver them one by one."""
    taken: list[Delivery] = []

    def enough() -> bool:
        left = {color: most - sum(d.color == color for d in taken) for color, most in room.items()}
        taken.extend(lane.take({color: most for color, most in left.items() if most > 0}))
        return len(taken) >= count

    eventually(enough, within=WITHIN, what=f"{count} deliveries")
    assert len(taken) == count
    return taken


@contextmanager
def listening_to(results: ResultBackend) -> Generator[Listening]:
    """Listen while the block lasts."""
    listening = results.listen() if isinstance(results, Teller) else None
    if listening is None:
        pytest.skip("capability: it tells of ends only where it is asked for jobs")
    try:
        yield listening
    finally:
        listening.close()


def record(state: str, *, attempt: int = 1, body: bytes = b"body") -> Record:
    """Return a record of a job of its own."""
    now = time.time()
    return Record(Key(new_bundle_id(now), 0), state, attempt, body, now)


def span(count: int, *, first: int = 0, bundle: bytes | None = None, prefix: bytes = b"") -> Record:
    """Return one record of several successes; the result of each job is the prefix and its index, as bytes."""
    now = time.time()
    results = [codec.encode(prefix + b"%d" % index) for index in range(first, first + count)]
    column = body.of_results("lab.task", results, "w/1", 0.5)
    return Record(Key(new_bundle_id(now) if bundle is None else bundle, first), SUCCEEDED, 1, column, now, count)


def success(key: Key, value: bytes) -> Record:
    """Return a record of one success."""
    return Record(key, SUCCEEDED, 1, body.of_result("lab.task", codec.encode(value), "w/1", 0.5), time.time())


def single(found: Record | None, key: Key) -> Record | None:
    """Return what a record that was fetched for a job says of this job alone."""
    return None if found is None else next(one for one in body.singles(found) if one.key == key)


def fetched(results: ResultBackend, keys: Sequence[Key]) -> list[bytes | None]:
    """Return the results of these jobs, as `span` and `success` made them; None for a job without a success."""
    values: list[bytes | None] = []
    by_record: dict[Record, dict[Key, bytes]] = {}
    for key, found in zip(keys, results.fetch(keys), strict=True):
        if found is None or found.state != SUCCEEDED:
            values.append(None)
            continue
        if found not in by_record:
            by_record[found] = {one.key: body.read(one.body).result for one in body.singles(found)}
        values.append(codec.decode(by_record[found][key]))
    return values
