"""What `import queuelib` gives, and what it leaves alone."""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys

import queuelib
from queuelib import errors

HEAVY = ("kombu", "amqp", "numpy", "sqlite3", "redis", "pika", "click", "rich", "asyncio")


def test_the_names_are_sorted() -> None:
    """`__all__` is in order and names nothing twice."""
    assert list(queuelib.__all__) == sorted(set(queuelib.__all__))


def test_every_name_can_be_imported() -> None:
    """Each of them is there, is public, and has a docstring."""
    assert [name for name in queuelib.__all__ if name.startswith("_") or not getattr(queuelib, name).__doc__] == []


def test_every_error_is_public() -> None:
    """Whoever catches an error finds it at the top."""
    assert set(errors.__all__) <= set(queuelib.__all__)


def modules_after(statement: str) -> set[str]:
    """Return the names of the modules that a fresh interpreter has loaded after a statement."""
    process = subprocess.run(
        [sys.executable, "-c", f"{statement}; import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    return set(process.stdout.split())


def test_an_import_loads_no_driver() -> None:
    """Programs pay for kombu, asyncio, numpy and the faces only when they use them."""
    loaded = modules_after("import queuelib")
    assert "queuelib.dispatcher" in loaded
    assert sorted(loaded & set(HEAVY)) == []


def test_what_a_module_exports_is_there() -> None:
    """No `__all__` names what is gone."""
    names = [name for _, name, is_package in pkgutil.iter_modules(queuelib.__path__, "queuelib.") if not is_package]
    modules = [importlib.import_module(name) for name in names if name != "queuelib.__main__"]  # which is a program
    assert len(modules) > 20
    missing = [(m.__name__, name) for m in modules for name in getattr(m, "__all__", ()) if not hasattr(m, name)]
    assert missing == []
