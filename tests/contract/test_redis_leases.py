"""Leases on Redis: who is taken over when, and what becomes of settlements that come too late."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import redis

from queuelib.broker import open_lane
from queuelib.errors import BrokerUnavailable, ConfigurationError
from queuelib.ids import Key, new_bundle_id
from queuelib.message import Outgoing
from queuelib.outcome import FAILED, SUCCEEDED, Record
from queuelib.ports import QuarantineItem, Settled
from queuelib_redis import BACKEND
from queuelib_redis.identity import is_gone, own_identity
from queuelib_redis.results import RedisResults
from queuelib_redis.settlement import RedisSettlement
from queuelib_redis.wire import pack
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queuelib.ports import Delivery, Lane

OPEN = "from queuelib import broker; lane = broker.open_lane(broker.settings_for(sys.argv[1], sys.argv[2]), sys.argv[2], 5.0)"
TAKE_AND_WAIT = f"import sys; {OPEN}; print(len(lane.take({{'red': 9}})), flush=True); sys.stdin.read()"


@pytest.fixture
def raw(redis_url: str, namespace: str) -> Iterator[redis.Redis]:
    """Give a client that sees everything, and leave nothing of this test on the server."""
    client = redis.Redis.from_url(redis_url, protocol=2)
    yield client
    for key in client.scan_iter(f"*{namespace}*"):
        client.delete(key)
    client.close()


@pytest.fixture
def lane(redis_url: str, namespace: str, raw: redis.Redis) -> Iterator[Callable[..., Lane]]:
    """Open lanes with leases of a given length, closed at the end."""
    with ExitStack() as stack:

        def open_one(**options: float) -> Lane:
            made = BACKEND.transport(redis_url, namespace)
            one = open_lane(replace(made, options={**made.options, **options}), namespace, 5.0)
            stack.callback(one.close)
            return one

        yield open_one


def put(lane: Lane, *frames: bytes) -> None:
    """Publish frames to red."""
    lane.publish([Outgoing("red", new_bundle_id(time.time()), frame) for frame in frames], 5.0)


def test_a_lease_must_be_seen_expired_twice(lane: Callable[..., Lane]) -> None:
    """One sight of an expired lease takes nothing from its owner; a second one, later, takes all, at the head."""
    silent, other = lane(lease=0.0), lane(sights=0.05)
    put(other, b"1", b"2", b"3")
    assert [delivery.frame for delivery in silent.take({"red": 2})] == [b"1", b"2"]
    other.renew()
    assert [delivery.frame for delivery in other.take({"red": 1})] == [b"3"]

    def taken_over() -> bool:
        other.renew()
        return other.waiting(["red"]) == {"red": 2}

    eventually(taken_over)
    again = other.take({"red": 9})
    assert [(delivery.frame, delivery.redelivered) for delivery in again] == [(b"1", True), (b"2", True)]


def test_a_renewed_lease_begins_anew(lane: Callable[..., Lane]) -> None:
    """A lease that was seen expired and renewed since has to be seen expired twice again."""
    slow, other = lane(lease=0.0), lane(sights=0.0)
    put(other, b"1")
    slow.take({"red": 1})
    other.renew()
    slow.renew()
    other.renew()
    assert other.waiting(["red"]) == {"red": 0}
    other.renew()
    assert other.waiting(["red"]) == {"red": 1}


def test_a_kept_lease_is_never_taken(lane: Callable[..., Lane]) -> None:
    """Whoever renews keeps what it has, however often others look."""
    owner, other = lane(), lane(sights=0.0)
    put(other, b"1")
    held = owner.take({"red": 1})
    for _ in range(3):
        other.renew()
    assert other.waiting(["red"]) == {"red": 0}
    assert owner.acknowledge(held) == []


def test_a_process_of_this_host_that_is_gone_is_taken_over_at_once(
    lane: Callable[..., Lane], redis_url: str, namespace: str
) -> None:
    """Its lease still runs for long, but everybody on the host can see that it has died."""
    other = lane()
    put(other, b"1", b"2")
    with subprocess.Popen(
        [sys.executable, "-c", TAKE_AND_WAIT, redis_url, namespace],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as taker:
        assert taker.stdout is not None
        assert taker.stdout.readline().strip() == "2"
        other.renew()
        assert other.waiting(["red"]) == {"red": 0}
        taker.send_signal(signal.SIGKILL)
    other.renew()
    again = other.take({"red": 9})
    assert [(delivery.frame, delivery.redelivered) for delivery in again] == [(b"1", True), (b"2", True)]


def test_only_processes_of_this_place_are_judged() -> None:
    """Another host, another pid namespace and odd text are nobody whose process could be looked for."""
    mine = own_identity()
    place, pid, started = mine.rsplit("|", 2)
    assert not is_gone(mine)
    assert is_gone(f"{place}|{pid}|{int(started) + 1}")
    for other in (f"x{mine}", f"{place}x|{pid}|1", f"{place}|{pid}x|1", "", "|", "a|b|c|d"):
        assert not is_gone(other)


def test_a_lane_that_lost_its_server_is_followed_by_one_that_takes_it_over(lane: Callable[..., Lane]) -> None:
    """What a lane could not give back comes back to the process' next lane at once, marked."""
    broken = lane()
    put(broken, b"1")
    broken.take({"red": 1})
    broken.handle._wire.close()
    broken.handle._wire.send = broken.handle._wire.call = _refuse
    broken.close()
    (again,) = lane().take({"red": 1})
    assert (again.frame, again.redelivered) == (b"1", True)


def _refuse(*_: object) -> None:
    raise BrokerUnavailable("gone")


def test_of_a_lost_delivery_only_successes_are_settled(
    lane: Callable[..., Lane], redis_url: str, namespace: str
) -> None:
    """Whoever was taken over settles its successes; failures, successors and what it sets aside are another's to say."""
    slow, other = lane(lease=0.0), lane(sights=0.0)
    results = RedisResults(redis_url, namespace, 3600.0)
    door = BACKEND.join(slow.handle, results)
    assert isinstance(door, RedisSettlement)
    put(other, b"lost", b"lost too")
    lost = slow.take({"red": 2})
    other.renew()
    other.renew()
    put(other, b"ours")
    slow.take({"red": 2})
    (ours,) = slow.take({"red": 2})
    assert ours.frame == b"ours"
    good, bad, kept = (Record(Key(new_bundle_id(time.time()), 0), state) for state in (SUCCEEDED, FAILED, FAILED))
    batch = [
        Settled(lost[0], [good, bad], is_complete=True),
        Settled(
            lost[1],
            successors=[Outgoing("red", b"", b"next", is_successor=True)],
            quarantined=[QuarantineItem("id", "red", "why", b"", 1.0)],
            is_complete=True,
        ),
        Settled(ours, [kept], is_complete=True),
    ]
    assert door.settle(batch) == [False, False, True]
    assert results.fetch([good.key, bad.key, kept.key]) == [good, None, kept]
    assert results.quarantined() == []
    assert other.waiting(["red"]) == {"red": 0}
    results.close()


def test_what_is_held_back_is_still_counted_once(lane: Callable[..., Lane]) -> None:
    """Giving back twice, or what was acknowledged, changes nothing."""
    one = lane()
    put(one, b"1", b"2")
    held = one.take({"red": 2})
    one.acknowledge(held[:1])
    one.give_back(held)
    one.give_back(held)
    assert one.waiting(["red"]) == {"red": 1}
    assert one.acknowledge(held) == held


def test_an_earlier_delay_rings(lane: Callable[..., Lane]) -> None:
    """A waiting taker hears of a frame that is due before all that it knows of, and knows when."""
    taker, sender = lane(), lane()
    assert taker.take({"red": 1}) == []
    fd = taker.fileno()
    assert fd is not None
    assert taker.next_due() is None
    due = time.time() + 60
    sender.publish([Outgoing("red", b"", b"late", due)], 5.0)
    assert select.select([fd], [], [], 10)[0]
    taker.take({"red": 1})
    assert taker.next_due() == pytest.approx(due, abs=1.0)
    sender.publish([Outgoing("red", b"", b"later", due + 1)], 5.0)
    assert not select.select([fd], [], [], 0)[0]


def test_a_marker_that_is_not_for_us_is_handed_on(lane: Callable[..., Lane]) -> None:
    """A taker without room that is rung passes the marker on to one with room, and is silent."""
    full, free, sender = lane(), lane(), lane()
    full.take({"red": 1})
    fd = full.fileno()
    free.take({"green": 1})
    other = free.fileno()
    assert fd is not None
    assert other is not None
    put(sender, b"1")
    assert select.select([fd], [], [], 10)[0]
    free.take({"red": 0, "green": 0})
    assert full.take({"red": 0}) == []
    assert not select.select([fd], [], [], 0)[0]
    (taken,) = free.take({"red": 1})
    assert taken.frame == b"1"


def test_a_taker_goes_on_after_its_connection_broke(lane: Callable[..., Lane], raw: redis.Redis) -> None:
    """A new connection of the same taker holds what it held, gives back what it had not heard of, and rings as before."""
    taker, sender = lane(), lane()
    put(sender, b"1", b"2")
    held = taker.take({"red": 2})
    assert taker.take({"red": 1}) == []
    fd = taker.fileno()
    put(sender, b"3")
    assert fd is not None
    for client in _clients_of(taker):
        raw.client_kill_filter(_id=str(client))
    with pytest.raises(BrokerUnavailable):
        taker.take({"red": 1})
    taken = taker.take({"red": 1})
    assert [delivery.frame for delivery in taken] == [b"3"]
    assert taker.fileno() == fd
    assert taker.acknowledge([*held, *taken]) == []
    assert taker.take({"red": 1}) == []
    put(sender, b"4")
    assert select.select([fd], [], [], 10)[0]
    (last,) = taker.take({"red": 1})
    assert last.frame == b"4"


def test_what_was_taken_is_handed_over_although_the_bell_broke(
    lane: Callable[..., Lane], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in flight under our lease: an error instead of it would leave it there for as long as we live."""
    taker, sender = lane(), lane()
    taker.fileno()
    put(sender, b"1")
    with monkeypatch.context() as patch:
        patch.setattr(taker.handle, "_await_markers", _refuse)
        assert [delivery.frame for delivery in taker.take({"red": 1})] == [b"1"]
    put(sender, b"2")
    assert [delivery.frame for delivery in taker.take({"red": 1})] == [b"2"]


def test_an_answer_that_is_lost_is_neither_loss_nor_copy(lane: Callable[..., Lane]) -> None:
    """What was taken without an answer is taken again; what was acknowledged without one is gone."""
    taker, sender = lane(), lane()
    put(sender, b"1", b"2")
    (first,) = taker.take({"red": 1})
    _lose_answers(taker)
    with pytest.raises(BrokerUnavailable):
        taker.take({"red": 1})
    (second,) = taker.take({"red": 5})
    assert (second.frame, second.redelivered) == (b"2", False)
    _lose_answers(taker)
    with pytest.raises(BrokerUnavailable):
        taker.acknowledge([first])
    assert taker.acknowledge([first]) == [first]
    assert taker.acknowledge([second]) == []
    assert sender.waiting(["red"]) == {"red": 0}


def _clients_of(lane: Lane) -> set[int]:
    channel = lane.handle
    return {int(channel.wire.call(pack((b"CLIENT", b"ID")))), channel._bell.id}


def _lose_answers(lane: Lane) -> None:
    """Let the next command be sent, and its answer be lost."""
    wire = lane.handle.wire

    def lose() -> None:
        raise redis.exceptions.ConnectionError

    wire._connection.read_response = lose


def test_the_lease_is_an_option_of_the_url(redis_url: str, namespace: str) -> None:
    """`?lease=` says how long a silent worker keeps what it took; what makes no sense is refused."""
    made = BACKEND.transport(f"{redis_url}?lease=3", namespace).capabilities
    assert (made.lease, made.recovery) == (3.0, 4.0)
    for text in ("0", "soon", "nan", "1e9"):
        with pytest.raises(ConfigurationError, match="lease is a number of seconds"):
            BACKEND.transport(f"{redis_url}?lease={text}", namespace)


def test_a_taker_that_was_silent_learns_what_it_lost(lane: Callable[..., Lane]) -> None:
    """After its lease others have what it took, and it is told so when it asks."""
    taker, other = lane(lease=0.3, sights=0.05), lane(lease=5.0, sights=0.05)
    put(other, b"1", b"2")
    taken = taker.take({"red": 2})
    assert taker.find_lost(taken) == []
    found: list[Delivery] = []

    def take_over() -> bool:
        other.renew()
        found.extend(other.take({"red": 2}))
        return len(found) == 2

    eventually(take_over, within=5.0)
    assert taker.find_lost(taken) == taken
    assert other.find_lost(found) == []
