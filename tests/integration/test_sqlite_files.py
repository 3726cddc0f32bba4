"""Bad files and bad places for an SQLite broker: a clear error, and nothing lost."""

from __future__ import annotations

import os
import select
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from queuelib import BrokerUnavailable, ConfigurationError, Dispatcher
from queuelib.broker import open_lane, settings_for
from queuelib.ids import new_bundle_id
from queuelib.message import Outgoing
from queuelib_sqlite.place import refuse_network_file_system

if TYPE_CHECKING:
    from collections.abc import Iterator

_SUBMIT = """
import sys
from queuelib import Dispatcher
dispatcher = Dispatcher(sys.argv[1], submit_deadline=1.0)

def f(text: str) -> str:
    return text

task = dispatcher.task(name="f")(f)
accepted = 0
try:
    while True:
        task.submit("x" * int(sys.argv[2]))
        accepted += 1
except Exception as error:
    print(type(error).__name__, accepted, error)
"""

_BECOME_NOBODY = """
import os
dispatcher.configure(broker=sys.argv[3])
task.submit("x")
dispatcher.configure(broker=sys.argv[1])
os.setgid(65534)
os.setuid(65534)
accepted = 0
"""


def submit(url: str) -> None:
    """Submit one job."""
    dispatcher = Dispatcher(url, submit_deadline=0.5)
    try:
        dispatcher.task(name="f")(lambda: None).submit()
    finally:
        dispatcher.close()


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    """The file and the folder beside it can be read by nobody else."""
    submit(f"sqlite:///{tmp_path}/jobs.db")
    assert stat.S_IMODE((tmp_path / "jobs.db").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "jobs.db.d").stat().st_mode) == 0o700


def test_file_that_is_no_database(tmp_path: Path) -> None:
    """Any other file is refused and left as it was."""
    path = tmp_path / "notes.txt"
    path.write_text("these are my notes" * 100)
    with pytest.raises(ConfigurationError, match=r"notes\.txt is not a queuelib file"):
        submit(f"sqlite:///{path}")
    assert path.read_text() == "these are my notes" * 100


def test_database_of_another_program(tmp_path: Path) -> None:
    """A database with other tables is refused."""
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    with pytest.raises(ConfigurationError, match="another program"):
        submit(f"sqlite:///{path}")


def test_newer_layout(tmp_path: Path) -> None:
    """A file that a newer queuelib wrote is refused."""
    path = tmp_path / "new.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE future (x)")
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConfigurationError, match="newer queuelib"):
        submit(f"sqlite:///{path}")


def test_missing_folder(tmp_path: Path) -> None:
    """A folder that does not exist is named."""
    with pytest.raises(ConfigurationError, match="does not exist"):
        submit(f"sqlite:///{tmp_path}/nowhere/jobs.db")


@pytest.mark.parametrize("url", ["sqlite://jobs.db", "sqlite://", "sqlite:///", "sqlite:///jobs.db?x=1"])
def test_url_without_a_file(url: str) -> None:
    """A URL that names no file, or has an option, is refused with an example or the option."""
    with pytest.raises(ConfigurationError, match=r"sqlite:///jobs\.db"):
        submit(url)


@pytest.fixture
def open_path() -> Iterator[Path]:
    """Give a folder into which every user may look: pytest closes the one above its own to others, whenever it starts."""
    with TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


def test_read_only_folder(open_path: Path) -> None:
    """A user who may not write gets an error that says so, within the deadline."""
    folder = open_path / "theirs"
    folder.mkdir(mode=0o755)
    code = _SUBMIT
    if os.getuid() == 0:
        # Everything is imported as root, by a first submit; then the process becomes a user who may only look.
        code = _SUBMIT.replace("accepted = 0", _BECOME_NOBODY)
    else:
        folder.chmod(0o555)
    done = run(code, f"sqlite:///{folder}/jobs.db", "1", f"sqlite:///{open_path}/first.db")
    assert done.startswith("ConfigurationError 0 "), done
    assert "writable" in done


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a small file system")
def test_full_disk(tmp_path: Path) -> None:
    """On a full disk submit raises, and what was accepted before is all there."""
    mounted = tmp_path / "small"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(mounted)], check=True)
    try:
        done = run(_SUBMIT, f"sqlite:///{mounted}/jobs.db", "50000")
        kind, accepted, text = done.split(" ", 2)
        assert kind == "BrokerUnavailable"
        assert "disk is full" in text
        assert int(accepted) > 0
        with sqlite3.connect(mounted / "jobs.db") as connection:
            assert connection.execute("SELECT count(*) FROM message").fetchone() == (int(accepted),)
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def test_network_file_system(tmp_path: Path) -> None:
    """A file on NFS is refused by the table of mounts; one on a local disk is not."""
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n")
    with pytest.raises(ConfigurationError, match="network file system"):
        refuse_network_file_system(tmp_path / "jobs.db", mounts)
    mounts.write_text(f"server:/x / nfs4 rw 0 0\n/dev/sda1 {tmp_path} ext4 rw 0 0\n")
    refuse_network_file_system(tmp_path / "jobs.db", mounts)


@pytest.mark.parametrize("what", ["folder", "file"])
def test_network_file_system_behind_a_link(tmp_path: Path, what: str) -> None:
    """Where a link leads to is what counts."""
    (tmp_path / "remote").mkdir()
    (tmp_path / "local").mkdir()
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/x {tmp_path}/remote nfs4 rw 0 0\n")
    if what == "folder":
        (tmp_path / "link").symlink_to(tmp_path / "remote")
        path = tmp_path / "link" / "jobs.db"
    else:
        path = tmp_path / "local" / "jobs.db"
        path.symlink_to(tmp_path / "remote" / "jobs.db")
    with pytest.raises(ConfigurationError, match="network file system"):
        refuse_network_file_system(path, mounts)


@pytest.mark.parametrize("what", ["folder", "file"])
def test_claims_under_another_name_of_the_file(tmp_path: Path, what: str) -> None:
    """A worker that names the file by a link has its claims and its bell where those find them who name the file itself."""
    place = tmp_path / "place"
    place.mkdir()
    submit(f"sqlite:///{place}/jobs.db")
    link = tmp_path / ("link" if what == "folder" else "link.db")
    link.symlink_to(place if what == "folder" else place / "jobs.db")
    named = f"sqlite:///{link}/jobs.db" if what == "folder" else f"sqlite:///{link}"
    urls = (named, f"sqlite:///{place}/jobs.db")
    lanes = [open_lane(settings_for(url, "queuelib"), "queuelib", 5.0) for url in urls]
    try:
        linked, plain = lanes
        bell = linked.fileno()
        assert bell is not None
        held = linked.take({"yellow": 1})
        assert len(held) == 1
        plain.renew()
        assert plain.take({"yellow": 1}) == []
        assert linked.find_lost(held) == []
        plain.publish([Outgoing("yellow", new_bundle_id(time.time()), b"frame")], 5.0)
        assert select.select([bell], [], [], 5.0)[0], "nobody rang"
    finally:
        for lane in lanes:
            lane.close()


def test_link_that_was_laid_anew(tmp_path: Path) -> None:
    """A program that used a file through a link does not go on in secret where nobody looks any more."""
    for name in ("old", "new"):
        submit(f"sqlite:///{tmp_path}/{name}.db")
    link = tmp_path / "link.db"
    link.symlink_to(tmp_path / "old.db")
    dispatcher = Dispatcher(f"sqlite:///{link}")
    task = dispatcher.task(name="f")(lambda: None)
    try:
        task.submit()
        link.unlink()
        link.symlink_to(tmp_path / "new.db")
        with pytest.raises(BrokerUnavailable, match="replaced or removed"):
            task.submit()
    finally:
        dispatcher.close()


def test_locked_file(tmp_path: Path) -> None:
    """While another program keeps a transaction open, submit raises within its deadline; then it works again."""
    url = f"sqlite:///{tmp_path}/jobs.db"
    submit(url)
    other = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="locked"):
            submit(url)
        assert time.monotonic() - began < 5.0
        other.execute("ROLLBACK")
    finally:
        other.close()
    submit(url)


def run(code: str, *arguments: str) -> str:
    """Run a program in a process of its own and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def test_one_file_under_two_spellings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job is queued also where the results are named as the same file in other words."""
    monkeypatch.chdir(tmp_path)
    dispatcher = Dispatcher("sqlite:///jobs.db", results="sqlite:///./jobs.db")
    try:
        dispatcher.task(name="f")(lambda: None).submit()
    finally:
        dispatcher.close()
    with sqlite3.connect(tmp_path / "jobs.db") as connection:
        assert connection.execute("SELECT count(*) FROM message").fetchone() == (1,)
    connection.close()


def test_file_that_was_replaced(tmp_path: Path) -> None:
    """A program that used a file writes to no other under its name; once it is back, all is well."""
    dispatcher = Dispatcher(f"sqlite:///{tmp_path}/jobs.db")
    task = dispatcher.task(name="f")(lambda: None)
    try:
        task.submit()
        (tmp_path / "jobs.db").rename(tmp_path / "away.db")
        for _ in range(2):
            with pytest.raises(BrokerUnavailable, match="replaced or removed"):
                task.submit()
        assert not (tmp_path / "jobs.db").exists()
        (tmp_path / "away.db").rename(tmp_path / "jobs.db")
        task.submit()
    finally:
        dispatcher.close()
