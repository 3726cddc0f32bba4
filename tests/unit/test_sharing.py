"""Sharing from a client, and with workers that are threads."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from queuelib import ConfigurationError, Dispatcher, QueuelibError, Shared, SharedGone, naming, plugins
from tests.contract.third_party_results import JournalResults


@pytest.fixture
def dispatcher() -> Dispatcher:
    """A server of this test's own."""
    return Dispatcher(f"memory://{uuid.uuid4().hex}")


@dataclass
class Graph:
    """What is shared."""

    edges: list[tuple[int, int]]


class Point(msgspec.Struct):
    """Another kind of class."""

    x: float


@pytest.mark.parametrize("value", [[1, {"a": (2.5, None)}], Graph([(1, 2)]), Point(1.0), (1, 2), "text", None, b""])
def test_what_is_shared_reads_at_the_client(dispatcher: Dispatcher, value: Any) -> None:
    """`get` returns what was shared; inside of it a tuple is a list, as in arguments without annotations."""
    found = dispatcher.share(value).get()
    assert type(found) is type(value)
    assert found == ([1, {"a": [2.5, None]}] if isinstance(value, list) else value)


def test_equal_contents_are_one(dispatcher: Dispatcher) -> None:
    """Handles of equal contents are equal, and so are those of another program."""
    array = np.arange(10)
    handle = dispatcher.share(array)
    assert dispatcher.share(array.copy()) == handle
    assert dispatcher.share(array + 1) != handle
    other = Dispatcher(dispatcher.broker_url)
    assert {other.share(array), handle} == {handle}


def test_what_is_unshared_is_gone(dispatcher: Dispatcher) -> None:
    """A program that has read it has it; one that has not is told."""
    handle = dispatcher.share([1])
    assert handle.get() == [1]
    dispatcher.unshare(handle)
    assert handle.get() == [1]
    dispatcher.close()
    with pytest.raises(SharedGone, match="share it again"):
        handle.get()


def test_threads_read_what_is_shared(dispatcher: Dispatcher) -> None:
    """Workers on memory:// read in their own process."""

    @dispatcher.task
    def total(array: Shared[NDArray[np.float64]], graph: Shared[Graph]) -> float:
        return float(array.get().sum()) + len(graph.get().edges)

    @dispatcher.task
    def same(graph: Shared[Graph]) -> Shared[Graph]:
        return graph

    handles = dispatcher.share(np.ones(100)), dispatcher.share(Graph([(1, 2)]))
    with dispatcher.workers(processes=2):
        assert dispatcher.gather(total.submit_many([handles] * 10), timeout=20) == [101.0] * 10
        found = same.submit(handles[1]).result(timeout=20)
    assert found == handles[1]
    assert found.get() == Graph([(1, 2)])


def test_other_places_have_other_objects(dispatcher: Dispatcher) -> None:
    """Configured anew, a dispatcher shares there, and its handles read there."""
    handle = dispatcher.share([1])
    dispatcher.configure(namespace="elsewhere")
    with pytest.raises(SharedGone):
        handle.get()
    dispatcher.share([1])
    assert handle.get() == [1]


def test_keys_that_differ_do_not_meet() -> None:
    """What one key signed another does not find; with the first key known as well, it does."""
    url, old, new = f"memory://{uuid.uuid4().hex}", "old:" + "a" * 32, "new/aes:" + "b" * 32
    handle = Dispatcher(url, key=old).share([1])
    for key, is_there in ((new, False), (f"{new},{old}", True), (old, True)):
        dispatcher = Dispatcher(url, key=key)
        read = dispatcher.sharing.read
        if is_there:
            assert read(handle.hash, handle.size_bytes, Any) == [1]
        else:
            with pytest.raises(SharedGone):
                read(handle.hash, handle.size_bytes, Any)


def test_a_backend_may_keep_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A third party's backend without blobs is said to have none."""

    class Backend:
        name = "journal"
        schemes = ("journal",)
        results = JournalResults

    monkeypatch.setattr(plugins, "find_backend", lambda _: Backend())
    with pytest.raises(ConfigurationError, match=r"journal://x.*no shared objects"):
        Dispatcher("memory://x", results="journal://x").share([1])


def test_it_is_not_shared_at_import(dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every worker would share it again."""
    monkeypatch.setattr(naming, "is_importing", True)
    with pytest.raises(QueuelibError, match="__main__"):
        dispatcher.share([1])
