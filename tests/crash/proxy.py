"""A TCP proxy before a server that delays, slices, cuts, resets and falls silent on order, without root.

One thread with a selector; a fault holds from the order on, for connections there are or for those to come.
"""

from __future__ import annotations

import heapq
import itertools
import random
import selectors
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import Self

__all__ = ["FaultProxy"]

_CHUNK = 65536
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


@dataclass(eq=False)
class _Way:
    """One direction of a connection: what arrives at `near` goes out at `far`."""

    near: socket.socket
    far: socket.socket
    to_server: bool
    waiting: bytearray = field(default_factory=bytearray)  # what `far` has not taken yet
    passed: int = 0  # bytes since the last order that counts them
    is_mute: bool = False
    is_cut_at_reply: bool = False  # the first byte this way ends the connection
    is_ending: bool = False  # `near` has ended; what is on its way still goes out
    late: int = 0  # pieces that wait for their time
    last_at: float = 0.0  # when the last of them goes: nothing overtakes


class FaultProxy:
    """Passes bytes on, both ways, until told otherwise.

    Args:
        port: The server's port.
        seed: What slices and jitter are drawn from.
        host: The server's address.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        latency: Seconds that everything waits, each way.
        jitter: Seconds more, at most, drawn for each piece.
        slice: Bytes of the longest piece that is passed on at once; 0 for no limit.
        refuses: Whether new connections are closed at once.
        accepted: How many connections there were so far.
        heard: All that has passed, either way, if told to listen; None at first.
    """

    def __init__(self, port: int, seed: int = 0, host: str = "127.0.0.1") -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.latency = 0.0
        self.jitter = 0.0
        self.slice = 0
        self.refuses = False
        self.accepted = 0
        self.heard: bytearray | None = None
        self._is_holding = False
        self._chance = random.Random(seed)
        self._ways: dict[socket.socket, _Way] = {}
        self._late: list[tuple[float, int, _Way, bytes]] = []
        self._numbers = itertools.count()
        self._cut_after: dict[bool, int] = {}
        self._cut_reply_to = b""
        self._refuse_then = False
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._wake_read, self._wake_write = socket.socketpair()
        self._is_over = False
        self._thread = threading.Thread(target=self._serve, name="fault proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._wake_write.send(b"\0")
        self._thread.join()
        for one in (*self._ways, self._listener, self._wake_read, self._wake_write):
            one.close()
        self._selector.close()

    def cut(self, *, reset: bool = False) -> int:
        """End all connections, with FIN or with RST; return how many there were."""
        with self._lock:
            ways = list(self._ways.values())
            for way in ways:
                self._drop(way.near, reset=reset)
            return len(ways) // 2

    def go_mute(self) -> int:
        """Pass nothing on over the connections there are, and say so to nobody: half-open. New ones work."""
        with self._lock:
            for way in self._ways.values():
                way.is_mute = True
            return len(self._ways) // 2

    def hold(self) -> None:
        """Keep everything here, of new connections too, as a network does that is away for a while."""
        with self._lock:
            self._is_holding = True

    def heal(self) -> None:
        """Pass on what was held, be as fast as a cable again, and cut nothing that was not cut yet."""
        with self._lock:
            self._cut_after.clear()
            self._cut_reply_to = b""
            self._is_holding, self.refuses = False, False
            self.latency = self.jitter = 0.0
            self.slice = 0
        self._wake_write.send(b"\0")

    def cut_after(self, count: int, *, to_server: bool) -> None:
        """Cut the first connection over which so many more bytes go one way, when they have gone; 0 passes none."""
        with self._lock:
            for way in self._ways.values():
                way.passed = 0
            self._cut_after[to_server] = count

    def cut_reply_to(self, marker: bytes, *, then_refuse: bool = False) -> None:
        """Pass on the next request that holds these bytes, in one piece, and cut the connection at its answer.

        Args:
            marker: The bytes.
            then_refuse: Whether to refuse new connections from the cut on, until `heal`.
        """
        with self._lock:
            self._cut_reply_to, self._refuse_then = marker, then_refuse

    def _serve(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        while not self._is_over:
            with self._lock:
                pause = max(0.0, self._late[0][0] - time.monotonic()) if self._late and not self._is_holding else 0.5
            events = self._selector.select(pause)
            with self._lock:
                for key, mask in events:
                    one = key.fileobj
                    if one is self._listener:
                        self._accept()
                    elif one is self._wake_read:
                        self._wake_read.recv(64)
                    elif isinstance(one, socket.socket):
                        self._move(one, mask)
                self._send_late()

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        self.accepted += 1
        if self.refuses:
            near.close()
            return
        try:
            far = socket.create_connection(self._server, timeout=2.0)
        except OSError:
            near.close()
            return
        for one, other, to_server in ((near, far, True), (far, near, False)):
            one.setblocking(False)  # noqa: FBT003 - socket's own signature
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._ways[one] = _Way(one, other, to_server)
            self._selector.register(one, selectors.EVENT_READ)

    def _move(self, one: socket.socket, mask: int) -> None:
        if mask & selectors.EVENT_WRITE and one in self._ways:
            self._flush(self._ways[self._ways[one].far])
        if not mask & selectors.EVENT_READ or one not in self._ways:
            return
        way = self._ways[one]
        try:
            data = one.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(one)
            if way.is_mute:
                return  # the other side must not learn of it
            way.is_ending = True
        self._pass_on(way, data)

    def _pass_on(self, way: _Way, data: bytes) -> None:
        if way.is_mute:
            return
        if self.heard is not None:
            self.heard += data
        if way.is_cut_at_reply:
            self.refuses = self.refuses or self._refuse_then
            self._drop(way.near)
            return
        if way.to_server and self._cut_reply_to and self._cut_reply_to in data:
            self._cut_reply_to = b""
            self._ways[way.far].is_cut_at_reply = True
        limit = self._cut_after.get(way.to_server)
        if limit is not None and data and way.passed + len(data) >= limit:
            del self._cut_after[way.to_server]
            way.waiting += data[: limit - way.passed]
            way.is_ending = True
            self._flush(way)
            return
        way.passed += len(data)
        if not (self.latency or self.jitter or self.slice or self._is_holding or way.late):
            way.waiting += data
            self._flush(way)
            return
        size = self.slice or max(1, len(data))
        way.last_at = max(way.last_at, time.monotonic() + self.latency)
        for start in range(0, max(1, len(data)), size):
            way.last_at += self.jitter * self._chance.random()
            way.late += 1
            heapq.heappush(self._late, (way.last_at, next(self._numbers), way, data[start : start + size]))

    def _send_late(self) -> None:
        now = time.monotonic()
        while self._late and self._late[0][0] <= now and not self._is_holding:
            _, _, way, data = heapq.heappop(self._late)
            way.late -= 1
            if way.near in self._ways and not way.is_mute:
                way.waiting += data
                self._flush(way)

    def _flush(self, way: _Way) -> None:
        """Send what waits; close both ends once all is sent of a direction that has ended."""
        try:
            while way.waiting:
                sent = way.far.send(way.waiting)
                del way.waiting[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(way.near)
            return
        if way.is_ending and not way.waiting and not way.late:
            self._drop(way.near)
        elif way.far in self._selector.get_map():
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if way.waiting else 0)
            self._selector.modify(way.far, events)

    def _drop(self, one: socket.socket, *, reset: bool = False) -> None:
        way = self._ways.get(one)
        if way is None:
            return
        for end in (way.near, way.far):
            self._ways.pop(end, None)
            try:
                self._selector.unregister(end)
            except KeyError:
                pass
            if reset:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.close()
