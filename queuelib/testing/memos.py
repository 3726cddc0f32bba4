"""Tests for keepers of memos: the newest of each job and kind is read, whole, until its time is over."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from queuelib import plugins
from queuelib.ids import Key, new_bundle_id
from queuelib.ports import Memo, Memos

__all__ = ["MemoConformance"]

_SHORT = 0.3  # seconds that a memo is kept where it is to go
_WITHIN = 15.0  # seconds until servers have seen that a time is over
_PAUSE = threading.Event()  # never set
_LARGE = 12 * 1024 * 1024


class MemoConformance:
    """What every keeper of memos must do.

    A subclass defines the fixture `url`, or overrides `open`.
    """

    @pytest.fixture
    def place(self) -> str:
        """A namespace of this test's own."""
        return f"c{uuid.uuid4().hex[:12]}"

    def open(self, url: str, place: str) -> Memos:
        """Return a keeper, opened anew."""
        return plugins.memos_for(url, place)

    @contextmanager
    def memos(self, url: str, place: str, *keys: Key) -> Generator[Memos]:
        """Open a keeper; at the end remove what is left of these jobs, and close it."""
        memos = self.open(url, place)
        try:
            yield memos
            for kind in ("state", "progress"):
                memos.drop(kind, keys)
        finally:
            memos.close()

    def test_the_newest_is_read(self, url: str, place: str) -> None:
        """What one instance writes another reads: the newest of each job and kind, any bytes, as often as it likes."""
        one, two = _keys(2)
        with self.memos(url, place, one, two) as writer, self.memos(url, place) as reader:
            writer.write([_memo(one, b"first"), _memo(two, b"\x00\xc1")])
            writer.write([_memo(one, b""), _memo(one, b"half", kind="progress")])
            for _ in range(2):
                assert reader.read("state", [two, one]) == [b"\x00\xc1", b""]
            assert reader.read("progress", [one]) == [b"half"]
            for number in range(5):
                writer.write([_memo(one, b"%d" % number)])
                assert reader.read("state", [one]) == [b"%d" % number]

    def test_what_is_missing_is_none(self, url: str, place: str) -> None:
        """Of what was never written, or dropped, nothing comes; its neighbors, and its other kinds, stay."""
        one, two = _keys(2)
        with self.memos(url, place, one, two) as memos:
            assert memos.read("state", [one]) == [None]
            memos.write([_memo(one, b"a"), _memo(two, b"b"), _memo(one, b"c", kind="progress")])
            memos.drop("state", [one, _keys(1)[0]])
            assert memos.read("state", [one, two]) == [None, b"b"]
            assert memos.read("progress", [one, two]) == [b"c", None]
            memos.write([_memo(one, b"again")])
            assert memos.read("state", [one]) == [b"again"]

    def test_nothing_to_do(self, url: str, place: str) -> None:
        """No jobs are fine, too."""
        with self.memos(url, place) as memos:
            memos.write([])
            assert memos.read("state", []) == []
            memos.drop("state", [])

    def test_namespaces_are_apart(self, url: str, place: str) -> None:
        """One namespace knows nothing of another's memos, and drops none of them."""
        (key,) = _keys(1)
        with self.memos(url, place, key) as ours, self.memos(url, place + "x", key) as theirs:
            ours.write([_memo(key, b"ours")])
            assert theirs.read("state", [key]) == [None]
            theirs.drop("state", [key])
            assert ours.read("state", [key]) == [b"ours"]

    def test_large(self, url: str, place: str) -> None:
        """A state of some MiB comes back whole."""
        (key,) = _keys(1)
        content = os.urandom(_LARGE)
        with self.memos(url, place, key) as memos:
            memos.write([_memo(key, content)])
            assert memos.read("state", [key]) == [content]

    def test_what_is_not_written_anew_goes(self, url: str, place: str) -> None:
        """After its time a memo is not there any more, and the job may have another."""
        (key,) = _keys(1)
        with self.memos(url, place, key) as memos:
            memos.write([_memo(key, b"first", keep=_SHORT)])
            pause = 2 * _SHORT  # to look may be a use that prolongs it, so that each pause is longer
            while _PAUSE.wait(pause) or memos.read("state", [key]) != [None]:
                assert pause < _WITHIN, "it stays"
                pause *= 1.5
            memos.write([_memo(key, b"second", keep=_SHORT)])
            assert memos.read("state", [key]) in ([b"second"], [None])

    def test_readers_beside_a_writer(self, url: str, place: str) -> None:
        """Whoever reads while others write and read gets one that was written, never one older than it saw before."""
        (key,) = _keys(1)
        seen: list[list[int]] = [[], []]
        is_over = threading.Event()

        def follow(mine: list[int]) -> None:
            with self.memos(url, place) as memos:
                while not is_over.is_set():
                    (found,) = memos.read("state", [key])
                    mine.append(-1 if found is None else int(found))

        with self.memos(url, place, key) as writer:
            writer.write([_memo(key, b"0")])
            threads = [threading.Thread(target=follow, args=(mine,)) for mine in seen]
            for thread in threads:
                thread.start()
            for number in range(1, 60):
                writer.write([_memo(key, b"%d" % number)])
            end = time.monotonic() + _WITHIN
            while not all(mine and mine[-1] == 59 for mine in seen) and time.monotonic() < end:
                is_over.wait(0.01)
            is_over.set()
            for thread in threads:
                thread.join()
        for mine in seen:
            assert mine == sorted(mine), "a reader saw an older one after a newer one"
            assert mine[0] >= 0, "a reader found nothing"
            assert mine[-1] == 59


def _keys(count: int) -> list[Key]:
    bundle = new_bundle_id(time.time())
    return [Key(bundle, index) for index in range(count)]


def _memo(key: Key, data: bytes, *, kind: str = "state", keep: float = 60.0) -> Memo:
    return Memo(key, kind, data, keep)
