"""Calls of functions that are no tasks: they are pickled, and run as one task that every worker knows.

The task takes two byte strings, the function and the arguments, and opens neither unless its worker was told that it may.
A function's body is shared once, by its content; calls carry its hash.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from threading import Lock
from types import CoroutineType
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakSet

from queuelib import codec, pickling
from queuelib.bundle import Sizes
from queuelib.errors import DecodeError, EncodeError, PickleRefused, QueuelibError, Shutdown
from queuelib.handle import HASH_BYTES, Shared, reader
from queuelib.job import Job
from queuelib.naming import CALL
from queuelib.schema import Schema
from queuelib.shown import words_of
from queuelib.task import Definition, Signature

__all__ = ["Calls"]

K = TypeVar("K")
V = TypeVar("V")
_PYTHON = bytes(sys.version_info[:2])  # code of one version means nothing to another
_INLINE, _SHARED = b"=", b"#"
_MOST_INLINE = 128  # bytes; a name that is imported takes less, a handle not much less
_LARGE = 256 * 1024  # bytes of one pickled argument
_RENEWED_FOR = 60.0  # seconds for which what was shared is taken to be kept still
_FUNCTIONS_KEPT = 256  # in a child, and as many of which a client knows how long they run
_PLAIN = frozenset({int, float, str, bool, type(None)})  # results that come back as they are without a pickle


class _Shares(Protocol):
    """What shares byte strings."""

    def share(self, value: bytes) -> Shared[bytes]:
        """Keep them."""
        ...


class Calls:
    """Pickled calls of one dispatcher: makes them at the client, runs them in a worker, reads their results.

    Args:
        sharing: Returns what bodies and large arguments are shared by.
        is_allowed: Whether this program pickles calls and reads pickled results.
        keep: Seconds for which what is shared is kept.
    """

    def __init__(self, sharing: Callable[[], _Shares], *, is_allowed: bool, keep: float) -> None:
        self._sharing = sharing
        self._is_allowed = is_allowed
        self._renewed_for = min(_RENEWED_FOR, keep / 4)
        self._lock = Lock()
        self._shared = _Lately[bytes, tuple[Shared[bytes], float]](4 * _FUNCTIONS_KEPT)
        self._sizes = _Lately[bytes, Sizes](_FUNCTIONS_KEPT)
        self._functions = _Lately[bytes, Callable[..., Any]](_FUNCTIONS_KEPT)
        self._schema = Schema.of_function(self.run, name=CALL)
        self.definition = Definition(CALL, self._schema, function=self.run)
        self._is_served = False
        _all.add(self)

    # The client

    def body(self, function: Callable[..., Any]) -> bytes:
        """Return a function, pickled.

        Raises:
            PickleRefused: This dispatcher does not allow it.
            MissingDriver: cloudpickle is not installed.
            EncodeError: It cannot be pickled.
        """
        if not self._is_allowed:
            msg = (
                f"{_name(function)} is no task of this dispatcher, and other functions travel by pickle, which is not "
                "allowed here: make it a task with @dispatcher.task, or make the dispatcher with allow_pickle=True and "
                "start its workers with --allow-pickle"
            )
            raise PickleRefused(msg)
        pickling.require()
        try:
            return pickling.dumps(function)
        except Exception as error:  # objects have a say in how they are pickled, and raise what they like
            msg = f"{_name(function)} cannot be pickled: {error}"
            raise EncodeError(msg) from error

    def field(self, body: bytes) -> bytes:
        """Return what a call carries of a pickled function; its body is shared if that was not done just now.

        Raises:
            BrokerUnavailable: It is not kept.
            TooLarge: It takes more than can be shared.
        """
        if len(body) <= _MOST_INLINE:
            return _PYTHON + _INLINE + body
        handle = self._share(body)
        return _PYTHON + _SHARED + handle.hash + handle.size_bytes.to_bytes(8, "big")

    def arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Return arguments, pickled; large ones are shared, each by itself.

        Raises:
            BrokerUnavailable: They are not kept.
            EncodeError: They cannot be pickled.
        """
        try:
            data = pickling.dumps((args, kwargs))
        except Exception as error:  # as above: the arguments' own methods
            what = next((one for one in (*args, *kwargs.values()) if isinstance(one, Job | Signature)), None)
            msg = f"an argument cannot be pickled: {error}"
            if what is not None:
                msg = (
                    f"a {type(what).__name__} stands for its result among the arguments of a task only, and this function is "
                    "none: make it one with @dispatcher.task, or pass the result"
                )
            raise EncodeError(msg) from error
        if len(data) <= _LARGE:
            return data
        return pickling.dumps((tuple(map(self._lighter, args)), {key: self._lighter(kwargs[key]) for key in kwargs}))

    def timed(self, body: bytes) -> Definition:
        """Return the task for calls of one pickled function, which remembers how long they run."""
        digest = hashlib.sha256(body).digest()
        with self._lock:
            sizes = self._sizes.get(digest)
            if sizes is None:
                sizes = self._sizes.put(digest, Sizes())
        return Definition(CALL, self._schema, function=self.run, sizes=sizes)

    def results(self, encoded: bytes) -> list[Any]:
        """Return the results in an encoded list of them.

        Raises:
            PickleRefused: One of them is pickled, and this dispatcher does not allow it.
            DecodeError: One of them cannot be read.
        """
        return [self._result(one) for one in codec.decode_list(encoded)]

    def forget(self) -> None:
        """Take nothing for shared any more: it may be another server from now on."""
        self._shared.clear()

    def _lighter(self, value: Any) -> Any:
        data = pickling.dumps(value)
        return _Elsewhere(self._share(data)) if len(data) > _LARGE else value

    def _share(self, data: bytes) -> Shared[bytes]:
        digest = hashlib.sha256(data).digest()
        with self._lock:  # those who share the same at the same time send it once
            found = self._shared.get(digest)
            if found is None or found[1] < time.monotonic():
                found = self._sharing().share(data), time.monotonic() + self._renewed_for
                self._shared.put(digest, found)
            return found[0]

    def _result(self, value: Any) -> Any:
        if type(value) is not bytes:
            return value
        if not self._is_allowed:
            msg = (
                "the result of a pickled call is a pickle, which this dispatcher does not read: "
                "make it with allow_pickle=True"
            )
            raise PickleRefused(msg)
        try:
            return pickling.loads(value)
        except Exception as error:  # a pickle runs what it names
            msg = f"the result of a pickled call cannot be read here: {words_of(error)}"
            raise DecodeError(msg) from error

    # The worker

    def serve(self) -> None:
        """Have `run` run what it gets.

        Raises:
            MissingDriver: cloudpickle is not installed.
        """
        pickling.require()
        self._is_served = True

    def run(self, function: bytes, arguments: bytes) -> Any:
        """Run a call; this is the task.

        Returns:
            The result where that is plain, else bytes: the result pickled.

        Raises:
            PickleRefused: This worker may not.
            Exception: What the function raises, or reading it and its arguments.
        """
        if not self._is_served:
            msg = (
                "this worker runs no pickled functions, and has not looked at this one: start workers with "
                "`queuelib worker --allow-pickle`, or make the function a task with @dispatcher.task"
            )
            raise PickleRefused(msg)
        call = self._functions.get(function)
        if call is None:  # one that is there may call itself false
            call = self._functions.put(function, _function(function))
        args, kwargs = pickling.loads(arguments)
        value = call(*args, **kwargs)
        return _finished(call, value) if type(value) is CoroutineType else _dumped(call, value)


class _Elsewhere:
    """Stands in a pickle for an argument that was shared; reading the pickle puts a copy of it there."""

    def __init__(self, handle: Shared[bytes]) -> None:
        self._handle = handle

    def __reduce__(self) -> tuple[Any, ...]:
        return _unshared, (self._handle.hash, self._handle.size_bytes)


class _Lately(Generic[K, V]):
    """Those that were used last; without a lock, which a fork could leave locked: each step is one of the dictionary's."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._kept: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        """Return what is there, and count it as used."""
        found = self._kept.pop(key, None)
        if found is not None:
            self._kept[key] = found
        return found

    def put(self, key: K, value: V) -> V:
        """Keep it, and return it."""
        self._kept[key] = value
        for oldest in list(self._kept)[: -self._room]:
            self._kept.pop(oldest, None)
        return value

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()


_all: WeakSet[Calls] = WeakSet()


def _renew_locks() -> None:
    for one in _all:
        one._lock = Lock()  # noqa: SLF001 - a thread of the parent's may hold it, which is not here


os.register_at_fork(after_in_child=_renew_locks)


def _function(field: bytes) -> Callable[..., Any]:
    version, kind, rest = field[:2], field[2:3], field[3:]
    if version != _PYTHON:
        here, there = (".".join(map(str, one)) for one in (_PYTHON, version))
        msg = f"the function was pickled by Python {there}, and this worker runs {here}: let both be the same"
        raise QueuelibError(msg)
    if kind == _INLINE:
        return pickling.loads(rest)  # type: ignore[no-any-return]
    return _unshared(rest[:HASH_BYTES], int.from_bytes(rest[HASH_BYTES:], "big"))  # type: ignore[no-any-return]


def _unshared(content_hash: bytes, size_bytes: int) -> Any:
    handle = Shared[bytes](content_hash, size_bytes, reader.get())
    return pickling.loads(handle.get())


async def _finished(function: Callable[..., Any], coroutine: CoroutineType[Any, Any, Any]) -> Any:
    return _dumped(function, await coroutine)


def _dumped(function: Callable[..., Any], value: Any) -> Any:
    if type(value) in _PLAIN:
        return value
    try:
        return pickling.dumps(value)
    except Shutdown:
        raise
    except BaseException as error:  # its own methods may do anything, leave included: the child lives
        msg = f"what {_name(function)} returned, of type {type(value).__qualname__}, cannot travel: {words_of(error)}"
        raise TypeError(msg) from error


def _name(function: object) -> str:
    """Return what to call a function, for its reader."""
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__qualname__", None)
    return (
        f"{getattr(function, '__module__', None)}.{name}"
        if name
        else f"an object of type {type(function).__qualname__}"
    )
