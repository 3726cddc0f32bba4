"""Attacks on the embedded file: modes, links that others laid, folders that everybody writes to, and rows that name paths."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from queuelib import ConfigurationError, Dispatcher
from queuelib_sqlite.claim import is_orphaned
from queuelib_sqlite.store import Store

IS_ROOT = os.geteuid() == 0
NOBODY = 65534


@contextmanager
def umask(mask: int) -> Generator[None]:
    """Set the umask."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def submit(path: Path) -> None:
    """Submit one job to a file."""
    dispatcher = Dispatcher(f"sqlite:///{path}")

    @dispatcher.task(name="echo")
    def echo(x: int) -> int:
        return x

    with closing(dispatcher):
        echo.submit(1)


def modes(folder: Path) -> dict[str, int]:
    """Return the permissions of everything in a folder."""
    return {str(one.relative_to(folder)): stat.S_IMODE(one.lstat().st_mode) for one in folder.rglob("*")}


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o277])
def test_s32_files_are_their_owners_alone(tmp_path: Path, mask: int) -> None:
    """The file and its companions are 0600 and its folder 0700, whatever the umask."""
    with umask(mask):
        store = Store(tmp_path / "jobs.db")
        with closing(store):
            with store.write() as connection:
                connection.execute("INSERT INTO queue VALUES ('x')")
            from queuelib_sqlite.claim import Claim  # noqa: PLC0415
            from queuelib_sqlite.fifo import Bell  # noqa: PLC0415

            claim, bell = Claim(store.folder), Bell(store.folder)
            found = modes(tmp_path)
            bell.close()
            claim.release()
    assert found.pop("jobs.db.d") == 0o700
    assert len(found) == 5  # the file, its log and index, a claim, a FIFO
    assert set(found.values()) == {0o600}, found


def test_s32_a_folder_that_everybody_writes_to_is_refused(tmp_path: Path) -> None:
    """Anybody could replace the file there; with the sticky bit nobody else can, as in /tmp."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(ConfigurationError, match=r"writable by everybody.*chmod"):
        submit(shared / "jobs.db")
    assert modes(shared) == {}
    shared.chmod(0o1777)
    submit(shared / "jobs.db")


@pytest.mark.parametrize("what", ["jobs.db", "jobs.db.d"])
def test_s32_what_everybody_writes_to_is_refused(tmp_path: Path, what: str) -> None:
    """A file or a folder of ours that was opened to everybody afterwards, or laid out so beforehand."""
    submit(tmp_path / "jobs.db")
    (tmp_path / what).chmod(0o777)
    with pytest.raises(ConfigurationError, match="writable by everybody"):
        submit(tmp_path / "jobs.db")


def test_s32_ones_own_link_leads_where_it_leads(tmp_path: Path) -> None:
    """A user may lay a link to a file elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    submit(elsewhere / "real.db")
    (tmp_path / "jobs.db").symlink_to(elsewhere / "real.db")
    submit(tmp_path / "jobs.db")


@pytest.mark.skipif(not IS_ROOT, reason="only root can lay a link in somebody else's name")
@pytest.mark.parametrize("what", ["jobs.db", "jobs.db.d"])
def test_s32_a_link_that_somebody_else_laid_is_refused(tmp_path: Path, what: str) -> None:
    """It would have this user write, or make a file, where somebody else wants it."""
    victim = tmp_path / "victim"
    link = tmp_path / what
    if what == "jobs.db.d":
        victim.mkdir()
    link.symlink_to(victim)
    os.lchown(link, NOBODY, NOBODY)
    with pytest.raises(ConfigurationError, match="symbolic link that belongs to user 65534"):
        submit(tmp_path / "jobs.db")
    assert what == "jobs.db.d" or not victim.exists()


def test_s32_a_dangling_link_makes_nothing(tmp_path: Path) -> None:
    """Where a link leads nowhere no file is made through it."""
    (tmp_path / "jobs.db").symlink_to(tmp_path / "nowhere.db")
    with pytest.raises(ConfigurationError):
        submit(tmp_path / "jobs.db")
    assert not list(tmp_path.glob("nowhere*"))


def test_s32_a_link_in_a_circle_is_refused(tmp_path: Path) -> None:
    """It leads nowhere, too."""
    (tmp_path / "jobs.db").symlink_to(tmp_path / "jobs.db")
    with pytest.raises(ConfigurationError, match="leads nowhere"):
        submit(tmp_path / "jobs.db")


def test_s32_a_link_into_a_folder_that_everybody_writes_to_is_refused(tmp_path: Path) -> None:
    """Anybody could replace the file to which it leads."""
    shared = tmp_path / "shared"
    shared.mkdir()
    submit(shared / "real.db")
    shared.chmod(0o777)
    (tmp_path / "jobs.db").symlink_to(shared / "real.db")
    with pytest.raises(ConfigurationError, match=r"folder .*shared is writable by everybody"):
        submit(tmp_path / "jobs.db")


def test_s32_s29_rows_that_name_paths_open_nothing_outside(tmp_path: Path) -> None:
    """The file says whose FIFO to ring and whose claim to look at: neither leads out of its folder."""
    path = tmp_path / "jobs.db"
    submit(path)
    victim = tmp_path / "victim"
    victim.write_text("precious", encoding="utf-8")
    rows: list[Any] = [(str(victim), topic) for topic in ("outcome", "queue:queuelib.yellow")]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany("INSERT INTO waiter VALUES (?, ?)", rows)
    submit(path)
    assert victim.read_text(encoding="utf-8") == "precious"
    assert is_orphaned(tmp_path / "jobs.db.d", "../victim")
    assert is_orphaned(tmp_path / "jobs.db.d", str(victim))
    assert victim.exists()
