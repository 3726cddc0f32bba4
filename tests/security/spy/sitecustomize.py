"""Loaded by every Python process of a spied worker: notes what it unpickles, unmarshals, evaluates or decompresses."""

from __future__ import annotations

import os
import sys
import zlib
from typing import Any

_LOG = os.environ.get("SPY_LOG", "")
_EVENTS = {"pickle.find_class"}


def _note(text: str) -> None:
    fd = os.open(_LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{text}\n".encode(errors="replace"))
    os.close(fd)


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _EVENTS:
        _note(f"{event} {arguments!r} in {os.getpid()}")


def _spied(name: str, function: Any) -> Any:
    def spy(*args: Any, **kwargs: Any) -> Any:
        _note(f"zlib.{name} in {os.getpid()}")
        return function(*args, **kwargs)

    return spy


if _LOG:
    sys.addaudithook(_watch)
    for _name in ("decompress", "decompressobj"):
        setattr(zlib, _name, _spied(_name, getattr(zlib, _name)))
    _note(f"watching {os.getpid()}")
    os.register_at_fork(after_in_child=lambda: _note(f"watching {os.getpid()}"))
