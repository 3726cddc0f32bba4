"""Tests for keepers of blobs: what is shared comes back whole or not at all, and goes by itself."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager

import pytest

from queuelib import pieces, plugins
from queuelib.errors import BrokerUnavailable, SharedGone
from queuelib.ports import Blobs
from queuelib.settings import BLOB_BYTES

__all__ = ["BlobConformance"]

MIB = 1024 * 1024
SHORT = 0.3  # seconds that a blob is kept where it is to go
_PAUSE = threading.Event()  # never set
_WITHIN = 15.0  # seconds until servers have seen that a time is over
_STORE = """
import sys
from queuelib import pieces, plugins
blobs = plugins.blobs_for(sys.argv[1], sys.argv[2], 60.0)
print(pieces.store(blobs, memoryview(b"shared" * 500_000)).hex())
"""


class BlobConformance:
    """What every keeper of blobs must do.

    A subclass defines the fixture `url`, or overrides `open`, and sets `crosses_processes`.
    """

    crosses_processes = True

    @pytest.fixture
    def place(self) -> str:
        """A namespace of this test's own."""
        return f"c{uuid.uuid4().hex[:12]}"

    def open(self, url: str, place: str, keep: float) -> Blobs:
        """Return a keeper, opened anew."""
        return plugins.blobs_for(url, place, keep)

    @contextmanager
    def blobs(self, url: str, place: str, keep: float = 60.0) -> Generator[Blobs]:
        """Open a keeper, and close it whatever happens."""
        blobs = self.open(url, place, keep)
        try:
            yield blobs
        finally:
            blobs.close()

    def test_pieces_come_back(self, url: str, place: str) -> None:
        """What one instance keeps another reads, in the order asked for, any bytes, as often as it likes."""
        with self.blobs(url, place) as writer, self.blobs(url, place) as reader:
            kept = {name(0): b"\x00", name(1): b"\xc1\xff" * 1000, name(2): os.urandom(BLOB_BYTES)}
            writer.put(kept)
            for _ in range(2):
                assert reader.get([*reversed(kept)]) == [*reversed(kept.values())]
            writer.drop(list(kept))

    def test_what_is_missing_is_none(self, url: str, place: str) -> None:
        """Of what was never kept, or dropped, nothing comes; its neighbors come all the same."""
        with self.blobs(url, place) as blobs:
            blobs.put({name(0): b"a", name(1): b"b"})
            assert blobs.get([name(7), name(0), name(8), name(1)]) == [None, b"a", None, b"b"]
            assert blobs.renew([name(7), name(0)]) == [False, True]
            blobs.drop([name(0), name(7)])
            assert blobs.get([name(0), name(1)]) == [None, b"b"]
            assert blobs.get([]) == []
            assert blobs.renew([]) == []
            blobs.drop([name(1)])

    def test_a_second_put_changes_nothing(self, url: str, place: str) -> None:
        """Kept twice is kept once, and what came first stays."""
        with self.blobs(url, place) as blobs:
            blobs.put({name(0): b"first"})
            blobs.put({name(0): b"first", name(1): b"b"})
            assert blobs.get([name(0), name(1)]) == [b"first", b"b"]
            blobs.drop([name(0), name(1)])
            assert blobs.renew([name(0), name(1)]) == [False, False]

    def test_namespaces_are_apart(self, url: str, place: str) -> None:
        """One namespace knows nothing of another's blobs, and drops none of them."""
        with self.blobs(url, place) as ours, self.blobs(url, place + "x") as theirs:
            ours.put({name(0): b"ours"})
            assert theirs.get([name(0)]) == [None]
            theirs.drop([name(0)])
            assert ours.get([name(0)]) == [b"ours"]
            ours.drop([name(0)])

    def test_twenty_mib(self, url: str, place: str) -> None:
        """Something large comes back whole, and a second put of it sends nothing."""
        content = os.urandom(20 * MIB + 17)
        with self.blobs(url, place) as blobs:
            known = pieces.store(blobs, memoryview(content))
            assert loaded(blobs, known, len(content)) == content
            counting = Counting(blobs)
            assert pieces.store(counting, memoryview(content)) == known
            assert counting.sent == 0
            pieces.drop(blobs, known, len(content))
            with pytest.raises(SharedGone):
                loaded(blobs, known, len(content))

    def test_a_put_that_broke_off_is_not_read_as_whole(self, url: str, place: str) -> None:
        """Some pieces are as good as none, until somebody sends the rest; and no more than that is sent then."""
        content = os.urandom(12 * MIB)
        with self.blobs(url, place) as blobs:
            with pytest.raises(BrokerUnavailable):
                pieces.store(Counting(blobs, breaks_after=1), memoryview(content))
            with pytest.raises(SharedGone):
                loaded(blobs, pieces.digest(content), len(content))
            rest = Counting(blobs)
            known = pieces.store(rest, memoryview(content))
            assert rest.sent == 4 * MIB
            assert loaded(blobs, known, len(content)) == content
            pieces.drop(blobs, known, len(content))

    def test_other_content_is_not_believed(self, url: str, place: str) -> None:
        """What is kept under the name of something else is not taken for it."""
        content = os.urandom(2 * MIB)
        known = pieces.digest(content)
        with self.blobs(url, place) as blobs:
            blobs.put({known + bytes(4): content[:BLOB_BYTES], known + b"\0\0\0\1": content[:BLOB_BYTES]})
            with pytest.raises(SharedGone, match="something else"):
                loaded(blobs, known, len(content))
            pieces.drop(blobs, known, len(content))

    def test_what_nobody_uses_goes(self, url: str, place: str) -> None:
        """After its time a piece is not there any more, and may be kept again."""
        with self.blobs(url, place, SHORT) as blobs:
            blobs.put({name(0): b"first"})
            looks_until_gone(blobs, name(0), start=2 * SHORT)
            blobs.put({name(0): b"second"})
            assert blobs.get([name(0)]) == [b"second"]
            blobs.drop([name(0)])

    def test_use_renews(self, url: str, place: str) -> None:
        """Who puts, reads or asks for a piece has its time begin anew."""
        keep = 1.5
        put, read, asked = name(0), name(1), name(2)
        with self.blobs(url, place, keep) as blobs:
            blobs.put(dict.fromkeys((put, read, asked), b"used"))
            end = time.monotonic() + 2 * keep
            while time.monotonic() < end:
                blobs.put({put: b"used"})
                blobs.get([read])
                blobs.renew([asked])
                _PAUSE.wait(keep / 10)
            assert blobs.get([put, read, asked]) == [b"used"] * 3
            blobs.drop([put, read, asked])

    def test_two_keep_the_same_at_once(self, url: str, place: str) -> None:
        """Threads that share the same thing at the same time, and read it at the same time, all come to it."""
        content = os.urandom(6 * MIB)
        failures: list[BaseException] = []

        def share() -> None:
            try:
                with self.blobs(url, place) as blobs:
                    known = pieces.store(blobs, memoryview(content))
                    for _ in range(3):
                        assert loaded(blobs, known, len(content)) == content
            except BaseException as error:  # noqa: BLE001 - a thread has nobody to raise it to
                failures.append(error)

        threads = [threading.Thread(target=share) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        with self.blobs(url, place) as blobs:
            pieces.drop(blobs, pieces.digest(content), len(content))

    def test_another_process_shares_it(self, url: str, place: str) -> None:
        """What another process has kept is there, and was the same to it."""
        if not self.crosses_processes:
            pytest.skip("nothing here crosses processes")
        content = b"shared" * 500_000
        if type(self).open is BlobConformance.open:  # else the other process could not open it in the same way
            done = subprocess.run(
                [sys.executable, "-c", _STORE, url, place], capture_output=True, text=True, check=True
            )
            assert done.stdout.strip() == pieces.digest(content).hex()
        with self.blobs(url, place) as blobs:
            counting = Counting(blobs)
            known = pieces.store(counting, memoryview(content))
            assert counting.sent == (0 if type(self).open is BlobConformance.open else len(content))
            assert loaded(blobs, known, len(content)) == content
            pieces.drop(blobs, known, len(content))


class Counting:
    """A keeper that counts what is sent, and that may break off.

    Args:
        inner: The keeper.
        breaks_after: Calls of `put` after which the server is gone.
    """

    def __init__(self, inner: Blobs, breaks_after: int | None = None) -> None:
        self.sent = 0
        self._inner = inner
        self._left = breaks_after
        self.get, self.renew, self.drop, self.close = inner.get, inner.renew, inner.drop, inner.close

    def put(self, pieces: Mapping[bytes, bytes]) -> None:
        """Count, and keep."""
        if self._left is not None:
            if not self._left:
                msg = "the server is gone"
                raise BrokerUnavailable(msg)
            self._left -= 1
        self.sent += sum(map(len, pieces.values()))
        self._inner.put(pieces)


def name(number: int) -> bytes:
    """Return a name as those of pieces are."""
    return pieces.digest(b"name") + number.to_bytes(4, "big")


def loaded(blobs: Blobs, content_hash: bytes, size_bytes: int) -> bytes:
    """Return content."""
    data = bytearray()
    pieces.load(blobs, content_hash, size_bytes, data.extend)
    return bytes(data)


def looks_until_gone(blobs: Blobs, one: bytes, *, start: float) -> None:
    """Return once a piece is gone; each look may give it its time anew, so the next one comes later.

    Raises:
        AssertionError: It is still there after several looks.
    """
    pause = start
    end = time.monotonic() + _WITHIN
    while True:
        _PAUSE.wait(pause)
        if blobs.get([one]) == [None]:
            return
        assert time.monotonic() < end, "its time is over, and it is there"
        pause *= 2
