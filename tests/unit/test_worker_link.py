"""When a worker tries a server again: soon enough for whoever waits, and seldom enough for the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from queuelib.errors import BrokerUnavailable
from queuelib.worker.link import Link
from tests.unit.fakes import Time

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def time() -> Time:
    """A clock that the test moves."""
    return Time()


@pytest.fixture
def link(time: Time, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Link:
    """A link that waits as long as it ever does."""
    monkeypatch.setattr("queuelib.worker.link.random.uniform", lambda _low, high: high)
    url = f"sqlite:///{tmp_path}/jobs.db"
    return Link(url, url, "test", 60.0, time.clock)


def pauses(link: Any, time: Time, failures: int) -> list[float]:
    """Return the seconds between failures, each of which comes when the pause after the last one is over."""
    found: list[float] = []
    for _ in range(failures):
        link.failed(BrokerUnavailable("gone"))
        began = time.now
        while not link.may_try:
            time.now += 0.05
        found.append(round(time.now - began, 2))
    return found


def test_pauses_grow_up_to_three_seconds(link: Link, time: Time) -> None:
    """And begin anew after a success."""
    assert pauses(link, time, 6) == pytest.approx([0.4, 0.8, 1.6, 3.0, 3.0, 3.0], abs=0.06)
    link.recovered()
    assert pauses(link, time, 1) == pytest.approx([0.4], abs=0.06)


def test_what_fails_in_a_pause_does_not_lengthen_it(link: Link, time: Time) -> None:
    """A lost connection is noticed by everything that uses it."""
    link.failed(BrokerUnavailable("gone"))
    for _ in range(10):
        link.failed(BrokerUnavailable("gone"))
    time.now += 0.41
    assert link.may_try
    assert pauses(link, time, 1) == pytest.approx([0.8], abs=0.06)


@pytest.mark.parametrize(("heartbeat", "seconds"), [(20, 3.0), (2, 0.4)])
def test_a_look_up_ends_long_before_the_lease(time: Time, heartbeat: int, seconds: float) -> None:
    """Nothing is renewed during one."""
    url = f"amqp://host//?heartbeat={heartbeat}"
    link = Link(url, url, "test", 60.0, time.clock)
    assert cast("Any", link.results)._look_up_for == pytest.approx(seconds)


def test_a_server_may_be_away_for_hours(link: Link, time: Time) -> None:
    """Attempts have no end."""
    assert pauses(link, time, 1100)[-1] == pytest.approx(3.0, abs=0.06)
