"""Large arguments and results travel apart from messages and outcomes, and nobody who uses them sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from queuelib import Dispatcher, RemoteError, SharedGone, chord, codec, pieces, plugins
from queuelib.handle import ARGUMENT, RESULT
from queuelib.settings import LARGE_BYTES
from tests.integration.lab import WITHIN, Lab, clean, lab_of, results
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from queuelib.message import Outgoing

ARRAY = np.arange(125_000.0)  # 1 MB
SUM = float(ARRAY.sum())


@pytest.fixture
def lab(broker_kind: str, broker_url: str, tmp_path: Path) -> Iterator[Lab]:
    """A lab of its own, without workers."""
    with lab_of("heavy", broker_kind, broker_url, tmp_path) as lab:
        yield lab


@pytest.fixture
def sent(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> list[Outgoing]:
    """What the client publishes."""
    frames: list[Outgoing] = []
    publish = lab.dispatcher.producer.publish

    def publish_and_note(some: list[Outgoing]) -> None:
        publish(some)
        frames.extend(some)

    monkeypatch.setattr(lab.dispatcher.producer, "publish", publish_and_note)
    return frames


def size(frames: list[Outgoing]) -> int:
    return sum(len(frame.frame) for frame in frames)


def body_of(lab: Lab, job: Any) -> bytes:
    body: bytes = lab.dispatcher.open_results().fetch([job.key])[0].body
    return body


def test_an_argument_that_many_jobs_have_is_sent_once(lab: Lab, sent: list[Outgoing]) -> None:
    """200 jobs with the same megabyte: it travels once in a message and once apart; each handler has its own copy."""
    lab.ready_worker("--processes", "2", target="heavy.py")
    jobs = lab.deeds.total.submit_many([(ARRAY, number) for number in range(200)])
    assert results(jobs) == [SUM + number for number in range(200)]
    assert size(sent) < 1_200_000
    assert lab.deeds.total.submit(ARRAY.copy()).result(timeout=WITHIN) == SUM  # by its content, in any call
    assert size(sent) < 1_200_000
    assert list(lab.deeds.total.map([ARRAY] * 20)) == [SUM] * 20
    assert size(sent) < 1_220_000


def test_each_kind_of_parameter(lab: Lab, sent: list[Outgoing]) -> None:
    """By position, by star, by name, with a limit of time, and as a field of a message."""
    lab.ready_worker("--processes", "1", target="heavy.py")
    numbers, data = list(range(300_000)), bytes(400_000)
    for _ in range(3):
        job = lab.deeds.within.submit(numbers, data, b"12", one=data)
        assert job.result(timeout=WITHIN) == 300_000 + 400_000 + 2 + 400_000
    picture = lab.deeds.Picture("sky", bytes(500_000))
    for _ in range(3):
        assert lab.dispatcher.submit(picture).result(timeout=WITHIN) == "sky 500000"
    assert [size([frame]) > LARGE_BYTES for frame in sent] == [True, False, False] * 2


def test_arguments_outlast_retries(lab: Lab) -> None:
    """What travels again is what stands for them."""
    lab.ready_worker("--processes", "2", target="heavy.py")
    jobs = [lab.deeds.third_time.submit(bytes(700_000)) for _ in range(3)]
    assert results(jobs) == [700_000] * 3


def test_results(lab: Lab) -> None:
    """A record has what stands for a large result; any client reads the value, also one that does not know the task."""
    lab.ready_worker("--processes", "2", target="heavy.py")
    jobs = lab.deeds.make.submit_many([(number,) for number in range(10)])
    assert results(jobs) == [bytes([number]) * 1_000_000 for number in range(10)]
    if lab.dispatcher.open_results().capabilities.large_apart:
        assert all(len(body_of(lab, job)) < 200 for job in jobs)
    small = lab.deeds.make.submit(1, 1000)
    assert small.result(timeout=WITHIN) == b"\1" * 1000
    assert len(body_of(lab, small)) > 1000
    other = Dispatcher(lab.url, namespace=lab.namespace)
    try:
        assert other.job(jobs[3].id).result(timeout=WITHIN) == b"\3" * 1_000_000
    finally:
        other.close()


def test_large_results_as_arguments(lab: Lab) -> None:
    """Where they are kept apart, more of them than a message holds: only what stands for them travels."""
    lab.ready_worker("--processes", "2", target="heavy.py")
    count = 20 if lab.dispatcher.open_results().capabilities.large_apart else 10
    job = chord([lab.deeds.make.s(number) for number in range(count)], lab.deeds.sizes.s()).submit()
    assert job.result(timeout=60) == [1_000_000] * count
    assert lab.deeds.sizes.submit([lab.deeds.make.submit(1)]).result(timeout=WITHIN) == [1_000_000]


@pytest.mark.parametrize("key", ["lab:secret-secret-secret", "lab/aes:secret-secret-secret"])
def test_signed_and_encrypted(lab: Lab, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept apart is signed and encrypted as all else; without the key it is not there."""
    monkeypatch.setenv("QUEUELIB_KEY", key)
    lab.dispatcher.configure(broker=lab.url)  # reads its keys anew
    try:
        lab.ready_worker("--processes", "1", target="heavy.py")
        assert results([lab.deeds.total.submit(ARRAY) for _ in range(3)]) == [SUM] * 3
        job = lab.deeds.make.submit(7)
        assert job.result(timeout=WITHIN) == b"\7" * 1_000_000
    finally:
        monkeypatch.delenv("QUEUELIB_KEY")
        lab.dispatcher.configure(broker=lab.url)


def test_a_worker_that_dies_over_a_large_result(lab: Lab) -> None:
    """The value is kept and the outcome is not yet: the job runs again, and its result is there."""
    if not lab.dispatcher.open_results().capabilities.large_apart:
        pytest.skip("its results are in outcomes")
    history = lab.history()
    struck = lab.ready_worker("--processes", "1", target="heavy.py", QUEUELIB_FAULT="after_value:1:sleep:60")
    job = lab.deeds.note_and_make.submit(history.path, 5)
    value = b"\5" * 1_000_000
    name = pieces.digest(b"\xc1R" + codec.encode(value)) + bytes(4)
    keeper = lab.dispatcher.sharing.store.blobs(RESULT)
    eventually(lambda: keeper.renew([name]) == [True], within=WITHIN)  # the worker has written it
    assert not job.done()
    struck.kill()
    lab.ready_worker("--processes", "1", target="heavy.py")
    assert job.result(timeout=60) == b"\5" * 1_000_000
    assert (lab.folder / "history").read_text(encoding="utf-8") == "5\n5\n"


def test_what_is_gone(lab: Lab) -> None:
    """A job whose argument is not kept any more fails and says so, as does who asks for such a result; no worker minds."""
    jobs = [lab.deeds.third_time.submit(bytes([7]) * 600_000) for _ in range(3)]
    store = lab.dispatcher.sharing.store
    (kept,) = [one for one in lab.dispatcher._connections.repeats._seen.values() if one is not None]
    content_hash = kept.stands[4:36]
    store.blobs(ARGUMENT).drop([content_hash + bytes(4)])
    lab.ready_worker("--processes", "1", target="heavy.py")
    assert jobs[0].result(timeout=WITHIN) == 600_000
    for job in jobs[1:]:
        with pytest.raises(RemoteError, match="an argument of this job takes 600,007 bytes.* not there any more"):
            job.result(timeout=WITHIN)
    assert lab.deeds.make.submit(3, 10).result(timeout=WITHIN) == b"\3" * 10
    if not lab.dispatcher.open_results().capabilities.large_apart:
        return
    large = lab.deeds.make.submit(3)
    assert large.wait(timeout=WITHIN)
    body = body_of(lab, large)
    at = body.index(b"\xc7\x29\x11\x01") + 4
    store.blobs(RESULT).drop([body[at : at + 32] + bytes(4)])
    with pytest.raises(SharedGone, match="the result of this job"):
        large.result(timeout=WITHIN)


def test_results_on_another_server(tmp_path: Path, redis_url: str) -> None:
    """What is large is where the results are."""
    with lab_of("heavy", "sqlite", f"sqlite:///{tmp_path}/jobs.db", tmp_path) as lab:
        lab.dispatcher.configure(results=redis_url)
        try:
            lab.ready_worker("--processes", "1", target="heavy.py", RESULTS=redis_url)
            assert results([lab.deeds.total.submit(ARRAY) for _ in range(3)]) == [SUM] * 3
            job = lab.deeds.make.submit(7)
            assert job.result(timeout=WITHIN) == b"\7" * 1_000_000
            assert len(body_of(lab, job)) < 200
        finally:
            lab.dispatcher.configure(results=lab.url)
            clean("redis", redis_url, lab.namespace)


def test_where_nothing_is_kept(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend without shared objects: everything travels in messages and outcomes."""

    class Bare:
        """A backend of others."""

        def __init__(self, inner: Any) -> None:
            self.results = inner.results
            self.transport = getattr(inner, "transport", None)

    inner = plugins.backend_for
    monkeypatch.setattr(plugins, "backend_for", lambda url: Bare(inner(url)))
    with pytest.raises(ValueError, match="no shared objects"):
        plugins.blobs_for(lab.url, lab.namespace, 60.0)
    lab.ready_worker("--processes", "1", target="heavy.py")
    assert results([lab.deeds.total.submit(ARRAY) for _ in range(3)]) == [SUM] * 3
