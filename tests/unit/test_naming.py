"""How tasks are called on the wire."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from queuelib.errors import RegistrationError
from queuelib.naming import dotted_name, file_of, name_of, worker_target

if TYPE_CHECKING:
    from pathlib import Path


class Outer:
    """Holds a class."""

    class Inner:
        """Is held."""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Give a folder with the package `lab.jobs`, which has the module `ga`."""
    folder = tmp_path / "src" / "lab" / "jobs"
    folder.mkdir(parents=True)
    for file in (folder / "__init__.py", folder.parent / "__init__.py", folder / "__main__.py", folder / "ga.py"):
        file.touch()
    return folder


def in_main(monkeypatch: pytest.MonkeyPatch, file: str | None) -> Any:
    """Return a function that was defined in `__main__`, which came from `file`."""
    main = ModuleType("__main__")
    if file is not None:
        main.__file__ = file
    monkeypatch.setitem(sys.modules, "__main__", main)

    def evaluate() -> None:
        """Do nothing."""

    evaluate.__module__ = "__main__"
    evaluate.__qualname__ = "evaluate"
    return evaluate


class TestDottedName:
    """From a file to its module's name."""

    def test_it_climbs_while_the_folder_is_a_package(self, package: Path) -> None:
        """`worker pkg/tasks.py` and `worker pkg.tasks` name tasks alike."""
        assert dotted_name(package / "ga.py") == "lab.jobs.ga"

    @pytest.mark.parametrize("file", ["__init__.py", "__main__.py"])
    def test_a_package_goes_by_its_folder(self, package: Path, file: str) -> None:
        """Its own files add nothing to its name."""
        assert dotted_name(package / file) == "lab.jobs"

    def test_a_file_alone(self, tmp_path: Path) -> None:
        """Outside of a package the stem is the name, whether the file exists or not."""
        assert dotted_name(tmp_path / "script.py") == "script"
        assert dotted_name(tmp_path / "__main__.py") == "__main__"


class TestNameOf:
    """From a function or class to its wire name."""

    def test_module_and_qualified_name(self) -> None:
        """A nested class is named after what holds it."""
        assert name_of(Outer.Inner) == f"{__name__}.Outer.Inner"

    def test_defined_in_a_function(self) -> None:
        """The sign of a local name is left out."""

        def local() -> None:
            """Do nothing."""

        assert name_of(local) == f"{__name__}.TestNameOf.test_defined_in_a_function.local"

    def test_a_lambda(self) -> None:
        """Its name has no brackets."""
        function: Any = lambda: None  # noqa: E731 - what a name is asked for
        assert name_of(function).endswith(".lambda")

    def test_in_a_script(self, monkeypatch: pytest.MonkeyPatch, package: Path) -> None:
        """The file's own module name stands in for `__main__`, so that the script can be its own worker file."""
        function = in_main(monkeypatch, str(package / "ga.py"))
        assert name_of(function) == "lab.jobs.ga.evaluate"
        assert worker_target(function) == str(package / "ga.py")

    def test_in_a_script_by_a_relative_path(self, monkeypatch: pytest.MonkeyPatch, package: Path) -> None:
        """`python ga.py` leaves a relative path behind; it counts from the folder it was started in."""
        monkeypatch.chdir(package)
        function = in_main(monkeypatch, "ga.py")
        assert file_of(function) == package / "ga.py"
        assert name_of(function) == "lab.jobs.ga.evaluate"

    @pytest.mark.parametrize("file", [None, "<stdin>", "/nowhere/gone.py"])
    def test_in_a_notebook(self, monkeypatch: pytest.MonkeyPatch, file: str | None) -> None:
        """No worker could import it; the error says what to do."""
        with pytest.raises(RegistrationError, match=r"evaluate is defined in a notebook .*move it to a \.py file"):
            name_of(in_main(monkeypatch, file))

    def test_the_target_of_what_has_no_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a file the module's name is all there is to tell."""
        assert worker_target(in_main(monkeypatch, None)) == "__main__"
