"""Attacks by whoever can publish: what is no message of ours is set aside unread, and nobody else's job notices."""

from __future__ import annotations

import json
import pickle
import sqlite3
import time
import zlib
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kombu
import pika
import pytest
import redis

from queuelib import UnknownJob, broker, codec, envelope
from queuelib.ids import Key, job_id, new_bundle_id
from queuelib.message import Bundle, Limits
from queuelib.outcome import SUCCEEDED
from queuelib.ports import QuarantineItem
from queuelib.settings import MAX_RETRIES
from tests.integration.lab import WITHIN, plain_connection, results
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.integration.lab import Lab, Worker

SPY = Path(__file__).parent / "spy"


class Bomb:
    """A pickle that leaves a file behind when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def set_aside(lab: Lab) -> list[dict[str, Any]]:
    """Return what `queuelib failed ls` lists."""
    return [json.loads(line) for line in lab.queuelib("failed", "ls", "--json").splitlines()]


def items_of(lab: Lab) -> list[QuarantineItem]:
    """Return the quarantine itself."""
    items: list[QuarantineItem] = lab.dispatcher.open_results().quarantined()
    return items


def publish(lab: Lab, body: Any, *, serializer: str | None = None, color: str = "yellow", **properties: Any) -> None:
    """Publish as a plain kombu program does: to the queue by its name."""
    settings = broker.settings_for(lab.url, lab.namespace)
    lab.open_lane().waiting([color])
    options: Mapping[str, Any] = {"connect_timeout": 5, **settings.connection}
    with kombu.Connection(settings.url, transport_options=dict(settings.options), **options) as connection:
        channel = connection.channel()
        queue = f"{lab.namespace}.{color}"
        producer = kombu.Producer(channel)
        producer.publish(body, routing_key=queue, exchange="", serializer=serializer, **properties)


def raw_into(lab: Lab, *entries: bytes, color: str = "yellow") -> None:
    """Write bytes where the broker itself keeps messages, past every client of ours and of kombu."""
    queue = f"{lab.namespace}.{color}"
    if lab.kind == "redis":
        with redis.Redis.from_url(lab.url) as client:
            client.lpush(f"{{{lab.namespace}}}:q:{queue}", *entries)
            client.lpush(f"{{{lab.namespace}}}:wake:{queue}", queue)
    elif lab.kind == "sqlite":
        with closing(sqlite3.connect(lab.url.removeprefix("sqlite:///"))) as connection, connection:
            connection.executemany(
                "INSERT INTO message (queue, published, frame) VALUES (?, ?, ?)",
                [(queue, "never", one) for one in entries],
            )
    else:
        with closing(plain_connection(lab.url)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()  # what is not confirmed may be lost as the connection closes
            for one in entries:
                headers = {"x-death": "many", "x-delivery-count": -5, "ql-at": "then", "ql-due": "soon"}
                channel.basic_publish("", queue, one, pika.BasicProperties(headers=headers))


def spied(lab: Lab) -> Worker:
    """Start a worker whose every process notes what it unpickles, unmarshals or decompresses."""
    paths = f"{SPY}:{lab.environment['PYTHONPATH']}"
    worker = lab.worker("--processes", "1", PYTHONPATH=paths, SPY_LOG=str(lab.folder / "spy.log"))
    worker.await_ready()
    return worker


def rss_mib(pid: int) -> float:
    """Return the largest resident memory that a process ever had."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def test_s01_s02_pickle_yaml_and_raw_bytes_are_set_aside_unread(lab: Lab) -> None:
    """Whatever the body or the content type says, nothing is unpickled: an audit hook in each process hears of none."""
    trap = lab.folder / "trap"
    worker = spied(lab)
    assert lab.deeds.square.submit(2).result(timeout=WITHIN) == 4  # so that there is a queue
    publish(lab, Bomb(trap), serializer="pickle")
    publish(lab, {"task": "os.system", "args": ["touch x"]}, serializer="json")
    publish(lab, "!!python/object/apply:os.system ['id']", content_type="application/x-yaml", content_encoding="utf-8")
    publish(lab, pickle.dumps(Bomb(trap)), content_type="application/x-python-serialize", content_encoding="binary")
    publish(lab, b"\x80\x05\x95", content_type="application/data", content_encoding="base64")
    raw_into(lab, b"x", pickle.dumps(Bomb(trap)), bytes(2000))
    eventually(lambda: len(items_of(lab)) == 8, within=WITHIN)
    assert lab.deeds.square.submit(3).result(timeout=WITHIN) == 9
    assert worker.said.count("set aside unreadable-") == 8
    assert all(item.reason.startswith("undecodable") for item in items_of(lab))
    assert not trap.exists()
    heard = (lab.folder / "spy.log").read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith("watching") for line in heard) >= 3, heard  # supervisor, template, child
    assert [line for line in heard if not line.startswith("watching")] == []


def test_s03_a_zip_bomb_is_set_aside(lab: Lab) -> None:
    """A compressed body and a `compression` header are bytes like others: the worker's memory does not grow by them."""
    worker = spied(lab)
    assert lab.deeds.square.submit(3).result(timeout=WITHIN) == 9
    before = rss_mib(worker.pid)
    bomb = zlib.compress(bytes(512 * 1024 * 1024), 9)
    publish(lab, bomb, content_type="application/x-queuelib", content_encoding="binary",
            headers={"compression": "application/x-gzip"})  # fmt: skip
    publish(lab, "y" * 10_000_000, serializer="json", compression="gzip")
    eventually(lambda: len(items_of(lab)) == 2, within=WITHIN)
    assert lab.deeds.square.submit(4).result(timeout=WITHIN) == 16
    assert rss_mib(worker.pid) - before < 64
    assert "zlib" not in (lab.folder / "spy.log").read_text(encoding="utf-8")


def test_s06_s07_bombs_and_forgeries_cost_the_worker_little(lab: Lab) -> None:
    """Wide, deep and forged messages are set aside or fail their job; the worker stays small, and its child lives."""
    worker = lab.ready_worker("--processes", "1")
    child = lab.deeds.whereabouts.submit().result(timeout=WITHIN)[0]
    before = rss_mib(worker.pid)
    wide = b"\xdd" + (3_900_000).to_bytes(4, "big") + b"\x90" * 3_900_000
    lab.publish_raw([wide, b"\x9f" * 1_000_000, b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b"\x94\x02\xc0\xc0" + wide])
    bundle = Bundle(new_bundle_id(time.time()), "deeds.anything", "yellow", 1, [0], b"\x91\x91" + wide, submitted=1.0)
    lab.publish_raw([envelope.encode(bundle)])
    eventually(lambda: len(items_of(lab)) == 5, within=WITHIN)
    assert lab.deeds.whereabouts.submit().result(timeout=WITHIN)[0] == child
    assert rss_mib(worker.pid) - before < 150  # copies of some MiB each on their way in and out, no lists
    assert rss_mib(child) < 600


def test_s09_names_of_others_are_never_called(served: Lab) -> None:
    """A message for os.system or a dotted path waits for a worker that knows it; the marker is not made."""
    trap = served.folder / "trap"
    for name in ("os.system", "posix.system", "deeds.os.system", "deeds.dispatcher.close", "__import__"):
        column = b"\x91" + codec.encode([f"touch {trap}"])
        served.publish_raw([envelope.encode(Bundle(new_bundle_id(time.time()), name, "yellow", 1, [0], column))])
    assert results(served.deeds.square.submit_many([(i,) for i in range(50)]), within=WITHIN) == [
        i * i for i in range(50)
    ]
    assert not trap.exists()


@pytest.mark.parametrize("what", ["reply", "retries"])
def test_s37_forged_fields_affect_only_their_message(lab: Lab, what: str) -> None:
    """A reply address that is another queue, or a retry count beyond the cap: neighbors run, no queue gets what is not its."""
    lab.ready_worker("--processes", "1")
    base = Bundle(new_bundle_id(time.time()), "deeds.square", "yellow", 1, [0], b"\x91\x91\x05", submitted=time.time())
    forged = {
        "reply": base._replace(reply=f"{lab.namespace}.green"),
        "retries": base._replace(limits=Limits(retries=MAX_RETRIES + 1)),
    }[what]
    lab.publish_raw([envelope.encode(forged)])
    assert lab.deeds.square.submit(6).result(timeout=WITHIN) == 36
    if what == "retries":
        eventually(lambda: len(items_of(lab)) == 1, within=WITHIN)
    assert lab.open_lane().waiting(["red", "green"]) == {"red": 0, "green": 0}


def test_s37_a_message_that_came_before_its_time_goes_back(lab: Lab) -> None:
    """A due time a thousand years ahead, in the envelope alone, keeps no room in the worker and runs nothing."""
    lab.ready_worker("--processes", "1")
    for due in (time.time() + 3600, 2.0**37):
        bundle = Bundle(new_bundle_id(time.time()), "deeds.square", "yellow", 1, [0], b"\x91\x91\x05", due=due)
        lab.publish_raw([envelope.encode(bundle)])
    assert lab.deeds.square.submit(6).result(timeout=WITHIN) == 36
    assert items_of(lab) == []


def test_s37_an_id_beyond_all_clocks(lab: Lab) -> None:
    """A bundle id of the year 10889: its job is unknown, and one that was put in by hand runs, also once it came back."""
    bundle_id = b"\xff" * 16
    job = lab.dispatcher.job(job_id(bundle_id, 0))
    if lab.kind == "amqp":  # which keeps no record of what was given out
        assert job.state == "queued"
    else:
        with pytest.raises(UnknownJob):
            _ = job.state
    history, gate = lab.history(), lab.gate()
    column = codec.encode([[history.path, "late", gate.path]])
    lab.publish_raw([envelope.encode(Bundle(bundle_id, "deeds.mark", "yellow", 1, [0], column))])
    first = lab.ready_worker("--processes", "1")
    history.await_start("late")
    first.kill()
    lab.ready_worker("--processes", "1")
    history.await_start("late", times=2)
    gate.open()
    eventually(lambda: history.count("finish")["late"] == 1, within=WITHIN)


@pytest.mark.parametrize("broker_kind", ["redis"], indirect=True)
def test_s37_a_foreign_entry_among_the_workers(lab: Lab) -> None:
    """It stands for no worker, and keeps nobody from seeing the others."""
    lab.ready_worker("--processes", "1", "--name", "mine")
    with redis.Redis.from_url(lab.url) as client:
        for name, value in {b"x": b"garbage", b"\xff": b"\x90", b"y": b"\x96\x01\x02\x03\x04\x05\x06"}.items():
            client.hset(f"{{{lab.namespace}}}:workers", name, value)
    assert [worker.name for worker in lab.dispatcher.open_results().workers()] == ["mine"]


def test_s37_forged_delivery_metadata_is_no_crash(lab: Lab) -> None:
    """Headers and columns of other types, negative counts and entries too short for a header: the next job runs."""
    worker = lab.ready_worker("--processes", "1")
    assert lab.deeds.square.submit(2).result(timeout=WITHIN) == 4  # so that there is a queue
    bundle_id = new_bundle_id(time.time())
    good = envelope.encode(Bundle(bundle_id, "deeds.square", "yellow", 1, [0], b"\x91\x91\x05", submitted=time.time()))
    raw_into(lab, b"x", b"\xff" * 10, b"\x00" * 9 + b"\xff", good)
    eventually(lambda: len(items_of(lab)) == 3, within=WITHIN)
    stored = lab.dispatcher.open_results()
    eventually(lambda: [one and one.state for one in stored.fetch([Key(bundle_id, 0)])] == [SUCCEEDED], within=WITHIN)
    assert lab.deeds.square.submit(6).result(timeout=WITHIN) == 36
    assert worker.process.poll() is None
