"""Programs that fork after they have used an SQLite broker: nothing is lost, nothing hangs, and the parent keeps its own."""

from __future__ import annotations

import os
import select
import sqlite3
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from kombu.connection import Connection
from kombu.entity import Queue

import queuelib_sqlite
from queuelib import plugins
from queuelib.broker import open_lane, settings_for
from queuelib.ids import Key, new_bundle_id
from queuelib.message import Outgoing
from queuelib.outcome import FAILED, Record
from queuelib.ports import Lane

_START = """
import os, signal, sys, threading, warnings
from queuelib import Dispatcher
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads: that is what is tried here
dispatcher = Dispatcher(sys.argv[1])

@dispatcher.task(name="f")
def f(number: int) -> int:
    return number

def count():
    import sqlite3, subprocess
    code = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM message').fetchone()[0])"
    path = sys.argv[1].removeprefix("sqlite:///")
    return int(subprocess.run([sys.executable, "-c", code, path], stdout=subprocess.PIPE, check=True).stdout)

def reap(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""

_PARENT_CLOSES = """
f.submit(0)
gone, leave = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(leave)
    os.read(gone, 1)
    seen = []
    for _ in range(4):
        for number in range(10):
            f.submit(number)
        seen.append(count())
    dispatcher.close()
    print(seen, flush=True)
    os._exit(0)
os.close(gone)
END
"""

# The thread is in the middle of a transaction at the fork, and goes on when the fork has begun to wait for it.
_IN_A_TRANSACTION = """
from queuelib_sqlite.store import Store
f.submit(0)
store = Store(__import__("pathlib").Path(sys.argv[1].removeprefix("sqlite:///")))
inside, go = threading.Event(), threading.Event()

def write():
    with store.write() as connection:
        connection.execute("INSERT INTO queue VALUES ('written')")
        inside.set()
        assert go.wait(30)

thread = threading.Thread(target=write)
thread.start()
inside.wait(30)
PREPARE
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    try:
        f.submit(1)
        with store.read() as connection:
            print("child reads", connection.execute("SELECT * FROM queue").fetchall(), flush=True)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    os._exit(0)
go.set()
thread.join(30)
print("child ended with", reap(pid))
with store.read() as connection:
    print("parent reads", connection.execute("SELECT * FROM queue").fetchall())
store.close()
f.submit(2)
dispatcher.close()
print("jobs", count())
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A file of this test's own."""
    assert queuelib_sqlite.BACKEND.name == "sqlite"  # whose import has kombu know qlsqlite:// URLs
    return f"sqlite:///{tmp_path}/jobs.db"


def run(code: str, *arguments: str) -> str:
    """Run a program after `_START` and return what it and its children printed."""
    command = [sys.executable, "-c", _START + code, *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("end", ["dispatcher.close()\nos.write(leave, b'x')\nsys.exit(reap(pid))", "sys.exit(0)"])
def test_what_a_child_submits_is_found_after_its_parent_has_closed(url: str, tmp_path: Path, end: str) -> None:
    """Every job that the child was told is accepted is in the file, whether its parent closes or ends."""
    assert run(_PARENT_CLOSES.replace("END", end), url) == "[11, 21, 31, 41]\n"
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        assert connection.execute("SELECT count(*) FROM message").fetchone() == (41,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_fork_waits_for_the_transaction_of_another_thread(url: str) -> None:
    """The child finds it committed and no lock held."""
    said = run(_IN_A_TRANSACTION.replace("PREPARE", "os.register_at_fork(before=go.set)"), url)
    assert said.splitlines() == [
        "child reads [('written',)]",
        "child ended with 0",
        "parent reads [('written',)]",
        "jobs 3",
    ]


def test_a_child_of_a_fork_that_could_not_wait_says_so(url: str) -> None:
    """Where a transaction lasts for too long the child is told that it cannot use the file; the parent goes on."""
    said = run(
        _IN_A_TRANSACTION.replace("PREPARE", "from queuelib_sqlite import forks\nforks._LONGEST_WAIT = 0.1"), url
    )
    assert said.startswith("BrokerUnavailable this process was forked while its parent was using an SQLite file")
    assert said.splitlines()[1:] == ["child ended with 0", "parent reads [('written',)]", "jobs 2"]


def test_what_could_not_be_closed_is_not_even_at_the_end(url: str) -> None:
    """A child that ends leaves an inherited handle as it is: closing it would roll back within its parent's transaction."""
    code = """
from queuelib_sqlite import forks

class Handle:
    def __del__(self):
        print("closed", flush=True)

forks.keep_for_good(Handle())
print("ends", flush=True)
"""
    assert run(code, url) == "ends\n"


def test_a_fork_in_the_middle_of_ones_own_transaction(url: str) -> None:
    """A signal handler that forks breaks no transaction; its child is told that it cannot use the file."""
    code = """
from queuelib_sqlite.store import Store
store = Store(__import__("pathlib").Path(sys.argv[1].removeprefix("sqlite:///")))
pids = []

def fork(*_):
    pids.append(os.fork())
    if pids[-1] == 0:
        try:
            f.submit(1)
        except Exception as error:
            print(type(error).__name__, "was forked" in str(error), flush=True)
        os._exit(0)

signal.signal(signal.SIGUSR1, fork)
with store.write() as connection:
    connection.execute("INSERT INTO queue VALUES ('written')")
    signal.raise_signal(signal.SIGUSR1)
print("child ended with", reap(pids[0]))
with store.read() as connection:
    print("parent reads", connection.execute("SELECT * FROM queue").fetchall())
store.close()
"""
    said = run(code, url).splitlines()
    assert said == ["BrokerUnavailable True", "child ended with 0", "parent reads [('written',)]"]


def test_threads_that_fork_at_once_beside_threads_that_submit(url: str) -> None:
    """No child hangs, and no job is lost, neither the children's nor those of the threads."""
    code = """
has_ended = threading.Event()
submitted = [f.submit(0).state]  # and everything is imported: no fork waits for imports

def submit():
    while not has_ended.is_set():
        submitted.append(f.submit(0).state)

def fork():
    for _ in range(10):
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            f.submit(1).state
            os._exit(0)
        assert reap(pid) == 0
        done.append(pid)

done = []
threads = [threading.Thread(target=submit) for _ in range(2)]
forking = [threading.Thread(target=fork) for _ in range(2)]
for thread in (*threads, *forking):
    thread.start()
for thread in forking:
    thread.join()
has_ended.set()
for thread in threads:
    thread.join()
dispatcher.close()
print(len(done), count() - len(submitted))
"""
    assert run(code, url) == "20 20\n"


def lane(url: str) -> Lane:
    """Return a lane of this test's file."""
    return open_lane(settings_for(url, "lab"), "lab", 5.0)


def in_child(deed: Callable[[], object]) -> None:
    """Do something in a forked child, and see that it ends well."""
    pid = os.fork()
    if pid == 0:
        try:
            deed()
        except BaseException:  # noqa: BLE001 - whatever it is, pytest must not go on in the child
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_child_that_closes_an_inherited_lane_gives_back_nothing_of_its_parents(url: str) -> None:
    """What the parent works on stays its own, and its claim and bell stay where others find them."""
    with closing(lane(url)) as mine, closing(lane(url)) as other:
        mine.fileno()
        mine.publish([Outgoing("red", new_bundle_id(time.time()), b"frame")], 5.0)
        held = mine.take({"red": 1})
        in_child(mine.close)
        other.renew()
        assert other.take({"red": 1}) == []
        assert mine.find_lost(held) == []
        other.publish([Outgoing("red", new_bundle_id(time.time()), b"frame")], 5.0)
        bell = mine.fileno()
        assert bell is not None
        assert select.select([bell], [], [], 5.0)[0], "nobody rang"
        assert mine.acknowledge(held) == []


def test_a_child_takes_in_its_own_name(url: str) -> None:
    """What a child takes on an inherited lane is given to others when the child has died, and not before the parent has."""
    with closing(lane(url)) as mine, closing(lane(url)) as other:
        mine.publish([Outgoing("red", new_bundle_id(time.time()), frame) for frame in (b"mine", b"child's")], 5.0)
        (held,) = mine.take({"red": 1})

        def take() -> None:
            (taken,) = mine.take({"red": 1})
            assert taken.frame == b"child's"

        in_child(take)
        other.renew()
        (found,) = other.take({"red": 5})
        assert (held.frame, found.frame, found.redelivered) == (b"mine", b"child's", True)


def test_a_child_acknowledges_what_its_parent_took(url: str) -> None:
    """A plain kombu program may hand each message to a child, which acknowledges it and closes its connection."""
    with Connection(f"qlsqlite:///{url.removeprefix('sqlite:///')}") as connection:
        queue = connection.SimpleQueue("parcels")
        queue.put("hello")
        message = queue.get(timeout=5)

        def handle() -> None:
            message.ack()
            connection.close()

        in_child(handle)
        assert queue.qsize() == 0
        queue.put("again")
        assert queue.get(timeout=5).payload == "again"
        queue.close()


def test_a_child_that_closes_an_inherited_connection_leaves_its_parents_queues(url: str) -> None:
    """An exclusive queue goes with the connection of the process that declared it."""
    with Connection(f"qlsqlite:///{url.removeprefix('sqlite:///')}") as connection:
        queue = Queue("own", exclusive=True)(connection.default_channel)
        queue.declare()
        connection.Producer().publish("hello", routing_key="own")
        in_child(connection.close)
        found = queue.get()
        assert found is not None
        assert found.payload == "hello"


def test_a_child_that_goes_on_in_its_parents_transaction(url: str) -> None:
    """It is told that nothing was written; what it did is not taken for the parent's."""
    code = """
from queuelib_sqlite.store import Store
store = Store(__import__("pathlib").Path(sys.argv[1].removeprefix("sqlite:///")))
store.connection
pids = []
signal.signal(signal.SIGUSR1, lambda *_: pids.append(os.fork()))
try:
    with store.write() as connection:
        os.kill(os.getpid(), signal.SIGUSR1)
        me = "parent" if pids[0] else "child"
        connection.execute("INSERT INTO queue VALUES (?)", (me,))
        if me == "parent":
            code = reap(pids[0])
except Exception as error:  # the test looks at which it is
    print(me, type(error).__name__, flush=True)
    os._exit(0)
with store.read() as connection:
    print(code, connection.execute("SELECT * FROM queue").fetchall(), flush=True)
"""
    assert run(code, url).splitlines() == ["child BrokerUnavailable", "0 [('parent',)]"]


def test_a_child_that_closes_inherited_results_silences_nobody(url: str) -> None:
    """The parent's pipe stays registered, and the child's waiting takes no ring from it."""
    results = plugins.backend_for(url).results(url, "lab", 3600.0)
    with closing(results), closing(plugins.backend_for(url).results(url, "lab", 3600.0)) as other:
        key = Key(new_bundle_id(time.time()), 0)
        results.wait([key], 0.0)
        (bell,) = Path(url.removeprefix("sqlite:///") + ".d").glob("wake-*")

        def wait_and_close() -> None:
            results.wait([key], 0.0)
            results.close()

        in_child(wait_and_close)
        assert bell.exists()
        other.store([Record(key, FAILED, 1, b"", time.time())])
        ringing = os.open(bell, os.O_RDONLY | os.O_NONBLOCK)
        try:
            assert os.read(ringing, 10) == b"\0"
        finally:
            os.close(ringing)


_BESIDE = """
import os, subprocess, sys
from queuelib import Dispatcher
dispatcher = Dispatcher()

@dispatcher.task
def f(number: int) -> int:
    return number

if __name__ == "__main__":
    send_signal = subprocess.Popen.send_signal
    subprocess.Popen.send_signal = lambda self, number: (print("interrupted"), send_signal(self, number))
    gone, leave = os.pipe()
    with dispatcher.workers(1):
        pid = os.fork()
        if pid == 0:
            os.close(leave)
            os.read(gone, 1)
            sys.exit(3)
        print(f.submit(1).result(timeout=30))
    os.close(leave)
    print("child ended with", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_worker_beside_a_program_hears_of_its_end_although_a_child_lives_on(url: str, tmp_path: Path) -> None:
    """The worker drains when the block is left, and needs no signal; a child that leaves the block ends nothing."""
    program = tmp_path / "program.py"
    program.write_text(_BESIDE)
    done = subprocess.run(
        [sys.executable, str(program)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "QUEUELIB_BROKER": url},
    )
    assert done.stdout.splitlines() == ["1", "child ended with 3"]
