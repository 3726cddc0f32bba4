"""The fault proxy of the fault suite: it must do what rows say it does, or they try nothing."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.crash.proxy import FaultProxy
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

_WITHIN = 10.0  # seconds for what takes a millisecond


class Ends:
    """A client's connections and the server's ends of them, with the proxy between."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._server.settimeout(_WITHIN)
        self.proxy = stack.enter_context(FaultProxy(self._server.getsockname()[1]))

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """Return a client's end and the server's end of a new connection."""
        client = self._stack.enter_context(socket.create_connection(("127.0.0.1", self.proxy.port)))
        server = self._stack.enter_context(self._server.accept()[0])
        for one in (client, server):
            one.settimeout(_WITHIN)
        return client, server


@pytest.fixture
def ends() -> Iterator[Ends]:
    """Everything, closed at the end."""
    with ExitStack() as stack:
        yield Ends(stack)


def read(sock: socket.socket, count: int) -> bytes:
    """Read exactly so many bytes, or all there are until the end."""
    data = b""
    while len(data) < count and (more := sock.recv(count - len(data))):
        data += more
    return data


def is_silent(sock: socket.socket) -> bool:
    """Whether nothing has come, not even an end; asked after something else has passed that came later."""
    sock.setblocking(False)  # noqa: FBT003 - socket's own signature
    try:
        sock.recv(1)
    except BlockingIOError:
        return True
    finally:
        sock.settimeout(_WITHIN)
    return False


def test_passes_bytes_both_ways(ends: Ends) -> None:
    """More than any buffer holds, unchanged, and the end after them."""
    client, server = ends.connect()
    data = bytes(range(256)) * 16 * 1024
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    assert read(server, len(data)) == data
    sender.join()
    server.sendall(b"yes")
    server.close()
    assert read(client, 100) == b"yes"


def test_cuts(ends: Ends) -> None:
    """Both sides see an end; a new connection works."""
    client, server = ends.connect()
    client.sendall(b"a")
    assert read(server, 1) == b"a"
    assert ends.proxy.cut() == 1
    assert (read(client, 1), read(server, 1)) == (b"", b"")
    client, server = ends.connect()
    client.sendall(b"b")
    assert read(server, 1) == b"b"


def test_resets(ends: Ends) -> None:
    """Both sides see a reset."""
    client, server = ends.connect()
    client.sendall(b"a")
    assert read(server, 1) == b"a"
    assert ends.proxy.cut(reset=True) == 1
    for one in (client, server):
        with pytest.raises(ConnectionResetError):
            one.recv(1)


def test_goes_mute_on_old_connections_only(ends: Ends) -> None:
    """Nothing comes over them, not even the end of the other side."""
    old, old_server = ends.connect()
    old.sendall(b"a")
    assert read(old_server, 1) == b"a"
    assert ends.proxy.go_mute() == 1
    old.sendall(b"b")
    old_server.close()
    new, new_server = ends.connect()
    new.sendall(b"c")
    assert read(new_server, 1) == b"c"
    new_server.sendall(b"d")
    assert read(new, 1) == b"d"
    assert is_silent(old)


def test_holds_and_heals(ends: Ends) -> None:
    """What was sent meanwhile comes in its order, and an end after it."""
    client, server = ends.connect()
    ends.proxy.hold()
    client.sendall(b"a")
    client.sendall(b"b")
    other, other_server = ends.connect()
    other.sendall(b"c")
    assert is_silent(server)
    ends.proxy.heal()
    assert (read(server, 2), read(other_server, 1)) == (b"ab", b"c")


@pytest.mark.parametrize(("latency", "jitter"), [(0.0, 0.0), (0.001, 0.002)])
def test_slices_in_order(ends: Ends, latency: float, jitter: float) -> None:
    """Pieces of three bytes come in their order; so does what is sent after the order to slice has ended."""
    client, server = ends.connect()
    data = bytes(range(256)) * 4
    ends.proxy.slice, ends.proxy.latency, ends.proxy.jitter = 3, latency, jitter
    client.sendall(data)
    assert len(server.recv(1, socket.MSG_PEEK)) == 1
    ends.proxy.heal()
    client.sendall(b"end")
    assert read(server, len(data) + 3) == data + b"end"


def test_slow_bytes_arrive_before_the_end(ends: Ends) -> None:
    """Who closes after sending has sent."""
    client, server = ends.connect()
    ends.proxy.latency = 0.01
    client.sendall(b"last words")
    client.close()
    assert read(server, 100) == b"last words"


@pytest.mark.parametrize("count", [0, 1, 5])
def test_cuts_after_some_bytes(ends: Ends, count: int) -> None:
    """They are counted from the order on, one way only."""
    client, server = ends.connect()
    server.sendall(b"before")
    assert read(client, 6) == b"before"
    ends.proxy.cut_after(count, to_server=False)
    client.sendall(b"question")
    assert read(server, 8) == b"question"
    server.sendall(b"0123456789")
    assert read(client, 100) == b"0123456789"[:count]
    assert read(server, 1) == b""


def test_cuts_at_the_answer_to_a_request(ends: Ends) -> None:
    """The marked request arrives, its answer does not; other connections are left alone."""
    client, server = ends.connect()
    other, other_server = ends.connect()
    ends.proxy.cut_reply_to(b"this")
    other.sendall(b"that one")
    assert read(other_server, 8) == b"that one"
    client.sendall(b"this one")
    assert read(server, 8) == b"this one"
    other_server.sendall(b"1")
    assert read(other, 1) == b"1"
    server.sendall(b"2")
    assert read(client, 1) == b""
    assert other.fileno() >= 0
    other_server.sendall(b"3")
    assert read(other, 1) == b"3"


def test_refuses(ends: Ends) -> None:
    """A new connection ends at once, and is counted."""
    ends.proxy.refuses = True
    with socket.create_connection(("127.0.0.1", ends.proxy.port)) as client:
        client.settimeout(_WITHIN)
        assert read(client, 1) == b""
    eventually(lambda: ends.proxy.accepted == 1)
