"""Bad input: each mistake is an error at once, of a type one can catch, that says what to do; and no worker minds."""

from __future__ import annotations

import socket
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import redis

from queuelib import (
    ArgumentError,
    BrokerUnavailable,
    ConfigurationError,
    Dispatcher,
    EncodeError,
    MissingDriver,
    QueuelibError,
    RegistrationError,
    RemoteError,
    TooLarge,
)
from tests.integration.lab import WITHIN, Lab, results

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "open-sesame"
PATIENCE = 6.0  # seconds: the promised 5, and the time that it takes to say so


@contextmanager
def dispatcher_on(url: str, **options: Any) -> Iterator[tuple[Dispatcher, Any]]:
    """Yield a dispatcher and a task of it."""
    dispatcher = Dispatcher(url, **options)

    @dispatcher.task
    def echo(x: int) -> int:
        return x

    with closing(dispatcher):
        yield dispatcher, echo


# Arguments


@pytest.mark.parametrize(
    ("args", "kwargs", "path"),
    [
        (([1.0, "x"],), {}, r"genome\[1\]"),
        (("abc",), {}, "genome"),
        ((None,), {}, "genome"),
        (([1.0], 7), {}, "name"),
        (([1.0],), {"scale": "big"}, "scale"),
        (([1.0, [2.0]],), {}, r"genome\[1\]"),
    ],
    ids=["element", "text", "none", "second", "keyword", "nested"],
)
def test_wrong_type_fails_at_submit_with_its_path(
    file_lab: Lab, args: tuple[Any, ...], kwargs: dict[str, Any], path: str
) -> None:
    """An argument that does not fit its annotation is an ArgumentError, a TypeError too, that names where."""
    with pytest.raises(ArgumentError, match=path) as caught:
        file_lab.deeds.typed.submit(*args, **kwargs)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    ("args", "kwargs", "word"),
    [
        ((), {}, "genome"),
        (([1.0], "s", 2.0), {}, "argument"),
        (([1.0],), {"size": 3}, "size"),
        (([1.0],), {"genome": [2.0]}, "genome"),
    ],
    ids=["missing", "too-many", "unknown-name", "twice"],
)
def test_wrong_count_or_name_fails_at_submit(
    file_lab: Lab, args: tuple[Any, ...], kwargs: dict[str, Any], word: str
) -> None:
    """Missing, surplus and misspelled arguments are errors like those of a plain call, with the name."""
    with pytest.raises(TypeError, match=word) as caught:
        file_lab.deeds.typed.submit(*args, **kwargs)
    assert isinstance(caught.value, QueuelibError)


def test_wrong_row_submits_nothing(file_lab: Lab) -> None:
    """A bad row of submit_many fails the call before anything is accepted; rows are tuples."""
    with pytest.raises(ArgumentError):
        file_lab.deeds.square.submit_many([(1,), ("two",)])
    with pytest.raises(TypeError, match="tuples"):
        file_lab.deeds.square.submit_many([1, 2])
    assert file_lab.open_lane().waiting(["red", "yellow", "green"]) == {"red": 0, "yellow": 0, "green": 0}


@pytest.mark.parametrize("kind", ["foreign", "cyclic", "deep"])
@pytest.mark.parametrize("wrap", ["bare", "nested"])
def test_argument_that_cannot_travel_fails_at_submit(file_lab: Lab, kind: str, wrap: str) -> None:
    """Foreign objects, cycles and deep nesting are EncodeErrors that name the argument."""
    value = file_lab.deeds.make_bad(kind)
    with pytest.raises(EncodeError, match="value"):
        file_lab.deeds.anything.submit(value if wrap == "bare" else {"key": [1, value]})


def test_too_large_argument_fails_at_submit(file_lab: Lab) -> None:
    """More than 16 MiB is TooLarge, with the size and the limit."""
    with pytest.raises(TooLarge, match="16,777,216"):
        file_lab.deeds.size_of.submit(file_lab.deeds.make_bad("large"))


def test_fifteen_mebibytes_pass(served: Lab) -> None:
    """What is just below the limit goes all the way, there and back."""
    data = bytes(15 * 1024**2)
    assert served.deeds.size_of.submit(data).result(timeout=60) == len(data)
    assert served.deeds.anything.submit(data).result(timeout=60) == data


def test_options_that_make_no_sense(file_lab: Lab) -> None:
    """Negative, infinite, mistyped and unknown options are errors where they are written."""
    mark = file_lab.deeds.mark
    for options in ({"delay": -1}, {"expires": 0}, {"retries": -1}, {"retries": 1.5}, {"timeout": float("inf")}):
        with pytest.raises(ConfigurationError, match=next(iter(options))):
            mark.options(**options)
    with pytest.raises(ConfigurationError, match="hard_timeout"):
        mark.options(timeout=5, hard_timeout=1)
    with pytest.raises(TypeError, match="delai"):
        mark.options(delai=5)


def test_names_taken_twice() -> None:
    """Two tasks of one name are an error at registration."""
    dispatcher = Dispatcher("memory://taken")

    @dispatcher.task(name="twice")
    def first() -> None: ...

    with pytest.raises(RegistrationError, match="'twice' is taken"):

        @dispatcher.task(name="twice")
        def second() -> None: ...


# Results


@pytest.mark.parametrize("kind", ["foreign", "cyclic", "deep", "large"])
def test_result_that_cannot_travel_fails_its_job(served: Lab, kind: str) -> None:
    """The job fails and says why; the child that ran it lives on, and nothing is retried for ever."""
    job = served.deeds.bad_result.submit(kind)
    with pytest.raises((RemoteError, EncodeError)) as caught:
        job.result(timeout=WITHIN)
    words = {"foreign": "lock", "cyclic": "itself|cycl|nest|deep", "deep": "64|deep|nest", "large": "16,777,216|large"}
    assert caught.match(f"(?i){words[kind]}")
    assert job.state == "failed"
    before = {child for child, _ in results(served.deeds.whereabouts.submit_many([()] * 30))}
    assert served.deeds.bad_result.submit(kind).exception(timeout=WITHIN) is not None
    after = {child for child, _ in results(served.deeds.whereabouts.submit_many([()] * 30))}
    assert len(before | after) <= 2


def test_result_that_denies_its_annotation_fails_its_job(served: Lab) -> None:
    """A result that does not fit the annotation is a failure that says what was expected."""
    job = served.deeds.liar.submit()
    error = job.exception(timeout=WITHIN)
    assert error is not None
    assert "int" in str(error)
    assert job.state == "failed"


# URLs and servers


@pytest.mark.parametrize("url", ["nonsense", "", "http//x", "nosuch://host/0", "sqlite://", "redis"])
def test_unusable_url(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL that nothing serves is a ConfigurationError; it lists the schemes, or shows what a URL looks like."""
    monkeypatch.setenv("QUEUELIB_BROKER", "nonsense")  # what an empty URL falls back to
    with dispatcher_on(url) as (_, echo), pytest.raises(ConfigurationError) as caught:
        echo.submit(1)
    assert isinstance(caught.value, ValueError)
    assert "sqlite" in str(caught.value)


def test_results_url_that_nothing_serves(tmp_path: Path) -> None:
    """The same for results alone."""
    with (
        dispatcher_on(f"sqlite:///{tmp_path}/jobs.db", results="nosuch://host") as (_, echo),
        pytest.raises(ConfigurationError, match="nosuch"),
    ):
        echo.submit(1)


@pytest.mark.parametrize(("scheme", "module", "extra"), [("redis", "redis", "redis"), ("amqp", "pika", "rabbitmq")])
def test_missing_driver_names_the_extra(file_lab: Lab, scheme: str, module: str, extra: str) -> None:
    """Without the driver the message names the extra to install; it is an ImportError too."""
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from queuelib import Dispatcher, MissingDriver\n"
        f"d = Dispatcher('{scheme}://localhost:1')\n"
        "try:\n    d.open_results().inbox()\n"
        "except MissingDriver as error:\n    assert isinstance(error, ImportError); print(error)\n"
    )
    done = file_lab.run("-c", code)
    assert f"queuelib-kombu[{extra}]" in done.stdout, done.stderr
    assert issubclass(MissingDriver, ConfigurationError)


def check_unavailable(url: str, host: str) -> None:
    """Submit to a server that does not answer."""
    with dispatcher_on(url) as (_, echo):
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable) as caught:
                echo.submit(1)
            assert time.monotonic() - began < PATIENCE
            text = str(caught.value)
            assert SECRET not in text
            assert "***" in text
            assert host in text
            assert "QUEUELIB_BROKER" in text or "reachable" in text or "running" in text
            assert isinstance(caught.value, ConnectionError)
            assert caught.value.__cause__ is not None


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_broker_that_is_down(scheme: str) -> None:
    """Nothing listens: BrokerUnavailable, with the masked URL and what to do, at once and again."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    check_unavailable(f"{scheme}://user:{SECRET}@127.0.0.1:{port}/", f"127.0.0.1:{port}")


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_host_that_does_not_resolve(scheme: str) -> None:
    """A misspelled host is unavailable too."""
    check_unavailable(f"{scheme}://user:{SECRET}@no-such-host.invalid/", "no-such-host.invalid")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_host_that_never_answers(scheme: str) -> None:
    """A peer that accepts the connection and says nothing: BrokerUnavailable within 5 s, never a hang."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with dispatcher_on(f"{scheme}://user:{SECRET}@127.0.0.1:{port}/") as (_, echo):
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable) as caught:
                echo.submit(1)
            assert time.monotonic() - began < PATIENCE
            assert SECRET not in str(caught.value)


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_peer_that_speaks_something_else(scheme: str) -> None:
    """A server of another kind behind the port is an error of ours as well."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        import threading  # noqa: PLC0415

        def answer() -> None:
            server.settimeout(PATIENCE)
            try:
                while True:
                    peer, _ = server.accept()
                    with peer:
                        peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            except OSError:
                pass

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        try:
            with dispatcher_on(f"{scheme}://127.0.0.1:{port}/") as (_, echo):
                began = time.monotonic()
                with pytest.raises((BrokerUnavailable, ConfigurationError)):
                    echo.submit(1)
                assert time.monotonic() - began < PATIENCE
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)


def test_wrong_password_on_redis(redis_url: str, namespace: str) -> None:
    """A refused login is a ConfigurationError: waiting does not mend it, and the password is not shown."""
    parts = urlsplit(redis_url)
    with redis.Redis.from_url(redis_url) as client:
        client.acl_setuser(namespace, enabled=True, passwords=["+right"], keys=[f"{namespace}*"], categories=["+@all"])
        try:
            check_refused(f"redis://{namespace}:{SECRET}@{parts.hostname}:{parts.port}/0")
        finally:
            client.acl_deluser(namespace)


def test_wrong_password_on_rabbitmq(amqp_url: str) -> None:
    """The same on RabbitMQ."""
    parts = urlsplit(amqp_url)
    check_refused(f"amqp://guest:{SECRET}@{parts.hostname}:{parts.port}//")


def test_missing_virtual_host_on_rabbitmq(amqp_url: str) -> None:
    """A virtual host that does not exist is refused with a hint at it."""
    parts = urlsplit(amqp_url)
    with dispatcher_on(f"amqp://guest:guest@{parts.hostname}:{parts.port}/nowhere") as (_, echo):
        with pytest.raises(ConfigurationError, match="(?i)virtual host|vhost"):
            echo.submit(1)


def check_refused(url: str) -> None:
    """Submit with a wrong password, and start a worker with it."""
    with dispatcher_on(url) as (_, echo):
        began = time.monotonic()
        with pytest.raises(ConfigurationError) as caught:
            echo.submit(1)
        assert time.monotonic() - began < PATIENCE
        assert SECRET not in str(caught.value)
        assert "***" in str(caught.value)
        assert "password" in str(caught.value).lower()


def test_worker_with_a_wrong_password_ends(file_lab: Lab, amqp_url: str) -> None:
    """A worker that is refused says so and ends with status 1, instead of trying for ever."""
    parts = urlsplit(amqp_url)
    worker = file_lab.worker(BROKER=f"amqp://guest:{SECRET}@{parts.hostname}:{parts.port}//")
    assert worker.wait() == 1
    assert SECRET not in worker.said
    assert "password" in worker.said
    assert "Traceback" not in worker.said


def test_worker_waits_for_a_server_that_is_down(file_lab: Lab) -> None:
    """A worker whose broker does not answer says so, keeps trying, and stops when it is told to."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    worker = file_lab.worker("--processes", "1", BROKER=f"amqp://guest:{SECRET}@127.0.0.1:{port}//")
    worker.await_word("trying again")
    assert SECRET not in worker.said
    assert worker.stop() == 0


@pytest.mark.parametrize(
    "content", [b"certainly not a database, but long enough to be looked at" * 20, b"SQLite format 3\0" + bytes(200)]
)
def test_file_that_is_no_database(tmp_path: Path, content: bytes) -> None:
    """A file of something else is refused with its name, and is not changed."""
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with (
        dispatcher_on(f"sqlite:///{path}") as (_, echo),
        pytest.raises((ConfigurationError, BrokerUnavailable)) as caught,
    ):
        echo.submit(1)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def test_folder_instead_of_a_file(tmp_path: Path) -> None:
    """A folder is no database either."""
    with (
        dispatcher_on(f"sqlite:///{tmp_path}") as (_, echo),
        pytest.raises((ConfigurationError, BrokerUnavailable)) as caught,
    ):
        echo.submit(1)
    assert str(tmp_path) in str(caught.value)


def test_missing_folder(tmp_path: Path) -> None:
    """A file in a folder that does not exist: the message names it."""
    path = tmp_path / "nowhere" / "jobs.db"
    with (
        dispatcher_on(f"sqlite:///{path}") as (_, echo),
        pytest.raises((ConfigurationError, BrokerUnavailable)) as caught,
    ):
        echo.submit(1)
    assert "nowhere" in str(caught.value)


def test_namespace_that_cannot_be_a_prefix() -> None:
    """Spaces, dots and emptiness are refused where the namespace is written."""
    for name in ("a b", "a.b", "x" * 65, "ü"):
        with pytest.raises(ConfigurationError, match="namespace"):
            Dispatcher("memory://", namespace=name)
