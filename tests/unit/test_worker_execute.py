"""Running one handler: whatever it does, there is an outcome."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from importlib.machinery import SourceFileLoader
from typing import TYPE_CHECKING, Any

import pytest

from queuelib import Dispatcher, Handlers, Message, Retry, Shutdown, SoftTimeLimit, body, codec, current_job
from queuelib.context import running
from queuelib.ids import job_id
from queuelib.outcome import Again, Failed, Outcome, Quarantined
from queuelib.worker.child import Lot
from queuelib.worker.execute import Executor

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from pathlib import Path

dispatcher = Dispatcher("memory://executing")


@dispatcher.task(name="lab.half", retries=3, give_up_on=(KeyError,))
def half(number: int, *, fail: str = "") -> float:
    """Return half of a number, or raise what is asked for."""
    if fail:
        raise {"value": ValueError, "key": KeyError, "retry": Retry, "exit": SystemExit}[fail](2.5)
    return number / 2


@dispatcher.task(name="lab.whoami")
async def whoami() -> str:
    """Return the id of the job that runs."""
    return current_job().id


@dispatcher.task(name="lab.liar")
def liar() -> int:
    """Return what it does not say."""
    answer: Any = "no number"
    return answer  # type: ignore[no-any-return]


done: list[str] = []
at_wait: list[Callable[[], None]] = []  # called once a coroutine waits


async def deaf() -> None:
    """Do not mind being cancelled."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        pass


def ring_soon() -> None:
    """Have the soft limit strike in a moment, which is far away until then."""
    signal.setitimer(signal.ITIMER_REAL, 0.02)


async def wait(case: str) -> None:
    """Wait for something that does not come."""
    if not at_wait:
        ring_soon()
    if case == "busy":
        while True:
            pass
    for call in at_wait:
        asyncio.get_running_loop().call_later(0.001, call)
    never = asyncio.Event().wait
    if case == "shield":
        await asyncio.shield(asyncio.ensure_future(never()))
    elif case == "wait_for":
        await asyncio.wait_for(never(), 60.0)
    elif case == "deaf task":
        await asyncio.create_task(deaf())
    else:
        await never()


@dispatcher.task(name="lab.waits", retries=3)
async def waits(case: str, goes_on: bool) -> str:  # noqa: FBT001 - a job's argument
    """Wait until the soft limit."""
    try:
        await wait(case)
    except (SoftTimeLimit, Shutdown) as error:
        done.append(f"saw {'SoftTimeLimit' if isinstance(error, SoftTimeLimit) else 'Shutdown'}")
        if not goes_on:
            raise
        await asyncio.sleep(0.001)
        done.append("waits again")
    finally:
        await asyncio.sleep(0.001)
        done.append("put in order")
    return "went on"


@dispatcher.task(name="lab.groups", retries=3)
async def groups() -> None:
    """Wait, beside a member of a group."""

    async def member() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            done.append("member cancelled")
            raise

    async with asyncio.TaskGroup() as group:
        group.create_task(member())
        await asyncio.sleep(0)
        ring_soon()
        await asyncio.Event().wait()


@dispatcher.task(name="lab.leaves", retries=3)
async def leaves(how: str) -> list[str]:
    """Leave a task and a generator behind, and say what has ended."""
    if how == "look":
        return sorted(done)

    async def background() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            done.append("task ended")

    async def numbers() -> AsyncGenerator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            done.append("generator ended")

    kept.append(asyncio.create_task(background()))
    async for _ in numbers():
        await asyncio.sleep(0)
        if how == "limit":
            ring_soon()
            await asyncio.Event().wait()
        break
    return []


kept: list[asyncio.Task[None]] = []


class Forgetful(Retry):
    """Takes what it likes."""

    def __init__(self) -> None:  # what users write
        pass


@dispatcher.task(name="lab.forgetful")
def forgetful() -> None:
    """Ask for another run."""
    raise Forgetful


@dispatcher.message(name="lab.Greet")
class Greet(Message[str]):
    """Asks for a greeting."""

    name: str

    def __post_init__(self) -> None:
        if self.name == "nobody":
            raise ZeroDivisionError(self.name)


class Greeter(Handlers):
    """Greets."""

    def visit_Greet(self, message: Greet) -> str:
        """Greet."""
        return f"hello {message.name}"


dispatcher.register(Greeter())


def lot(task: str, rows: Sequence[Any], timeout: float | None = None, schema: bytes | None = None) -> Lot:
    """Return what a child is handed of a bundle of these argument lists."""
    digest = dispatcher.definitions[task].schema.hash if schema is None and task in dispatcher.definitions else schema
    return Lot((task, digest or b"", timeout, bytes(16), None, 1, codec.encode(list(rows)), None), "w1")


def run(task: str, *rows: Any, **changes: Any) -> list[Outcome]:
    """Run all jobs of a lot, as a child does."""
    one, executor = lot(task, rows, **changes), Executor(dispatcher, "w1")
    token = running.set(one.running)
    try:
        outcomes = list(executor.outcomes(one, 0))
    finally:
        running.reset(token)
        executor.close()
    return outcomes


def message_of(outcome: Outcome) -> str:
    """Return what a failure says."""
    assert isinstance(outcome, Failed | Again)
    return body.read(outcome.body).message


def test_each_job_of_a_lot() -> None:
    """With its own arguments; keywords among them."""
    assert run("lab.half", [1, ""], [4, ""]) == [codec.encode(0.5), codec.encode(2.0)]


def test_who_asks_between_two_jobs_does_not_ask_for_the_next() -> None:
    """A thread with a copy of the context, which the job has left behind, learns of that job, and the next of itself."""
    one, executor = lot("lab.whoami", [[], []]), Executor(dispatcher, "w1")
    token = running.set(one.running)
    try:
        outcomes = executor.outcomes(one, 0)
        ids = []
        for outcome in outcomes:
            assert isinstance(outcome, bytes)
            ids.append(codec.decode(outcome))
            assert current_job().id == ids[-1]
    finally:
        running.reset(token)
        executor.close()
    assert len(set(ids)) == 2


def test_one_that_does_not_fit_fails_alone() -> None:
    """The error has the path, and its neighbors run."""
    good, bad, last = run("lab.half", [1, ""], ["x", ""], [3, ""])
    assert (good, last) == (codec.encode(0.5), codec.encode(1.5))
    assert message_of(bad).startswith("number: expected int, got str")


def test_jobs_that_came_alone() -> None:
    """Each is called with its own arguments and knows its own id, and one that cannot be read fails alone."""
    ids = [bytes([at]) * 16 for at in range(4)]

    def outcomes(task: str, columns: list[bytes]) -> list[Outcome]:
        schema = dispatcher.definitions[task].schema.hash
        one = Lot((task, schema, None, ids[: len(columns)], [0, 5, 0, 0][: len(columns)], 1, columns, None), "w1")
        executor = Executor(dispatcher, "w1")
        token = running.set(one.running)
        try:
            return list(executor.outcomes(one, 0))
        finally:
            running.reset(token)
            executor.close()

    names = [
        codec.decode(value) for value in outcomes("lab.whoami", [codec.encode([[]])] * 2) if isinstance(value, bytes)
    ]
    assert names == [job_id(ids[0], 0), job_id(ids[1], 5)]
    good = codec.encode([[3, ""]])
    for broken in (b"\x91\x92\x01", b"\x91", b"\x91\xc1", good + b"\x01"):
        first, bad, *others = outcomes("lab.half", [good, broken, good, good])
        assert [first, *others] == [codec.encode(1.5)] * 3
        assert isinstance(bad, Failed)
    # Of two that complete each other neither moves what stands between them.
    first, middle, last = outcomes("lab.half", [b"\x91\x92\x01", good, b"\x91\x92\x07\xa0\xa0"])
    assert middle == codec.encode(1.5)
    assert isinstance(first, Failed)
    assert isinstance(last, Failed)


def test_a_column_that_is_not_readable_fails_all() -> None:
    """Each of its jobs has an outcome that says so."""
    broken = Lot(
        ("lab.half", dispatcher.definitions["lab.half"].schema.hash, None, bytes(16), None, 1, b"\x92\xc1", None), "w1"
    )
    executor = Executor(dispatcher, "w1")
    outcomes = list(executor.outcomes(broken, 0))
    assert len(outcomes) == 2
    for outcome in outcomes:
        assert isinstance(outcome, Failed)
        assert body.read(outcome.body).type_name.endswith("DecodeError")


@pytest.mark.parametrize(
    ("fail", "kind", "delay"), [("value", Again, None), ("retry", Again, 2.5), ("key", Failed, None)]
)
def test_what_a_handler_raises(fail: str, kind: type, delay: float | None) -> None:
    """It may be tried again unless the task gives up on it; `Retry` says when. The traceback begins with the handler."""
    (outcome,) = run("lab.half", [1, fail])
    assert type(outcome) is kind
    assert isinstance(outcome, Again | Failed)
    assert getattr(outcome, "delay", None) == delay
    text = body.read(outcome.body).traceback_text
    assert "in half" in text
    assert "worker/execute.py" not in text


def test_a_retry_that_forgot_to_call_its_base() -> None:
    """It waits as long as any other failure."""
    (outcome,) = run("lab.forgetful", [])
    assert isinstance(outcome, Again)
    assert outcome.delay is None


def test_the_end_of_the_child_is_no_outcome() -> None:
    """`sys.exit()` in a handler ends its child, and that counts as a death."""
    with pytest.raises(SystemExit):
        run("lab.half", [1, "exit"])


def test_a_coroutine_is_run_to_its_end() -> None:
    """And knows which job it is, each time."""
    first, second = run("lab.whoami", [], [])
    assert isinstance(first, bytes)
    assert isinstance(second, bytes)
    assert codec.decode(first) != codec.decode(second)


@pytest.mark.parametrize("case", ["sleep", "shield", "wait_for", "deaf task", "busy"])
def test_a_coroutine_sees_its_soft_limit(case: str) -> None:
    """Where it waits, whatever it waits for, or in its own code; the attempt has failed, and its cleaning up was awaited."""
    done.clear()
    (outcome,) = run("lab.waits", [case, False], timeout=60.0)
    assert isinstance(outcome, Again)
    assert body.read(outcome.body).type_name == "queuelib.errors.SoftTimeLimit"
    assert message_of(outcome) == "the handler ran longer than its timeout of 60 s"
    assert body.read(outcome.body).traceback_text.count("File") >= 2  # the handler's, and what it called
    assert "coroutines.py" not in body.read(outcome.body).traceback_text
    assert done == ["saw SoftTimeLimit", "put in order"]


@pytest.mark.parametrize("case", ["sleep", "shield", "wait_for", "deaf task", "busy"])
def test_a_coroutine_may_go_on_after_its_soft_limit(case: str) -> None:
    """As any handler that catches it; it is not cancelled."""
    done.clear()
    assert run("lab.waits", [case, True], timeout=60.0) == [codec.encode("went on")]
    assert done == ["saw SoftTimeLimit", "waits again", "put in order"]


@pytest.mark.parametrize("timeout", [10.0, 90.0])
def test_an_alarm_of_somebody_else_still_rings(timeout: float) -> None:
    """As that of a test's own time limit, where handlers run in the test: it is neither lost nor put off."""
    before = signal.setitimer(signal.ITIMER_REAL, 50.0, 7.0)
    try:
        assert run("lab.half", [4, ""], timeout=timeout) == [codec.encode(2.0)]
        left, every = signal.getitimer(signal.ITIMER_REAL)
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)
    assert 0.0 < left <= 50.0
    assert every == 7.0


@dispatcher.task(name="lab.reads")
def reads(path: str) -> None:
    """Read a file in the way of an import, then wait for what does not come."""
    ring_soon()
    done.append(SourceFileLoader("module", path).get_data(path).decode())
    threading.Event().wait()


def test_the_soft_limit_strikes_after_an_import(tmp_path: Path) -> None:
    """Which takes it, a TimeoutError, for a file that cannot be read, and goes on: nobody would hear of it."""
    done.clear()
    path = tmp_path / "module.py"
    os.mkfifo(path)  # whoever reads it waits for who writes
    strikes, struck = socket.socketpair()

    def write_once_struck() -> None:
        strikes.recv(1)
        path.write_text("read", encoding="utf-8")

    writer = threading.Thread(target=write_once_struck, daemon=True)
    with strikes, struck:
        struck.settimeout(0.0)
        previous = signal.set_wakeup_fd(struck.fileno(), warn_on_full_buffer=False)
        writer.start()
        try:
            (outcome,) = run("lab.reads", [str(path)], timeout=60.0)
        finally:
            signal.set_wakeup_fd(previous)
            reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # or a writer waits for ever that nobody has read
            strikes.shutdown(socket.SHUT_RD)
            writer.join()
            os.close(reader)
    assert done == ["read"]
    assert message_of(outcome) == "the handler ran longer than its timeout of 60 s"


def test_the_soft_limit_in_a_group_of_tasks() -> None:
    """Their group ends them; what comes out is the limit, and not a group of exceptions with it."""
    done.clear()
    (outcome,) = run("lab.groups", [], timeout=60.0)
    assert isinstance(outcome, Again)
    assert body.read(outcome.body).type_name == "queuelib.errors.SoftTimeLimit"
    assert done == ["member cancelled"]


def test_the_end_of_the_worker_in_a_coroutine() -> None:
    """It sees Shutdown at its await, may put things in order, and is no outcome."""
    done.clear()
    one, executor = lot("lab.waits", [["sleep", False]]), Executor(dispatcher, "w1")

    def shut_down(_: int, frame: Any) -> None:
        executor.interrupt(Shutdown("the end"), frame)

    previous = signal.signal(signal.SIGUSR1, shut_down)
    at_wait.append(lambda: os.kill(os.getpid(), signal.SIGUSR1))
    try:
        with pytest.raises(Shutdown, match="the end"):
            list(executor.outcomes(one, 0))
    finally:
        at_wait.clear()
        signal.signal(signal.SIGUSR1, previous)
        executor.close()
    assert done == ["saw Shutdown", "put in order"]


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, Again),
        ({"give_up_on": [SoftTimeLimit]}, Failed),
        ({"give_up_on": [TimeoutError]}, Failed),
        ({"give_up_on": [Exception]}, Failed),
        ({"give_up_on": [KeyError]}, Again),
        ({"retry_for": [TimeoutError]}, Again),
        ({"retry_for": [KeyError]}, Failed),
    ],
)
def test_whether_a_soft_limit_is_retried(options: Any, kind: type) -> None:
    """It is an exception as any other, by its base classes too."""
    own = Dispatcher("memory://limited")

    @own.task(name="lab.late", retries=1, **options)
    def late() -> None:
        raise SoftTimeLimit("late")

    (outcome,) = Executor(own, "w1").outcomes(
        Lot(("lab.late", b"", None, bytes(16), None, 1, b"\x91\x90", None), "w1"), 0
    )
    assert type(outcome) is kind


def test_nothing_of_a_coroutine_outlives_it() -> None:
    """Neither what it waits for, nor tasks that it left, nor generators: the next one finds all of them ended."""
    done.clear()
    first, second = run("lab.leaves", ["limit"], ["look"], timeout=60.0)
    assert isinstance(first, Again)
    assert second == codec.encode(["generator ended", "task ended"])
    done.clear()
    assert run("lab.leaves", ["return"], ["look"]) == [
        codec.encode([]),
        codec.encode(["generator ended", "task ended"]),
    ]


def test_a_result_that_does_not_fit() -> None:
    """The job has failed, with the annotation in the message."""
    (outcome,) = run("lab.liar", [])
    assert "result: expected int, got str" in message_of(outcome)


def test_messages_go_to_their_visitor() -> None:
    """One that cannot be made fails alone, also if its class raises something of its own."""
    first, second, third = run("lab.Greet", {"name": "Ada"}, {"name": "nobody"}, {"name": "Bob"})
    assert (first, third) == (codec.encode("hello Ada"), codec.encode("hello Bob"))
    assert "ZeroDivisionError: nobody" in message_of(second)


def test_what_nobody_here_can_run() -> None:
    """An unknown task, or a shape that cannot be read as the one here, is set aside."""
    assert run("lab.unknown", [1]) == [Quarantined("no task is called 'lab.unknown' here")]
    (outcome,) = run("lab.half", [1, 2, 3], schema=b"another!")
    assert isinstance(outcome, Quarantined)
    assert "another shape" in outcome.reason
