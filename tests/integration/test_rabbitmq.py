"""What is RabbitMQ's own: confirms and returns, waiting queues, prefetch, streams and settling on one channel."""

from __future__ import annotations

import math
import os
import select
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import pytest

from queuelib import broker
from queuelib.broker import Publisher, open_lane
from queuelib.broker.consumer import ConsumerLane
from queuelib.errors import BrokerUnavailable, ConfigurationError, QueuelibError, SubmitUnknown
from queuelib.ids import Key, new_bundle_id
from queuelib.message import Outgoing
from queuelib.outcome import FAILED, SUCCEEDED, Record
from queuelib.ports import QuarantineItem, Settled, StillReading, TransportCapabilities, TransportSettings, WorkerInfo
from queuelib_rabbitmq import BACKEND
from queuelib_rabbitmq.io import Io, parameters
from queuelib_rabbitmq.ladder import Ladder
from queuelib_rabbitmq.settlement import RabbitSettlement
from queuelib_rabbitmq.transport import parse
from tests.integration.lab import plain_connection
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from queuelib.ports import Delivery, Lane, ResultBackend
    from queuelib_rabbitmq.results import RabbitResults
    from queuelib_rabbitmq.settlement import SettlingLane
    from queuelib_rabbitmq.transport import Address


@pytest.fixture
def server(amqp_url: str, namespace: str) -> Iterator[tuple[str, str]]:
    """URL and namespace, of which nothing is left afterwards."""
    yield amqp_url, namespace
    with closing(plain_connection(amqp_url)) as connection:
        ladder = Ladder(namespace)
        names = [ladder._name(level) for level in range(24)]
        for queue in ("red", "green", "results", "control", "workers", "quarantine"):
            connection.channel().queue_delete(f"{namespace}.{queue}")
        for name in names:
            connection.channel().queue_delete(name)
            connection.channel().exchange_delete(name)
        connection.channel().exchange_delete(f"{namespace}.delayed")


@pytest.fixture
def lane(server: tuple[str, str]) -> Iterator[Callable[..., Lane]]:
    """Open lanes, closed at the end."""
    with ExitStack() as stack:

        def open_one(url: str | None = None, deadline: float = 5.0) -> Lane:
            settings = BACKEND.transport(url or server[0], server[1])
            one = open_lane(settings, server[1], deadline)
            stack.callback(one.close)
            return one

        yield open_one


@pytest.fixture
def results(server: tuple[str, str]) -> Iterator[Callable[[], ResultBackend]]:
    """Open result backends, closed at the end."""
    with ExitStack() as stack:

        def open_one() -> ResultBackend:
            one = BACKEND.results(*server, 3600.0)
            stack.callback(one.close)
            return one

        yield open_one


FORKS = """
import gc, os, sys
from queuelib import Dispatcher

dispatcher = Dispatcher(sys.argv[1], namespace=sys.argv[2])

@dispatcher.task(name="t", color="red")
def t(i: int) -> int:
    return i

first = t.submit(0)
dispatcher.open_results().workers()
lane = dispatcher._connections._publisher._lane
io = dispatcher._connections._results._client._io
number = lane.fileno()

def says(call):
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "done"

def close():
    dispatcher.close()

def submit():
    t.submit(1)

def use_the_lane():
    assert says(lane.renew) == says(lambda: lane.waiting(["red"])) == says(lambda: lane.publish([], 1.0)) == "BrokerUnavailable"
    lane.close()

def forget():
    global lane, io
    lane = io = dispatcher._connections._publisher = dispatcher._connections._results = None
    gc.collect()

def ask():
    first.state

def nothing():
    pass

for deed in (nothing, close, submit, use_the_lane, forget, ask):
    for how in (sys.exit, os._exit):
        pid = os.fork()
        if pid == 0:
            deed()
            how(0)
        assert os.waitpid(pid, 0)[1] == 0, deed.__name__
        lane.renew()
        t.submit(2)
        dispatcher.open_results().workers()
        assert dispatcher._connections._publisher._lane is lane, deed.__name__
        assert dispatcher._connections._results._client._io is io and not io.is_dead, deed.__name__
print("well", lane.fileno() == number)
dispatcher.close()
"""


class SilentProxy:
    """Passes bytes on to a server until told to keep them: a peer that went silent."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 5672)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._may_answer = threading.Event()
        self._may_answer.set()
        user = parts.netloc.rpartition("@")[0]
        self.url = f"amqp://{user}@127.0.0.1:{self._listener.getsockname()[1]}{parts.path}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def silence(self) -> None:
        """Keep what the server says from now on."""
        self._may_answer.clear()

    def close(self) -> None:
        """End everything."""
        self._may_answer.set()
        for one in (*self._sockets, self._listener):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
            finally:
                one.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            self._sockets += [near, far]
            for source, sink, waits in ((near, far, False), (far, near, True)):
                thread = threading.Thread(target=self._pump, args=(source, sink, waits))
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, waits: bool) -> None:  # noqa: FBT001
        try:
            while data := source.recv(65536):
                if waits:
                    self._may_answer.wait()
                sink.sendall(data)
        except OSError:
            return


@pytest.fixture
def proxy(amqp_url: str) -> Iterator[SilentProxy]:
    """A proxy before the server."""
    one = SilentProxy(amqp_url)
    yield one
    one.close()


def frame(body: bytes = b"x", color: str = "red", due: float | None = None) -> Outgoing:
    """Make a frame with a fresh id."""
    return Outgoing(color, new_bundle_id(time.time()), body, due)


def take(lane: Lane, count: int, within: float = 5.0, color: str = "red") -> list[Delivery]:
    """Take exactly `count` frames of one color."""
    taken: list[Delivery] = []

    def enough() -> bool:
        taken.extend(lane.take({color: count - len(taken)}))
        return len(taken) == count

    eventually(enough, within=within)
    return taken


def rows(*records: tuple[Key, str, bytes]) -> list[Record]:
    """Make records."""
    return [Record(key, state, 1, body, time.time()) for key, state, body in records]


class TestLane:
    """The consumer lane on RabbitMQ."""

    def test_first_publish_makes_the_queue(self, lane: Callable[..., Lane]) -> None:
        """A frame for a queue that does not exist is returned by the server, and published again once it does."""
        one = lane()
        frames = [frame(b"%d" % number) for number in range(1000)]
        one.publish(frames, 5.0)
        assert sorted(delivery.frame for delivery in take(lane(), 1000)) == sorted(each.frame for each in frames)

    def test_room_is_never_exceeded(self, lane: Callable[..., Lane]) -> None:
        """A lane that was given room for three holds three, and another lane gets the rest."""
        first, second = lane(), lane()
        first.publish([frame() for _ in range(10)], 5.0)
        held = take(first, 3)
        rest = take(second, 7)
        assert not first.acknowledge(held)
        assert not second.acknowledge(rest)
        assert first.waiting(["red", "green"]) == {"red": 0, "green": 0}

    def test_room_grows_while_frames_are_in_hand(self, lane: Callable[..., Lane]) -> None:
        """More room brings more frames, though none of the earlier ones was settled."""
        one = lane()
        one.publish([frame() for _ in range(40)], 5.0)
        for count in (1, 1, 2, 4, 8, 24):
            assert len(take(one, count)) == count

    def test_room_shrinks(self, lane: Callable[..., Lane]) -> None:
        """After much room and then, for a while, little, what is new is left to others."""
        first, second = lane(), lane()
        first.publish([frame() for _ in range(100)], 5.0)
        first.acknowledge(take(first, 100))

        def is_narrow() -> bool:
            assert first.take({"red": 2}) == []
            assert isinstance(first, ConsumerLane)
            return first.prefetch("red") <= 2

        eventually(is_narrow)
        first.publish([frame() for _ in range(10)], 5.0)
        assert len(take(first, 2) + take(second, 8)) == 10

    def test_closing_frees_what_is_in_hand(self, lane: Callable[..., Lane]) -> None:
        """Frames of a closed lane come to another at once, marked as redelivered, and cannot be settled twice."""
        first, second = lane(), lane()
        first.publish([frame()], 5.0)
        held = take(first, 1)
        first.close()
        again = take(second, 1, within=1.0)
        assert again[0].redelivered
        assert not held[0].redelivered
        assert second.acknowledge(held) == held
        with pytest.raises(BrokerUnavailable):
            first.take({"red": 1})

    def test_given_back_with_a_delay(self, lane: Callable[..., Lane]) -> None:
        """A frame that was given back politely waits, keeps its first time, and does not count as redelivered."""
        one = lane()
        one.publish([frame()], 5.0)
        (held,) = take(one, 1)
        start = time.time()
        one.give_back([held], 0.3)
        (again,) = take(one, 1)
        assert 0.29 < time.time() - start < 2.0
        assert not again.redelivered
        assert again.published == pytest.approx(held.published)

    def test_given_back_at_once(self, lane: Callable[..., Lane]) -> None:
        """A frame given back without delay is there again, marked."""
        one = lane()
        one.publish([frame()], 5.0)
        one.give_back(take(one, 1))
        assert take(one, 1)[0].redelivered

    def test_due_time(self, lane: Callable[..., Lane]) -> None:
        """A frame comes out when it is due: never before, and soon after."""
        one = lane()
        due = {b"a": time.time() + 0.2, b"b": time.time() + 0.7, b"c": time.time() + 1.5}
        one.publish([frame(body, due=at) for body, at in due.items()], 5.0)
        for _ in due:
            (delivery,) = take(one, 1)
            assert 0 <= time.time() - due[delivery.frame] + 0.002 < 1.0
            one.acknowledge([delivery])

    def test_descriptor_wakes(self, lane: Callable[..., Lane]) -> None:
        """The descriptor is readable when there is something to take, and not before."""
        one, other = lane(), lane()
        number = one.fileno()
        assert number is not None
        eventually(lambda: not one.take({"red": 5}) and not select.select([number], [], [], 0.05)[0])
        other.publish([frame()], 5.0)
        assert select.select([number], [], [], 5.0)[0]
        take(one, 1)

    def test_foreign_message(self, lane: Callable[..., Lane], server: tuple[str, str]) -> None:
        """A message that somebody else published comes out with its raw body, published when it arrived."""
        one = lane()
        one.publish([frame()], 5.0)
        one.acknowledge(take(one, 1))
        with closing(plain_connection(server[0])) as connection:
            connection.channel().basic_publish("", f"{server[1]}.red", b"\xff raw")
        (delivery,) = take(one, 1)
        assert delivery.frame == b"\xff raw"
        assert delivery.published == pytest.approx(time.time(), abs=5)

    def test_queue_of_another_type(self, lane: Callable[..., Lane], server: tuple[str, str]) -> None:
        """A queue that exists with other arguments is an error that says what to do."""
        with closing(plain_connection(server[0])) as connection:
            connection.channel().queue_declare(f"{server[1]}.red", durable=True)
        with pytest.raises(ConfigurationError, match="queue_type"):
            lane().take({"red": 1})

    def test_a_refused_queue_names_what_was_accepted(self, lane: Callable[..., Lane], server: tuple[str, str]) -> None:
        """A full queue of another type takes nothing; what other queues took meanwhile is named, and is there once."""
        one, reader = lane(), lane()
        one.publish([frame()], 5.0)
        reader.acknowledge(take(reader, 1))
        full = {"x-max-length": 0, "x-overflow": "reject-publish"}
        with closing(plain_connection(server[0])) as connection:
            connection.channel().queue_declare(f"{server[1]}.green", durable=True, arguments=full)
        frames = [frame(b"good"), frame(b"bad", "green")]
        with pytest.raises(ConfigurationError, match="queue_type") as caught:
            one.publish(frames, 5.0)
        assert isinstance(caught.value, BrokerUnavailable)
        assert caught.value.accepted == (frames[0].bundle.hex(),)
        one.publish([frame(b"next")], 5.0)  # the connection is well
        assert sorted(delivery.frame for delivery in take(reader, 2)) == [b"good", b"next"]

    def test_threads_share_a_publish_that_is_refused(self, lane: Callable[..., Lane], server: tuple[str, str]) -> None:
        """Of two threads the one whose queue is refused hears it; what the other submitted is there once."""
        reader = lane()
        reader.publish([frame()], 5.0)
        reader.acknowledge(take(reader, 1))
        full = {"x-max-length": 0, "x-overflow": "reject-publish"}
        with closing(plain_connection(server[0])) as connection:
            connection.channel().queue_declare(f"{server[1]}.green", durable=True, arguments=full)
        publisher = Publisher(BACKEND.transport(*server), server[1])
        with closing(publisher):
            publisher.publish([frame(b"first")], 5.0)
            heard: dict[str, QueuelibError | None] = {}

            def publish(color: str) -> None:
                try:
                    publisher.publish([frame(color.encode(), color)], 5.0)
                    heard[color] = None
                except QueuelibError as error:
                    heard[color] = error

            threads = [threading.Thread(target=publish, args=(color,)) for color in ("red", "green")]
            another = publisher._owner = broker._Order((), math.inf)
            for thread in threads:
                thread.start()
            eventually(lambda: len(publisher._queue) == 2)
            publisher._let_go(another)
            for thread in threads:
                thread.join()
        assert heard["red"] is None
        assert isinstance(heard["green"], ConfigurationError)
        assert sorted(delivery.frame for delivery in take(reader, 2)) == [b"first", b"red"]
        assert reader.waiting(["red"]) == {"red": 0}

    def test_silent_server(self, lane: Callable[..., Lane], proxy: SilentProxy) -> None:
        """A publish that is not confirmed ends within its deadline and carries the frames in doubt."""
        one = lane(proxy.url)
        one.publish([frame()], 5.0)
        proxy.silence()
        frames = [frame() for _ in range(10)]
        start = time.monotonic()
        with pytest.raises(SubmitUnknown) as caught:
            one.publish(frames, 0.5)
        assert time.monotonic() - start < 1.5
        assert list(caught.value.frames) == frames
        assert "guest:guest" not in str(caught.value)

    def test_lost_connection(self, lane: Callable[..., Lane], proxy: SilentProxy) -> None:
        """Every verb of a lane whose connection broke raises BrokerUnavailable."""
        one = lane(proxy.url)
        one.publish([frame()], 5.0)
        held = take(one, 1)
        proxy.close()
        with pytest.raises(BrokerUnavailable):
            eventually(lambda: one.take({"red": 1}))
        for call in (one.renew, lambda: one.acknowledge(held), lambda: one.publish([frame()], 1.0)):
            with pytest.raises(BrokerUnavailable):
                call()


def test_forked_children_leave_the_connections_of_their_parent_alone(server: tuple[str, str]) -> None:
    """Whatever they do, and however they end; they have their own as soon as they need one."""
    place = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", FORKS, *server],
        env={**os.environ, "PYTHONPATH": place},
        capture_output=True,
        text=True,
        timeout=60.0,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "well True\n"), done.stderr


class TestVirtualTransports:
    """The same lane on kombu's own transports, without confirms."""

    @pytest.mark.parametrize("scheme", ["memory", "filesystem"])
    def test_round_trip(self, scheme: str, namespace: str, tmp_path: Path) -> None:
        """Frames go through, are given back, wait locally where the transport cannot, and are settled."""
        folder = str(tmp_path)
        options = {"data_folder_in": folder, "data_folder_out": folder} if scheme == "filesystem" else {}
        settings = TransportSettings(f"{scheme}://", TransportCapabilities(), options=options)
        with closing(open_lane(settings, namespace, 5.0)) as one:
            one.publish([frame(b"\x00\xff%d" % number) for number in range(5)], 5.0)
            held = take(one, 3)
            assert {delivery.frame[:2] for delivery in held} == {b"\x00\xff"}
            one.give_back(held[:1])
            one.give_back(held[1:2], 0.1)
            assert one.next_due() is not None
            one.acknowledge(held[2:])
            rest = take(one, 4)
            assert one.acknowledge(rest) == []
            assert one.fileno() is None


class TestResults:
    """Outcomes in a stream."""

    def test_first_success_stands(self, results: Callable[[], ResultBackend]) -> None:
        """For every reader the first success stands, over failures before it and successes after it."""
        writer, other, reader = results(), results(), results()
        keys = [Key(new_bundle_id(time.time()), index) for index in range(3)]
        assert writer.store(rows((keys[0], FAILED, b"no"), (keys[1], SUCCEEDED, b"one"))) == [True, True]
        other.store(rows((keys[0], SUCCEEDED, b"yes"), (keys[1], SUCCEEDED, b"two")))
        for one in (reader, other, writer):
            found = one.fetch(keys)
            assert [record and record.body for record in found] == [b"yes", b"one", None]

    def test_a_look_up_that_takes_long_goes_on(self, results: Callable[[], ResultBackend]) -> None:
        """Whoever has only one thread is told so in time, asks again, and what was read meanwhile is not read again."""
        writer, reader = results(), cast("Any", results())
        key = Key(new_bundle_id(time.time()), 0)
        writer.store([Record(key, FAILED, 1, b"why", time.time())])
        outcomes = reader._client.outcomes
        may_read, applied, apply = threading.Event(), [], outcomes._apply

        def slowly(message: list[Any]) -> None:
            may_read.wait(30.0)
            applied.append(message[0])
            apply(message)

        outcomes._apply = slowly
        reader.limit_look_ups(0.1)
        with pytest.raises(StillReading):
            reader.fetch([key])
        may_read.set()

        def found() -> bool:
            try:
                (record,) = reader.fetch([key])
            except StillReading:
                return False
            return record is not None and record.state == FAILED

        eventually(found, within=10.0)
        assert len(applied) == 1

    def test_wait_for_foreign_jobs(self, results: Callable[[], ResultBackend]) -> None:
        """Waiting for a job of another process ends when its outcome is stored."""
        writer, reader = results(), results()
        key = Key(new_bundle_id(time.time()), 0)
        timer = threading.Timer(0.2, writer.store, [rows((key, SUCCEEDED, b"v"))])
        timer.start()
        reader.wait([key], 5.0)
        timer.join()
        record = reader.fetch([key])[0]
        assert record is not None
        assert record.body == b"v"

    def test_forgotten_jobs_may_end_again(self, results: Callable[[], ResultBackend]) -> None:
        """After forget a job has no ending, for anybody, until it ends again."""
        one, other = results(), results()
        key = Key(new_bundle_id(time.time()), 0)
        one.store(rows((key, SUCCEEDED, b"old")))
        assert other.fetch([key])[0] is not None
        one.forget([key])
        assert one.fetch([key]) == [None]
        one.store(rows((key, SUCCEEDED, b"new")))
        found = [each.fetch([key])[0] for each in (one, results())]
        assert [record and record.body for record in found] == [b"new", b"new"]

    def test_cancel_marks(self, results: Callable[[], ResultBackend]) -> None:
        """A worker sees all marks at first and only new ones later."""
        client, worker = results(), results()
        keys = [Key(new_bundle_id(time.time()), index) for index in range(3)]
        client.cancel(keys[:2])
        marks = worker.cancelled(None)
        assert list(marks.keys) == keys[:2]
        client.cancel(keys[2:])
        assert eventually(lambda: list(worker.cancelled(marks.cursor).keys)) == keys[2:]

    def test_quarantine(self, results: Callable[[], ResultBackend]) -> None:
        """Items stay, in order, until they are released; listing consumes nothing."""
        one, other = results(), results()
        items = [QuarantineItem(name, "red", "why", b"frame", 1.0) for name in "abc"]
        one.quarantine(items)
        assert other.quarantined() == items
        other.release(["b"])
        assert one.quarantined() == other.quarantined() == [items[0], items[2]]

    def test_workers_expire(self, results: Callable[[], ResultBackend]) -> None:
        """A worker is listed for its lifetime, or until it takes itself off the list."""
        one, other = results(), results()
        living = WorkerInfo("a", "host", 1, ("red",), ("task",), 1.0)
        one.announce(living, 60)
        one.announce(WorkerInfo("b", "host", 2, (), ()), 0.05)
        one.announce(WorkerInfo("c", "host", 3, (), ()), 60)
        one.announce(WorkerInfo("c", "host", 3, (), ()), 0)
        eventually(lambda: other.workers() == [living])

    def test_a_forked_child_has_its_own_inbox(self, results: Callable[[], ResultBackend]) -> None:
        """A child process does not use its parent's connection."""
        one = results()
        mine = one.inbox()
        one.workers()
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(writer, one.inbox().encode())
            os._exit(0)
        os.waitpid(pid, 0)
        theirs = os.read(reader, 200).decode()
        os.close(reader)
        os.close(writer)
        assert theirs
        assert theirs != mine

    def test_no_server(self, namespace: str) -> None:
        """Without a server the error comes soon and names it."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        one = BACKEND.results(f"amqp://guest:guest@127.0.0.1:{port}//", namespace, 60.0)
        with closing(one), pytest.raises(BrokerUnavailable, match=str(port)):
            one.fetch([Key(new_bundle_id(time.time()), 0)])

    def test_a_server_that_stalls_while_streams_are_declared(
        self, results: Callable[[], ResultBackend], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each attempt ends with its connection and its thread, whether the server answers later or never."""
        stalled: list[Io] = []
        monkeypatch.setattr(Io, "_declare", lambda io, _left: stalled.append(io))
        monkeypatch.setattr("queuelib_rabbitmq.results.SUBMIT_DEADLINE", 1.0)
        monkeypatch.setattr("queuelib_rabbitmq.results._REOPEN_AFTER", 0.0)
        one = results()
        for _ in range(2):
            with pytest.raises(BrokerUnavailable, match="does not answer"):
                one.workers()
        assert len(stalled) == 2
        eventually(lambda: not _io_threads())

    def test_a_server_that_says_nothing(self, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """An attempt that is given up before it has got anywhere hangs up."""
        monkeypatch.setattr("queuelib_rabbitmq.results.SUBMIT_DEADLINE", 0.2)
        monkeypatch.setattr("queuelib_rabbitmq.io.parameters", partial(_patient, parameters))
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            one = BACKEND.results(f"amqp://guest:guest@127.0.0.1:{port}//", namespace, 60.0)
            with closing(one), pytest.raises(BrokerUnavailable, match=str(port)):
                one.workers()
            peer, _ = silent.accept()
            with peer:
                peer.settimeout(5.0)
                heard = b""
                while more := peer.recv(100):
                    heard += more
                assert heard.startswith(b"AMQP")
        eventually(lambda: not _io_threads())

    def test_nobody_connects_for_one_that_was_closed(self, results: Callable[[], ResultBackend]) -> None:
        """What was begun in the background before the end leaves no connection behind."""
        one = cast("RabbitResults", results())
        client = one._client
        one.close()
        with pytest.raises(BrokerUnavailable):
            client.open()
        assert one.workers() == []  # a later call begins anew


def _patient(make: Callable[[Address, float], Any], address: Address, _timeout: float) -> Any:
    return make(address, 60.0)  # pika itself would give up, too


def _io_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "queuelib-rabbitmq"]


class TestSettlement:
    """Outcomes and acknowledgements on one channel."""

    def test_settles_in_one_step(self, lane: Callable[..., Lane], results: Callable[[], ResultBackend]) -> None:
        """The outcome reaches the waiting client by its reply queue, the successor its queue, and nothing is left."""
        worker, client, theirs = lane(), results(), results()
        settlement = BACKEND.join(worker.handle, theirs)
        assert settlement is not None
        sent = frame()
        client.accept([sent])
        reply = client.inbox()
        client.workers()
        worker.publish([sent], 5.0)
        (held,) = take(worker, 1)
        key = Key(sent.bundle, 0)
        item = QuarantineItem("q", "red", "why", b"f", 1.0)
        entry = Settled(held, rows((key, SUCCEEDED, b"v")), [frame(b"next", "green")], [item], is_complete=True)
        entry.reply = reply
        assert settlement.settle([entry]) == [True]
        client.wait([key], 5.0)
        record = client.fetch([key])[0]
        assert record is not None
        assert record.body == b"v"
        assert client.quarantined() == [item]
        assert take(worker, 1, color="green")[0].frame == b"next"
        worker.close()
        assert lane().waiting(["red"]) == {"red": 0}

    def test_a_refused_successor_is_a_failure_that_passes(
        self, lane: Callable[..., Lane], results: Callable[[], ResultBackend], server: tuple[str, str]
    ) -> None:
        """A settlement whose retry goes to a queue of another type fails as one does whose server is away."""
        with closing(plain_connection(server[0])) as connection:
            connection.channel().queue_declare(f"{server[1]}.green", durable=True)
        worker, theirs = lane(), results()
        worker.publish([frame()], 5.0)
        (held,) = take(worker, 1)
        settlement = BACKEND.join(worker.handle, theirs)
        assert settlement is not None
        entry = Settled(held, [], [frame(b"later", "green", time.time() + 30)], is_complete=True)
        for _ in range(2):  # nothing is taken for declared that was refused
            with pytest.raises(BrokerUnavailable):
                settlement.settle([entry])
        with closing(plain_connection(server[0])) as connection:
            connection.channel().queue_delete(f"{server[1]}.green")
        assert settlement.settle([entry]) == [True]

    def test_a_settlement_over_a_dead_connection(
        self, lane: Callable[..., Lane], results: Callable[[], ResultBackend], proxy: SilentProxy
    ) -> None:
        """It fails as the connection does, also where a retry is the first thing to need it."""
        worker, theirs = lane(proxy.url), results()
        worker.publish([frame()], 5.0)
        (held,) = take(worker, 1)
        settlement = RabbitSettlement(cast("SettlingLane", worker.handle), cast("RabbitResults", theirs))
        proxy.close()
        entry = Settled(held, [], [frame(b"later", due=time.time() + 30)], is_complete=True)
        with pytest.raises(BrokerUnavailable):
            settlement.settle([entry])

    def test_lost_deliveries_leave_successes_only(
        self, lane: Callable[..., Lane], results: Callable[[], ResultBackend]
    ) -> None:
        """What came over a connection that is gone settles nothing, but its successes are stored."""
        first, second, theirs, reader = lane(), lane(), results(), results()
        sent = [frame(), frame()]
        first.publish(sent, 5.0)
        held = take(first, 2)
        first.close()
        settlement = BACKEND.join(second.handle, theirs)
        assert settlement is not None
        keys = [Key(each.bundle, 0) for each in sent]
        entries = [
            Settled(held[0], rows((keys[0], SUCCEEDED, b"v")), is_complete=True),
            Settled(held[1], rows((keys[1], FAILED, b"e")), is_complete=True),
        ]
        assert settlement.settle(entries) == [False, False]
        found = reader.fetch(keys)
        assert [record and record.state for record in found] == [SUCCEEDED, None]
        assert len(take(second, 2)) == 2

    def test_a_doubtful_push_is_not_believed(
        self, lane: Callable[..., Lane], results: Callable[[], ResultBackend]
    ) -> None:
        """A pushed outcome of a redelivered job gives way to the one that stands before it in the stream."""
        worker, client, theirs = lane(), results(), results()
        sent = frame()
        key = Key(sent.bundle, 0)
        client.accept([sent])
        reply = client.inbox()
        client.workers()
        worker.publish([sent], 5.0)
        worker.give_back(take(worker, 1))
        (held,) = take(worker, 1)
        theirs.store(rows((key, SUCCEEDED, b"first")))
        settlement = BACKEND.join(worker.handle, theirs)
        assert settlement is not None
        assert settlement.settle([Settled(held, rows((key, SUCCEEDED, b"second")), is_complete=True, reply=reply)])
        client.wait([key], 5.0)
        record = client.fetch([key])[0]
        assert record is not None
        assert record.body == b"first"

    def test_other_servers_do_not_join(self, lane: Callable[..., Lane], namespace: str) -> None:
        """Another virtual host is another server."""
        other = BACKEND.results("amqp://guest:guest@127.0.0.1:1/other", namespace, 60.0)
        assert BACKEND.join(lane().handle, other) is None


class TestUrls:
    """What a URL says."""

    def test_options(self) -> None:
        """Options are read, and unknown ones refused."""
        address = parse("amqps://me:p%40ss@host/vh?queue_type=classic&heartbeat=7&cache=8&verify=no")
        assert (address.port, address.vhost, address.password.reveal()) == (5671, "vh", "p@ss")
        assert (address.is_replicated, address.heartbeat, address.cache) == (False, 7, 8 << 20)
        with pytest.raises(ConfigurationError, match="knows no option 'hearbeat'"):
            parse("amqp://host?hearbeat=7")
        for size in ("0", "-1", "8M"):
            with pytest.raises(ConfigurationError, match="cache"):
                parse(f"amqp://host?cache={size}&heartbeat=7")

    @pytest.mark.parametrize("end", ["", "/", "//", "/%2F"])
    def test_default_virtual_host(self, end: str) -> None:
        """All usual spellings mean the default virtual host."""
        assert parse(f"amqp://host{end}").server == ("host", 5672, "/")

    def test_ladder(self) -> None:
        """The digits of the routing key add up to the delay, rounded up to a tenth of a second."""
        ladder = Ladder("ns")
        for delay in (0.01, 0.1, 0.35, 59.9, 86_400.0, ladder.longest):
            exchange, key = ladder.address("ns.red", delay)
            digits = key.removesuffix(".ns.red").split(".")
            total = sum(0.1 * 2 ** (23 - place) for place, digit in enumerate(digits) if digit == "1")
            assert delay - 0.002 <= total <= delay + 0.1
            assert exchange == f"ns.delay.{23 - digits.index('1'):02d}"
