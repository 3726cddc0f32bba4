"""Fan-in that does not depend on who finished first: results are taken in the order in which work was handed out."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from queuelib import QueuelibError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

__all__ = ["Here", "Pending", "in_order"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Pending(Protocol[T_co]):
    """A piece of work under way: a `Job`, or `Here`."""

    def result(self) -> T_co:
        """Return its value, or raise what its handler raised."""
        ...

    def cancel(self) -> object:
        """Ask that it does not start."""
        ...


@dataclass(frozen=True, slots=True)
class Here(Generic[T]):
    """A piece of work that this process does itself, at the moment it is asked for the result.

    Example:
        >>> Here(lambda: 6 * 7).result()
        42
    """

    call: Callable[[], T]

    def result(self) -> T:
        """Do the work."""
        return self.call()

    def cancel(self) -> None:
        """Do nothing: what is never asked for is never done."""


def in_order(
    jobs: Sequence[Pending[T]], *, on_done: Callable[[int, int], object] | None = None, before: int = 0
) -> Generator[T, None, None]:
    """Yield the results of `jobs`, first job first.

    What has not started is cancelled when a job fails, and when the generator is closed early: wrap it in
    `contextlib.closing` where the loop around it can raise.

    Args:
        jobs: All of them submitted already, so that they run beside each other.
        on_done: Called after each result with the number of results so far and the number of failures.
        before: Results that earlier calls have counted already.

    Raises:
        Exception: Whatever the first failing job raises, after `on_done` was told of it.

    Example:
        >>> list(in_order([Here(lambda: "a"), Here(lambda: "b")], on_done=print))
        1 0
        2 0
        ['a', 'b']
    """
    tell = on_done or (lambda _done, _failed: None)
    finished = 0
    try:
        for job in jobs:
            try:
                value = job.result()
            except Exception:  # any handler's error: count it, then let it through
                tell(before + finished, 1)
                raise
            finished += 1
            tell(before + finished, 0)
            yield value
    finally:
        _cancel(jobs[finished:])


def _cancel(jobs: Sequence[Pending[object]]) -> None:
    with suppress(QueuelibError):  # a lost broker must not hide the error that brought us here
        for job in jobs:
            job.cancel()
