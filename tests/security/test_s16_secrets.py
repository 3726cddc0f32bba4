"""Attack S16: passwords and keys in whatever a program prints, logs, raises, shows of itself or leaves in `ps`."""

from __future__ import annotations

import copy
import os
import pickle
import secrets
import subprocess
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import redis

from queuelib import Dispatcher, QueuelibError, broker, plugins
from queuelib.address import Address
from queuelib.signing import Keyring, Secret
from queuelib_rabbitmq.transport import parse as parse_amqp
from queuelib_redis.address import parse as parse_redis
from tests.integration.lab import ROOT, WITHIN, Lab, load_deeds
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORD = "p4ssw0rd-canary"
KEY = "k1:k3y-canary-k3y-canary-k3y-canary"
CANARIES = (PASSWORD, KEY[3:], "k3y-canary")
NOBODY = "127.0.0.1:1"  # a port where nothing listens
URLS = [
    f"redis://user:{PASSWORD}@{NOBODY}/0",
    f"redis://:{PASSWORD}@{NOBODY}/0",
    f"rediss://user:{PASSWORD}@{NOBODY}/0",
    f"redis://user@{NOBODY}/0?password={PASSWORD}",
    f"redis://user:{PASSWORD}@{NOBODY}/nonsense",
    f"redis://user:{PASSWORD}@{NOBODY}/0?wait=x",
    f"redis://user:{PASSWORD}@host:port/0",
    f"sentinel://user:{PASSWORD}@{NOBODY},127.0.0.1:2/0?master=mine",
    f"sentinel://user:{PASSWORD}@host:port/0?master=mine",
    f"amqp://user:{PASSWORD}@{NOBODY}//",
    f"amqps://user:{PASSWORD}@{NOBODY}//",
    f"amqp://user:{PASSWORD}@{NOBODY}//?password={PASSWORD}",
    f"amqp://user:{PASSWORD}@host:port//",
    f"amqp://user:{PASSWORD}@{NOBODY}//;amqp://user:{PASSWORD}@127.0.0.1:2//",
    f"redis://user:{PASSWORD}@{NOBODY}/0;redis://user:{PASSWORD}@127.0.0.1:2/0",
    f"kombu+amqp://user:{PASSWORD}@{NOBODY}//;amqp://user:{PASSWORD}@127.0.0.1:2//",
    f"kombu+redis://user:{PASSWORD}@{NOBODY}/0",
    f"kombu+sqla+postgresql://user:{PASSWORD}@{NOBODY}/db",
    f"nosuch://user:{PASSWORD}@{NOBODY}/",
    f"sqlite:///nowhere/jobs.db?password={PASSWORD}",
    f"sqlite://user:{PASSWORD}@host",
]
SUBMITS = """
import logging, sys, traceback
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
from queuelib import Dispatcher
for broker, results in [(url, None) for url in sys.argv[1:]] + [("memory://", url) for url in sys.argv[1:]]:
    dispatcher = Dispatcher(broker, results=results, submit_deadline=0.5)
    @dispatcher.task(name="work")
    def work(x: int) -> int:
        return x
    try:
        work.submit(1)
    except Exception:
        traceback.print_exc()
    try:
        dispatcher.open_results().fetch([])
        dispatcher.open_results().workers()
    except Exception:
        traceback.print_exc()
    parts = [dispatcher, dispatcher._connections, dispatcher._connections.address]
    print(repr(dispatcher), [repr(vars(part)) for part in parts], work, dispatcher.outcomes)
print("the end")
"""
WORKER = """
import logging, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
sys.argv = ["queuelib", "worker", *sys.argv[1:]]
from queuelib.cli import main
main()
"""


def check(said: str, *, has: str = "") -> None:
    """Fail if a canary is in what was said, or the words are not that show that something was said at all."""
    found = [line for line in said.splitlines() if any(canary in line for canary in CANARIES)]
    assert not found, "\n".join(found)
    assert has in said, said


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of a program with the key in it."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "backends")])
    return {**os.environ, "PYTHONPATH": paths, "QUEUELIB_KEY": KEY, **changes}


def run(folder: Path, *command: str, **changes: str) -> str:
    """Run a Python program and return everything it prints."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment(**changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=100.0,
    )
    return done.stdout.decode(errors="replace")


# What is shown of objects


def test_s16_secret_shows_nothing() -> None:
    """Neither text, formatting, containers nor errors have it; it is not pickled; `reveal` is the one way."""
    secret = Secret(PASSWORD)
    texts = [
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret!r:>40}",
        f"{secret}",
        repr([secret]),
        repr({1: secret}),
    ]
    check("".join(texts), has="***")
    assert secret.reveal() == PASSWORD
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(secret, protocol)
    assert secret == Secret(PASSWORD) == copy.deepcopy(secret)
    assert secret != Secret("other")
    assert secret != PASSWORD
    assert hash(secret) == hash(Secret(PASSWORD))
    assert not Secret("")
    assert not hasattr(secret, "__dict__")


def test_s16_keyring_shows_ids_only() -> None:
    """Its text has the ids, which travel anyway, and it is not pickled."""
    keys = Keyring(KEY)
    check(repr(keys) + str(keys) + repr(vars(type(keys))), has="k1")
    for refused in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            refused(keys)


def test_s16_objects_that_hold_urls() -> None:
    """Addresses, transport settings, dispatchers and what worker and client make of them show no password."""
    shown: list[Any] = []
    for url in URLS:
        dispatcher = Dispatcher(url, results=url, key=KEY)
        shown += [dispatcher, *map(vars, parts_of(dispatcher)), dispatcher.keys]
        for make in (
            parse_redis,
            parse_amqp,
            lambda u: broker.settings_for(u, "n"),
            lambda u: plugins.backend_for(u).results(u, "n", 60.0),
        ):
            try:
                made = make(url)
            except QueuelibError as error:
                shown += [error, *traceback.format_exception(error)]
            else:
                shown += [made, getattr(made, "address", None)]
    check("\n".join(map(repr, shown)) + "\n".join(map(str, shown)), has="***")


# What programs print


@pytest.mark.slow
def test_s16_errors_of_a_client(tmp_path: Path) -> None:
    """Tracebacks, with all their causes, and logs at their most talkative: of servers that are not there, and bad URLs."""
    check(run(tmp_path, "-c", SUBMITS, *URLS), has="the end")


@pytest.mark.slow
def test_s16_commands(tmp_path: Path) -> None:
    """The command line, with the secrets in its environment and in its options."""
    for url in URLS[0], URLS[9]:
        places = {"QUEUELIB_BROKER": url, "QUEUELIB_RESULTS": url}
        check(run(tmp_path, "-m", "queuelib", "failed", "ls", **places), has="***")
        check(run(tmp_path, "-m", "queuelib", "failed", "retry", "--all", "--broker", url), has="***")
    places = {"QUEUELIB_BROKER": URLS[3], "QUEUELIB_RESULTS": URLS[3]}
    for command in ([], ["worker"], ["failed"], ["failed", "retry"], ["bench"], ["demo"]):
        check(run(tmp_path, "-m", "queuelib", *command, "--help", **places), has="Usage")
    check(run(tmp_path, "-m", "queuelib", "bench", URLS[0]))
    check(run(tmp_path, "-m", "queuelib", "worker", "nowhere.py", **places), has="nowhere.py")


@pytest.mark.parametrize("key", [KEY[3:], f"k1:{PASSWORD}"[:17], f"{KEY},{KEY}", f"k 1:{KEY[3:]}", f"{KEY},{KEY[3:]}"])
def test_s16_keys_that_make_no_sense(tmp_path: Path, key: str) -> None:
    """A worker that refuses them says so without them."""
    (tmp_path / "tasks.py").write_text("from queuelib import Dispatcher\ndispatcher = Dispatcher('sqlite:///j.db')\n")
    said = run(tmp_path, "-m", "queuelib", "worker", "tasks.py", QUEUELIB_KEY=key)
    check(said, has="key")
    assert "Traceback" not in said


@pytest.fixture
def app(tmp_path: Path, namespace: str) -> Iterator[Lab]:
    """A place for workers, whose client in this process is not used."""
    lab = Lab("sqlite", f"sqlite:///{tmp_path}/jobs.db", namespace, tmp_path, load_deeds("memory://s16", namespace))
    yield lab
    lab.close()


@pytest.fixture(scope="session", params=["redis", "amqp"])
def server_url(request: pytest.FixtureRequest) -> str:
    """URL of a server of each kind."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.mark.slow
def test_s16_worker_with_a_wrong_password(app: Lab, server_url: str) -> None:
    """A worker that is not let in, at its most talkative."""
    parts = urlsplit(server_url)
    url = f"{parts.scheme}://guest:{PASSWORD}@{parts.hostname}:{parts.port}//"
    program = app.start("-c", WORKER, "deeds.py", "--processes", "1", BROKER=url.rstrip("/"), QUEUELIB_KEY=KEY)
    assert program.wait(60.0) == 1
    check(program.said, has="refused the connection")


@pytest.mark.slow
@pytest.mark.parametrize("url", [URLS[0], URLS[7], URLS[9], URLS[13]])
def test_s16_worker_without_a_server(app: Lab, url: str) -> None:
    """A worker whose server is not there, or one of several."""
    program = app.start("-c", WORKER, "deeds.py", "--processes", "1", BROKER=url, RESULTS=url, QUEUELIB_KEY=KEY)
    # A list of URLs is refused, and its worker ends.
    eventually(lambda: "trying again" in program.said or program.process.poll() is not None, within=60.0)
    program.kill()
    check(program.said, has="***")


@pytest.mark.slow
def test_s16_worker_that_works(app: Lab, redis_url: str, namespace: str, tmp_path: Path) -> None:
    """Through a whole life: jobs that succeed, fail and die, a forgery, `ps`, the quarantine, and a stop."""
    parts = urlsplit(redis_url)
    url = f"redis://{namespace}:{PASSWORD}@{parts.hostname}:{parts.port}{parts.path or '/0'}"
    with redis.Redis.from_url(redis_url) as server:
        rules: dict[str, Any] = {"keys": ["*"], "categories": ["+@all"], "channels": ["*"]}
        server.acl_setuser(namespace, enabled=True, passwords=[f"+{PASSWORD}"], **rules)
        try:
            check(live(app, url, namespace, tmp_path), has="WARNING")
        finally:
            server.acl_deluser(namespace)
            keys = list(server.scan_iter(f"*{namespace}*", count=1000))
            if keys:
                server.delete(*keys)


def live(app: Lab, url: str, namespace: str, folder: Path) -> str:
    """Run a worker and return all that it and its commands say."""
    said: list[str] = []
    deeds = load_deeds(url, namespace)
    deeds.dispatcher.configure(key=KEY)
    place = {"BROKER": url, "NAMESPACE": namespace, "QUEUELIB_KEY": KEY}
    worker = app.start("-c", WORKER, "deeds.py", "--processes", "1", **place)
    try:
        path = str(folder / "history")
        assert deeds.square.submit(3).result(timeout=60.0) == 9
        said.append("".join(traceback.format_exception(deeds.fussy.submit(4).exception(timeout=WITHIN))))
        said.append("".join(traceback.format_exception(deeds.odd.submit().exception(timeout=WITHIN))))
        said.append(
            "".join(traceback.format_exception(deeds.deed.submit(path, "d", "kill", 3).exception(timeout=60.0)))
        )
        stranger = Lab("redis", url, namespace, folder, deeds)
        stranger.publish_raw([b"no envelope"])
        stranger.close()
        stored = deeds.dispatcher.open_results()
        eventually(lambda: len(stored.quarantined()) == 2, within=WITHIN)
        said += [repr(stored.quarantined()), repr(stored.workers()), repr(stored)]
        said += [repr(vars(one)) for one in parts_of(deeds.dispatcher)]
        said += [commands_of(worker.pid)]
        arguments = ("--namespace", namespace)
        environment_ = {"QUEUELIB_BROKER": url}
        said.append(run(folder, "-m", "queuelib", "failed", "ls", *arguments, **environment_))
        said.append(run(folder, "-m", "queuelib", "failed", "retry", "--all", *arguments, **environment_))
        worker.stop()
    finally:
        forget_key(deeds.dispatcher)
    return "\n".join([*said, worker.said])


def parts_of(dispatcher: Dispatcher) -> list[Any]:
    """Return a dispatcher, what it knows of its servers, and where they are."""
    return [dispatcher, dispatcher._connections, dispatcher._connections.address]


def forget_key(dispatcher: Dispatcher) -> None:
    """Take back what `configure` cannot."""
    dispatcher.close()
    dispatcher._connections.address = Address("memory://s16")


def commands_of(pid: int) -> str:
    """Return the command lines of a process and all below it, as `ps` shows them."""
    found = [Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()]
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [commands_of(int(child)) for child in (task / "children").read_text().split()]
    assert pid
    return "\n".join(found)


def test_s16_a_worker_beside_a_program_has_no_secret_on_its_command_line(tmp_path: Path, namespace: str) -> None:
    """dispatcher.workers() hands URL and key on, not by arguments."""
    deeds = load_deeds(f"sqlite:///{tmp_path}/{secrets.token_hex(4)}.db", namespace)
    deeds.dispatcher.configure(key=KEY)
    try:
        with deeds.dispatcher.workers(processes=1):
            assert deeds.square.submit(3).result(timeout=WITHIN) == 9  # the worker has the key: it runs what is signed
            check(commands_of(os.getpid()), has="queuelib.worker.template")
    finally:
        forget_key(deeds.dispatcher)
