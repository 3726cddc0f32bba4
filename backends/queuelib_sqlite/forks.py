"""What a fork must not carry over: open databases. Each is closed before a fork, and opened anew on both sides after it.

A child that went on with its parent's handle would believe in locks that only the parent has: once the parent closes,
what the child writes goes to a log that nobody reads. And where another thread is inside SQLite at the moment of the
fork, SQLite's mutexes stay locked in the child for good. So a fork waits for the threads that use a database here.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Protocol
from weakref import WeakSet

from queuelib.errors import BrokerUnavailable

__all__ = ["Inheritable", "Pausable", "check", "keep_for_good", "watch", "watch_store"]


class Inheritable(Protocol):
    """Something of which a forked child gets a copy."""

    def forget_parent(self) -> None:
        """In the child: let go of what is the parent's, without a change to it."""
        ...


class Pausable(Inheritable, Protocol):
    """Something with a database that has to be closed before a fork."""

    def pause(self, timeout: float) -> bool:
        """Close the database and keep all threads from it; return False if it is in use for `timeout` seconds."""
        ...

    def resume(self) -> None:
        """In the parent: let the threads go on."""
        ...


_LONGEST_WAIT = 10.0  # seconds that a fork waits for other threads; a transaction waits 5 s for other programs' locks

_guard = threading.RLock()  # held from before a fork until after it: nothing new is opened meanwhile
_stores: WeakSet[Pausable] = WeakSet()
_others: WeakSet[Inheritable] = WeakSet()
_paused: list[list[Pausable]] = []  # a signal handler may fork within the wait of a fork
_inherited: list[object] = []


def watch_store(store: Pausable) -> None:
    """Pause a store at each fork, for as long as it lives."""
    with _guard:
        _stores.add(store)


def watch(thing: Inheritable) -> None:
    """Tell something in forked children that it is a copy."""
    with _guard:
        _others.add(thing)


def keep_for_good(handle: object) -> None:
    """Never close nor free what could not be closed before the fork: that would roll back in the parent's transaction."""
    import ctypes  # noqa: PLC0415 - rarely needed

    _inherited.append(handle)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))  # nor at the end of the interpreter


def check() -> None:
    """See that this process inherited no open database.

    Raises:
        BrokerUnavailable: It did; nothing was written.
    """
    if _inherited:
        msg = (
            "this process was forked while its parent was using an SQLite file, and can use none itself; nothing was "
            "written. Fork while no other thread submits or reads results, or start processes by spawn"
        )
        raise BrokerUnavailable(msg)


def _before() -> None:
    _guard.acquire()
    paused: list[Pausable] = []
    _paused.append(paused)
    end = time.monotonic() + _LONGEST_WAIT
    paused.extend(store for store in list(_stores) if store.pause(max(0.0, end - time.monotonic())))


def _after_in_parent() -> None:
    for store in _paused.pop():
        store.resume()
    _guard.release()


def _after_in_child() -> None:
    global _guard  # noqa: PLW0603 - another thread of the parent may have held it
    _guard = threading.RLock()
    _paused.clear()
    for thing in [*_stores, *_others]:
        thing.forget_parent()


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
