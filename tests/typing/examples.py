"""What type checkers must see in a user's program; checked by mypy and pyright, never run."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures import Executor as StandardExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, assert_type

from queuelib import Dispatcher, Executor, Handlers, Job, Message, Shared, Signature, chord, group, settled, topk
from queuelib.executor import JobFuture
from queuelib.testing import AssertSubmitted, InProcess

if TYPE_CHECKING:
    from collections.abc import Generator

dispatcher = Dispatcher("memory://typing")


@dispatcher.task
def bare(domain: str, genome: list[float]) -> float:
    """Return a number."""
    return sum(genome) + len(domain)


@dispatcher.task(color="red", retries=3, timeout=60)
def with_options(x: int, *, scale: float = 1.0) -> list[float]:
    """Return numbers."""
    return [x * scale]


@dispatcher.task
async def coroutine(url: str) -> bytes:
    """Return bytes."""
    return url.encode()


@dispatcher.message(color="red", name="typing.evaluate")
@dataclass(frozen=True)
class Evaluate(Message[float]):
    """A message whose job returns a float."""

    domain: str
    genome: list[float]


class Visitor(Handlers):
    """Handles it."""

    def visit_Evaluate(self, message: Evaluate) -> float:
        """Return a number."""
        return sum(message.genome)


async def awaited() -> None:
    """Results keep their types through asyncio."""
    assert_type(await (await bare.asubmit("sphere", [0.0])), float)
    assert_type(await coroutine.submit("x"), bytes)
    assert_type(await dispatcher.agather(bare.submit_many([])), list[float])
    async for job in dispatcher.as_completed(bare.submit_many([])):
        assert_type(job, Job[float])


def on_float(job: Job[float]) -> None:
    """Take a job of a float."""


@dispatcher.task
def measured(graph: Shared[dict[str, list[int]]]) -> int:
    """Take something shared."""
    assert_type(graph.get(), dict[str, list[int]])
    return len(graph.get())


def shared() -> None:
    """A handle is of the type of what was shared, and goes nowhere else."""
    handle = dispatcher.share({"a": [1]})
    assert_type(handle, Shared[dict[str, list[int]]])
    assert_type(measured.submit(handle).result(), int)
    measured.submit({"a": [1]})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    measured.submit(dispatcher.share("a"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bare.submit("sphere", handle)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def submitted() -> None:
    """Jobs and results have the types of the signature, and calls are checked against it."""
    assert_type(bare.submit("sphere", [0.0]), Job[float])
    assert_type(with_options.submit(1, scale=2.0).result(timeout=1), list[float])
    assert_type(bare.options(color="green", delay=5).submit("sphere", [0.0]).result(), float)
    assert_type(bare.submit_many([("sphere", [0.0])]), list[Job[float]])
    assert_type(dispatcher.gather(bare.submit_many([])), list[float])
    stream = dispatcher.as_completed(bare.submit_many([]), timeout=1)
    stream.add(bare.submit("sphere", [0.0]))
    stream.add(coroutine.submit("x"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type([job.result() for job in stream], list[float])
    done, not_done = dispatcher.wait([bare.submit("sphere", [0.0]), coroutine.submit("x")], 1, FIRST_COMPLETED)
    assert_type(done | not_done, set[Job[Any]])
    dispatcher.wait([], return_when="FIRST")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bare.submit("sphere", [0.0]).add_done_callback(on_float)
    coroutine.submit("x").add_done_callback(on_float)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(dispatcher.submit(Evaluate("sphere", [0.0])), Job[float])
    assert_type(coroutine.submit("x").result(), bytes)
    assert_type(bare("sphere", [0.0]), float)
    members = group(bare.s("sphere", [0.0]))
    assert_type(chord(members, with_options.s(), errors="pass"), Signature[list[float]])
    assert_type(chord(members, with_options.s(), reduce="mean"), Signature[list[float]])
    assert_type(chord(members, reduce=with_options), Signature[list[float]])
    assert_type(chord(members, reduce=topk(3)), Signature[Any])
    with_options.s(settled(members)).submit()
    results: Generator[float] = bare.map(["a"], [[0.0]])
    assert_type(results, "Generator[float]")
    bare.submit("sphere", genome=["x"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    bare.submit("sphere")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    with_options.options(colour="red")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def pooled(pool: Executor) -> None:
    """An executor's futures have the types of what is called, whether that is a task or a function."""
    assert_type(pool.submit(bare, "sphere", [0.0]), JobFuture[float])
    assert_type(pool.submit(len, "x").result(), int)
    pool.submit(bare, "sphere", ["x"])  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert_type(pool.map(len, ["x"]), "Generator[int]")
    standard: StandardExecutor = pool
    future: Future[int] = standard.submit(len, "x")
    future.cancel()


def asserted(assert_submitted: AssertSubmitted, queuelib_run: InProcess) -> None:
    """The fixtures' values have types, and give jobs with theirs."""
    assert_type(assert_submitted(bare), list[Job[float]])
    assert_type(assert_submitted(bare, "sphere", genome=[0.0]), list[Job[float]])
    assert_type(assert_submitted(Evaluate("sphere", [0.0])), list[Job[float]])
    assert_type(assert_submitted.times(1, with_options, 1), list[Job[list[float]]])
    assert_type(queuelib_run(skip_delays=True), list[Job[Any]])


dispatcher.register(Visitor())
