"""What arrives on an AMQP connection, in pieces of any size, read by us and by py-amqp in turns."""

from __future__ import annotations

import socket
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
from amqp import Message, spec
from amqp.method_framing import frame_handler, frame_writer
from amqp.serialization import dumps, loads
from amqp.transport import TCPTransport
from hypothesis import given
from hypothesis import strategies as st

from queuelib.broker.incoming import CONTENT_TYPE, DUE, FIRST_AT, Arrival, Incoming, arrival_of

OURS, FOREIGN = 1, 2  # channels: of our consumers, and others
ACK = (spec.Basic.Ack, dumps("Lb", (7, False)))
FRAME_MAX = 4096  # bytes: larger bodies come in several frames

ARRIVALS = st.builds(
    Arrival,
    number=st.integers(1, 2**40),
    body=st.one_of(st.binary(max_size=40), st.integers(0, 60_000).map(bytes)),
    is_redelivered=st.booleans(),
    first_at=st.one_of(st.none(), st.floats(1e9, 2e9)),
    due=st.one_of(st.just(0.0), st.floats(1e9, 2e9)),
)
EVENTS = st.tuples(st.sampled_from([OURS, OURS, FOREIGN]), st.one_of(ARRIVALS, ARRIVALS, st.none()))


def frames(channel: int, arrival: Arrival | None) -> bytes:
    """Return what a server sends: a delivery, or the confirmation of a publication."""
    written: list[bytes] = []
    writer = frame_writer(
        SimpleNamespace(frame_max=FRAME_MAX, bytes_sent=0),
        SimpleNamespace(write=lambda data: written.append(bytes(data))),
    )
    if arrival is None:
        writer(1, channel, *ACK, None)
        return b"".join(written)
    headers: dict[str, Any] = {FIRST_AT: arrival.first_at, DUE: arrival.due or None}
    message = Message(
        arrival.body,
        content_type=CONTENT_TYPE,
        content_encoding="binary",
        application_headers={name: value for name, value in headers.items() if value is not None},
        delivery_mode=2,
        message_id="12",
    )
    arguments = dumps("sLbss", ("yellow.1.2", arrival.number, arrival.is_redelivered, "", "q.yellow"))
    writer(1, channel, spec.Basic.Deliver, arguments, message)
    return b"".join(written)


class Wire:
    """A connection of which the test plays the server."""

    def __init__(self) -> None:
        self.sock, self.server = socket.socketpair()
        self.sock.settimeout(0.001)
        self.seen: list[tuple[int, Arrival | None]] = []
        self.transport = TCPTransport("nowhere")
        self.transport.sock = self.sock
        self.transport._setup_transport()  # what connect() does once there is a socket
        self.connection: Any = SimpleNamespace(transport=self.transport, bytes_recv=0)
        self.connection.on_inbound_frame = frame_handler(self.connection, self._told)
        self.incoming = Incoming(self.connection)
        self.incoming.receivers[OURS] = lambda arrival: self.seen.append((OURS, arrival))

    def _told(self, channel: int, method: tuple[int, int], arguments: bytes, content: Any) -> None:
        """Note what py-amqp makes of the frames that it was given."""
        if content is None:
            assert method == spec.Basic.Ack
            self.seen.append((channel, None))
            return
        (_, number, is_redelivered, _, _), _ = loads("sLbss", arguments, 4)
        message = SimpleNamespace(
            body=content.body,
            headers=content.headers,
            delivery_tag=number,
            delivery_info={"redelivered": is_redelivered},
        )
        self.seen.append((channel, arrival_of(message)))

    def read_as_amqp(self) -> None:
        """Read one frame in the way of py-amqp, if it is there."""
        try:
            frame = self.transport.read_frame()
        except TimeoutError:
            return
        self.connection.on_inbound_frame(frame)

    def close(self) -> None:
        """Close both ends."""
        self.sock.close()
        self.server.close()


@given(events=st.lists(EVENTS, max_size=12), data=st.data())
def test_everything_arrives_once_and_in_order(events: list[tuple[int, Arrival | None]], data: st.DataObject) -> None:
    """However it is cut, and whoever reads."""
    sent = b"".join(frames(*event) for event in events)
    with closing(Wire()) as wire:
        while sent:
            size = data.draw(st.one_of(st.integers(1, 60), st.integers(1, 40_000)), label="piece")
            wire.server.sendall(sent[:size])
            sent = sent[size:]
            if data.draw(st.booleans(), label="py-amqp reads"):
                wire.read_as_amqp()
            else:
                wire.incoming.read()
        wire.incoming.read()
        assert wire.seen == events


def test_usual_deliveries_make_no_objects_of_py_amqp() -> None:
    """Of a hundred, none goes through its handler; a connection that only delivers is not silent, either."""
    events = [(OURS, Arrival(number, b"job", is_redelivered=False, first_at=1.5, due=0.0)) for number in range(1, 101)]
    with closing(Wire()) as wire:
        wire.connection.on_inbound_frame = None
        wire.server.sendall(b"".join(frames(*event) for event in events))
        assert wire.incoming.read()
        assert wire.seen == events
        assert wire.connection.bytes_recv > 0
        assert not wire.incoming.read()


def test_the_end_of_the_connection_and_of_its_sense() -> None:
    """Both are connection errors."""
    with closing(Wire()) as wire:
        wire.server.sendall(b"\x01\x00\x01\x00\x00\x00\x04abcd\x00")
        with pytest.raises(ConnectionError, match="ends with 0x0"):
            wire.incoming.read()
    with closing(Wire()) as wire:
        wire.server.close()
        with pytest.raises(ConnectionError):
            wire.incoming.read(1.0)
