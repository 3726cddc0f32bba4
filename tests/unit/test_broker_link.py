"""What ends a connection of kombu's, and how what the server refuses is told from what it cannot do now."""

from __future__ import annotations

import pytest
from kombu.connection import Connection

from queuelib.broker.link import Link
from queuelib.errors import BrokerUnavailable, EncodeError
from queuelib.ports import TransportCapabilities, TransportSettings


def new_link() -> Link:
    """Return a link without a server."""
    return Link(Connection("memory://"), TransportSettings("memory://", TransportCapabilities()))


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, ZeroDivisionError])
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
