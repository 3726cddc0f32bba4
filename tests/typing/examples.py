"""What type checkers must see in a user's program; checked by mypy and pyright, never run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_type

from queuelib import Dispatcher, Handlers, Job, Message

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


def submitted() -> None:
    """Jobs and results have the types of the signature, and calls are checked against it."""
    assert_type(bare.submit("sphere", [0.0]), Job[float])
    assert_type(with_options.submit(1, scale=2.0).result(timeout=1), list[float])
    assert_type(bare.options(color="green", delay=5).submit("sphere", [0.0]).result(), float)
    assert_type(bare.submit_many([("sphere", [0.0])]), list[Job[float]])
    assert_type(dispatcher.gather(bare.submit_many([])), list[float])
    assert_type(dispatcher.submit(Evaluate("sphere", [0.0])), Job[float])
    assert_type(coroutine.submit("x").result(), bytes)
    assert_type(bare("sphere", [0.0]), float)
    results: Generator[float] = bare.map(["a"], [[0.0]])
    assert_type(results, "Generator[float]")
    bare.submit("sphere", genome=["x"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    bare.submit("sphere")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    with_options.options(colour="red")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


dispatcher.register(Visitor())
