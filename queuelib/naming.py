"""How tasks are called on the wire, so that a script, its import and its worker use the same names."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from queuelib.errors import QueuelibError, RegistrationError
from queuelib.shown import shown

__all__ = [
    "CALL",
    "check_name",
    "dotted_name",
    "file_of",
    "is_importing",
    "make_importable",
    "name_of",
    "refuse_while_importing",
    "worker_target",
]

CALL = "queuelib.call"  # the task that pickled calls are sent as
_LONGEST_NAME = 255
is_importing = False  # true in a worker's template while it imports the user's modules


def name_of(thing: Any) -> str:
    """Return the wire name of a function or class: its module and qualified name.

    In a script run as `__main__` the file's own module name stands in.

    Raises:
        RegistrationError: It was defined in a notebook or at a prompt, where no worker can import it from.
    """
    module = str(thing.__module__)
    if module == "__main__":
        path = file_of(thing)
        if path is None:
            msg = f"{thing.__qualname__} is defined in a notebook or at a prompt: move it to a .py file and import it from there"
            raise RegistrationError(msg)
        module = dotted_name(path)
    return f"{module}.{thing.__qualname__}".replace(".<locals>", "").replace("<lambda>", "lambda")


def check_name(name: str) -> str:
    """Return a task's wire name.

    Raises:
        RegistrationError: It is empty, too long, or has a character that does not print or is white.
    """
    if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable() or any(one.isspace() for one in name):
        msg = f"{shown(name, 80)!r} is no name of a task: 1 to {_LONGEST_NAME} characters that print, without spaces"
        raise RegistrationError(msg)
    if name == CALL:
        msg = f"{name!r} is what pickled calls are sent as: give the task another name="
        raise RegistrationError(msg)
    return name


def file_of(thing: Any) -> Path | None:
    """Return the file that a function or class was defined in, or None at a prompt."""
    file = getattr(sys.modules.get(str(thing.__module__)), "__file__", None)
    if file is None:
        return None
    path = Path(file).absolute()
    return path if path.exists() else None


def dotted_name(path: Path) -> str:
    """Return the module name of a file: it climbs while the folder is a package."""
    parts = [path.stem] if path.stem not in ("__init__", "__main__") else []
    folder = path.parent
    while (folder / "__init__.py").exists():
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts) or path.stem


def make_importable(environment: dict[str, str]) -> None:
    """Let `python -P -m queuelib` find this very package, also when it is not installed but on sys.path."""
    roots: list[str] = []
    for name in ("queuelib", "queuelib_memory"):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            roots.append(os.path.dirname(os.path.dirname(spec.origin)))  # noqa: PTH120
    inherited = environment.get("PYTHONPATH")
    paths = [root for root in dict.fromkeys(roots) if "site-packages" not in root]
    environment["PYTHONPATH"] = os.pathsep.join([*paths, *([inherited] if inherited else [])])


def refuse_while_importing(what: str) -> None:
    """Return, but in a worker that imports the user's modules: there only definitions belong.

    Raises:
        QueuelibError: This is one; the message says so of `what`.
    """
    if is_importing:
        msg = (
            f"{what} ran while a worker imported this module. Put what the program does, as opposed to what it defines, "
            'under `if __name__ == "__main__":`'
        )
        raise QueuelibError(msg)


def worker_target(thing: Any) -> str:
    """Return what to write after `queuelib worker` to serve a function or class."""
    path = file_of(thing)
    return str(path) if path is not None else str(thing.__module__)
