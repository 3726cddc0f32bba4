"""Children ask for what is shared, and a thread beside the supervisor fetches it, once for the host."""

from __future__ import annotations

import errno
import os
import socket
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from queuelib import Dispatcher, codec, content, pieces, plugins
from queuelib.errors import BrokerUnavailable, ConfigurationError, QueuelibError, SharedGone
from queuelib.handle import ARGUMENT, RESULT, Stored, reader
from queuelib.ids import Key
from queuelib.large import Store
from queuelib.ports import Blobs
from queuelib.settings import BLOB_BYTES
from queuelib.worker import fetch
from queuelib.worker.cache import Cache
from queuelib.worker.execute import Executor
from queuelib.worker.fetch import Asking, Fetcher

VALUE = list(range(500_000))  # of several pieces


class Counting:
    """A keeper that counts what is read, and may be away for a while."""

    def __init__(self, inner: Blobs, *, failures: int = 0) -> None:
        self.read: list[bytes] = []
        self.failures = failures
        self.closed = threading.Event()
        self._inner = inner
        self.put, self.renew, self.drop = inner.put, inner.renew, inner.drop

    def get(self, names: Sequence[bytes]) -> list[bytes | None]:
        """Count."""
        if self.failures:
            self.failures -= 1
            msg = "away"
            raise BrokerUnavailable(msg)
        self.read += names
        return self._inner.get(names)

    def close(self) -> None:
        """Note it."""
        self.closed.set()


@pytest.fixture
def blobs() -> Counting:
    """A server of this test's own."""
    return Counting(plugins.blobs_for(f"memory://{uuid.uuid4().hex}", "x", 60.0))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """A folder of this test's own."""
    return Cache(tmp_path / "c")


@pytest.fixture
def fetcher(blobs: Counting, cache: Cache) -> Iterator[Fetcher]:
    """A fetcher that serves."""
    with closing(Fetcher(cache)) as fetcher:
        fetcher.start(lambda: blobs)
        yield fetcher


def share(blobs: Counting, value: Any = VALUE) -> tuple[bytes, int]:
    """Keep something; return hash and length."""
    data = content.encode(value)
    return pieces.store(blobs, data), len(data)


def test_it_is_fetched_once(fetcher: Fetcher, blobs: Counting, cache: Cache) -> None:
    """Several children ask at once and each gets it; the server was asked for each piece once."""
    content_hash, size = share(blobs)
    found: list[Any] = []
    askers = [Asking(fetcher.door.dup(), cache) for _ in range(4)]
    threads = [
        threading.Thread(target=lambda one: found.append(one.read(content_hash, size, Any)), args=(asking,))
        for asking in askers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)
    assert found == [VALUE] * 4
    assert len(blobs.read) == len(set(blobs.read)) == -(-size // BLOB_BYTES)
    for asking in askers:
        asking._door.close()


def test_two_workers_of_a_host_fetch_it_once(fetcher: Fetcher, blobs: Counting, cache: Cache) -> None:
    """What one worker has fetched the other's children find."""
    content_hash, size = share(blobs)
    assert Asking(fetcher.door, cache).read(content_hash, size, Any) == VALUE
    count = len(blobs.read)
    with closing(Fetcher(cache)) as other:
        other.start(lambda: blobs)
        assert Asking(other.door, cache).read(content_hash, size, Any) == VALUE
    assert len(blobs.read) == count


def test_nothing_is_connected_before_a_child_asks(cache: Cache) -> None:
    """A worker whose jobs share nothing opens no connection for it, and makes no folder."""
    opened: list[int] = []

    def connect() -> Blobs:
        opened.append(1)
        raise AssertionError

    with closing(Fetcher(cache)) as fetcher:
        fetcher.start(connect)
    assert opened == []
    assert not cache._folder.exists()


def test_what_is_gone_is_said(fetcher: Fetcher, blobs: Counting, cache: Cache) -> None:
    """The handler is told what became of it, and the next question is answered."""
    content_hash, size = share(blobs, "gone")
    pieces.drop(blobs, content_hash, size)
    asking = Asking(fetcher.door, cache)
    with pytest.raises(SharedGone, match="share it again"):
        asking.read(content_hash, size, Any)
    assert asking.read(*share(blobs, "there"), Any) == "there"


def test_a_server_that_is_away_is_asked_again(fetcher: Fetcher, blobs: Counting, cache: Cache) -> None:
    """A hiccup of the server fails no job."""
    known = share(blobs)
    blobs.failures = 2
    assert Asking(fetcher.door, cache).read(*known, Any) == VALUE
    assert blobs.failures == 0


def test_a_server_that_stays_away_is_said(
    fetcher: Fetcher, blobs: Counting, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while the handler is told."""
    monkeypatch.setattr(fetch, "_PATIENCE", 0.2)
    known = share(blobs)
    blobs.failures = 1_000_000
    with pytest.raises(BrokerUnavailable, match="away"):
        Asking(fetcher.door, cache).read(*known, Any)


def test_what_goes_wrong_ends_no_thread(
    fetcher: Fetcher, blobs: Counting, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that nobody thought of is told, and the next question is answered."""
    known = share(blobs)
    with monkeypatch.context() as patch:
        patch.setattr(pieces, "load", lambda *_: 1 / 0)
        with pytest.raises(QueuelibError, match="zero"):
            Asking(fetcher.door, cache).read(*known, Any)
    assert Asking(fetcher.door, cache).read(*known, Any) == VALUE


@pytest.mark.parametrize("words", [b"x", b"", b"\xff" * 40, b"x" * 5000])
def test_user_code_may_write_to_the_door(fetcher: Fetcher, blobs: Counting, cache: Cache, words: bytes) -> None:
    """What is no question is answered with an error or not at all, and nobody else suffers."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        if words:
            fetcher.door.send(words)
        socket.send_fds(fetcher.door, [words or b"-"], [theirs.fileno()])
        theirs.close()
        assert ours.recv(4096).startswith(b"f")
    assert Asking(fetcher.door, cache).read(*share(blobs), Any) == VALUE


def test_a_child_that_does_not_wait_is_no_harm(fetcher: Fetcher, blobs: Counting, cache: Cache) -> None:
    """One that was killed while it waited takes no answer, and others get theirs."""
    content_hash, size = share(blobs)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    socket.send_fds(fetcher.door, [content_hash + size.to_bytes(8, "big")], [theirs.fileno()])
    ours.close()
    theirs.close()
    assert Asking(fetcher.door, cache).read(content_hash, size, Any) == VALUE


def test_the_end(blobs: Counting, cache: Cache) -> None:
    """Closed, its connection is closed, its thread gone, and who asks is told."""
    fetcher = Fetcher(cache)
    fetcher.start(lambda: blobs)
    door = fetcher.door.dup()
    assert Asking(door, cache).read(*share(blobs), Any) == VALUE
    fetcher.close()
    assert blobs.closed.is_set()
    assert "queuelib-fetch" not in [thread.name for thread in threading.enumerate()]
    with closing(door), pytest.raises((QueuelibError, OSError)):
        Asking(door, cache).read(os.urandom(32), 10, Any)


def test_one_that_never_served_ends(cache: Cache) -> None:
    """A worker that could not start leaves nothing open."""
    fetcher = Fetcher(cache)
    fetcher.close()
    assert fetcher.door.fileno() == -1


RESULT_BYTES = codec.encode(bytes(300_000))


@pytest.fixture
def large(blobs: Counting, cache: Cache) -> Iterator[tuple[Fetcher, Store, list[Exception]]]:
    """A fetcher that has a store, and errors that its connection raises."""
    errors: list[Exception] = []

    def connect(_: float) -> Any:
        if errors:
            raise errors[0]
        return blobs

    store = Store(connect, 60.0)
    with closing(Fetcher(cache)) as fetcher:
        fetcher.start(lambda: blobs, store)
        yield fetcher, store, errors


def test_a_result_is_kept_and_read(large: tuple[Fetcher, Store, list[Exception]], cache: Cache) -> None:
    """What a child keeps any client reads, and another child, which asks once however often it needs it."""
    fetcher, store, _ = large
    stored = Asking(fetcher.door, cache).keep(RESULT_BYTES)
    assert stored == Stored(RESULT, stored.hash, len(RESULT_BYTES) + 2)
    assert store.get(stored) == RESULT_BYTES
    asking = Asking(fetcher.door, cache)
    assert [asking.load(stored) for _ in range(3)] == [RESULT_BYTES] * 3


@pytest.mark.parametrize(
    "error", [ConfigurationError("nothing is kept here"), BrokerUnavailable("away"), ValueError("odd")]
)
def test_a_result_that_is_not_kept(
    large: tuple[Fetcher, Store, list[Exception]], cache: Cache, error: Exception
) -> None:
    """The child hears why, and others are served."""
    fetcher, store, errors = large
    errors.append(error)
    with pytest.raises(QueuelibError, match=str(error)):
        Asking(fetcher.door, cache).keep(RESULT_BYTES)
    errors.clear()
    assert store.get(Asking(fetcher.door, cache).keep(RESULT_BYTES)) == RESULT_BYTES


def _refuse(*_: object) -> int:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.mark.parametrize("at", ["memfd_create", "socketpair", "send_fds"])
def test_a_child_that_has_no_descriptor_left(
    large: tuple[Fetcher, Store, list[Exception]], cache: Cache, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Its handler has them all, and has finished: what it returned travels as it is."""
    fetcher, _, _ = large
    asking = Asking(fetcher.door, cache)
    executor = Executor(Dispatcher("memory://"), "w1")
    token = reader.set(asking)
    try:
        assert len(executor.moved(RESULT_BYTES)) < 100
        monkeypatch.setattr(os if at == "memfd_create" else socket, at, _refuse)
        assert executor.moved(RESULT_BYTES) == RESULT_BYTES
    finally:
        reader.reset(token)


def test_a_worker_that_has_no_descriptor_left(blobs: Counting, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child that asks for its state hears so, and the next one is served."""
    key = Key(bytes(16), 1)
    with closing(Fetcher(cache)) as fetcher:
        fetcher.start(lambda: blobs, states=lambda _: b"1")
        with monkeypatch.context() as patch:
            patch.setattr(os, "memfd_create", _refuse)
            with pytest.raises(QueuelibError, match=os.strerror(errno.EMFILE)):
                Asking(fetcher.door, cache).read_state(key)
        assert Asking(fetcher.door, cache).read_state(key) == b"1"


def test_without_a_store_nothing_is_kept(fetcher: Fetcher, cache: Cache) -> None:
    """A result travels in its outcome then."""
    with pytest.raises(QueuelibError, match="nothing is kept"):
        Asking(fetcher.door, cache).keep(RESULT_BYTES)


def test_a_value_that_is_gone(large: tuple[Fetcher, Store, list[Exception]], cache: Cache) -> None:
    """It says which it was."""
    with pytest.raises(SharedGone, match="an argument of this job takes 9 bytes"):
        Asking(large[0].door, cache).load(Stored(ARGUMENT, bytes(32), 9))


def test_a_value_is_waited_for(
    large: tuple[Fetcher, Store, list[Exception]], blobs: Counting, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as its server is away, since an outcome would have to wait for the same one."""
    monkeypatch.setattr(fetch, "_PATIENCE", 0.0)
    stored = large[1].put(ARGUMENT, RESULT_BYTES)
    blobs.failures = 3
    assert Asking(large[0].door, cache).load(stored) == RESULT_BYTES
    assert blobs.failures == 0


@pytest.mark.parametrize("question", [b"\2" + bytes(39) + b"\1", b"\1" + bytes(32) + (1 << 40).to_bytes(8, "big")])
def test_questions_that_make_no_sense(
    large: tuple[Fetcher, Store, list[Exception]], cache: Cache, question: bytes
) -> None:
    """User code may ask them, with any file beside them; nobody minds."""
    fetcher, store, _ = large
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, Path(os.devnull).open("rb") as file:
        socket.send_fds(fetcher.door, [question], [theirs.fileno(), file.fileno()])
        assert ours.recv(100) == b"fnot a question"
    assert store.get(Asking(fetcher.door, cache).keep(RESULT_BYTES)) == RESULT_BYTES
