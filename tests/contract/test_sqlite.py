"""sqlite:// passes the conformance suite, and its results together with another broker's messages."""

from __future__ import annotations

import errno
import os
import select
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from queuelib import plugins
from queuelib.broker import open_lane, settings_for
from queuelib.errors import BrokerUnavailable
from queuelib.ids import Key, new_bundle_id
from queuelib.message import Outgoing
from queuelib.outcome import FAILED, QUEUED, RETRYING, RUNNING, SUCCEEDED, Record
from queuelib.ports import Redelivery, ResultCapabilities, Settled, TransportCapabilities
from queuelib.testing import (
    BlobConformance,
    MemoConformance,
    ResultConformance,
    SettlementConformance,
    TransportConformance,
    eventually,
)
from queuelib.testing.conformance import span
from queuelib_sqlite.blobs import SqliteBlobs
from queuelib_sqlite.results import SqliteResults
from queuelib_sqlite.store import LAYOUT, Store


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A file of this test's own."""
    return f"sqlite:///{tmp_path}/a file.db"


class TestTransport(TransportConformance):
    """A file and the processes of one machine."""

    expected = TransportCapabilities(
        has_batch_verbs=True,
        redelivery=Redelivery.LEASE,
        recovery=2.0,
        delays=True,
        deduplicates=True,
        wakes=True,
        survives_restart=True,
    )


class TestResults(ResultConformance):
    """The same file."""

    expected = ResultCapabilities(records=True, survives_restart=True, cancels_at_once=True)


def test_span_is_one_row(tmp_path: Path) -> None:
    """A span over nothing but states on the way is kept whole, and each of its jobs is answered with it."""
    results = plugins.backend_for(f"sqlite:///{tmp_path}/a.db").results(f"sqlite:///{tmp_path}/a.db", "lab", 3600.0)
    done = span(100)
    results.store([Record(done.keys[7], RUNNING, 1, b"", time.time())])
    assert results.store([done]) == [True]
    assert results.fetch(done.keys) == [done] * 100
    assert results.fetch([done.keys[99]]) == [done]
    results.close()
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        rows = connection.execute("SELECT (SELECT count(*) FROM span), (SELECT count(*) FROM outcome)").fetchone()
    assert rows == (1, 0)


def test_kept_long_enough(tmp_path: Path) -> None:
    """Spans are deleted with the single outcomes of their time."""
    results = plugins.backend_for(f"sqlite:///{tmp_path}/a.db").results(f"sqlite:///{tmp_path}/a.db", "lab", 60.0)
    old = new_bundle_id(time.time() - 100)
    done = span(3, bundle=old)._replace(at=time.time() - 100)
    single = Record(Key(old, 5), FAILED, 1, b"", time.time() - 100)
    assert results.store([done, single]) == [True, True]
    assert results.fetch([done.keys[1], single.key]) == [None, None]


def test_many_that_were_kept_long_enough_all_go_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep deletes a part; as long as there is more, the next one comes soon, so that the file does not grow."""
    monkeypatch.setattr("queuelib_sqlite.outcomes._AT_ONCE", 10)
    monkeypatch.setattr("queuelib_sqlite.results._SWEEP_AGAIN", 0.0)
    url = f"sqlite:///{tmp_path}/a.db"
    results = plugins.backend_for(url).results(url, "lab", 60.0)
    old = new_bundle_id(time.time() - 100)
    singles = [Record(Key(old, index), FAILED, 1, b"", time.time() - 100) for index in range(25)]
    results.store(singles)
    for _ in range(2):
        results.store([])
    assert results.fetch([record.key for record in singles]) == [None] * 25
    results.close()


def test_a_mark_is_kept_as_long_as_its_message(tmp_path: Path) -> None:
    """A cancelled job that waits for longer than outcomes are kept is not started then."""
    url = f"sqlite:///{tmp_path}/a.db"
    results = plugins.backend_for(url).results(url, "lab", 60.0)
    with closing(open_lane(settings_for(url, "lab"), "lab", 5.0)) as lane:
        waiting, gone = new_bundle_id(time.time()), new_bundle_id(time.time())
        lane.publish([Outgoing("red", waiting, b"frame", time.time() + 3600.0)], 5.0)
    results.cancel([Key(waiting, 0), Key(gone, 0)])
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute("UPDATE cancel SET at = at - 100")
        connection.commit()
    results.store([Record(Key(new_bundle_id(time.time()), 0), FAILED, 1, b"", time.time())])
    assert list(results.cancelled(None).keys) == [Key(waiting, 0)]
    results.close()


def test_what_is_known_of_a_bundle_is_kept_as_long_as_its_message(tmp_path: Path) -> None:
    """A job that runs for longer than outcomes are kept keeps its start mark, and what has ended of its bundle its ending.

    Whoever takes the message over after a death starts neither a second time.
    """
    url = f"sqlite:///{tmp_path}/a.db"
    long_ago, now = time.time() - 100, time.time()
    with (
        closing(plugins.backend_for(url).results(url, "lab", 60.0)) as results,
        closing(open_lane(settings_for(url, "lab"), "lab", 5.0)) as lane,
    ):
        bundle, gone = new_bundle_id(long_ago), new_bundle_id(long_ago)
        lane.publish([Outgoing("red", one, b"frame", None, 10) for one in (bundle, gone)], 5.0)
        held = lane.take({"red": 2})
        records = [
            record
            for one in (bundle, gone)
            for record in (
                Record(Key(one, 0), RUNNING, 1, b"mark", long_ago),
                Record(Key(one, 1), RETRYING, 1, b"", long_ago),
                Record(Key(one, 2), FAILED, 1, b"", long_ago),
                span(3, bundle=one)._replace(key=Key(one, 3), at=long_ago),
            )
        ]
        lane.acknowledge([delivery for delivery in held if delivery.tag == held[1].tag])
        assert all(results.store(records))
        keys = [Key(bundle, index) for index in range(6)]
        kept = results.fetch(keys)
        assert [record.state for record in kept if record] == [RUNNING, RETRYING, FAILED, *[SUCCEEDED] * 3]
        assert results.fetch([Key(gone, index) for index in range(6)]) == [None] * 6

        lane.acknowledge(held[:1])
        results.close()  # its next transaction sweeps
        again = plugins.backend_for(url).results(url, "lab", 60.0)
        again.store([Record(Key(new_bundle_id(now), 0), FAILED, 1, b"", now)])
        assert again.fetch(keys) == [None] * 6
        again.close()


def test_a_state_is_kept_for_long_where_the_message_is_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows here how long a message of another broker lives: for 30 days what has not ended is remembered."""
    monkeypatch.setattr("queuelib_sqlite.results._SWEEP_EVERY", 0.0)
    url = f"sqlite:///{tmp_path}/a.db"
    with closing(plugins.backend_for(url).results(url, "lab", 60.0)) as results:
        keys = []
        for age in (100.0, 31 * 86400.0):
            at = time.time() - age
            bundle = new_bundle_id(at)
            results.accept([Outgoing("red", bundle, b"", None, 2)])
            keys += [Key(bundle, 0), Key(bundle, 1)]
            results.store([Record(Key(bundle, 0), RUNNING, 1, b"mark", at), Record(Key(bundle, 1), FAILED, 1, b"", at)])
        found = results.fetch(keys)
    assert [record and record.state for record in found] == [RUNNING, QUEUED, None, None]


def test_who_could_not_become_a_taker_takes_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file was locked at the first take, the next one makes a taker: what it holds is found after its death."""
    with closing(open_lane(settings_for(url, "lab"), "lab", 5.0)) as lane:
        lane.publish([Outgoing("red", new_bundle_id(time.time()), b"frame")], 5.0)
        dying = open_lane(settings_for(url, "lab"), "lab", 5.0)
        with monkeypatch.context() as patch:
            patch.setattr(Store, "_begin", _refuse)
            with pytest.raises(BrokerUnavailable):
                dying.take({"red": 1})
        assert len(dying.take({"red": 1})) == 1
        dying.handle.abandon()
        lane.renew()
        assert [delivery.redelivered for delivery in lane.take({"red": 1})] == [True]
        dying.close()


def test_what_is_written_is_no_failure_although_nobody_can_be_struck_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that is gone is struck off the list afterwards; where the file is locked just then, another time."""
    with closing(Store(tmp_path / "a.db")) as store:
        store.register(str(store.folder / "gone"), ("topic",))
        begin = store._begin
        begun: list[object] = []

        def once(*arguments: Any) -> None:
            begun.append(arguments)
            (begin if len(begun) == 1 else _refuse)(*arguments)

        monkeypatch.setattr(store, "_begin", once)
        with store.write() as connection:
            connection.execute("INSERT INTO queue VALUES ('written')")
            store.rung.add("topic")
        assert len(begun) == 2
        assert store.connection.execute("SELECT * FROM queue").fetchall() == [("written",)]


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.EACCES, errno.ENOMEM])
def test_what_is_written_is_no_failure_although_nobody_can_be_told(
    url: str, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """A program at its limit of descriptors publishes and settles; who waits stays registered, and finds it later."""
    with (
        closing(open_lane(settings_for(url, "lab"), "lab", 5.0)) as worker,
        closing(open_lane(settings_for(url, "lab"), "lab", 5.0)) as lane,
        closing(plugins.backend_for(url).results(url, "lab", 3600.0)) as results,
    ):
        worker.fileno()
        worker.take({"red": 0})
        key = Key(new_bundle_id(time.time()), 0)
        results.wait([key], 0.0)
        settlement = plugins.backend_for(url).join(worker.handle, results)
        assert settlement is not None
        with monkeypatch.context() as patch:
            patch.setattr("os.open", _failing_with(error))
            lane.publish([Outgoing("red", key.bundle, b"frame")], 5.0)
            (delivery,) = worker.take({"red": 1})
            ended = Record(key, FAILED, 1, b"", time.time())
            assert settlement.settle([Settled(delivery, [ended], is_complete=True)]) == [True]
        assert results.fetch([key]) == [ended]
        bell = worker.fileno()
        assert bell is not None
        lane.publish([Outgoing("red", new_bundle_id(time.time()), b"frame")], 5.0)
        assert select.select([bell], [], [], 5.0)[0], "it was struck off"


def test_what_is_written_is_no_failure_although_a_pipe_without_reader_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the pipe of somebody who has died cannot be removed, it is for another time."""
    with closing(Store(tmp_path / "a.db")) as store:
        store.register(str(store.folder / "wake-dead"), ("topic",))
        os.mkfifo(store.folder / "wake-dead")
        monkeypatch.setattr(Path, "unlink", _failing_with(errno.EPERM))
        with store.write() as connection:
            connection.execute("INSERT INTO queue VALUES ('written')")
            store.rung.add("topic")
        assert store.connection.execute("SELECT * FROM queue").fetchall() == [("written",)]


def _failing_with(error: int) -> Callable[..., int]:
    def fail(*_: object, **__: object) -> int:
        raise OSError(error, os.strerror(error))

    return fail


def _refuse(*_: object) -> None:
    raise BrokerUnavailable("locked")


@pytest.mark.parametrize(
    ("layout", "lacking"),
    [
        (1, ("span", "exchange", "queue", "binding", "blob", "memo")),
        (2, ("blob", "memo")),
        (3, ("memo",)),
    ],
)
def test_older_layout_is_brought_up_to_date(tmp_path: Path, layout: int, lacking: tuple[str, ...]) -> None:
    """A file from before there were spans, exchanges for plain kombu programs, blobs or memos gets what it lacks."""
    path = tmp_path / "a.db"
    first = Store(path)
    assert first.connection.execute("PRAGMA user_version").fetchone() == (LAYOUT,)
    for table in lacking:
        first.connection.execute(f"DROP TABLE {table}")
    first.connection.execute(f"PRAGMA user_version = {layout}")
    first.close()
    again = Store(path)
    for table in lacking:
        assert again.connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)  # noqa: S608 - no input
    assert again.connection.execute("PRAGMA user_version").fetchone() == (LAYOUT,)
    again.close()


class TestSettlement(SettlementConformance):
    """One transaction."""

    @pytest.fixture
    def results_url(self, url: str) -> str:
        """The same file."""
        return url


class TestSettlementInTwoFiles(SettlementConformance):
    """Stored first, then acknowledged."""

    @pytest.fixture
    def results_url(self, tmp_path: Path) -> str:
        """Another file."""
        return f"sqlite:///{tmp_path}/results.db"


class TestBlobs(BlobConformance):
    """Rows."""

    def test_others_write_between_two_pieces(self, tmp_path: Path) -> None:
        """Nobody waits for all of an object: while it is put, or dropped, another writer has the file for itself."""
        path = tmp_path / "a.db"
        other = Store(path)
        written: list[int] = []

        class Slow(dict[bytes, bytes]):
            def items(self) -> Any:
                for name, data in super().items():
                    yield name, data
                    with other.write(deadline=0.0) as connection:
                        written.extend(connection.execute("SELECT max(id) FROM blob").fetchone())

            def __iter__(self) -> Iterator[bytes]:
                return (name for name, _ in self.items())

        with closing(SqliteBlobs(path, "x", 60.0)) as blobs:
            some = Slow({bytes([number]): b"data" for number in range(3)})
            blobs.put(some)
            assert written == [1, 2, 3]
            blobs.drop(cast("Any", some))
        assert written[3:] == [3, 3, None]
        other.close()

    def test_what_is_over_goes_with_outcomes(self, tmp_path: Path) -> None:
        """A worker that only settles jobs sweeps them too, some at a time."""
        path = tmp_path / "a.db"
        with closing(SqliteBlobs(path, "x", 0.001)) as blobs, closing(SqliteBlobs(path, "x", 60.0)) as kept:
            kept.put({b"kept": b"data"})
            blobs.put({bytes([number]): b"data" for number in range(5)})
        with closing(SqliteResults(path, "x", 60.0)) as results, closing(Store(path)) as store:

            def is_swept() -> bool:
                results._sweep_at = 0.0
                with store.write() as connection:
                    results.sweep(connection)
                    return bool(connection.execute("SELECT name FROM blob").fetchall() == [(b"kept",)])

            eventually(is_swept, within=10.0)


class TestMemos(MemoConformance):
    """Rows."""
