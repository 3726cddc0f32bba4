"""What is shared reaches every handler, and each host once: real workers, on every broker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from queuelib import Dispatcher, RemoteError, SharedGone
from tests.integration.lab import WITHIN, Lab, connected, results


@pytest.fixture
def graphs(lab: Lab) -> Iterator[Any]:
    """The user's module apps/graphs.py, connected to the lab's broker."""
    with connected("graphs", lab) as module:
        yield module


@pytest.fixture
def folder(lab: Lab) -> dict[str, str]:
    """The environment of workers whose host keeps its files in this test's own folder."""
    (lab.folder / "tmp").mkdir()
    return {"TMPDIR": str(lab.folder / "tmp")}


def test_a_host_fetches_it_once(lab: Lab, graphs: Any, folder: dict[str, str]) -> None:
    """After the first job all children of two workers read the host's copy: the server has none any more."""
    array = np.random.default_rng(1).random(1_000_000)
    handle = graphs.dispatcher.share(array)
    first = lab.ready_worker("--processes", "2", target="graphs.py", **folder)
    assert graphs.look.submit(handle, 7).result(timeout=WITHIN)[0] == array[7]
    graphs.dispatcher.unshare(handle)
    second = lab.ready_worker("--processes", "2", target="graphs.py", **folder)
    found = results(graphs.look.submit_many([(handle, at) for at in range(0, 1_000_000, 1_000)]))
    assert [number for number, _ in found] == array[::1_000].tolist()
    assert len({pid for _, pid in found}) > 1
    first.stop()
    assert graphs.look.submit(handle, 9).result(timeout=WITHIN)[0] == array[9]
    second.stop()
    (files,) = (lab.folder / "tmp").iterdir()
    assert [path.name for path in files.iterdir()] == [handle.hash.hex()]


def test_arrays_are_mapped(lab: Lab, graphs: Any, folder: dict[str, str]) -> None:
    """A numpy array is the memory of the host's file, for reading."""
    handle = graphs.dispatcher.share(np.ones(10_000))
    lab.ready_worker("--processes", "1", target="graphs.py", **folder)
    assert graphs.is_mapped.submit(handle).result(timeout=WITHIN)
    graphs.dispatcher.unshare(handle)


def test_objects_have_their_type(lab: Lab, graphs: Any, folder: dict[str, str]) -> None:
    """A dataclass comes as itself, in threads and coroutines of handlers too; a handle comes back and reads here."""
    small, large = graphs.Graph([(1, 2)]), graphs.Graph([(1, 2), (2, 3)])
    handles = [graphs.dispatcher.share(one) for one in (small, large)]
    lab.ready_worker("--processes", "1", target="graphs.py", **folder)
    assert graphs.degree.submit(handles[1], 2).result(timeout=WITHIN) == 2
    assert graphs.degree_later.submit(handles[1], 2).result(timeout=WITHIN) == 2
    found = graphs.heaviest.submit(handles).result(timeout=WITHIN)
    assert found == handles[1]
    assert found.get() == large
    for handle in handles:
        graphs.dispatcher.unshare(handle)


def test_what_is_gone_is_a_failed_job(lab: Lab, graphs: Any, folder: dict[str, str]) -> None:
    """A handler that asks for what nobody has fails with the reason; shared again, the next job finds it."""
    array = np.full(200_000, 3.0)
    handle = graphs.dispatcher.share(array)
    graphs.dispatcher.unshare(handle)
    lab.ready_worker("--processes", "1", target="graphs.py", **folder)
    with pytest.raises(RemoteError, match="share it again"):
        graphs.look.submit(handle, 0).result(timeout=WITHIN)
    assert graphs.dispatcher.share(array) == handle
    assert graphs.look.submit(handle, 0).result(timeout=WITHIN)[0] == 3.0
    graphs.dispatcher.unshare(handle)


def test_keys_hide_it_from_the_server(
    lab: Lab, graphs: Any, folder: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encrypted, it reaches the handlers of workers that have the key; those with another one do not find it."""
    monkeypatch.setenv("QUEUELIB_KEY", "k1/aes:" + "a" * 32)
    handle = graphs.dispatcher.share(graphs.Graph([(1, 2), (2, 3)]))
    other = Dispatcher(lab.url, namespace=lab.namespace, key="k2:" + "b" * 32)
    with closing(other), pytest.raises(SharedGone):
        other.sharing.read(handle.hash, handle.size_bytes, Any)
    lab.ready_worker("--processes", "1", target="graphs.py", **folder)
    assert graphs.degree.submit(handle, 2).result(timeout=WITHIN) == 2
    graphs.dispatcher.unshare(handle)
