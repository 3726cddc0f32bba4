"""A worker in threads of this process: what a program that starts one is told."""

from __future__ import annotations

import errno
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from queuelib import Dispatcher
from queuelib.errors import BrokerUnavailable, WorkerError
from queuelib.worker.crew import ThreadCrew

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuelib.worker.children import Child


@pytest.fixture
def dispatcher() -> Iterator[Dispatcher]:
    made = Dispatcher("memory://threads")
    made.task(name="lab.work")(lambda: None)
    yield made
    made.close()


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "too many open files"), BrokerUnavailable("too many open files")]
)
def test_a_worker_that_cannot_start_says_so(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The program gets the reason; it does not wait for what never comes, and what had started is gone."""
    hire = ThreadCrew.hire
    hired: list[Child] = []

    def hire_two(crew: ThreadCrew) -> Child:
        if len(hired) == 2:
            raise error
        hired.append(hire(crew))
        return hired[-1]

    monkeypatch.setattr(ThreadCrew, "hire", hire_two)
    before = threading.active_count()
    with pytest.raises(WorkerError, match="too many open files") as caught:
        with dispatcher.workers(processes=3):
            pass
    assert caught.value.__cause__ is error
    assert threading.active_count() == before


def test_a_lane_that_a_handler_ends_is_replaced(dispatcher: Dispatcher) -> None:
    """As where they are processes: another lane does what it would, while what runs beside it goes on."""
    go_on = threading.Event()

    @dispatcher.task(name="lab.wait")
    def wait() -> bool:
        return go_on.wait(20.0)

    @dispatcher.task(name="lab.leave")
    def leave() -> None:
        sys.exit(3)

    @dispatcher.task(name="lab.release")
    def release() -> None:
        go_on.set()

    with dispatcher.workers(processes=1, threads=2):
        waiting, leaving = wait.submit(), leave.submit()
        assert leaving.exception(timeout=20.0) is not None
        release.submit().result(timeout=15.0)
        assert waiting.result(timeout=20.0)
