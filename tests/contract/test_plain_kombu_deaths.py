"""Whatever takers do and however they end, no message is lost and none is invented."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from kombu import Connection, Consumer, Message

import queuelib_memory
import queuelib_sqlite
from tests.contract.plain_kombu import Place, drain_all, drain_into, publish, waiting

_KEEPS_ODD_NUMBERS = """
import json, sys
import queuelib_redis, queuelib_sqlite
from kombu import Connection, Consumer, Queue

def handle(message):
    if message.payload % 2 == 0:
        message.ack()
    held.append(message)
    print(message.payload, flush=True)

held = []
url, options, queue = sys.argv[1:]
with Connection(url, transport_options=json.loads(options)) as connection:
    with Consumer(connection.channel(), [Queue(queue)], on_message=handle, accept=["json"]):
        while True:
            connection.drain_events()
"""
# Not kombu's Redis: it knows of no deaths, and returns what was not acknowledged for an hour (visibility_timeout).
_SEE_DEATHS = ["qlsqlite", "qlredis", "pyamqp"]


class _Takers(RuleBasedStateMachine):
    """Two takers of one queue, each of which may die at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.connections: list[Connection] = []
        self.url = self.make_url()
        self.sender = self.connect()
        self.takers = [self.connect() for _ in range(2)]
        self.held: list[list[Message]] = [[], []]
        self.sent = 0
        self.waiting: set[int] = set()
        self.fell: set[int] = set()  # what a dead taker held

    def make_url(self) -> str:
        """Return the URL of an empty broker."""
        raise NotImplementedError

    def kill(self, channel: Any) -> None:
        """End a channel as the kernel ends a killed process."""
        raise NotImplementedError

    def connect(self) -> Any:
        """Return a channel on a connection of its own."""
        connection = Connection(self.url)
        self.connections.append(connection)
        return connection.channel()

    @rule(priority=st.sampled_from([0, 5]))
    def put(self, priority: int) -> None:
        """Publish the next number."""
        message = self.sender.prepare_message(str(self.sent), priority=priority)
        self.sender.basic_publish(message, "", "jobs")
        self.waiting.add(self.sent)
        self.sent += 1

    @rule(who=st.integers(0, 1))
    def take(self, who: int) -> None:
        """Take one message, if one is waiting."""
        message = self.takers[who].basic_get("jobs")
        assert (message is not None) == bool(self.waiting)
        if message is not None:
            number = int(message.body)
            assert number in self.waiting
            assert bool(message.delivery_info.get("redelivered")) == (number in self.fell)
            self.waiting.remove(number)
            self.held[who].append(message)

    @rule(who=st.integers(0, 1))
    def acknowledge(self, who: int) -> None:
        """Settle the oldest in hand."""
        if self.held[who]:
            self.held[who].pop(0).ack()

    @rule(who=st.integers(0, 1))
    def requeue(self, who: int) -> None:
        """Return the newest in hand."""
        if self.held[who]:
            message = self.held[who].pop()
            message.requeue()
            self.waiting.add(int(message.body))

    @rule(who=st.integers(0, 1))
    def die(self, who: int) -> None:
        """Lose a taker, find out, and start another."""
        self.kill(self.takers[who])
        numbers = {int(message.body) for message in self.held[who]}
        self.sender.renew()
        self.waiting |= numbers
        self.fell |= numbers
        self.held[who] = []
        self.takers[who] = self.connect()

    @invariant()
    def nothing_is_lost_or_invented(self) -> None:
        """The server counts what the model says."""
        assert self.sender.queue_declare("jobs").message_count == len(self.waiting)

    def teardown(self) -> None:
        """Close what still lives."""
        for connection in self.connections:
            connection.release()


class _OnMemory(_Takers):
    def make_url(self) -> str:
        assert queuelib_memory.BACKEND.name == "memory"
        return f"qlmemory://localhost/{uuid.uuid4().hex}"

    def kill(self, channel: Any) -> None:
        channel.die()


class _OnSqlite(_Takers):
    def make_url(self) -> str:
        assert queuelib_sqlite.BACKEND.name == "sqlite"
        self.folder = TemporaryDirectory()
        return f"qlsqlite:///{Path(self.folder.name) / 'jobs.db'}"

    def kill(self, channel: Any) -> None:
        channel.abandon()

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


_QUICK = settings(max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
TestOnMemory: Any = _OnMemory.TestCase
TestOnSqlite: Any = _OnSqlite.TestCase
TestOnMemory.settings = _QUICK
TestOnSqlite.settings = _QUICK


@pytest.mark.crash
@pytest.mark.parametrize("kind", _SEE_DEATHS)
def test_what_a_killed_process_held_comes_back(place: Place) -> None:
    """Each once and marked as redelivered, and nothing of what it had acknowledged."""
    queue = place.queue("killed")
    taken: list[Message] = []
    with place.connect() as connection:
        publish(connection, queue, *range(10))
        with _holder(place.url, json.dumps(place.options), queue.name) as holder:
            assert holder.stdout is not None
            assert [int(holder.stdout.readline()) for _ in range(10)] == list(range(10))
            with Consumer(connection.channel(), [queue], on_message=taken.append, accept=["json"]):
                holder.send_signal(signal.SIGKILL)
                drain_into(taken, connection, 5)
                drain_all(connection)
        assert sorted(message.payload for message in taken) == [1, 3, 5, 7, 9]
        assert [message.delivery_info["redelivered"] for message in taken] == [True] * 5
        for message in taken:
            message.ack()
        taken[0].channel.close()
        assert waiting(connection, queue) == 0


def _holder(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _KEEPS_ODD_NUMBERS, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
