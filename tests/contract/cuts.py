"""A proxy before a server, so that a test can cut connections without harming the server."""

from __future__ import annotations

import selectors
import socket
import threading
from typing import Self


class Cuts:
    """Passes bytes on, both ways, until told to cut.

    Attributes:
        port: Where it listens, on 127.0.0.1.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._peers: dict[socket.socket, socket.socket] = {}
        self._servers: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._is_mute = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def cut(self) -> int:
        """Close all connections, as a restart of the server does; return how many there were."""
        with self._lock:
            for one in self._peers:
                one.shutdown(socket.SHUT_RDWR)
            return len(self._peers) // 2

    def lose_the_next_answer(self) -> None:
        """Cut a connection when the server next says something over it."""
        self._is_mute.set()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector, self._listener:
            selector.register(self._listener, selectors.EVENT_READ)
            while self._pass_on(selector):
                pass
            for one in self._peers:
                one.close()

    def _pass_on(self, selector: selectors.BaseSelector) -> bool:
        """Handle what is there; return whether to go on."""
        for key, _ in selector.select():
            one = key.fileobj
            assert isinstance(one, socket.socket)
            if one is self._listener:
                try:
                    near, _ = one.accept()
                except OSError:
                    return False
                far = socket.create_connection(self._target)
                with self._lock:
                    self._peers |= {near: far, far: near}
                    self._servers.add(far)
                selector.register(near, selectors.EVENT_READ)
                selector.register(far, selectors.EVENT_READ)
            elif one in self._peers:
                self._copy(one, selector)
        return True

    def _copy(self, one: socket.socket, selector: selectors.BaseSelector) -> None:
        other = self._peers[one]
        try:
            data = one.recv(65536)
            if one in self._servers and self._is_mute.is_set():
                self._is_mute.clear()
                data = b""
            other.sendall(data)
        except OSError:
            data = b""
        if not data:
            for end in (one, other):
                with self._lock:
                    del self._peers[end]
                    self._servers.discard(end)
                selector.unregister(end)
                end.close()
