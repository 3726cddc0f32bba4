"""Memos on RabbitMQ: a classic queue for each job and kind, which holds one message, the newest.

A queue of one job exists while the job does, so there are no more of them than jobs that run and tell something. The
server itself drops the message before the newest one (`x-max-length`), and a queue that was not used for a while
(`x-expires`).
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from queuelib.errors import BrokerUnavailable
from queuelib.settings import SUBMIT_DEADLINE, mask
from queuelib_rabbitmq.blobs import session
from queuelib_rabbitmq.io import Io, finish
from queuelib_rabbitmq.transport import parse

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from queuelib.ids import Key
    from queuelib.ports import Memo

__all__ = ["RabbitMemos"]

_LONGEST_MS = 2**32 - 1  # the server takes no longer time, 49 days
_AGAIN = 0.25  # of its time: then a queue is declared anew, for a publish is no use of it
_LASTING = 3600.0  # seconds; what is kept for less need not survive the server
_PATIENCE = 1.0  # seconds for which a memo may be in the hands of other readers, each of whom has it for milliseconds


class RabbitMemos:
    """Memos of one namespace of a virtual host."""

    def __init__(self, url: str, namespace: str) -> None:
        self._address = parse(url)
        self._place = mask(self._address.kombu_url)
        self._prefix = f"{namespace}.memo."
        self._lock = threading.Lock()
        self._io: Io | None = None
        self._pid = os.getpid()
        self._declared: dict[str, float] = {}  # queues, and when each is to be declared anew

    def write(self, memos: Sequence[Memo]) -> None:
        """Keep memos: all are published before the first confirm is waited for."""
        with self._lock:
            futures = self._publish(memos)
            try:
                finish(futures)
            except BrokerUnavailable:
                self._declared.clear()  # one of them may have gone: another worker removes it, or the server after its time
                if not all(future.done() for future in futures):
                    raise  # it does not answer at all
                finish(self._publish(memos))

    def _publish(self, memos: Sequence[Memo]) -> list[Future[None]]:
        self._declare(memos)
        io = self._open()
        return [io.publish(self._queue(one.kind, one.key), one.data, is_lasting=one.keep >= _LASTING) for one in memos]

    def read(self, kind: str, keys: Sequence[Key]) -> list[bytes | None]:
        """Return memos; each is taken, copied and put back, which the next one to come displaces all the same."""
        with session(self._address) as opened:
            return [opened.peek(self._queue(kind, key), _PATIENCE) for key in keys]

    def drop(self, kind: str, keys: Sequence[Key]) -> None:
        """Remove memos with their queues."""
        with session(self._address) as opened:
            for key in keys:
                self._declared.pop(self._queue(kind, key), None)
                opened.channel.queue_delete(self._queue(kind, key))

    def close(self) -> None:
        """End the connection."""
        with self._lock:
            io, self._io = self._io, None
            self._declared.clear()
        if io is not None and self._pid == os.getpid():
            io.close()

    def _queue(self, kind: str, key: Key) -> str:
        return f"{self._prefix}{kind}.{key.bundle.hex()}.{key.index}"

    def _declare(self, memos: Sequence[Memo]) -> None:
        now = time.monotonic()
        if len(self._declared) > _MOST_DECLARED:
            self._declared.clear()
        due = {self._queue(one.kind, one.key): one.keep for one in memos}
        due = {queue: keep for queue, keep in due.items() if self._declared.get(queue, 0.0) <= now}
        if not due:
            return
        with session(self._address) as opened:
            for queue, keep in due.items():
                arguments = {
                    "x-queue-type": "classic",  # a virtual host may have another default
                    "x-expires": min(_LONGEST_MS, max(1, int(keep * 1000))),
                    "x-max-length": 1,
                }
                opened.declare(queue, arguments)
                self._declared[queue] = now + keep * _AGAIN

    def _open(self) -> Io:
        if self._pid != os.getpid():
            self._pid, self._io = os.getpid(), None  # that of a parent
        if self._io is None or self._io.is_dead:
            io = Io(self._address, {}, timeout=SUBMIT_DEADLINE, on_reply=lambda _: None, on_tick=lambda: None)
            try:
                io.ready.result(SUBMIT_DEADLINE)
            except (TimeoutError, BrokerUnavailable) as error:
                io.close(timeout=0.0)
                msg = f"{self._place} does not answer: {error}"
                raise BrokerUnavailable(msg) from error
            self._io = io
        return self._io


_MOST_DECLARED = 10_000
