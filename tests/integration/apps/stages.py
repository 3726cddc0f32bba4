"""A user's module whose values and exceptions do harm at one chosen stage of a job's way."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from queuelib import Dispatcher

dispatcher = Dispatcher(
    os.environ.get("BROKER", "memory://stages"), namespace=os.environ.get("NAMESPACE", "stages"), keep=3600
)
PLACE = os.environ.get("PLACE", "client")


def fall(how: str) -> None:
    """Do harm."""
    match how:
        case "raise":
            msg = "fell"
            raise RuntimeError(msg)
        case "interrupt":
            raise KeyboardInterrupt
        case "memory":
            bytearray(1 << 46)
        case "exit":
            sys.exit(3)
        case "os-exit":
            os._exit(3)
        case "signal":
            os.kill(os.getpid(), signal.SIGSEGV)
        case _:
            assert not how, how


@dataclass
class Trap:
    """A value that does harm where it is written, or where it is read: `client-dump`, `worker-load` and so on."""

    stage: str
    how: str
    bait: int = 0

    def __post_init__(self) -> None:
        """Be read."""
        if self.stage == f"{PLACE}-load":
            fall(self.how)

    def __getattribute__(self, name: str) -> Any:
        """Be written: who writes a dataclass asks for its fields."""
        if name == "bait" and self.stage == f"{PLACE}-dump":
            fall(self.how)
        return object.__getattribute__(self, name)


@dispatcher.task
def take(trap: Trap) -> int:
    """Have it as an argument."""
    return trap.bait


@dispatcher.task
def take_bytes(data: bytes) -> int:
    """Have bytes as an argument."""
    return len(data)


@dispatcher.task
def give(stage: str, how: str) -> Trap:
    """Have it as a result."""
    return Trap(stage, how)


@dispatcher.task
def give_large(size_bytes: int) -> bytes:
    """Return so many bytes."""
    return bytes(size_bytes)


@dispatcher.task
def run(how: str) -> str:
    """Have it while it runs."""
    fall(how)
    return how


@dispatcher.task
async def run_async(how: str) -> str:
    """Have it in a coroutine."""
    await asyncio.sleep(0)
    fall(how)
    return how


@dispatcher.task
def pids() -> tuple[int, int]:
    """Return the pids of the child and of its supervisor."""
    return os.getpid(), os.getppid()


# What is raised


class Harmful(Exception):
    """An exception that does harm when its text is made."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how

    def __str__(self) -> str:
        """Do it."""
        fall(self.how)
        return "harmless"

    __repr__ = __str__


class HarmfulArguments(Exception):
    """An exception that does harm when its arguments are asked for."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    @property
    def args(self) -> Any:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        """Do it."""
        fall(self.how)
        return ()


class HarmfulStart(Exception):
    """An exception that does harm when it is made."""

    def __init__(self, how: str) -> None:
        fall(how)
        super().__init__(how)


class HarmfulRebuild(Exception):
    """An exception that does harm when somebody makes it again, in another process."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        if PLACE == "client":
            fall(how)

    def __reduce__(self) -> Any:
        """Do it for those who pickle, too."""
        fall(self.args[0])
        return super().__reduce__()


class NotItself(Exception):
    """An exception whose class returns something else."""

    def __new__(cls, *args: Any) -> Any:
        """Return no exception at the client."""
        return super().__new__(cls, *args) if PLACE == "worker" else object()


class TwoArguments(Exception):
    """An exception that nobody can make of its text alone, nor of its arguments."""

    def __init__(self, number: int, *, unit: str) -> None:
        super().__init__(f"{number} {unit}")


class Masked(Exception):
    """An exception that does not even say what it is."""

    @property
    def __class__(self) -> Any:
        """Do harm."""
        fall("raise")
        return Masked

    @__class__.setter
    def __class__(self, value: Any) -> None: ...


@dispatcher.task(retries=0)
def throw(kind: str, how: str = "") -> None:
    """Raise it."""
    raise _made(kind, how)


@dispatcher.task
async def throw_async(kind: str) -> None:
    """Raise it in a coroutine."""
    await asyncio.sleep(0)
    raise _made(kind, "")


def _made(kind: str, how: str) -> BaseException:
    ways: dict[str, Callable[[], BaseException]] = {
        "str": lambda: Harmful(how),
        "args": lambda: HarmfulArguments(how),
        "init": lambda: HarmfulStart(how),
        "rebuild": lambda: HarmfulRebuild(how),
        "new": lambda: NotItself(how),
        "two": lambda: TwoArguments(3, unit="mice"),
        "masked": lambda: Masked("behind it"),
        "group": lambda: ExceptionGroup("both", [ValueError("one"), Harmful(how) if how else KeyError("two")]),
        "base group": lambda: BaseExceptionGroup("both", [ValueError("one"), KeyboardInterrupt()]),
        "foreign": lambda: ValueError(object),
        "huge text": lambda: ValueError("x" * 20_000_000),
        "huge arguments": lambda: ValueError(list(range(1_000_000)), "many"),
        "cancelled": lambda: asyncio.CancelledError("not by us"),
        "KeyboardInterrupt": lambda: KeyboardInterrupt("raised"),
        "GeneratorExit": lambda: GeneratorExit("raised"),
        "BaseException": lambda: BaseException("raised"),
        "StopIteration": lambda: StopIteration("raised"),
    }
    return ways[kind]()


for _cls in (HarmfulStart, HarmfulRebuild, NotItself, TwoArguments):
    dispatcher.register_exception(_cls)
