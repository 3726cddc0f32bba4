"""Importing the user's modules in a worker, and finding the dispatcher in them."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from queuelib import naming
from queuelib.dispatcher import Dispatcher
from queuelib.errors import WorkerError
from queuelib.worker.plan import palette_from

__all__ = ["bare", "load"]

_NEEDED = (
    "queuelib",
    "kombu",
    "amqp",
    "vine",
    "msgpack",
    "msgspec",
    "packaging",
    "redis",
    "hiredis",
    "pika",
    "numpy",
    "cloudpickle",
)


def load(targets: Sequence[str], *, folders: Sequence[str] = (), tasks: Iterable[str] = ()) -> Dispatcher:
    """Import what the targets name and return the one dispatcher there.

    Args:
        targets: `package.module`, `package.module:name`, `file.py` or `file.py:name`.
        folders: Folders to find modules in, before those that Python knows.
        tasks: Names of tasks the dispatcher must have, where several are found.

    Raises:
        WorkerError: There is no such file, no dispatcher, or more than one; the message lists them.
        Exception: What the module raised while it was imported.
    """
    _find_modules_in(folders)
    naming.is_importing = True
    try:
        found = [_find(*_split(target)) for target in targets]
    finally:
        naming.is_importing = False
    names = {id(d): (label, d) for group in found for label, d in group}
    wanted = set(tasks)
    candidates = [entry for entry in names.values() if wanted <= set(entry[1].definitions)] or list(names.values())
    if not candidates:
        msg = f"there is no Dispatcher in {', '.join(targets)}: make one at the top level, `dispatcher = Dispatcher()`"
        raise WorkerError(msg)
    if len(candidates) > 1:
        listed = ", ".join(sorted(label for label, _ in candidates))
        msg = f"there is more than one Dispatcher in {', '.join(targets)}: {listed}. Name one: queuelib worker {targets[0]}:NAME"
        raise WorkerError(msg)
    return candidates[0][1]


def bare(description: Mapping[str, Any], *, folders: Sequence[str] = ()) -> Dispatcher:
    """Return a dispatcher without tasks, for pickled calls alone.

    Args:
        description: Its palette and the time to keep results, as a program told; empty for those that are usual.
        folders: As for `load`.
    """
    _find_modules_in(folders)
    if not description:
        return Dispatcher()
    return Dispatcher(palette=palette_from(description), keep=description["keep"])


def _find_modules_in(folders: Sequence[str]) -> None:
    if not folders:
        _put_on_path(Path.cwd())
    for folder in reversed(folders):
        if folder not in sys.path:
            sys.path.insert(0, folder)


def _split(target: str) -> tuple[str, str]:
    place, colon, name = target.rpartition(":")
    return (place, name) if colon and place and name.isidentifier() else (target, "")


def _find(place: str, name: str) -> list[tuple[str, Dispatcher]]:
    module = _import(place)
    if name:
        value = getattr(module, name, None)
        if not isinstance(value, Dispatcher):
            msg = f"{place} has no Dispatcher called {name!r}; it has {_listed(module)}"
            raise WorkerError(msg)
        return [(name, value)]
    return [(key, value) for key, value in vars(module).items() if isinstance(value, Dispatcher)]


def _import(place: str) -> ModuleType:
    if not place.endswith(".py"):
        return importlib.import_module(place)
    path = Path(place).absolute()
    if not path.is_file():
        msg = f"there is no file {path}"
        raise WorkerError(msg)
    dotted = naming.dotted_name(path)
    root = path
    for _ in dotted.split("."):
        root = root.parent
    _put_on_path(root)
    return importlib.import_module(dotted)


def _put_on_path(folder: Path) -> None:
    """Have modules found in a folder: before all installed packages, and behind the standard library.

    Raises:
        WorkerError: A file there would hide what a worker itself needs.
    """
    path = str(folder)
    if path in sys.path:
        return
    for name in _NEEDED:
        here = PathFinder.find_spec(name, [path])
        if here is None or here.origin is None:
            continue  # nothing, or a folder without modules
        ours = importlib.util.find_spec(name)
        if ours is None or ours.origin != here.origin:
            msg = f"{here.origin} would hide the package {name!r} that a worker needs: rename it, or start elsewhere"
            raise WorkerError(msg)
    standard = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
    standard |= {os.path.join(one, "lib-dynload") for one in standard}  # noqa: PTH118 - entries of sys.path are texts
    behind = [at for at, entry in enumerate(sys.path) if entry in standard]
    sys.path.insert(behind[-1] + 1 if behind else 0, path)


def _listed(module: ModuleType) -> str:
    names = [key for key, value in vars(module).items() if isinstance(value, Dispatcher)]
    return ", ".join(names) or "none"
