"""The folder of shared objects: whole files only, fetched once, the least used ones gone first."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from queuelib.errors import BrokerUnavailable, QueuelibError
from queuelib.worker.cache import Cache, usual_folder

CONTENT = b"content" * 1000
HASH = sha256(CONTENT).digest()


def write_all(write: Callable[[bytes], object]) -> None:
    """Write the content in two pieces."""
    write(CONTENT[:10])
    write(CONTENT[10:])


def unwanted(_: Callable[[bytes], object]) -> None:
    """Fail: it is there already."""
    raise AssertionError


def test_what_was_filled_is_found(tmp_path: Path) -> None:
    """It is mapped, for whoever looks, and loaded only once."""
    cache = Cache(tmp_path / "c")
    assert cache.find(HASH, len(CONTENT)) is None
    cache.fill(HASH, len(CONTENT), write_all)
    Cache(tmp_path / "c").fill(HASH, len(CONTENT), unwanted)
    for one in (cache, Cache(tmp_path / "c")):
        found = one.find(HASH, len(CONTENT))
        assert found is not None
        assert found[:] == CONTENT
        found.close()


def test_nobody_else_may_look(tmp_path: Path) -> None:
    """The folder and its files are of this user alone."""
    Cache(tmp_path / "c").fill(HASH, len(CONTENT), write_all)
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "c").iterdir()] == [0o600]


@pytest.mark.parametrize("how", ["others may look", "a link", "a file"])
def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path, how: str) -> None:
    """What somebody else could have put there is not used."""
    folder = tmp_path / "c"
    if how == "others may look":
        folder.mkdir(mode=0o755)
    elif how == "a link":
        (tmp_path / "real").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "real")
    else:
        folder.touch()
    with pytest.raises(QueuelibError, match="TMPDIR"):
        Cache(folder).fill(HASH, len(CONTENT), unwanted)


def test_the_usual_folder_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two users of a host do not share it."""
    mine = usual_folder()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert usual_folder() != mine
    assert usual_folder().parent == mine.parent


def test_what_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    """A load that fails half-way leaves no file, and its error is raised."""
    cache = Cache(tmp_path / "c")

    def breaks(write: Callable[[bytes], object]) -> None:
        write(CONTENT[:10])
        msg = "gone"
        raise BrokerUnavailable(msg)

    with pytest.raises(BrokerUnavailable, match="gone"):
        cache.fill(HASH, len(CONTENT), breaks)
    assert list((tmp_path / "c").iterdir()) == []
    cache.fill(HASH, len(CONTENT), write_all)
    assert cache.find(HASH, len(CONTENT)) is not None


def test_what_a_dead_one_left_is_no_hindrance(tmp_path: Path) -> None:
    """Half a file of somebody who was killed is written anew, and one of something else removed."""
    cache = Cache(tmp_path / "c")
    (tmp_path / "c").mkdir(mode=0o700)
    (tmp_path / "c" / f"{HASH.hex()}.part").write_bytes(b"x" * 100_000)
    (tmp_path / "c" / "another.part").write_bytes(b"half")
    cache.fill(HASH, len(CONTENT), write_all)
    assert [path.name for path in (tmp_path / "c").iterdir()] == [HASH.hex()]
    assert cache.find(HASH, len(CONTENT)) is not None


@pytest.mark.parametrize("bad", [b"", CONTENT[:-1], CONTENT + b"x", b"x" * len(CONTENT)])
def test_a_file_that_is_not_what_it_should_be_is_removed(tmp_path: Path, bad: bytes) -> None:
    """Cut short, longer or changed: nobody is given it, and it is fetched again."""
    cache = Cache(tmp_path / "c")
    cache.fill(HASH, len(CONTENT), write_all)
    (tmp_path / "c" / HASH.hex()).write_bytes(bad)
    assert cache.find(HASH, len(CONTENT)) is None
    cache.fill(HASH, len(CONTENT), write_all)
    found = cache.find(HASH, len(CONTENT))
    assert found is not None
    assert found[:] == CONTENT


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A file elsewhere is not what is in the folder."""
    (tmp_path / "c").mkdir(mode=0o700)
    (tmp_path / "elsewhere").write_bytes(CONTENT)
    (tmp_path / "c" / HASH.hex()).symlink_to(tmp_path / "elsewhere")
    assert Cache(tmp_path / "c").find(HASH, len(CONTENT)) is None


def test_the_least_used_goes(tmp_path: Path) -> None:
    """Where there is no room for three, the one that was used longest ago goes; whoever has mapped it keeps it."""
    cache = Cache(tmp_path / "c", room_bytes=2500)
    contents = {sha256(one).digest(): one for one in (b"a" * 1000, b"b" * 1000, b"c" * 1000)}
    first, second, third = contents
    for number, name in enumerate((first, second)):
        cache.fill(name, 1000, lambda write, name=name: write(contents[name]))  # type: ignore[misc]
        os.utime(tmp_path / "c" / name.hex(), (number, number))
    mapped = cache.find(second, 1000)
    assert cache.find(first, 1000) is not None  # used last
    os.utime(tmp_path / "c" / second.hex(), (5, 5))
    cache.fill(third, 1000, lambda write: write(contents[third]))
    assert [cache.find(name, 1000) is not None for name in contents] == [True, False, True]
    assert mapped is not None
    assert mapped[:] == contents[second]


def test_one_of_many_loads(tmp_path: Path) -> None:
    """Of all who want the same at once one loads it, and the others find it."""
    entered, gate, loads = threading.Event(), threading.Event(), []

    def slow(write: Callable[[bytes], object]) -> None:
        loads.append(1)
        entered.set()
        assert gate.wait(20.0)
        write_all(write)

    def want() -> None:
        Cache(tmp_path / "c").fill(HASH, len(CONTENT), slow)

    threads = [threading.Thread(target=want) for _ in range(4)]
    threads[0].start()
    assert entered.wait(20.0)
    for thread in threads[1:]:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join(20.0)
    assert loads == [1]
    assert [path.name for path in (tmp_path / "c").iterdir()] == [HASH.hex()]


def test_after_one_who_fails_the_next_loads(tmp_path: Path) -> None:
    """Who waited behind a load that failed loads it itself."""
    entered, gate = threading.Event(), threading.Event()
    found: list[Any] = []

    def fails(_: Callable[[bytes], object]) -> None:
        entered.set()
        assert gate.wait(20.0)
        msg = "gone"
        raise BrokerUnavailable(msg)

    def first() -> None:
        with pytest.raises(BrokerUnavailable):
            Cache(tmp_path / "c").fill(HASH, len(CONTENT), fails)

    def second() -> None:
        cache = Cache(tmp_path / "c")
        cache.fill(HASH, len(CONTENT), write_all)
        found.append(cache.find(HASH, len(CONTENT)))

    threads = [threading.Thread(target=one) for one in (first, second)]
    threads[0].start()
    assert entered.wait(20.0)
    threads[1].start()
    gate.set()
    for thread in threads:
        thread.join(20.0)
    assert found[0][:] == CONTENT


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    """The message names the folder and what to do."""

    def full(_: Callable[[bytes], object]) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(QueuelibError, match="No space left.*TMPDIR"):
        Cache(tmp_path / "c").fill(HASH, len(CONTENT), full)
    assert list((tmp_path / "c").iterdir()) == []
