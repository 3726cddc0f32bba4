"""A handler's context: where it comes from, that it is no argument, and what it does where no worker is."""

from __future__ import annotations

import functools
import inspect
import logging
import sys
import uuid
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

import queuelib as ql
from queuelib import CancelledError, Context, Dispatcher, Handlers, Progress, current_job
from queuelib.context import Place, place_of
from queuelib.errors import ArgumentError, ConfigurationError, MissingDriver, QueuelibError, RegistrationError, Retry
from queuelib.ids import Key, job_id
from queuelib.schema import Schema
from queuelib.testing import in_process

KEY = Key(bytes(range(16)), 5)


# Where a function wants it


def first(context: Context, x: int, y: int = 2) -> None:
    """By position, before others."""


def middle(x: int, context: Context, *rest: int) -> None:
    """Between others."""


def named(x: int, *, context: Context, y: int = 2) -> None:
    """By name."""


def optional(x: int, context: Context | None = None) -> None:
    """With a default."""


def qualified(x: int, context: ql.Context) -> None:
    """By another name."""


def without(x: int, context: int) -> None:
    """Only called so."""


def unresolvable(x: NotThere, context: Context) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Beside something that is defined later."""


@pytest.mark.parametrize(
    ("function", "place"),
    [
        (first, Place("context", 0)),
        (middle, Place("context", 1)),
        (named, Place("context", None)),
        (optional, Place("context", 1)),
        (qualified, Place("context", 1)),
        (without, None),
        (unresolvable, Place("context", 1)),
        (lambda x: x, None),
        (len, None),
    ],
)
def test_place(function: Any, place: Place | None) -> None:
    """It is found by its annotation, whatever its name, kind and neighbors."""
    assert place_of(function) == place


@pytest.mark.parametrize(
    ("function", "call", "expected"),
    [
        (lambda c, x, y: (c, x, y), (Place("c", 0), (1, 2)), ("C", 1, 2)),
        (lambda x, c, *rest: (x, c, rest), (Place("c", 1), (1, 2, 3)), (1, "C", (2, 3))),
        (lambda x, *, c, y=0: (x, c, y), (Place("c", None), (1,)), (1, "C", 0)),
    ],
)
def test_filling(function: Any, call: tuple[Place, tuple[Any, ...]], expected: Any) -> None:
    """It stands where the function wants it."""
    place, arguments = call
    describe: Any = lambda: "C"  # noqa: E731
    assert place.fill(function, describe)(*arguments) == expected


def test_two_contexts_are_an_error_at_registration() -> None:
    """Both are named; so is one of any number, and one of a method of a visitor."""
    dispatcher = Dispatcher("memory://context-two")

    def two(one: Context, x: int, *, other: Context) -> None:
        """Ask twice."""

    def many(*contexts: Context) -> None:
        """Ask for many."""

    class Visitor(Handlers):
        """Asks twice."""

        def visit_Thing(self, thing: Any, one: Context, other: Context) -> None:
            """Ask twice."""

    with pytest.raises(RegistrationError, match="two parameters for its context, 'one' and 'other'"):
        dispatcher.task(two)
    with pytest.raises(RegistrationError, match="any number of contexts"):
        dispatcher.task(many)
    with pytest.raises(RegistrationError, match="two parameters"):
        dispatcher.register(Visitor())


def test_it_is_no_argument() -> None:
    """Neither the shape of a task nor its calls know of it: adding one to a task is no change of its message."""

    def plain(x: int, y: int = 2) -> None:
        """Do without."""

    with_it, without_it = Schema.of_function(first), Schema.of_function(plain)
    assert with_it.describe() == without_it.describe()
    assert with_it.hash == without_it.hash
    assert with_it.pack((1,), {}) == without_it.pack((1,), {})
    with pytest.raises(ArgumentError):
        with_it.pack((1,), {"context": 3})


# What it is without a worker


def test_a_context_for_tests() -> None:
    """Made by hand it takes what it is told, remembers what is saved, and is not cancelled."""
    context = Context()
    context.progress(1, 2, "half")
    state: Any = context.state
    assert state is None
    context.save({"at": 1})
    assert context.state == {"at": 1}
    assert (context.cancelled, context.lost_lease, context.attempt) == (False, False, 1)
    with pytest.raises(QueuelibError, match="outside of a worker"):
        current_job()


def test_its_random_numbers() -> None:
    """The seed and the place make them, or the job's id; asked for again it goes on where it was."""
    context = Context(KEY, draws=(7, 3))
    expected = np.random.default_rng(np.random.SeedSequence(7, spawn_key=(3,)))
    assert [context.rng.random() for _ in range(3)] == list(expected.random(3))
    own = np.random.default_rng(np.random.SeedSequence(int.from_bytes(KEY.bundle, "big"), spawn_key=(5,)))
    assert Context(KEY).rng.random() == own.random()


def test_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.setitem(sys.modules, "numpy.random", None)
    with pytest.raises(MissingDriver, match=r"queuelib-kombu\[science\]"):
        _ = Context().rng


def test_its_logger(caplog: pytest.LogCaptureFixture) -> None:
    """Records are the task's, and say which job, attempt and worker; what a call adds stays."""
    context = Context(KEY, "lab.task", 2, "w1")
    with caplog.at_level(logging.INFO, "lab.task"):
        context.logger.info("halfway", extra={"more": 1})
    (record,) = caplog.records
    found = vars(record)
    assert (found["job_id"], found["attempt"], found["worker"], found["more"]) == (job_id(*KEY), 2, "w1", 1)
    assert (record.name, record.getMessage()) == ("lab.task", "halfway")


def test_retry() -> None:
    """It raises, with the delay."""
    with pytest.raises(Retry) as caught:
        Context().retry(timedelta(seconds=3))
    assert caught.value.delay == 3.0
    with pytest.raises(ConfigurationError):
        Context().retry(-1)


def test_progress_is_checked() -> None:
    """In a worker what is no number fails where it is told, and numpy's numbers are numbers."""
    dispatcher = Dispatcher()

    @dispatcher.task
    def tell(what: str, context: Context) -> None:
        if what == "number":
            context.progress("1")  # type: ignore[arg-type]
        elif what == "text":
            context.progress(1, 2, 3)  # type: ignore[arg-type]
        else:
            context.progress(np.int64(1), np.float32(2.0), "x" * 5000)  # type: ignore[arg-type]

    submit: Any = tell.submit  # type checkers do not know that the context is no argument
    with in_process([dispatcher]):
        for what in ("number", "text"):
            with pytest.raises(QueuelibError, match="progress"):
                submit(what).result()
        job = submit("numpy")
        job.result()
        progress = job.progress
    assert isinstance(progress, Progress)
    assert (progress.done, progress.total, len(progress.message)) == (1, 2.0, 1000)


# In the testing kit


def test_the_kit_has_it_all() -> None:
    """States outlive a retry, progress is told, and numbers are those of the seed."""
    dispatcher = Dispatcher()

    @dispatcher.task(retries=2)
    def work(context: Context) -> list[Any]:
        """Save, and go on from there."""
        runs = [*(context.state or []), context.attempt]
        context.save(runs, wait=True)
        context.progress(len(runs), 3)
        if len(runs) < 3:
            context.retry(60)
        return [runs, float(context.rng.random()), current_job() is context]

    submit: Any = work.options(seed=4).submit
    with in_process([dispatcher]) as run:
        job = submit()
        run()
        assert job.progress is not None
        assert job.progress[:2] == (1, 3)
        run(skip_delays=True)
        expected = np.random.default_rng(np.random.SeedSequence(4, spawn_key=(0,))).random()
        assert job.result() == [[1, 2, 3], expected, True]
        assert job.progress[:2] == (3, 3)


def test_the_kit_cancels() -> None:
    """What has not started ends; marks do not reach what comes later."""
    dispatcher = Dispatcher()

    @dispatcher.task
    def work(context: Context) -> bool:
        """Say whether to stop."""
        return context.cancelled

    submit: Any = work.submit
    with in_process([dispatcher]):
        job, other = submit(), submit()
        job.cancel(running=True)
        assert other.result() is False
        with pytest.raises(CancelledError):
            job.result()


@pytest.mark.parametrize("key", [None, "k1:" + "s" * 32, "k1/aes:" + "s" * 32])
def test_threads_have_it_all(key: str | None) -> None:
    """Beside a program on memory:// too, with signatures and encryption; there a handler has to ask whether to stop."""
    dispatcher = Dispatcher(f"memory://{uuid.uuid4().hex}", key=key)

    @dispatcher.task(retries=1, backoff=0.0)
    def work(x: int, context: Context) -> list[Any]:
        """Save and tell, and go on."""
        seen = context.state
        context.save({"x": x}, wait=True)
        context.progress(x, 10)
        if context.attempt == 1:
            context.retry(0)
        return [seen, context.worker]

    submit: Any = work.submit
    with dispatcher.workers(processes=1, name="w7"):
        job = submit(3)
        assert job.result(timeout=20) == [{"x": 3}, "w7"]
        assert job.progress is not None
        assert job.progress[:2] == (3, 10)
    dispatcher.close()


def test_tracebacks_begin_with_the_handler() -> None:
    """What fills its context is ours, and tells the user nothing."""
    dispatcher = Dispatcher()

    @dispatcher.task
    def fail(context: Context | None = None) -> None:
        """Fail."""
        raise ValueError(context is not None)

    with in_process([dispatcher]):
        error = fail.submit().exception()
    assert isinstance(error, ValueError)
    assert error.args == (True,)
    text = str(error.__cause__)
    assert "raise ValueError" in text
    assert text.count("File ") == 1, text


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True, "7"])
def test_a_seed_that_makes_no_sense(seed: Any) -> None:
    """It is refused before anything is submitted."""
    dispatcher = Dispatcher("memory://context-seed")
    task = dispatcher.task(functools.wraps(without)(lambda x: x))
    with pytest.raises(ConfigurationError, match="seed is an integer"):
        task.options(seed=seed)


def test_signature_stays() -> None:
    """The function is called here as it is written, with a context or None."""
    dispatcher = Dispatcher("memory://context-plain")
    task = dispatcher.task(optional)
    assert list(inspect.signature(task).parameters) == ["x", "context"]
    assert task(1, None) is None
    assert task(1, Context()) is None
