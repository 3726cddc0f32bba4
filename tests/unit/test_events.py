"""Observers: told what has happened, and without a say in it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from queuelib.events import Events

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest


def test_observers_are_called_in_order() -> None:
    """Each is told the event's name and its facts, in the order in which they were added."""
    told: list[tuple[str, str, Mapping[str, Any]]] = []
    events = Events()
    events.add(lambda name, facts: told.append(("first", name, facts)))
    events.add(lambda name, facts: told.append(("second", name, facts)))
    events.tell("result", task="lab.work", state="succeeded")
    facts = {"task": "lab.work", "state": "succeeded"}
    assert told == [("first", "result", facts), ("second", "result", facts)]


def test_an_error_in_one_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged with its traceback, and the next observer is told all the same."""
    told: list[str] = []
    events = Events()

    @events.add
    def broken(name: str, facts: Mapping[str, Any]) -> None:
        raise ValueError(facts["task"])

    events.add(lambda name, _: told.append(name))
    with caplog.at_level(logging.ERROR, "queuelib.events"):
        events.tell("started", task="lab.work")
    assert told == ["started"]
    assert [record.message for record in caplog.records] == ["an observer failed on started"]
    assert "ValueError: lab.work" in caplog.text
    assert broken.__name__ == "broken"


def test_nobody_observes() -> None:
    """Telling nobody is nothing; two lists of observers are apart."""
    told: list[str] = []
    one, other = Events(), Events()
    one.add(lambda name, _: told.append(name))
    other.tell("started")
    assert told == []
