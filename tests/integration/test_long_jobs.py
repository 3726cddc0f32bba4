"""Jobs that run for longer than RabbitMQ lets a message be in hand: they move with their worker, and die with it.

`consumer_timeout=4` makes a worker move what it has had for two seconds; the server's own limit is half an hour.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from queuelib import body
from queuelib.ids import parse_job_id
from queuelib.outcome import RUNNING
from tests.contract.cuts import Cuts
from tests.integration.lab import WITHIN, Lab, clean, let_pass, load_deeds, plain_connection
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.crash
LIMIT = 4  # seconds
MOVED = 3.5  # seconds after which a job in hand has moved; another half of the limit is left


@pytest.fixture
def long_url(amqp_url: str) -> str:
    """The server of the tests, of which workers believe that its limit is short."""
    return f"{amqp_url}?consumer_timeout={LIMIT}"


@pytest.fixture
def lab(long_url: str, namespace: str, tmp_path: Path) -> Iterator[Lab]:
    """A namespace without workers."""
    lab = Lab("amqp", long_url, namespace, tmp_path, load_deeds(long_url, namespace))
    try:
        yield lab
    finally:
        lab.close()
        clean("amqp", long_url, namespace)


def running_starts(lab: Lab, job: Any) -> int:
    """Return how often the record of a running job says that it was started; 0 if it says nothing of that."""
    (record,) = lab.dispatcher.open_results().fetch([parse_job_id(job.id)])
    return body.starts_in(record.body) if record is not None and record.state == RUNNING and record.body else 0


def test_over_several_moves_it_runs_once(lab: Lab) -> None:
    """A job that takes twice the limit starts once, though another worker waits; its result is as any other."""
    gate, history = lab.gate(), lab.history()
    lab.ready_worker("--processes", "1")
    job = lab.deeds.mark.submit(history.path, "long", gate.path)
    history.await_start("long")
    lab.ready_worker("--processes", "1")
    let_pass(2.0 * LIMIT)
    quick = lab.deeds.mark.submit(history.path, "quick")
    assert quick.result(timeout=WITHIN) == "quick"
    gate.open()
    assert job.result(timeout=WITHIN) == "long"
    assert history.count() == {"long": 1, "quick": 1}
    assert lab.open_lane().waiting(["yellow"]) == {"yellow": 0}


def test_killed_worker_leaves_it_to_another(lab: Lab) -> None:
    """What has moved comes to another worker within 2 s, which runs it once more and says that it may be to blame."""
    gate, history = lab.gate(), lab.history()
    first = lab.ready_worker("--processes", "1")
    job = lab.deeds.mark.submit(history.path, "long", gate.path)
    history.await_start("long")
    lab.ready_worker("--processes", "1")
    let_pass(MOVED)
    killed = time.time()
    first.kill()
    history.await_start("long", times=2)
    assert history.marks("start")[1].at - killed < 2.0
    eventually(lambda: running_starts(lab, job) == 2, within=WITHIN, message="the record says two starts")
    gate.open()
    assert job.result(timeout=WITHIN) == "long"
    let_pass(MOVED)
    assert history.count() == {"long": 2}


def test_it_had_moved(lab: Lab) -> None:
    """What a killed worker leaves comes back from a queue of its own, with a word that it was in hand."""
    gate, history = lab.gate(), lab.history()
    worker = lab.ready_worker("--processes", "1")
    job = lab.deeds.mark.submit(history.path, "long", gate.path)
    history.await_start("long")
    let_pass(MOVED)
    worker.kill()
    with closing(plain_connection(lab.url)) as connection:
        channel = connection.channel()
        found: Any = eventually(lambda: (got := channel.basic_get(f"{lab.namespace}.yellow"))[0] and got, within=WITHIN)
        deaths = found[1].headers["x-death"]
        assert deaths[0]["queue"].startswith(f"{lab.namespace}.held.yellow.")
        assert found[1].headers["ql-held"] == 1
    gate.open()
    lab.worker("--processes", "1")
    assert job.result(timeout=WITHIN) == "long"
    assert history.count() == {"long": 2}


def test_polite_stop_gives_it_back(lab: Lab) -> None:
    """A worker that is told twice to stop interrupts what has moved and gives it to another, which is not blamed."""
    gate, history = lab.gate(), lab.history()
    first = lab.ready_worker("--processes", "1")
    job = lab.deeds.mark.submit(history.path, "long", gate.path)
    history.await_start("long")
    lab.ready_worker("--processes", "1")
    let_pass(MOVED)
    assert first.stop() in {0, 1}
    history.await_start("long", times=2)
    gate.open()
    assert job.result(timeout=WITHIN) == "long"
    assert history.count() == {"long": 2}


def test_polite_stop_waits_for_it(lab: Lab) -> None:
    """A worker that is told once to stop goes on moving what it still runs until that has ended."""
    gate, history = lab.gate(), lab.history()
    first = lab.ready_worker("--processes", "1")
    job = lab.deeds.mark.submit(history.path, "long", gate.path)
    history.await_start("long")
    lab.ready_worker("--processes", "1")
    first.signal(signal.SIGTERM)
    let_pass(2.0 * LIMIT)
    gate.open()
    assert job.result(timeout=WITHIN) == "long"
    assert first.wait() == 0
    assert history.count() == {"long": 1}


def test_dead_child_after_a_move(lab: Lab) -> None:
    """The death of a child costs a job that has moved what it costs any other: one more start, on the same worker."""
    gate, history = lab.gate(), lab.history()
    lab.ready_worker("--processes", "2")
    job = lab.deeds.mark.submit(history.path, "long", gate.path)
    history.await_start("long")
    let_pass(MOVED)
    os.kill(history.marks("start")[0].pid, signal.SIGKILL)
    history.await_start("long", times=2)
    let_pass(MOVED)
    gate.open()
    assert job.result(timeout=WITHIN) == "long"
    assert history.count() == {"long": 2}


def test_retry_after_a_move(lab: Lab) -> None:
    """A job that has moved and then runs out of its time is tried again, once, as a message of its own."""
    history = lab.history()
    lab.ready_worker("--processes", "1")
    job = lab.deeds.dawdle.options(timeout=MOVED, retries=1, backoff=0.05).submit(history.path, "slow")
    assert job.result(timeout=WITHIN) == "slow"
    assert [mark.attempt for mark in history.marks("start")] == [1, 2]


def test_cut_connection_is_adopted(long_url: str, namespace: str, tmp_path: Path) -> None:
    """A worker whose connection is cut takes what had moved again, and the run that goes on answers for it."""
    parts = urlsplit(long_url)
    with Cuts(parts.hostname or "", parts.port or 5672) as proxy:
        url = parts._replace(netloc=f"guest:guest@127.0.0.1:{proxy.port}").geturl()
        lab = Lab("amqp", url, namespace, tmp_path, load_deeds(url, namespace))
        try:
            gate, history = lab.gate(), lab.history()
            worker = lab.ready_worker("--processes", "2")
            job = lab.deeds.mark.submit(history.path, "long", gate.path)
            history.await_start("long")
            let_pass(MOVED)
            proxy.cut()
            worker.await_word("trying again")
            let_pass(2.0 * LIMIT)
            assert lab.deeds.mark.submit(history.path, "quick").result(timeout=WITHIN) == "quick"
            gate.open()
            assert job.result(timeout=WITHIN) == "long"
            assert history.count() == {"long": 1, "quick": 1}
        finally:
            lab.close()
            clean("amqp", long_url, namespace)
