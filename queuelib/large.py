"""Values that are too large for messages and outcomes, kept as what is shared is, while what stands for them travels.

What is kept is the encoding of a value behind two bytes that no other content begins with. So it has a name of its own
whatever is shared beside it, and is removed by nobody but time.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from typing import NamedTuple

from queuelib import codec, pieces
from queuelib.errors import BrokerUnavailable, ConfigurationError, SharedGone
from queuelib.handle import ARGUMENT, RESULT, Stored
from queuelib.ports import Blobs
from queuelib.settings import LARGE_BYTES

__all__ = ["MARK_BYTES", "Repeats", "Store", "gone", "value_in"]

_MARKS = {ARGUMENT: b"\xc1A", RESULT: b"\xc1R"}  # no value begins so in msgpack
MARK_BYTES = 2
_WORDS = {ARGUMENT: "an argument", RESULT: "the result"}
_WAITING = 30 * 24 * 3600.0  # seconds that a job may wait for its turn and its retries
_DAY = 24 * 3600.0
_RENEW_AFTER = 600.0  # seconds after which what was kept is looked for again before it is relied on
_AGAIN_AFTER = 60.0  # seconds after a failure until something is to be kept again
_MOST_SEEN = 1000
_ROOM_BYTES = 64 * 1024**2  # of values at hand, so that one that comes again need not be hashed


class _Kept(NamedTuple):
    value: bytes
    stands: bytes  # the encoding of what stands for it
    at: float  # wall time at which it was surely there


def value_in(content: bytes) -> bytes:
    """Return the encoded value in what is kept."""
    return content[MARK_BYTES:]


def gone(stored: Stored) -> SharedGone:
    """Return what is said where a value is not there any more."""
    return SharedGone(
        f"{_WORDS[stored.kind]} of this job takes {stored.size_bytes:,} bytes, was kept apart from it for that, "
        "and is not there any more"
    )


class Store:
    """Keeps values on the server that has the results, arguments and results each for a time of their own.

    Args:
        connect: Returns a keeper of blobs that are kept for so many seconds.
        keep: Seconds for which outcomes are kept.
        has_results: Whether results are kept so, too: see `ResultCapabilities.large_apart`.
    """

    def __init__(
        self, connect: Callable[[float], Blobs], keep: float, has_results: Callable[[], bool] = lambda: True
    ) -> None:
        self._connect = connect
        self._has_results = has_results
        # A result is kept before its outcome is, which may have to wait for its server: it lives longer by a day at most.
        self._seconds = {ARGUMENT: max(_WAITING, keep), RESULT: keep + min(keep, _DAY)}
        self._blobs: dict[int, Blobs] = {}

    def put(self, kind: int, value: bytes) -> Stored:
        """Keep an encoded value and return what stands for it.

        Raises:
            BrokerUnavailable: It is not kept, or not all of it.
            ConfigurationError: Nothing is kept here.
        """
        if kind == RESULT and not self._has_results():
            msg = "results are kept in outcomes here, however large"
            raise ConfigurationError(msg)
        content = memoryview(_MARKS[kind] + value)
        return Stored(kind, pieces.store(self.blobs(kind), content), len(content))

    def get(self, stored: Stored) -> bytes:
        """Return an encoded value.

        Raises:
            SharedGone: It is not kept any more.
            BrokerUnavailable: The server does not answer.
        """
        data = bytearray()
        try:
            pieces.load(self.blobs(stored.kind), stored.hash, stored.size_bytes, data.extend)
        except SharedGone as error:
            raise gone(stored) from error
        return value_in(bytes(data))

    def blobs(self, kind: int) -> Blobs:
        """Return the keeper of values of a kind.

        Raises:
            ConfigurationError: Nothing is kept here.
        """
        found = self._blobs.get(kind)
        return found or self._blobs.setdefault(kind, self._connect(self._seconds[kind]))

    def close(self) -> None:
        """Give up connections; a later call opens them again."""
        while self._blobs:
            self._blobs.popitem()[1].close()


class Repeats:
    """Moves large arguments out of messages once they are seen again.

    What is seen once travels in its message, with which it is deleted; to keep it apart would cost more, and leave it there.

    Args:
        store: Where they are kept.
        now: Wall time.
    """

    def __init__(self, store: Store, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = now
        # By length and checksum, which is twenty times as fast as the hash: None of what was seen once.
        self._seen: dict[tuple[int, int], _Kept | None] = {}
        self._rests_until = 0.0

    def moved(self, column: bytes, count: int) -> bytes:
        """Return the column of a bundle in which what stands for arguments takes the place of those that are kept."""
        rows = codec.split_list(column, count)
        return codec.encoded_list([self._row(row) if len(row) > LARGE_BYTES else row for row in rows])

    def _row(self, row: bytes) -> bytes:
        header, items = codec.split_any(row)
        return header + b"".join([self._item(item) if len(item) > LARGE_BYTES else item for item in items])

    def _item(self, item: bytes) -> bytes:
        name = len(item), zlib.crc32(item)
        is_new = name not in self._seen
        kept = self._seen.pop(name, None)
        self._seen[name] = kept  # behind all others
        now = self._now()
        if is_new:
            self._forget_oldest()
            return item
        if kept is None or kept.value != item or not 0.0 <= now - kept.at < _RENEW_AFTER:
            if now < self._rests_until:
                return item
            try:
                stored = self._store.put(ARGUMENT, item)
            except (BrokerUnavailable, ConfigurationError):  # then it travels as if it were small, which it can
                self._rests_until = now + _AGAIN_AFTER
                return item
            kept = self._seen[name] = _Kept(item, codec.encode(stored), now)
            self._forget_oldest()
        return kept.stands

    def _forget_oldest(self) -> None:
        room = _ROOM_BYTES
        for name, kept in reversed(list(self._seen.items())):
            room -= 0 if kept is None else len(kept.value)
            if kept is not None and room < 0 and name in self._seen:
                self._seen[name] = None  # it was seen, and is hashed anew should it come again
        if len(self._seen) > _MOST_SEEN:
            self._seen.pop(next(iter(self._seen)), None)
