"""Shared objects and saved states for the children of a worker: they ask, and a thread of the supervisor's process fetches.

Children own no connections, and the supervisor must not stand still for as long as an object takes: so a thread has
connections of its own. A child asks with a message of the hash and the length, or of the job, and one end of a socket on
which it is told; a state comes as the descriptor of a file in memory. For a value that is kept because it is large its kind
stands before hash and length, and with a file beside the socket the child asks to have what is in it kept.
"""

from __future__ import annotations

import logging
import mmap
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from struct import Struct
from typing import Any, TypeVar

from queuelib import pieces
from queuelib.errors import BrokerUnavailable, ConfigurationError, QueuelibError, SharedGone
from queuelib.handle import ARGUMENT, HASH_BYTES, RESULT, Stored
from queuelib.ids import BUNDLE_BYTES, Key
from queuelib.large import MARK_BYTES, Store, gone, value_in
from queuelib.opened import Opened
from queuelib.ports import Blobs
from queuelib.settings import MAX_MESSAGE_BYTES, MAX_SHARED_BYTES
from queuelib.worker.cache import Cache

__all__ = ["Asking", "Fetcher"]

_log = logging.getLogger("queuelib.worker")
_QUESTION_BYTES = HASH_BYTES + 8
_JOB = Struct(f">{BUNDLE_BYTES}sI")  # a question for its state
_MOST_MAPPED = 16  # values that a child has at hand
_HERE, _GONE, _UNAVAILABLE, _MISCONFIGURED, _FAILED = b"h", b"g", b"u", b"c", b"f"
T = TypeVar("T")
_ANSWER_BYTES = 4096
_PATIENCE = 15.0  # seconds for which a server that does not answer is asked again
_LONGEST_PAUSE = 2.0
_LAST_WORDS = 1.0  # seconds until a thread that is told to end is left to itself: it dies with its process


class Fetcher:
    """The thread, and the socket on which children ask it.

    Attributes:
        door: What children ask on; a copy of its descriptor goes to each of them.
    """

    def __init__(self, cache: Cache) -> None:
        self._ours, self.door = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._cache = cache
        self._connect: Callable[[], Blobs] | None = None
        self._blobs: Blobs | None = None
        self._store: Store | None = None
        self._states: Callable[[Key], bytes | None] | None = None
        self._thread = threading.Thread(target=self._serve, name="queuelib-fetch", daemon=True)
        self._is_over = threading.Event()

    def start(
        self,
        connect: Callable[[], Blobs],
        store: Store | None = None,
        states: Callable[[Key], bytes | None] | None = None,
    ) -> None:
        """Begin to serve; nothing is connected before a child asks.

        Args:
            connect: Returns the keeper of shared objects.
            store: Keeps large arguments and results.
            states: Returns the state that a job has saved.
        """
        self._connect = connect
        self._store = store
        self._states = states
        self._thread.start()

    def close(self) -> None:
        """End the thread, and its connection."""
        self._is_over.set()
        self.door.close()
        self._ours.shutdown(socket.SHUT_RDWR)
        if self._thread.ident is not None:
            self._thread.join(_LAST_WORDS)
        if not self._thread.is_alive():
            self._ours.close()

    def _serve(self) -> None:
        while not self._is_over.is_set():
            try:
                question, fds, _, _ = socket.recv_fds(self._ours, _QUESTION_BYTES + 2, 2)
            except OSError:
                break
            if not fds:
                if not question:
                    break  # we were closed
                continue  # user code wrote here
            with socket.socket(fileno=fds[0]) as asker:
                try:
                    if len(question) == _JOB.size:
                        self._tell_state(asker, Key(*_JOB.unpack(question)))
                    else:
                        self._tell(asker, self._answer(question, fds[1] if len(fds) > 1 else None))
                finally:
                    for file in fds[1:]:
                        os.close(file)
        for keeper in (self._blobs, self._store):
            if keeper is not None:
                keeper.close()

    def _tell_state(self, asker: socket.socket, key: Key) -> None:
        try:
            state = self._retried(lambda: None if self._states is None else self._states(key))
            if state is None:
                self._tell(asker, _GONE)
            else:
                self._send_file(asker, state)
        except BrokerUnavailable as error:
            self._tell(asker, _UNAVAILABLE + _text(error))
        except ConfigurationError as error:
            self._tell(asker, _MISCONFIGURED + _text(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, one child waits for an answer and others will ask
            _log.exception("a saved state could not be fetched")
            self._tell(asker, _FAILED + _text(error))

    @staticmethod
    def _send_file(asker: socket.socket, content: bytes) -> None:
        fd = os.memfd_create("queuelib-state", os.MFD_CLOEXEC)
        with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(content)
            file.flush()
            try:
                socket.send_fds(asker, [_HERE], [fd], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except OSError:
                pass  # it was killed meanwhile

    @staticmethod
    def _tell(asker: socket.socket, answer: bytes) -> None:
        try:
            asker.send(answer, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            pass  # it was killed meanwhile

    def _answer(self, question: bytes, file: int | None) -> bytes:
        kind = question[0] if len(question) == 1 + _QUESTION_BYTES else None
        question = question if kind is None else question[1:]
        content_hash, size_bytes = question[:HASH_BYTES], int.from_bytes(question[HASH_BYTES:], "big")
        if (
            len(question) != _QUESTION_BYTES
            or not 0 < size_bytes <= MAX_SHARED_BYTES
            or kind not in {None, ARGUMENT, RESULT}
            or (file is not None and (kind is None or size_bytes > MAX_MESSAGE_BYTES))
        ):
            return _FAILED + b"not a question"
        try:
            if file is not None:
                return _HERE + self._keep(kind or ARGUMENT, file, size_bytes)
            self._fetch(content_hash, size_bytes, kind)
        except ConfigurationError as error:
            return _FAILED + _text(error)
        except SharedGone as error:
            return _GONE + _text(error)
        except BrokerUnavailable as error:
            return _UNAVAILABLE + _text(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, one child waits for an answer and others will ask
            _log.exception("a shared object could not be fetched")
            return _FAILED + _text(error)
        return _HERE

    def _keep(self, kind: int, file: int, size_bytes: int) -> bytes:
        """Keep the value in a file of a child; return its hash."""
        value = bytearray()
        while len(value) < size_bytes and (more := os.pread(file, size_bytes - len(value), len(value))):
            value += more
        if self._store is None:
            msg = "nothing is kept here"
            raise ConfigurationError(msg)
        return self._store.put(kind, bytes(value)).hash

    def _fetch(self, content_hash: bytes, size_bytes: int, kind: int | None) -> None:
        self._retried(
            lambda: self._cache.fill(
                content_hash, size_bytes, lambda write: pieces.load(self._keeper(kind), content_hash, size_bytes, write)
            )
        )

    def _retried(self, fetch: Callable[[], T]) -> T:
        """Call a function until the server answers, or for as long as a child is to wait."""
        end = time.monotonic() + _PATIENCE
        pause = 0.1
        while True:
            try:
                return fetch()
            except BrokerUnavailable:
                if time.monotonic() + pause >= end or self._is_over.wait(random.uniform(0.0, pause)):
                    raise
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _keeper(self, kind: int | None) -> Blobs:
        if kind is not None and self._store is not None:
            return self._store.blobs(kind)
        if self._blobs is None:
            assert self._connect is not None
            self._blobs = self._connect()
        return self._blobs


class Asking:
    """What handles read by in a child: from the cache of the host, filled on request.

    Args:
        door: A copy of the fetcher's door.
        cache: The same folder.
    """

    def __init__(self, door: socket.socket, cache: Cache) -> None:
        self._door = door
        self._cache = cache
        self._opened = Opened(self._fetch)
        self._mapped: dict[bytes, mmap.mmap] = {}  # values, those used last

    def load(self, stored: Stored) -> bytes:
        """Return an encoded value; for as long as its server does not answer, wait."""
        mapped = self._mapped.pop(stored.hash, None)
        while mapped is None:
            try:
                mapped = self._fetch(stored.hash, stored.size_bytes, bytes((stored.kind,)))
            except BrokerUnavailable:
                continue  # the job is not to blame, and its outcome would have to wait for the same server
            except SharedGone as error:
                raise gone(stored) from error
        self._mapped[stored.hash] = mapped
        if len(self._mapped) > _MOST_MAPPED:
            self._mapped.pop(next(iter(self._mapped)))
        return value_in(mapped[:])

    def keep(self, result: bytes) -> Stored:
        """Keep an encoded result."""
        file = os.memfd_create("queuelib-result", os.MFD_CLOEXEC)
        try:
            with open(file, "wb", closefd=False) as writer:
                writer.write(result)
            found = self._ask(bytes((RESULT,)) + bytes(HASH_BYTES) + len(result).to_bytes(8, "big"), file)
        finally:
            os.close(file)
        return Stored(RESULT, found, len(result) + MARK_BYTES)

    def read(self, hash: bytes, size_bytes: int, wanted: Any) -> Any:  # noqa: A002 - as in `Reader`
        """Return what a handle stands for."""
        return self._opened.read(hash, size_bytes, wanted)

    def read_state(self, key: Key) -> bytes | None:
        """Return the state that a job has saved, None if it has none."""
        with self._asked(_JOB.pack(*key)) as ours:
            answer, fds, _, _ = socket.recv_fds(ours, _ANSWER_BYTES, 1)
        for fd in fds:
            with open(fd, "rb") as file:  # noqa: PTH123 - a descriptor
                file.seek(0)
                return file.read()
        if answer[:1] == _GONE:
            return None
        raise _error(answer)

    def _fetch(self, content_hash: bytes, size_bytes: int, kind: bytes = b"") -> mmap.mmap:
        found = self._cache.find(content_hash, size_bytes)
        if found is None:
            self._ask(kind + content_hash + size_bytes.to_bytes(8, "big"))
            found = self._cache.find(content_hash, size_bytes)
        if found is None:
            msg = (
                f"{content_hash.hex()[:12]} was fetched and is gone already: the folder for shared objects is too small"
            )
            raise QueuelibError(msg)
        return found

    def _ask(self, question: bytes, *files: int) -> bytes:
        with self._asked(question, *files) as ours:
            answer = ours.recv(_ANSWER_BYTES)
        if answer[:1] != _HERE:
            raise _error(answer)
        return answer[1:]

    def _asked(self, question: bytes, *files: int) -> socket.socket:
        """Ask, and return the socket on which the answer comes."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                socket.send_fds(self._door, [question], [theirs.fileno(), *files])
            except OSError:
                ours.close()
                raise
        return ours


def _error(answer: bytes) -> Exception:
    text = answer[1:].decode(errors="replace") or "the worker that was asked has ended"
    kinds: dict[bytes, type[Exception]] = {
        _GONE: SharedGone,
        _UNAVAILABLE: BrokerUnavailable,
        _MISCONFIGURED: ConfigurationError,
    }
    return kinds.get(answer[:1], QueuelibError)(text)


def _text(error: Exception) -> bytes:
    return (str(error) or type(error).__name__).encode(errors="replace")[: _ANSWER_BYTES - 1]
