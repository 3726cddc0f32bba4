"""`queuelib failed`: each message once, however often it is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from queuelib import Dispatcher, broker
from queuelib.bundle import outgoing
from queuelib.cli.failed import failed
from queuelib.ids import job_id, new_bundle_id
from queuelib.ports import QuarantineItem
from tests.unit.fakes import make_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator

URL = "memory://failed"


@pytest.fixture
def dispatcher() -> Iterator[Dispatcher]:
    made = Dispatcher(URL)
    yield made
    made.close()


def set_aside(dispatcher: Dispatcher) -> str:
    """Set a message aside, and return its id."""
    bundle = make_bundle(id=new_bundle_id(1_000_000.0))
    name = job_id(bundle.id, 0)
    dispatcher.open_results().quarantine([QuarantineItem(name, bundle.color, "why", outgoing(bundle).frame, 1.0)])
    return name


def test_a_message_that_is_named_twice_is_queued_once(dispatcher: Dispatcher) -> None:
    """Its jobs would run twice."""
    name = set_aside(dispatcher)
    result = CliRunner().invoke(failed, ["retry", "--broker", URL, name, name])
    assert (result.exit_code, result.output) == (0, f"{name} is queued again in yellow\n")
    lane = broker.open_lane(broker.settings_for(URL, "queuelib"), "queuelib", 5.0)
    assert lane.waiting(["yellow"]) == {"yellow": 1}
    lane.close()


def test_a_message_that_is_named_twice_is_dropped_once(dispatcher: Dispatcher) -> None:
    """And counted once."""
    name = set_aside(dispatcher)
    result = CliRunner().invoke(failed, ["drop", "--broker", URL, name, name])
    assert (result.exit_code, result.output) == (0, "1 dropped\n")
    assert dispatcher.open_results().quarantined() == []
