"""Objects that handles stand for are read once, and the least used ones go."""

from __future__ import annotations

import mmap
from typing import Any, NamedTuple

import numpy as np
import pytest

from queuelib import content
from queuelib.errors import SharedGone
from queuelib.opened import Opened


class Shelf:
    """Contents by name, which counts who asks."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    def fetch(self, name: bytes, size_bytes: int) -> bytes:
        """Return the content: its own name, as a list of numbers."""
        assert size_bytes == 10
        self.asked.append(name)
        if name == b"gone":
            msg = "gone"
            raise SharedGone(msg)
        return bytes(content.encode(list(name)))


def test_it_is_read_once() -> None:
    """The second reader gets the very object of the first."""
    shelf = Shelf()
    opened = Opened(shelf.fetch)
    first = opened.read(b"a", 10, Any)
    assert first == [97]
    assert opened.read(b"a", 10, Any) is first
    assert shelf.asked == [b"a"]


def test_each_type_has_its_own() -> None:
    """What is wanted as another type is another object."""
    opened = Opened(Shelf().fetch)
    assert opened.read(b"a", 10, list[int]) == [97]
    assert opened.read(b"a", 10, tuple[int, ...]) == (97,)
    assert opened.read(b"a", 10, Any) == [97]


def test_classes_of_one_name_are_two() -> None:
    """Where a module defines a class anew, an object is of the new one."""

    def make() -> type[tuple[int, ...]]:
        class Numbers(NamedTuple):
            first: int

        return Numbers

    first, second = make(), make()
    assert repr(first) == repr(second)
    opened = Opened(Shelf().fetch)
    assert type(opened.read(b"a", 10, first)) is first
    assert type(opened.read(b"a", 10, second)) is second


def test_the_least_used_goes() -> None:
    """Where there is no room for three, the one that was used longest ago is read again."""
    shelf = Shelf()
    opened = Opened(shelf.fetch, room_bytes=25)
    for name in (b"a", b"b", b"a", b"c", b"a", b"b"):
        opened.read(name, 10, Any)
    assert shelf.asked == [b"a", b"b", b"c", b"b"]


def test_the_last_is_kept_however_large_it_is() -> None:
    """An object larger than all the room is not read for every job."""
    shelf = Shelf()
    opened = Opened(shelf.fetch, room_bytes=5)
    assert opened.read(b"a", 10, Any) is opened.read(b"a", 10, Any)
    assert shelf.asked == [b"a"]


def test_mapped_arrays_count_for_little() -> None:
    """Arrays that take no memory of their own are not read again and again for want of room."""
    data = bytes(content.encode(np.zeros(1000)))
    asked: list[bytes] = []

    def fetch(name: bytes, size_bytes: int) -> mmap.mmap:
        asked.append(name)
        mapped = mmap.mmap(-1, size_bytes)
        mapped[:] = data
        return mapped

    opened = Opened(fetch, room_bytes=len(data))
    for name in (b"a", b"b", b"c", b"a", b"b", b"c"):
        assert opened.read(name, len(data), Any).shape == (1000,)
    assert asked == [b"a", b"b", b"c"]


def test_a_failure_is_not_remembered() -> None:
    """Who asks again after a failure is answered anew."""
    shelf = Shelf()
    opened = Opened(shelf.fetch)
    for _ in range(2):
        with pytest.raises(SharedGone):
            opened.read(b"gone", 10, Any)
    assert shelf.asked == [b"gone", b"gone"]


def test_cleared_is_read_again() -> None:
    """After `clear` nothing is known."""
    shelf = Shelf()
    opened = Opened(shelf.fetch)
    opened.read(b"a", 10, Any)
    opened.clear()
    opened.read(b"a", 10, Any)
    assert shelf.asked == [b"a", b"a"]
