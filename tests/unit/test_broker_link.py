"""What ends a connection of kombu's, and how what the server refuses is told from what it cannot do now."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from amqp.exceptions import error_for_code
from kombu.connection import Connection
from kombu.exceptions import ChannelError
from kombu.transport.pyamqp import Transport

from queuelib.broker import open_lane
from queuelib.broker.link import Link
from queuelib.errors import BrokerUnavailable, CancelledError, ConfigurationError, EncodeError, Shutdown, SoftTimeLimit
from queuelib.ports import TransportCapabilities, TransportSettings


def new_link() -> Link:
    """Return a link without a server."""
    return Link(Connection("memory://"), TransportSettings("memory://", TransportCapabilities()))


@pytest.mark.parametrize(
    "interrupt", [KeyboardInterrupt, SystemExit, ZeroDivisionError, SoftTimeLimit, CancelledError, Shutdown]
)
def test_an_interrupted_connection_is_dead(interrupt: type[BaseException]) -> None:
    """It may be in the midst of a frame: nothing is said on it any more, not even goodbye."""
    link = new_link()
    with pytest.raises(interrupt), link.guarded():
        raise interrupt
    assert link.is_dead
    with pytest.raises(BrokerUnavailable), link.guarded():
        pytest.fail("nobody may go on")
    link.close()


def test_an_error_of_our_own_leaves_it_alive() -> None:
    """It says nothing of the connection."""
    link = new_link()
    with pytest.raises(EncodeError), link.guarded():
        raise EncodeError("too odd")
    assert not link.is_dead
    link.close()


def test_a_time_limit_is_no_silence_of_the_server() -> None:
    """It is a TimeoutError, and so is what a driver raises when nothing has arrived."""
    link = new_link()

    def drain_events(**_: Any) -> None:
        raise SoftTimeLimit("too long")

    link.connection.drain_events = drain_events
    with pytest.raises(SoftTimeLimit), link.guarded():
        link.drain()
    assert link.is_dead
    link.close()


def test_a_time_limit_is_no_server_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it strikes while a connection is made, kombu would try again, and the limit would be forgotten."""
    tried: list[Transport] = []

    def establish_connection(transport: Transport) -> None:
        tried.append(transport)
        raise SoftTimeLimit("too long")

    monkeypatch.setattr(Transport, "establish_connection", establish_connection)
    with pytest.raises(SoftTimeLimit, match="too long"):
        open_lane(TransportSettings("amqp://", TransportCapabilities()), "unit", 5.0)
    assert len(tried) == 1


def declare(code: int, monkeypatch: pytest.MonkeyPatch) -> Link:
    """Declare a queue on a server that answers with an error; return the link."""
    link = new_link()

    def queue_declare(**_: Any) -> None:
        raise error_for_code(code, "the server's words", (50, 10), ChannelError)

    monkeypatch.setattr(link.connection, "channel", lambda: SimpleNamespace(queue_declare=queue_declare))
    with link.guarded():
        link.declare_once("queue")
    return link


@pytest.mark.parametrize("code", [403, 405, 406])
def test_a_refused_queue(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No right to make it, or made otherwise: the user has to do something, and a worker that serves lives on."""
    with pytest.raises(ConfigurationError, match="the server's words") as caught:
        declare(code, monkeypatch)
    assert isinstance(caught.value, BrokerUnavailable)


@pytest.mark.parametrize("code", [404, 311, 506, 541])
def test_a_queue_that_is_not_there_now(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its node is down, or there is no memory: nothing is wrong with the program."""
    with pytest.raises(BrokerUnavailable, match="the server's words") as caught:
        declare(code, monkeypatch)
    assert not isinstance(caught.value, ConfigurationError)
