"""What pyproject.toml says and what lies in the tree are the same."""

from __future__ import annotations

import tomllib
from pathlib import Path

import queuelib

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BACKENDS = {path.name for path in (ROOT / "backends").iterdir() if path.is_dir() and path.name.startswith("queuelib_")}


def test_every_backend_folder_is_in_the_wheel() -> None:
    """A backend cannot be forgotten in the list of packages."""
    packages = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(packages) == sorted(["queuelib", *(f"backends/{name}" for name in BACKENDS)])


def test_every_backend_folder_has_an_entry_point() -> None:
    """`queuelib.plugins` finds each of them by its scheme."""
    entries = PYPROJECT["project"]["entry-points"]["queuelib.backends"]
    assert entries == {name.removeprefix("queuelib_"): f"{name}:BACKEND" for name in BACKENDS}


def test_backends_is_a_source_root() -> None:
    """It is never a package itself."""
    assert not (ROOT / "backends" / "__init__.py").exists()


def test_the_version_is_stated_once() -> None:
    """The package and its metadata agree."""
    assert PYPROJECT["project"]["version"] == queuelib.__version__
