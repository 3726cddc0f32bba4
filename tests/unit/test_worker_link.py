"""A worker's connections: one failure is one, however many operations meet it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from queuelib.clock import SYSTEM
from queuelib.errors import BrokerUnavailable
from queuelib.worker.link import Link

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_operations_that_meet_the_same_failure_neither_log_it_again_nor_prolong_the_pause(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is loading its data answers at once, and several times in each round."""
    monkeypatch.setattr("random.uniform", lambda _low, high: high)
    url = f"sqlite:///{tmp_path}/a.db"
    link = Link(url, url, "lab", 60.0, SYSTEM)
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            link.failed(BrokerUnavailable("it is loading"))
    assert [record.getMessage() for record in caplog.records] == ["it is loading; trying again in 0.4 s"]
    assert not link.may_try
    link.close()
