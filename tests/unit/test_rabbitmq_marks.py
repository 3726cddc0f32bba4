"""What a RabbitMQ client remembers of marks and outcomes: not for ever those that it has handed on."""

from __future__ import annotations

import time
from typing import Any

from queuelib.ids import Key, new_bundle_id
from queuelib.outcome import SUCCEEDED, Record
from queuelib_rabbitmq import wire
from queuelib_rabbitmq.memory import Memory


def cancel(memory: Memory, count: int) -> list[Key]:
    """Have a memory read that jobs were cancelled."""
    keys = [Key(new_bundle_id(1_800_000_000.0), index) for index in range(count)]
    message: list[Any] = wire.decode(wire.encode(wire.CANCELS, keys, 0.0)) or []
    memory.apply_control(message)
    return keys


def test_each_mark_comes_once() -> None:
    """In order, behind the cursor."""
    memory = Memory(1 << 20)
    first = cancel(memory, 3)
    found, cursor = memory.marks_after(None)
    assert found == first
    second = cancel(memory, 2)
    found, cursor = memory.marks_after(cursor)
    assert found == second
    assert memory.marks_after(cursor)[0] == []


def test_what_was_handed_on_is_not_kept() -> None:
    """A worker that asks for ever keeps nothing of what it was told."""
    memory = Memory(1 << 20)
    cursor = None
    for _ in range(100):
        cancel(memory, 10)
        _, cursor = memory.marks_after(cursor)
    assert len(memory.marks_after(cursor)[0]) == len(memory._marks) == 0
    assert memory.has_marks_after(cursor)


def test_who_asks_for_all_of_them_later_has_to_read_again() -> None:
    """And whoever had a cursor of the earlier reading gets them once more rather than missing one."""
    memory = Memory(1 << 20)
    cancel(memory, 3)
    _, cursor = memory.marks_after(None)
    memory.marks_after(cursor)
    assert not memory.has_marks_after(None)
    memory.clear_marks()
    again = cancel(memory, 4)
    assert memory.has_marks_after(None)
    assert memory.marks_after(cursor)[0] == memory.marks_after(None)[0] == again


def test_what_was_dropped_is_read_again() -> None:
    """An outcome that was pushed, asked for and dropped for want of room is not taken for one that is still to come."""
    memory = Memory(1 << 20)
    bundles = [new_bundle_id(time.time()) for _ in range(40)]
    memory.add_own(bundles)
    keys = [Key(bundle, 0) for bundle in bundles]
    for key in keys:
        (message,) = wire.outcome_messages([Record(key, SUCCEEDED, 1, bytes(4000), 1.0)], doubtful=False)
        memory.push(message)
        memory.set_told([key], memory.best_of([key]))
    known = [record is not None for record in memory.best_of(keys)]
    assert known[-1]
    assert not known[0]
    assert memory.unanswered(keys, time.time()) == [
        key for key, is_known in zip(keys, known, strict=True) if not is_known
    ]
