"""What is Redis' own: one key and one life a bundle, the rule in Lua, inboxes, delays, errors and limits of time."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from contextlib import ExitStack
from hashlib import sha1
from typing import TYPE_CHECKING

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from queuelib.broker import open_lane
from queuelib.errors import BrokerUnavailable, ConfigurationError, MissingDriver, SubmitUnknown
from queuelib.ids import Key, new_bundle_id
from queuelib.message import Outgoing
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
from queuelib.ports import QuarantineItem, WorkerInfo
from queuelib_redis import BACKEND, notes
from queuelib_redis.inbox import pack, unpack
from queuelib_redis.results import RedisResults
from queuelib_redis.state import sentences
from queuelib_redis.wire import pack as wire_bytes
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queuelib.ports import Delivery, Lane

KEEP = 3600.0
MONTH = 30 * 24 * 3600.0
STATES = (QUEUED, RUNNING, RETRYING, SUCCEEDED, FAILED, CANCELLED, EXPIRED, QUARANTINED)


@pytest.fixture
def raw(redis_url: str, namespace: str) -> Iterator[redis.Redis]:
    """Give a client that sees everything, and leave nothing of this test on the server."""
    client = redis.Redis.from_url(redis_url, protocol=2)
    yield client
    for key in client.scan_iter(f"*{namespace}*"):
        client.delete(key)
    client.close()


@pytest.fixture
def open_results(redis_url: str, namespace: str, raw: redis.Redis) -> Iterator[Callable[[], RedisResults]]:
    """Open result backends, closed at the end."""
    with ExitStack() as stack:

        def open_one() -> RedisResults:
            one = RedisResults(redis_url, namespace, KEEP)
            stack.callback(one.close)
            return one

        yield open_one


@pytest.fixture
def results(open_results: Callable[[], RedisResults]) -> RedisResults:
    """Open one result backend."""
    return open_results()


@pytest.fixture
def lane(redis_url: str, namespace: str, raw: redis.Redis) -> Iterator[Callable[..., Lane]]:
    """Open lanes, closed at the end."""
    with ExitStack() as stack:

        def open_one(options: str = "") -> Lane:
            one = open_lane(BACKEND.transport(redis_url + options, namespace), namespace, 5.0)
            stack.callback(one.close)
            return one

        yield open_one


def bundle() -> bytes:
    """Make a bundle id."""
    return new_bundle_id(time.time())


def outgoing(frame: bytes = b"frame", *, size: int = 1, due: float | None = None, color: str = "red") -> Outgoing:
    """Make a frame on its way."""
    return Outgoing(color, bundle(), frame, due, size)


def done(key: Key, body: bytes = b"value") -> Record:
    """Make a success."""
    return Record(key, SUCCEEDED, 1, body, 1.5)


def take(lane: Lane, count: int = 1) -> list[Delivery]:
    """Take exactly `count` frames of red."""
    taken: list[Delivery] = []

    def look() -> bool:
        taken.extend(lane.take({"red": count - len(taken)}))
        return len(taken) >= count

    eventually(look)
    return taken


# Records


def test_fetch_tells_accepted_from_unknown(results: RedisResults) -> None:
    """What was accepted is queued, or scheduled before its time; any other key has no trace."""
    now, later = outgoing(size=2), outgoing(due=time.time() + 60)
    results.accept([now, later])
    keys = [Key(now.bundle, 0), Key(now.bundle, 1), Key(now.bundle, 2), Key(later.bundle, 0), Key(bundle(), 0)]
    states = [None if record is None else record.state for record in results.fetch(keys)]
    assert states == [QUEUED, QUEUED, None, SCHEDULED, None]
    assert results.fetch([]) == []


def test_another_client_reads_what_was_stored(open_results: Callable[[], RedisResults]) -> None:
    """Every field of a record comes back, byte for byte, in any process."""
    record = Record(Key(bundle(), 7), FAILED, 3, bytes(range(256)) + b" 1 2 ", 1700000000.123456)
    assert open_results().store([record]) == [True]
    assert open_results().fetch([record.key]) == [record]


def test_large_batches_are_cut(results: RedisResults) -> None:
    """1,700 records of two bundles with five bodies of 2 MB come back, in order."""
    one, two = outgoing(size=1200), outgoing(size=500)
    results.accept([one, two])
    keys = [Key(frame.bundle, index) for frame in (one, two) for index in range(frame.size)]
    records = [done(key, b"x" * (2_000_000 if at % 400 == 0 else 5)) for at, key in enumerate(keys)]
    assert results.store(records) == [True] * 1700
    assert results.fetch(keys[::-1]) == records[::-1]


_record = st.tuples(st.integers(0, 2), st.sampled_from(STATES), st.integers(1, 4), st.binary(max_size=3))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.none() | st.integers(1, 3), batches=st.lists(st.lists(_record, max_size=4), max_size=5))
def test_the_rule_in_lua_is_supersedes(
    results: RedisResults,
    raw: redis.Redis,
    size: int | None,
    batches: list[list[tuple[int, str, int, bytes]]],
) -> None:
    """Any history of records leaves what `supersedes` leaves, with the same answers, and counts the ended jobs."""
    name = bundle()
    if size is not None:
        results.accept([Outgoing("red", name, b"", size=size)])
    standing: dict[Key, Record] = {}
    for batch in batches:
        records = [Record(Key(name, index), state, attempt, body, 2.5) for index, state, attempt, body in batch]
        expected = []
        for record in records:
            stands = supersedes(record, standing.get(record.key))
            expected.append(stands)
            if stands:
                standing[record.key] = record
        assert results.store(records) == expected
    assert results.fetch(list(standing)) == list(standing.values())
    ended = sum(record.is_final for record in standing.values())
    if raw.type(results.bundle_key(name)) == b"hash":
        assert int(raw.hget(results.bundle_key(name), "e") or 0) == ended


def test_one_time_to_live(results: RedisResults, raw: redis.Redis) -> None:
    """A bundle lives a month after its due time; once all its jobs have ended, for as long as outcomes are kept."""
    frame = outgoing(size=2, due=time.time() + 1000)
    key = results.bundle_key(frame.bundle)

    def left() -> float:
        return raw.pttl(key) / 1000

    results.accept([frame])
    assert MONTH + 990 < left() <= MONTH + 1001
    results.store([done(Key(frame.bundle, 0))])
    assert left() > MONTH
    results.store([Record(Key(frame.bundle, 1), RUNNING)])
    assert left() > MONTH
    results.store([done(Key(frame.bundle, 1))])
    assert KEEP - 10 < left() <= KEEP
    results.forget([Key(frame.bundle, 1)])
    assert left() > MONTH - 10
    results.store([Record(Key(frame.bundle, 1), FAILED)])
    assert KEEP - 10 < left() <= KEEP


def test_unaccepted_outcomes_are_kept(results: RedisResults, raw: redis.Redis) -> None:
    """An outcome of a bundle that nobody announced has a time to live as well."""
    key = Key(bundle(), 0)
    results.store([done(key)])
    assert KEEP - 10 < raw.pttl(results.bundle_key(key.bundle)) / 1000 <= KEEP


def test_accepting_again_changes_nothing(results: RedisResults, raw: redis.Redis) -> None:
    """A bundle that is submitted again keeps its size, its due time, its outcomes and their time to live."""
    frame = outgoing(size=1)
    results.accept([frame])
    results.store([done(Key(frame.bundle, 0))])
    results.accept([frame._replace(size=2, due=time.time() + 60)])
    assert results.fetch([Key(frame.bundle, 0), Key(frame.bundle, 1)]) == [done(Key(frame.bundle, 0)), None]
    assert raw.pttl(results.bundle_key(frame.bundle)) <= KEEP * 1000


def test_a_successor_does_not_change_the_record(results: RedisResults) -> None:
    """A frame that continues jobs of a bundle does not set its size."""
    frame = outgoing(size=3)
    results.accept([frame])
    results.accept([frame._replace(size=1, is_successor=True)])
    assert results.fetch([Key(frame.bundle, 2)]) == [Record(Key(frame.bundle, 2), QUEUED)]


def test_forget_lets_a_job_end_again(results: RedisResults) -> None:
    """What was forgotten is queued, and a failure then stands."""
    frame = outgoing()
    key = Key(frame.bundle, 0)
    results.accept([frame])
    results.store([done(key)])
    results.forget([key])
    assert results.fetch([key]) == [Record(key, QUEUED)]
    results.forget([key])
    assert results.store([Record(key, FAILED)]) == [True]


def test_scripts_are_loaded_again(results: RedisResults, raw: redis.Redis) -> None:
    """A server that has lost its scripts, as after a restart, is taught them."""
    results.store([done(Key(bundle(), 0))])
    raw.script_flush()
    keys = [Key(bundle(), 0), Key(bundle(), 0)]
    assert results.store([done(key) for key in keys]) == [True, True]
    raw.script_flush()
    results.forget(keys)
    assert results.fetch(keys) == [Record(key, QUEUED) for key in keys]


# Waiting


class Waiting(threading.Thread):
    """Waits for jobs, and says how long that took."""

    def __init__(self, results: RedisResults, keys: list[Key], timeout: float = 10.0) -> None:
        super().__init__()
        self.results, self.keys, self.timeout, self.took = results, keys, timeout, 0.0
        self.start()

    def run(self) -> None:
        """Wait."""
        began = time.monotonic()
        self.results.wait(self.keys, self.timeout)
        self.took = time.monotonic() - began


def reads_inbox(raw: redis.Redis) -> bool:
    """Say whether some client is blocked on the server."""
    return int(raw.info("clients")["blocked_clients"]) > 0


def test_an_announcement_wakes_at_once(open_results: Callable[[], RedisResults], raw: redis.Redis) -> None:
    """The client that submitted is woken by the store, well before it would have looked for itself."""
    client, worker = open_results(), open_results()
    frame = outgoing()
    key = Key(frame.bundle, 0)
    client.accept([frame])
    worker.store([Record(key, RUNNING)], client.inbox())
    thread = Waiting(client, [key])
    eventually(lambda: reads_inbox(raw))
    worker.store([done(key)], client.inbox())
    stored = time.monotonic()
    thread.join()
    assert time.monotonic() - stored < 0.2
    assert 0 < raw.ttl(client.inbox()) <= 300 or not raw.exists(client.inbox())


def test_many_threads_wait_at_once(open_results: Callable[[], RedisResults], raw: redis.Redis) -> None:
    """Each of twenty threads is woken for its own job only, whoever of them reads the inbox."""
    client, worker = open_results(), open_results()
    frame = outgoing(size=20)
    client.accept([frame])
    keys = [Key(frame.bundle, index) for index in range(20)]
    threads = [Waiting(client, [key]) for key in keys]
    eventually(lambda: reads_inbox(raw))
    for key, thread in zip(keys, threads, strict=True):
        worker.store([done(key)], client.inbox())
        stored = time.monotonic()
        thread.join(5)
        assert not thread.is_alive()
        assert time.monotonic() - stored < 0.5
    assert max(thread.took for thread in threads) < 5


def test_jobs_of_others_are_found(open_results: Callable[[], RedisResults]) -> None:
    """A client that did not submit a job, and is announced nothing, sees its end within a third of a second."""
    client, worker = open_results(), open_results()
    key = Key(bundle(), 0)
    thread = Waiting(client, [key])
    worker.store([done(key)])
    thread.join(5)
    assert thread.took < 0.35


def test_a_lost_announcement_only_delays(open_results: Callable[[], RedisResults], raw: redis.Redis) -> None:
    """A job of one's own whose end nobody announced is found within two seconds."""
    client, worker = open_results(), open_results()
    frame = outgoing()
    client.accept([frame])
    thread = Waiting(client, [Key(frame.bundle, 0)])
    eventually(lambda: reads_inbox(raw))
    worker.store([done(Key(frame.bundle, 0))])
    thread.join(5)
    assert thread.took < 2


def test_waiting_ends_in_time(results: RedisResults) -> None:
    """Nothing happens, and the wait is over after its timeout."""
    frame = outgoing()
    results.accept([frame])
    for keys in ([Key(frame.bundle, 0)], [Key(bundle(), 0)]):
        began = time.monotonic()
        results.wait(keys, 0.1)
        assert 0.09 < time.monotonic() - began < 0.4
    results.wait([], 5.0)


def test_closing_ends_all_waits(open_results: Callable[[], RedisResults], raw: redis.Redis) -> None:
    """Threads that wait on a backend which is closed return early, without an error."""
    client = open_results()
    frame = outgoing()
    client.accept([frame])
    threads = [Waiting(client, [Key(frame.bundle, 0)]), Waiting(client, [Key(bundle(), 0)])]
    eventually(lambda: reads_inbox(raw))
    client.close()
    for thread in threads:
        thread.join(5)
    assert max(thread.took for thread in threads) < 3


def test_an_inbox_is_bounded_and_only_an_inbox_is_written(results: RedisResults, raw: redis.Redis) -> None:
    """A client that never reads holds little memory; an address that is no inbox of ours is left alone."""
    name = results.bundle_key(bundle())
    for _ in range(1010):
        results.store([done(Key(bundle(), 0))], results.inbox())
    assert raw.llen(results.inbox()) == 1000
    results.store([done(Key(bundle(), 0))], name)
    results.store([done(Key(bundle(), 0))], results.key("quarantine"))
    assert not raw.exists(name, results.key("quarantine"))


def test_a_fork_has_connections_of_its_own(results: RedisResults) -> None:
    """A forked child stores and waits without disturbing its parent, at another address."""
    key = Key(bundle(), 0)
    results.store([Record(key, RUNNING)])
    before = results.inbox()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            results.store([done(key)], before)
            results.wait([key], 5.0)
            status = 0 if results.inbox() != before else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert results.inbox() == before
    assert results.fetch([key]) == [done(key)]


def test_a_closed_backend_opens_again(results: RedisResults) -> None:
    """After `close` the next call connects."""
    key = Key(bundle(), 0)
    results.store([done(key)])
    results.close()
    assert results.fetch([key]) == [done(key)]


@given(st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.integers(0, 65_535))), st.binary(max_size=19))
def test_keys_survive_packing(names: list[tuple[bytes, int]], rest: bytes) -> None:
    """Packed keys come back; a torn end is left out."""
    keys = [Key(*name) for name in names]
    assert unpack(pack(keys) + rest) == keys


# Marks, quarantine, workers


def test_marks_are_read_from_a_cursor(open_results: Callable[[], RedisResults], raw: redis.Redis) -> None:
    """Each mark is read once by whoever keeps the cursor, and all that are kept by whoever has none."""
    client, worker = open_results(), open_results()
    empty = worker.cancelled(None)
    assert empty.keys == []
    first, second = [Key(bundle(), 0), Key(bundle(), 5)], [Key(bundle(), 1)]
    client.cancel(first)
    one = worker.cancelled(empty.cursor)
    client.cancel(second)
    client.cancel([])
    two = worker.cancelled(one.cursor)
    assert (one.keys, two.keys) == (first, second)
    assert worker.cancelled(two.cursor) == ([], two.cursor)
    assert client.cancelled(None).keys == first + second
    assert raw.ttl(client.key("cancelled")) > 6 * 24 * 3600


def test_old_marks_are_dropped(results: RedisResults, raw: redis.Redis) -> None:
    """Marks older than a week do not pile up."""
    for at in range(1, 301):
        raw.xadd(results.key("cancelled"), {"k": b""}, id=f"{at}-0")
    results.cancel([Key(bundle(), 0)])
    assert raw.xlen(results.key("cancelled")) < 200


def test_the_quarantine_keeps_its_order(results: RedisResults) -> None:
    """Items come back oldest first, and only `release` removes them."""
    items = [QuarantineItem(f"id{at}", "red", "reason ü", b"\x00\xff", float(at)) for at in range(3)]
    results.quarantine(items[::-1])
    results.quarantine(items[:1])
    results.quarantine([])
    assert results.quarantined() == items
    results.release(["id1", "nobody"])
    results.release([])
    assert results.quarantined() == [items[0], items[2]]


def test_workers_are_listed_while_they_live(results: RedisResults) -> None:
    """A worker is listed until its lifetime is over, or it says goodbye."""
    stays, leaves = (WorkerInfo(name, "host", 1, ("red",), ("a.b",), 2.5) for name in ("stays", "leaves"))
    dies = WorkerInfo("dies", "host", 2, (), ())
    results.announce(stays, 60)
    results.announce(leaves, 60)
    results.announce(dies, 0.05)
    results.announce(leaves, 0)
    eventually(lambda: results.workers() == [stays])
    results.announce(dies, 60)
    assert sorted(worker.name for worker in results.workers()) == ["dies", "stays"]


# Errors


def test_an_unreachable_server_is_named_without_its_password() -> None:
    """The error says where and what to do; the driver's own is its cause."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    results = BACKEND.results(f"redis://me:secret@127.0.0.1:{port}/0", "t", KEEP)
    with pytest.raises(BrokerUnavailable, match=r"redis://me:\*\*\*@127.0.0.1.* running and reachable") as caught:
        results.fetch([Key(bundle(), 0)])
    assert "secret" not in str(caught.value)
    assert isinstance(caught.value.__cause__, redis.exceptions.ConnectionError)
    settings = BACKEND.transport(f"redis://me:secret@127.0.0.1:{port}/0", "t")
    with pytest.raises(BrokerUnavailable) as caught:
        open_lane(settings, "t", 2.0)
    assert "secret" not in str(caught.value)


def test_a_wrong_password_is_a_matter_of_configuration(redis_url: str) -> None:
    """Waiting does not mend it, so it is no BrokerUnavailable; neither message has the password."""
    url = redis_url.replace("redis://", "redis://nobody:secret@").rpartition("/")[0]
    with pytest.raises(ConfigurationError, match="Check the user") as caught:
        BACKEND.results(url, "t", KEEP).cancelled(None)
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="Check the user") as caught:
        open_lane(BACKEND.transport(url, "t"), "t", 2.0)
    assert "secret" not in str(caught.value)


def test_a_database_that_does_not_exist_is_a_matter_of_configuration(redis_url: str) -> None:
    """The server has sixteen, and the message says so in its own words."""
    url = redis_url.rpartition("/")[0] + "/9999"
    with pytest.raises(ConfigurationError, match="database number"):
        BACKEND.results(url, "t", KEEP).cancelled(None)


@pytest.mark.slow
def test_a_silent_server_is_given_up_within_five_seconds() -> None:
    """A server that accepts the connection and never answers counts as gone."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        results = BACKEND.results(f"redis://127.0.0.1:{listener.getsockname()[1]}", "t", KEEP)
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            results.store([done(Key(bundle(), 0))])
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://:secret@host/zero", "number of a database"),
        ("redis://:secret@host:port/0", "not a Redis URL"),
        ("redis://:secret@host/0?speed=9", "no option 'speed'"),
        ("redis://:secret@host/0?visibility_timeout=60", "not needed any more"),
        ("redis://:secret@host/0?wait=some", "number of replicas"),
        ("redis://:secret@host/0?durable=perhaps", "durable is yes or no"),
        ("redis://:secret@host/0?ca=file.pem", "rediss://"),
        ("rediss://:secret@host/0?verify=maybe", "yes or no"),
        ("sentinel://:secret@host:26379/0", "needs .master=NAME"),
        ("redis://:secret@host/0?master=main", "only it"),
        ("sentinel://:secret@one:26379,two:port/0?master=main", "not a Redis URL"),
    ],
)
def test_what_cannot_work_is_refused_before_connecting(url: str, says: str) -> None:
    """Each mistake in a URL has a message of its own, without the password."""
    for read in (lambda: BACKEND.transport(url, "t"), lambda: BACKEND.results(url, "t", KEEP)):
        with pytest.raises(ConfigurationError, match=says) as caught:
            read()
        assert "secret" not in str(caught.value)


def test_tls_verifies_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """rediss:// checks certificate and host name on both ways; verify=no is the only way out."""
    settings = BACKEND.transport("rediss://me:pa%2Fss@host/3?ca=ca.pem", "t")
    tls = {"ssl_cert_reqs": "required", "ssl_check_hostname": True, "ssl_ca_certs": "ca.pem"}
    assert settings.options["address"].tls == tls
    assert settings.url == "qlredis://me:pa%2Fss@host:6379/3"
    results = RedisResults("rediss://host?verify=no", "t", KEEP)
    assert results.address.tls == {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(MissingDriver, match=r"pip install .queuelib-kombu\[redis\]"):
        BACKEND.transport("redis://host", "t")
    with pytest.raises(MissingDriver, match=r"pip install .queuelib-kombu\[redis\]"):
        BACKEND.results("redis://host", "t", KEEP)


def test_notes_tell_what_the_server_is_weak_at(redis_url: str) -> None:
    """A sentence for each weak setting; silence from a server that does not answer."""
    assert sentences({"aof_enabled": 1, "maxmemory_policy": "noeviction"}, "here") == []
    told = sentences({"aof_enabled": 0, "maxmemory_policy": "allkeys-lru"}, "here")
    assert ["appendonly" in told[0], "allkeys-lru" in told[1]] == [True, True]
    assert all(isinstance(one, str) for one in notes(redis_url))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert notes(f"redis://127.0.0.1:{port}") == []


# Transport


def test_frames_arrive_and_every_key_has_the_namespace(
    lane: Callable[..., Lane], raw: redis.Redis, namespace: str
) -> None:
    """Frames come in order, byte for byte; while one is held, no key is outside of the namespace."""
    before = set(raw.scan_iter("*"))
    sender, taker = lane(), lane()
    frames = [bytes([at]) * 10 for at in range(5)]
    sender.publish([outgoing(frame) for frame in frames], 5.0)
    sender.publish([outgoing(b"later", due=time.time() + 60)], 5.0)
    taken = take(taker, 5)
    assert [delivery.frame for delivery in taken] == frames
    names = [key.decode() for key in set(raw.scan_iter("*")) - before]
    ours = [name for name in names if name.startswith(f"{{{namespace}}}:")]
    flight = f"{{{namespace}}}:if:{taker.handle.taker.decode()}"
    assert flight in ours
    assert f"{{{namespace}}}:due:{namespace}.red" in ours
    assert not [name for name in names if namespace in name and name not in ours]
    assert taker.acknowledge(taken) == []
    assert not raw.exists(flight)


def test_a_frame_is_taken_when_it_is_due_and_not_before(lane: Callable[..., Lane]) -> None:
    """It waits on the server, is counted as waiting, and comes within a tenth of a second of its time."""
    sender, taker = lane(), lane()
    due = time.time() + 0.5
    sender.publish([outgoing(b"late", due=due)], 5.0)
    sender.publish([outgoing(b"past", due=time.time() - 5)], 5.0)
    assert sender.waiting(["red"]) == {"red": 2}
    (past,) = take(taker)
    assert past.frame == b"past"
    (late,) = take(taker)
    assert (late.frame, late.redelivered) == (b"late", False)
    assert due <= time.time() < due + 0.25
    assert sender.waiting(["red"]) == {"red": 0}


def test_promotion_is_shared_by_takers(lane: Callable[..., Lane], raw: redis.Redis, namespace: str) -> None:
    """Of many frames that are due at once each is taken once, with several takers at work."""
    sender, one, two = lane(), lane(), lane()
    due = time.time() + 0.2
    sender.publish([outgoing(b"%d" % at, due=due) for at in range(100)], 5.0)
    taken: list[bytes] = []

    def look() -> bool:
        for taker in (one, two):
            deliveries = taker.take({"red": 10})
            taken.extend(delivery.frame for delivery in deliveries)
            taker.acknowledge(deliveries)
        return len(taken) >= 100

    eventually(look, within=10)
    assert sorted(taken, key=int) == [b"%d" % at for at in range(100)]
    assert not raw.exists(f"{{{namespace}}}:due:{namespace}.red")


def test_what_is_given_back_keeps_its_place(lane: Callable[..., Lane]) -> None:
    """Given back at once, a frame is the next to be taken, uncounted; with a delay it waits on the server."""
    sender, taker = lane(), lane()
    sender.publish([outgoing(frame) for frame in (b"1", b"2", b"3")], 5.0)
    first = take(taker, 1)
    taker.give_back(first)
    other = lane()
    again = take(other, 1)
    assert [(delivery.frame, delivery.redelivered) for delivery in again] == [(b"1", False)]
    other.give_back(again, 0.2)
    other.close()
    rest = take(taker, 3)
    assert sorted(delivery.frame for delivery in rest) == [b"1", b"2", b"3"]


def test_closing_returns_what_is_held(lane: Callable[..., Lane], capsys: pytest.CaptureFixture[str]) -> None:
    """What a closed lane had taken is for others at once, and nothing is printed about it."""
    sender, taker = lane(), lane()
    sender.publish([outgoing(b"held")], 5.0)
    take(taker)
    taker.close()
    (again,) = take(lane())
    assert (again.frame, again.redelivered) == (b"held", False)
    assert capsys.readouterr().err == ""


def lose_answers(lane: Lane) -> None:
    """Let what is sent over the present connection be done, and its answer be lost."""

    def lose() -> None:
        raise redis.ConnectionError

    lane.handle.wire._connection.read_response = lose


def test_a_publish_without_an_answer_is_made_again(lane: Callable[..., Lane]) -> None:
    """Bundles are accepted once, so a publish whose answer was lost is sent again, and each frame is there once."""
    sender = lane()
    for frames in ([outgoing(b"one")], [outgoing(b"two"), outgoing(b"three")]):
        lose_answers(sender)
        sender.publish(frames, 5.0)
    assert [delivery.frame for delivery in take(sender, 3)] == [b"one", b"two", b"three"]
    assert sender.take({"red": 1}) == []


def test_a_successor_without_an_answer_is_in_doubt(lane: Callable[..., Lane]) -> None:
    """What may be there twice is not sent again: SubmitUnknown has the frames as they were given."""
    sender = lane()
    before = [outgoing(b"before")._replace(is_successor=True), outgoing(b"as well")]
    sender.publish(before, 5.0)  # so that the server knows the scripts: its answer to that would be lost
    assert len(take(sender, 2)) == 2
    lose_answers(sender)
    frames = [outgoing(b"one")._replace(is_successor=True), outgoing(b"two")]
    with pytest.raises(SubmitUnknown) as caught:
        sender.publish(frames, 5.0)
    assert list(caught.value.frames) == frames
    assert len(take(sender, 2)) == 2


def test_a_publish_waits_for_replicas(lane: Callable[..., Lane], redis_url: str) -> None:
    """Where the URL asks for more replicas than there are, a publish is in doubt; without an append-only file refused."""
    with pytest.raises(SubmitUnknown, match="not confirmed as the URL asks"):
        lane("?wait=7").publish([outgoing()], 5.0)
    assert BACKEND.transport(f"{redis_url}?durable=yes", "t").capabilities.survives_restart


class Refusing:
    """A script that a server without memory does not run."""

    text = "return redis.error_reply('OOM no memory')"

    def head(self, arguments: int) -> bytes:
        """Return the bytes of a call up to its key."""
        digest = sha1(self.text.encode(), usedforsecurity=False).hexdigest().encode()
        return b"*%d\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n$1\r\n1\r\n" % (arguments + 4, digest)


def test_a_refused_script_leaves_no_answer_behind(lane: Callable[..., Lane]) -> None:
    """Where a confirmation was asked for as well, its answer is not taken for that of the next call."""
    wire, refusing = lane().handle.wire, Refusing()
    for _ in range(2):  # the server knows the script the second time
        with pytest.raises(BrokerUnavailable, match="no memory"):
            wire.run(refusing, b"key", [], (b"WAIT", b"0", b"1"))
    assert wire.call(wire_bytes((b"ECHO", b"word"))) == b"word"


def test_durable_needs_a_server_that_can(lane: Callable[..., Lane], raw: redis.Redis) -> None:
    """Before Redis 7.2 nobody can wait for the append-only file, and the URL is refused."""
    version = tuple(int(part) for part in raw.info()["redis_version"].split(".")[:2])
    if version >= (7, 2):
        pytest.skip("this server can")
    with pytest.raises(ConfigurationError, match=r"durable=yes needs Redis 7.2"):
        lane("?durable=yes")


def test_one_door_where_it_is_one_database(
    results: RedisResults, lane: Callable[..., Lane], redis_url: str, namespace: str
) -> None:
    """Messages and outcomes are joined in one database under one namespace, and nowhere else."""
    assert BACKEND.join(lane().handle, results) is not None
    elsewhere = RedisResults(redis_url.rpartition("/")[0] + "/14", namespace, KEEP)
    other_names = RedisResults(redis_url, namespace + "x", KEEP)
    assert BACKEND.join(lane().handle, elsewhere) is None
    assert BACKEND.join(lane().handle, other_names) is None
