"""Coroutines of several lanes on one event loop: each begins, waits, is interrupted and ends by itself."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest

from queuelib.color import DEFAULT_PALETTE
from queuelib.context import lending, waiting
from queuelib.errors import QueuelibError, Shutdown, SoftTimeLimit
from queuelib.worker.coroutines import Coroutines
from queuelib.worker.lanes import SharedLoop
from queuelib.worker.pace import Mix
from queuelib.worker.ready import ReadyByKind
from tests.unit.fakes import make_bundle, make_part, positions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuelib.worker.lease import Part

of_lane: ContextVar[str] = ContextVar("of_lane", default="")


class Loop:
    """A loop in a thread, and threads that give it coroutines as lanes do."""

    def __init__(self) -> None:
        self.shared = SharedLoop()
        self._thread = threading.Thread(target=self.shared.run)
        self._thread.start()
        self._lanes = ThreadPoolExecutor(8)

    def begin(self, coroutine: Coroutine[Any, Any, Any], timeout: float | None = None) -> Any:
        """Run a coroutine in a lane; return the future of its result."""
        return self._lanes.submit(self.shared.complete, coroutine, timeout)

    def run(self, coroutine: Coroutine[Any, Any, Any], timeout: float | None = None) -> Any:
        """Run it to its end."""
        return self.begin(coroutine, timeout).result(timeout=20.0)

    def close(self) -> None:
        """End the loop."""
        self._lanes.shutdown()
        self.shared.stop()
        self._thread.join()


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Give one."""
    made = Loop()
    yield made
    made.close()


async def forever(begun: threading.Event | None = None) -> None:
    """Wait for what does not come."""
    if begun is not None:
        begun.set()
    await asyncio.Event().wait()


class TestSharedLoop:
    """One loop for all."""

    def test_two_meet_there(self, loop: Loop) -> None:
        """One waits for what the other does."""
        met = asyncio.Event()

        async def wait() -> int:
            await met.wait()
            return id(asyncio.get_running_loop())

        async def meet() -> int:
            met.set()
            return id(asyncio.get_running_loop())

        first = loop.begin(wait())
        assert loop.run(meet()) == first.result(timeout=20.0)

    def test_each_has_the_context_of_its_lane(self, loop: Loop) -> None:
        """So that `current_job` is its own; what it sets there is nobody else's."""

        async def look() -> str:
            found = of_lane.get()
            of_lane.set("changed")
            return found

        def lane(name: str) -> str:
            of_lane.set(name)
            found: str = loop.shared.complete(look(), None)
            return found + of_lane.get()

        with ThreadPoolExecutor(2) as lanes:
            assert list(lanes.map(lane, ["a", "b"])) == ["aa", "bb"]

    def test_an_error_is_raised_in_the_lane(self, loop: Loop) -> None:
        """With the frames of the handler at its end."""

        async def fail() -> None:
            raise ValueError("why")

        with pytest.raises(ValueError, match="why") as caught:
            loop.run(fail())
        assert caught.traceback[-1].name == "fail"
        assert Coroutines.frames_above(caught.value) == len(caught.traceback) - 1

    @pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
    def test_what_ends_programs_ends_no_loop(self, loop: Loop, error: BaseException) -> None:
        """It is raised in the lane; others go on."""

        async def leave() -> None:
            raise error

        with pytest.raises(type(error)):
            loop.shared.complete(leave(), None)
        with pytest.raises(SoftTimeLimit):
            loop.run(forever(), timeout=0.01)

    @pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
    def test_what_ends_programs_in_a_task_ends_no_loop(self, loop: Loop, error: BaseException) -> None:
        """The task that a handler started is over; the handler sees it, and others go on."""
        begun = threading.Event()
        go_on = asyncio.Event()

        async def wait() -> str:
            begun.set()
            await go_on.wait()
            return "went on"

        async def leave() -> None:
            raise error

        async def start() -> None:
            await asyncio.create_task(leave())

        other = loop.begin(wait())
        assert begun.wait(20.0)
        with pytest.raises(type(error)):
            loop.run(start())

        async def release() -> None:
            go_on.set()

        loop.run(release())
        assert other.result(timeout=20.0) == "went on"

    def test_a_coroutine_may_not_block_the_others(self, loop: Loop) -> None:
        """What would wait in the thread of all is told to await; in a thread of its own it may."""
        lent: list[bool] = []

        @contextmanager
        def lend(blocks: bool) -> Iterator[None]:  # noqa: FBT001 - as it is called
            lent.append(blocks)
            yield

        def block() -> None:
            with waiting(blocks=True):
                pass

        async def handler() -> None:
            with pytest.raises(QueuelibError, match="await the job"):
                block()
            assert lent == []
            with waiting(blocks=False):
                await asyncio.to_thread(block)

        def lane() -> None:
            lending.set(lend)
            loop.shared.complete(handler(), None)

        with ThreadPoolExecutor(1) as lanes:
            lanes.submit(lane).result(timeout=20.0)
        assert lent == [False, True]

    def test_the_limit_of_one_is_not_that_of_others(self, loop: Loop) -> None:
        """It may put things in order, and others go on."""
        seen: list[str] = []

        async def wait() -> None:
            try:
                await forever()
            except SoftTimeLimit:
                await asyncio.sleep(0)
                seen.append("put in order")
                raise

        go_on = asyncio.Event()
        other = loop.begin(go_on.wait())
        with pytest.raises(SoftTimeLimit, match=r"0\.01 s"):
            loop.run(wait(), timeout=0.01)
        assert seen == ["put in order"]

        async def release() -> None:
            go_on.set()

        loop.run(release())
        assert other.result(timeout=20.0) is True

    def test_who_catches_its_limit_goes_on(self, loop: Loop) -> None:
        """It is no cancellation of its task."""

        async def wait() -> str:
            try:
                await forever()
            except SoftTimeLimit:
                await asyncio.sleep(0.001)
            return "went on"

        assert loop.run(wait(), timeout=0.01) == "went on"

    def test_what_is_left_is_cancelled_before_the_end(self, loop: Loop) -> None:
        """Tasks of tasks as well, and no others."""
        seen: list[str] = []

        async def left(name: str) -> None:
            try:
                if name == "outer":
                    kept.append(asyncio.create_task(left("inner")))
                await forever()
            finally:
                await asyncio.sleep(0)
                seen.append(name)

        async def leave() -> None:
            kept.append(asyncio.create_task(left("outer")))
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        kept: list[asyncio.Task[None]] = []
        begun = threading.Event()
        neighbor = loop.begin(forever(begun), 0.2)
        assert begun.wait(20.0)
        loop.run(leave())
        assert sorted(seen) == ["inner", "outer"]
        assert not neighbor.done()
        with pytest.raises(SoftTimeLimit):
            neighbor.result(timeout=20.0)

    def test_generators_that_nobody_holds_are_closed(self, loop: Loop) -> None:
        """Before the job that left them has ended."""
        seen: list[str] = []

        async def numbers() -> AsyncGenerator[int]:
            try:
                yield 1
                yield 2
            finally:
                await asyncio.sleep(0)
                seen.append("closed")

        async def leave() -> None:
            async for _ in numbers():
                break
            gc.collect()

        loop.run(leave())
        assert seen == ["closed"]

    def test_the_end_of_the_worker_interrupts_all(self, loop: Loop) -> None:
        """Those that run, and those that begin later."""
        begun = [threading.Event(), threading.Event()]
        runs = [loop.begin(forever(event)) for event in begun]
        assert all(event.wait(20.0) for event in begun)

        async def end() -> None:
            loop.shared._interrupt_all()

        with pytest.raises(Shutdown):
            loop.run(_then_wait(end()))
        for run in runs:
            with pytest.raises(Shutdown):
                run.result(timeout=20.0)
        with pytest.raises(Shutdown):
            loop.run(forever())


async def _then_wait(first: Coroutine[Any, Any, None]) -> None:
    await first
    await forever()


def job(task: str, color: str = "yellow", **options: Any) -> Part:
    """Return a job of a task."""
    return make_part(make_bundle(1, task=task, color=color, **options))


def one(part: Part, is_contested: bool) -> int:  # noqa: FBT001 - as Ready calls it
    """Want one."""
    return 1


class TestReadyByKind:
    """The short lists of two kinds."""

    def ready(self) -> ReadyByKind:
        """Return empty lists, of a worker one of whose tasks is a coroutine."""
        return ReadyByKind(DEFAULT_PALETTE, DEFAULT_PALETTE.names, {"lab.async"})

    def test_nobody_waits_behind_the_other_kind(self) -> None:
        """A plain function does not keep the coroutine behind it from starting, nor the other way round."""
        it = self.ready()
        plain, coroutine = job("lab.plain"), job("lab.async")
        it.add(plain, 0.0)
        it.add(coroutine, 0.0)
        assert it.count_of("yellow") == 2
        assert it.coroutines.pop(one) is coroutine
        assert it.coroutines.pop(one) is None
        assert it.plain.pop(one) is plain
        assert it.is_empty

    def test_what_comes_back_keeps_its_order(self) -> None:
        """In front of its list, each kind in its own."""
        it = self.ready()
        parts = [job(task) for task in ("lab.plain", "lab.async", "lab.plain", "lab.async")]
        it.add(job("lab.plain"), 0.0)
        it.put_back(parts)
        assert [it.plain.pop(one), it.plain.pop(one)] == [parts[0], parts[2]]
        assert [it.coroutines.pop(one), it.coroutines.pop(one)] == [parts[1], parts[3]]

    def test_both_wait_for_their_time(self) -> None:
        """The sooner one says when to look again."""
        it = self.ready()
        it.add(job("lab.plain", due=20.0), 0.0)
        it.add(job("lab.async", due=10.0), 0.0)
        assert it.next_due() == 10.0
        it.promote(15.0)
        assert (it.next_due(), it.coroutines.count(), it.plain.count()) == (20.0, 1, 0)
        assert positions(it.drain()) == [0, 0]
        assert it.next_due() is None

    def test_what_is_lost_is_removed(self) -> None:
        """From either."""
        it = self.ready()
        parts = [job("lab.plain"), job("lab.async"), job("lab.async")]
        for part in parts:
            it.add(part, 0.0)
        it.discard(parts[1].hold, 0.0)
        parts[0].hold.delivery.is_lost = True
        it.discard_lost(0.0)
        assert it.drain() == [parts[2]]


class TestMix:
    """How much to take of a color of which nobody knows what comes."""

    def mix(self, kinds: str = "") -> Mix:
        """Return what messages of these kinds taught: plain ones, and those of coroutines."""
        made = Mix()
        for kind in kinds:
            made.took("yellow", is_coroutine=kind == "c")
        return made

    def test_of_one_kind_as_much_as_it_has_room_for(self) -> None:
        """The other one does not come."""
        assert self.mix("c").room("yellow", (2, 100), (2, 100)) == 100
        assert self.mix("p").room("yellow", (2, 100), (2, 100)) == 2

    def test_of_two_kinds_what_neither_is_too_much_for(self) -> None:
        """By how many of each came lately; at first, by halves."""
        assert self.mix().room("yellow", (2, 100), (2, 100)) == 4
        assert self.mix("cccp").room("yellow", (2, 100), (2, 100)) == 10

    def test_behind_a_kind_without_room_is_looked_a_little(self) -> None:
        """What may start is perhaps behind it; but what cannot start is not hoarded."""
        assert self.mix("c").room("yellow", (1, 0), (2, 100)) == 1
        assert self.mix("p").room("yellow", (0, 100), (2, 100)) == 2
        assert self.mix("p").room("yellow", (0, 100), (0, 100)) == 0
        assert self.mix("c").room("yellow", (0, 0), (2, 100)) == 0
