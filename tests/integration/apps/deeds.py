"""A user's module for the end-to-end tests: its handlers write what they do to a history file that nobody rewrites."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from queuelib import CancelledError, Context, Dispatcher, Failure, Handlers, Retry, current_job
from queuelib.errors import Shutdown, SoftTimeLimit

dispatcher = Dispatcher(
    os.environ.get("BROKER", "memory://deeds"),
    results=os.environ.get("RESULTS"),
    namespace=os.environ.get("NAMESPACE", "deeds"),
    routes={"routed.*": "green"},
)
_PAUSE = 0.002  # seconds between two looks at a gate
_hoard: list[bytearray] = []


def note(path: str, what: str, label: str) -> None:
    """Append `what label pid attempt time` in one write, which O_APPEND makes whole."""
    line = f"{what} {label} {os.getpid()} {current_job().attempt} {time.time():.6f}\n"
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, line.encode())
    os.close(fd)


def starts(path: str, label: str) -> int:
    """Count the starts of a label so far."""
    return sum(line.startswith(f"start {label} ") for line in Path(path).read_text(encoding="utf-8").splitlines())


def pass_gate(gate: str) -> None:
    """Wait until a file exists; no name is an open gate."""
    while gate and not os.path.exists(gate):  # noqa: PTH110 - asked often
        time.sleep(_PAUSE)


@dispatcher.task
def mark(path: str, label: str, gate: str = "") -> str:
    """Start, wait for the gate, finish."""
    note(path, "start", label)
    pass_gate(gate)
    note(path, "finish", label)
    return label


@dispatcher.task(color="green")
def mark_green(path: str, label: str, gate: str = "") -> str:
    """Do what `mark` does, in green."""
    return mark(path, label, gate)


@dispatcher.task(color="red")
def mark_red(path: str, label: str, gate: str = "") -> str:
    """Do what `mark` does, in red."""
    return mark(path, label, gate)


@dispatcher.task(name="routed.mark")
def mark_routed(path: str, label: str) -> str:
    """Do what `mark` does, in the color that the routes say."""
    return mark(path, label)


@dispatcher.task
def deed(path: str, label: str, how: str = "", times: int = 1, healed: str = "") -> str:
    """Die in a given way during the first runs, unless a file says that all is well."""
    note(path, "start", label)
    if how and starts(path, label) <= times and not (healed and os.path.exists(healed)):  # noqa: PTH110
        _WAYS[how]()
    note(path, "finish", label)
    return label


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _exit() -> None:
    sys.exit(3)


def _exit_at_once() -> None:
    os._exit(0)


def _segfault() -> None:
    ctypes.string_at(0)


def _run_out_of_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (512 * 1024**2, 512 * 1024**2))
    try:
        while True:
            _hoard.append(bytearray(64 * 1024**2))
    except MemoryError:
        _kill()  # what the kernel's OOM killer does


def _write_to_every_pipe() -> None:
    for fd in range(3, 64):
        try:
            os.write(fd, b"\0" * 64)
        except OSError:
            continue


def _kill_worker() -> None:
    time.sleep(0.2)  # until what ended before is written
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)  # it dies with its parent


_WAYS = {
    "kill": _kill,
    "kill-worker": _kill_worker,
    "exit": _exit,
    "os-exit": _exit_at_once,
    "segfault": _segfault,
    "memory": _run_out_of_memory,
    "scribble": _write_to_every_pipe,
}


@dispatcher.task(retries=3, backoff=0.05)
def flaky(path: str, label: str, failures: int) -> int:
    """Fail so many times, then return the number of the attempt."""
    note(path, "start", label)
    if current_job().attempt <= failures:
        msg = f"attempt {current_job().attempt}"
        raise ValueError(msg)
    return current_job().attempt


@dispatcher.task(retries=1)
def again_after(path: str, label: str, delay: float) -> int:
    """Ask once to be run again later."""
    note(path, "start", label)
    if current_job().attempt == 1:
        raise Retry(delay)
    return current_job().attempt


@dispatcher.task(retries=5, backoff=0.0, give_up_on=(KeyError,))
def hopeless(path: str, label: str) -> None:
    """Raise what its task gives up on."""
    note(path, "start", label)
    raise KeyError(label)


@dispatcher.task(retries=5, backoff=0.0, retry_for=(OSError,))
def picky(path: str, label: str) -> None:
    """Raise what its task does not retry for."""
    note(path, "start", label)
    raise ValueError(label)


@dispatcher.task
def dawdle(path: str, label: str, *, is_stubborn: bool = False) -> str:
    """Take for ever in the first attempt; a stubborn one does not listen to the soft limit either."""
    note(path, "start", label)
    while current_job().attempt == 1:
        try:
            time.sleep(60)
        except SoftTimeLimit:
            note(path, "soft", label)
            if not is_stubborn:
                raise
    return label


@dispatcher.task
async def idle(path: str, label: str) -> str:
    """Wait for ever in the first attempt, and put things in order in a moment."""
    note(path, "start", label)
    try:
        if current_job().attempt == 1:
            await asyncio.Event().wait()
    except (SoftTimeLimit, Shutdown) as error:
        await asyncio.sleep(0.05)
        note(path, "soft" if isinstance(error, SoftTimeLimit) else "shutdown", label)
        raise
    return label


@dispatcher.task
def hoard(path: str, label: str, size_bytes: int) -> str:
    """Grow by this much, for good."""
    note(path, "start", label)
    _hoard.append(bytearray(os.urandom(1024) * (size_bytes // 1024)))
    return label


@dispatcher.task
def grind(path: str, label: str, gate: str) -> str:
    """Keep a CPU busy until the gate is open."""
    note(path, "start", label)
    while not os.path.exists(gate):  # noqa: PTH110 - asked often
        sum(range(1_000_000))
    note(path, "finish", label)
    return label


@dispatcher.task
def whereabouts() -> tuple[int, int]:
    """Return the pids of the child and of its supervisor."""
    return os.getpid(), os.getppid()


@dispatcher.task
def spawn(path: str, label: str, gate: str) -> None:
    """Start a process of one's own, note its pid, and wait."""
    other = subprocess.Popen(["sleep", "600"])
    note(path, "start", label)
    note(path, "spawned", str(other.pid))
    pass_gate(gate)


@dispatcher.task
def square(x: int) -> int:
    """Return the square."""
    return x * x


@dispatcher.task
def fussy(x: int) -> int:
    """Refuse four."""
    if x == 4:
        msg = "not four"
        raise ValueError(msg)
    return x


@dispatcher.task
def complain(text: str) -> None:
    """Raise what was given."""
    raise ValueError(text)


@dispatcher.task
def typed(genome: list[float], name: str = "sphere", *, scale: float = 1.0) -> float:
    """Take what its annotations say."""
    return scale * sum(genome) if name else 0.0


@dispatcher.task
def anything(value: Any) -> Any:
    """Return what it is given."""
    return value


@dispatcher.task
def size_of(data: bytes) -> int:
    """Return the length."""
    return len(data)


@dispatcher.task
def bad_result(kind: str) -> Any:
    """Return what cannot travel."""
    return make_bad(kind)


@dispatcher.task
def liar() -> int:
    """Return what its annotation denies."""
    return "seven"  # type: ignore[return-value]


@dispatcher.task
async def slowly(x: int) -> int:
    """Be a coroutine."""
    return x + 1


class OddError(Exception):
    """An exception that clients do not know."""


@dispatcher.task
def odd() -> None:
    """Raise it."""
    msg = "how odd"
    raise OddError(msg)


def make_bad(kind: str) -> Any:
    """Return a value that cannot travel, by the name of its fault."""
    if kind == "foreign":
        return threading.Lock()
    if kind == "cyclic":
        ring: list[Any] = []
        ring.append(ring)
        return ring
    if kind == "deep":
        deep: list[Any] = []
        for _ in range(100):
            deep = [deep]
        return deep
    assert kind == "large"
    return bytes(17 * 1024**2)


@dispatcher.message(color="red", name="lab.genome")
class Genome:
    """A typed message."""

    domain: str
    genome: list[float]


@dispatcher.message(name="lab.other")
class Other:
    """Another, which only the default branch handles."""

    x: int


class Genetics(Handlers):
    """The visitor."""

    def visit_Genome(self, message: Genome) -> float:
        """Sum up."""
        return sum(message.genome)

    def generic_visit(self, message: object) -> str:
        """Name the class."""
        return type(message).__name__


dispatcher.register(Genetics())


# What waits for others.


@dispatcher.task
def gather(values: Any, path: str = "", label: str = "", gate: str = "") -> Any:
    """Return the first argument, which is other jobs' results; write down that it ran."""
    if path:
        mark(path, label, gate)
    return values


@dispatcher.task
def add(x: int, y: int = 1) -> int:
    """Return the sum of two."""
    return x + y


@dispatcher.task
def total(numbers: list[int]) -> int:
    """Return the sum of many."""
    return sum(numbers)


@dispatcher.task
def halve(x: float) -> float:
    """Return half of it."""
    return x / 2


@dispatcher.task
def row(x: int) -> Any:
    """Return an array."""
    import numpy as np  # noqa: PLC0415 - a worker of this module starts often

    return np.array([x, 2.0 * x])


@dispatcher.task
def count_failures(values: list[int | Failure]) -> int:
    """Return how many of the results are none."""
    return sum(isinstance(value, Failure) for value in values)


# What the fault suite runs besides.


@dispatcher.task(retries=5, backoff=0.05)
def relapse(path: str, label: str, failures: int) -> str:
    """Take a moment; fail so many times, then return the label."""
    note(path, "start", label)
    time.sleep(0.02)
    note(path, "finish", label)
    if current_job().attempt <= failures:
        msg = f"attempt {current_job().attempt}"
        raise ValueError(msg)
    return label


@dispatcher.task
def mark_for(path: str, label: str, seconds: float) -> str:
    """Start, take this long, finish."""
    note(path, "start", label)
    time.sleep(seconds)
    note(path, "finish", label)
    return label


@dispatcher.task(color="green")
def nap_green(path: str, label: str, seconds: float) -> str:
    """Do what `mark_for` does, in green."""
    return mark_for(path, label, seconds)


@dispatcher.task(color="red")
def nap_red(path: str, label: str, seconds: float) -> str:
    """Do what `mark_for` does, in red."""
    return mark_for(path, label, seconds)


class Unspeakable(Exception):
    """An exception that cannot say what it is."""

    def __str__(self) -> str:
        """Fail."""
        msg = "not even this"
        raise RuntimeError(msg)

    __repr__ = __str__


@dispatcher.task
def burden(kind: str, size_bytes: int = 0) -> Any:
    """Return or raise what is a burden to whoever has to carry it."""
    if kind == "result":
        return bytes(size_bytes)
    if kind == "text":
        raise ValueError("x" * size_bytes)
    if kind == "unspeakable":
        raise Unspeakable
    assert kind == "ring"
    ring = ValueError()
    ring.args = (ring,)
    raise ring


if os.environ.get("NEWER"):

    @dispatcher.task(name="newer.mark")
    def newer_mark(path: str, label: str) -> str:
        """Be known to workers of the next release only."""
        return mark(path, label)


@dispatcher.task(retries=1, backoff=0.0)
def twice(path: str, label: str) -> str:
    """Fail in the first attempt; write down the second one only."""
    if current_job().attempt == 1:
        raise ValueError(label)
    return mark(path, label)


@dispatcher.task
def hoard_once(path: str, label: str, gate: str, size_bytes: int) -> str:
    """Wait for the gate and fill memory, in the first run only."""
    note(path, "start", label)
    pass_gate(gate)
    if starts(path, label) == 1:
        _hoard.append(bytearray(b"\1") * size_bytes)
    note(path, "finish", label)
    return label


@dispatcher.task(hard_timeout=1.0)
def stubborn(path: str, label: str, *, is_deaf: bool) -> None:
    """Start a process of one's own, and compute for ever; a deaf one in C, with every signal blocked."""
    other = subprocess.Popen(["sleep", "600"])
    note(path, "start", label)
    note(path, "spawned", str(other.pid))
    if is_deaf:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        sum(itertools.repeat(0))
    while True:
        pass


@dispatcher.task
def hold_the_gil(path: str, label: str, seconds: int) -> str:
    """Sleep in C without letting go of the interpreter."""
    note(path, "start", label)
    ctypes.PyDLL(None).sleep(seconds)
    note(path, "finish", label)
    return label


@dispatcher.task
def spin(path: str, label: str, seconds: float) -> str:
    """Keep a CPU busy for so long."""
    note(path, "start", label)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    note(path, "finish", label)
    return label


@dispatcher.task
def talk(path: str, label: str) -> str:
    """Log and print."""
    note(path, "start", label)
    logging.getLogger("deeds.talk").warning("%s runs", label)
    sys.stdout.write(label)
    sys.stdout.flush()
    note(path, "finish", label)
    return label


@dispatcher.task(at_most_once=True)
def once(path: str, label: str, gate: str = "", how: str = "") -> str:
    """Do what `mark` does, and die on request; never a second time."""
    note(path, "start", label)
    pass_gate(gate)
    if how:
        _WAYS[how]()
    note(path, "finish", label)
    return label


@dispatcher.task(exclusive=True)
def alone(path: str, label: str, gate: str = "") -> str:
    """Do what `mark` does; killed before the worker's claim on it ends."""
    note(path, "start", label)
    pass_gate(gate)
    note(path, "finish", label)
    return label


@dispatcher.task
def watchful(path: str, label: str, gate: str = "") -> str:
    """Do what `mark` does, but stop when the lease is lost."""
    note(path, "start", label)
    while gate and not os.path.exists(gate):  # noqa: PTH110 - asked often
        if current_job().lost_lease:
            note(path, "lost", label)
            break
        time.sleep(_PAUSE)
    note(path, "finish", label)
    return label


@dispatcher.task
def tidy(path: str, label: str, gate: str = "") -> str:
    """Do what `mark` does, and put things in order when the worker ends."""
    note(path, "start", label)
    try:
        pass_gate(gate)
    except Shutdown:
        note(path, "tidied", label)
        raise
    note(path, "finish", label)
    return label


@dispatcher.task
def introspect(x: int, context: Context, *, y: int = 2) -> list[Any]:
    """Say what one knows of one's job."""
    return [x, y, context is current_job(), context.id, context.task, context.attempt, context.state]


@dispatcher.task
async def introspect_at_await(context: Context, x: int) -> list[Any]:
    """Do the same in a coroutine."""
    await asyncio.sleep(0)
    return [x, context is current_job(), context.id]


@dispatcher.message(name="lab.question")
class Question:
    """Asks a visitor for its job."""

    text: str


class Answers(Handlers):
    """Answers with the id of the job."""

    def visit_Question(self, question: Question, context: Context) -> list[str]:
        """Answer."""
        return [question.text, context.id]


dispatcher.register(Answers())


@dispatcher.task
def tell(gate: str, steps: int, context: Context) -> int:
    """Tell each step at once, wait at the gate, and tell the end."""
    for step in range(1, steps + 1):
        context.progress(step, steps + 1, f"step {step}")
    pass_gate(gate)
    context.progress(steps + 1, steps + 1)
    return steps


@dispatcher.task(retries=5, backoff=0.0)
def resume(path: str, label: str, how: str, context: Context) -> list[int]:
    """Count to three from one's state, and meet an end of some kind after each number; say from where each run began."""
    note(path, "start", label)
    state: dict[str, Any] = context.state or {"at": 0, "runs": []}
    state["runs"].append(state["at"])
    while state["at"] < 3:
        state["at"] += 1
        context.save(state, wait=how == "whole worker")
        if how == "child" and len(state["runs"]) < 3:  # the third death would set it aside
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "whole worker" and state["at"] == 2:
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "retry":
            context.retry(0)
        elif how == "error":
            raise ValueError(label)
    note(path, "finish", label)
    return list(state["runs"])


@dispatcher.task
def save_and_wait(path: str, label: str, gate: str, context: Context) -> list[int]:
    """Save the number of one's run, and wait at the gate."""
    runs = [*(context.state or []), len(context.state or []) + 1]
    context.save(runs)
    note(path, "start", label)
    pass_gate(gate)
    return runs


@dispatcher.task
def long(path: str, label: str, how: str, context: Context) -> str:
    """Sleep until told to stop: never ask, ask, or catch what comes."""
    note(path, "start", label)
    try:
        while not (how == "ask" and context.cancelled):
            time.sleep(0.005)  # a step of its work: who asks is not told, and who does not is interrupted in one
    except CancelledError:
        note(path, "caught", label)
        if how != "catch":
            raise
        return f"{label}: {context.cancelled}"
    raise CancelledError(label)


@dispatcher.task
async def long_at_await(path: str, label: str) -> None:
    """Wait for ever, and say what comes."""
    note(path, "start", label)
    try:
        await asyncio.Event().wait()
    finally:
        note(path, "caught", label)


@dispatcher.task(retries=1, backoff=0.0)
def draw(fails: bool, context: Context) -> list[float]:  # noqa: FBT001 - a task takes what it gets
    """Draw three numbers, perhaps in vain."""
    numbers = [float(number) for number in context.rng.random(3)]
    if fails and context.attempt == 1:
        raise ValueError(numbers)
    return numbers
