"""Redis behind TLS and behind a sentinel: the ways to a server that a plain URL does not take."""

from __future__ import annotations

import asyncio
import select
import ssl
import subprocess
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from queuelib.broker import open_lane
from queuelib.errors import BrokerUnavailable, ConfigurationError
from queuelib.ids import Key, new_bundle_id
from queuelib.message import Outgoing
from queuelib.outcome import SUCCEEDED, Record
from queuelib_redis import BACKEND
from queuelib_redis.inbox import unpack
from queuelib_redis.results import RedisResults
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from queuelib.ports import Lane

MASTER = "main"


@contextmanager
def served(handler: Any, **options: Any) -> Iterator[int]:
    """Run an asyncio server in a thread, and give its port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(handler, "127.0.0.1", 0, **options), loop).result(5)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:

        async def end() -> None:
            server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


@pytest.fixture
def server(redis_url: str) -> tuple[str, int]:
    """Give host and port of the server of all tests."""
    parts = urlsplit(redis_url)
    return parts.hostname or "127.0.0.1", parts.port or 6379


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Make a certificate of localhost, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    return certificate, key


@pytest.fixture
def tls_port(server: tuple[str, int], certificate: tuple[Path, Path]) -> Iterator[int]:
    """Put TLS in front of the server, and give the port."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()

    async def front(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection(*server)
        await asyncio.gather(pump(reader, behind_writer), pump(behind_reader, writer), return_exceptions=True)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with served(front, ssl=context) as port:
        yield port


@pytest.fixture
def lane(namespace: str) -> Iterator[Callable[[str], Lane]]:
    """Open lanes, closed at the end."""
    with ExitStack() as stack:

        def open_one(url: str) -> Lane:
            return stack.enter_context(closing(open_lane(BACKEND.transport(url, namespace), namespace, 5.0)))

        yield open_one


def outgoing(frame: bytes) -> Outgoing:
    """Make a frame on its way."""
    return Outgoing("red", new_bundle_id(time.time()), frame, None, 1)


class TestTls:
    """rediss://."""

    @pytest.fixture
    def url(self, tls_port: int, certificate: tuple[Path, Path], redis_url: str) -> str:
        """Give a URL that trusts the certificate."""
        return f"rediss://localhost:{tls_port}{urlsplit(redis_url).path}?ca={certificate[0]}"

    def test_frames_large_and_small(self, url: str, lane: Callable[[str], Lane]) -> None:
        """They arrive as they are, whether or not they fill a record of TLS."""
        sender, taker = lane(url), lane(url)
        frames = [bytes([at]) * size for at, size in enumerate([1, 100, 16_384, 16_385, 300_000, 2])]
        sender.publish([outgoing(frame) for frame in frames], 5.0)
        taken = taker.take({"red": 10})
        assert [delivery.frame for delivery in taken] == frames
        assert taker.acknowledge(taken) == []
        assert sender.waiting(["red"]) == {"red": 0}

    def test_a_taker_is_woken(self, url: str, lane: Callable[[str], Lane]) -> None:
        """Its descriptor says so each time: nothing is left unseen in what was decrypted."""
        sender, taker = lane(url), lane(url)
        assert taker.take({"red": 1}) == []
        number = taker.fileno()
        assert number is not None
        for at in range(20):
            sender.publish([outgoing(b"%d" % at)], 5.0)
            assert select.select([number], [], [], 5.0)[0] == [number]
            (delivery,) = eventually(lambda: taker.take({"red": 1}))
            assert delivery.frame == b"%d" % at
            assert taker.take({"red": 1}) == []
            taker.acknowledge([delivery])

    def test_a_waiting_client_is_told(self, url: str, namespace: str) -> None:
        """Results come over TLS as well, and so does the word that they are there."""
        with (
            closing(RedisResults(url, namespace, 60.0)) as client,
            closing(RedisResults(url, namespace, 60.0)) as worker,
        ):
            frame = outgoing(b"frame")
            client.accept([frame])
            key = Key(frame.bundle, 0)
            record = Record(key, SUCCEEDED, 1, b"value" * 10_000, 1.5)
            writer = threading.Thread(target=worker.store, args=([record], client.inbox()))
            writer.start()
            announced, seen = client.read(client.inbox(), 5.0, [key])
            writer.join()
            assert announced is not None
            assert unpack(announced) == [key]
            assert seen == [record]

    def test_a_stranger_is_refused(self, tls_port: int, lane: Callable[[str], Lane]) -> None:
        """Without the certificate nothing is sent, and the error says why."""
        with pytest.raises(ConfigurationError, match="certificate that is not trusted"):
            lane(f"rediss://localhost:{tls_port}/0").publish([outgoing(b"frame")], 5.0)


class TestSentinel:
    """sentinel://, with a sentinel of the test's own."""

    def test_the_master_of_the_moment(
        self, server: tuple[str, int], redis_url: str, lane: Callable[[str], Lane]
    ) -> None:
        """A lane finds the server that is the master now, and after a fail-over the next one."""
        masters: list[tuple[str, int]] = [("127.0.0.1", 1), server]

        async def sentinel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with closing(writer):
                while line := await reader.readline():
                    words = []
                    for _ in range(int(line[1:])):
                        size = int((await reader.readline())[1:])
                        words.append((await reader.readexactly(size + 2))[:-2].upper())
                    writer.write(answer() if words[:2] == [b"SENTINEL", b"MASTERS"] else b"+OK\r\n")

        def answer() -> bytes:
            host, port = masters[0]
            facts = {"name": MASTER, "ip": host, "port": port, "flags": "master", "num-slaves": 1}
            facts |= {"num-other-sentinels": 2, "quorum": 2}
            texts = [str(part).encode() for pair in facts.items() for part in pair]
            return b"*1\r\n*%d\r\n" % len(texts) + b"".join(b"$%d\r\n%b\r\n" % (len(text), text) for text in texts)

        with served(sentinel) as port:
            url = f"sentinel://127.0.0.1:{port}{urlsplit(redis_url).path}?master={MASTER}"
            with pytest.raises(BrokerUnavailable):
                lane(url).publish([outgoing(b"lost")], 1.0)
            masters.pop(0)
            again = lane(url)
            again.publish([outgoing(b"found")], 5.0)
            taken = again.take({"red": 2})
            assert [delivery.frame for delivery in taken] == [b"found"]
            again.acknowledge(taken)
