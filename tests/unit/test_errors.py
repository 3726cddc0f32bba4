"""The tree of errors: as it is drawn, and nothing else."""

from __future__ import annotations

import re

from queuelib import errors
from queuelib.errors import BrokerUnavailable, QueuelibError, SubmitUnknown

CLASSES = [getattr(errors, name) for name in errors.__all__ if name != "Shutdown"]  # which is not an Exception


def drawn() -> dict[str, tuple[str, set[str]]]:
    """Return what the docstring shows: for each error the name above it, and the names in brackets."""
    found: dict[str, tuple[str, set[str]]] = {}
    above = ["Exception"]
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"(?P<lines>[│├└─ ]*)(?P<name>[A-Z]\w+)\b(?: \((?P<also>[\w., ]+)\))?(?:  +\S|$)", line)
        if match is None:
            continue
        depth = len(match["lines"]) // 4
        above[depth + 1 :] = [match["name"]]
        found[match["name"]] = (above[depth], set((match["also"] or "").replace(" ", "").split(",")) - {""})
    return found


def real() -> dict[str, tuple[str, set[str]]]:
    """Return the same of the classes."""
    found = {}
    for cls in CLASSES:
        names = [
            base.__name__ if base.__module__ in {"builtins", errors.__name__} else "concurrent.futures." + base.__name__
            for base in cls.__bases__
        ]
        found[cls.__name__] = (names[0], set(names[1:]))
    return found


def test_the_tree_is_as_it_is_drawn() -> None:
    """The docstring of errors.py shows every error, what is above it, and the builtin it refines."""
    assert drawn() == real()


def test_every_error_is_listed() -> None:
    """What the module defines is what it exports."""
    defined = {
        name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, QueuelibError)
    }
    assert defined | {"Shutdown"} == set(errors.__all__)


def test_every_error_is_explained() -> None:
    """Each has a docstring of its own, and one root."""
    assert [cls for cls in CLASSES if not cls.__doc__ or not issubclass(cls, QueuelibError)] == []


def test_a_submission_that_failed_half_way_says_how_far_it_came() -> None:
    """Both errors carry the ids that were accepted and those in doubt, as tuples that nobody changes."""
    unavailable = BrokerUnavailable("gone", accepted=["a"], unknown=["b"])
    assert (unavailable.accepted, unavailable.unknown, str(unavailable)) == (("a",), ("b",), "gone")
    unknown = SubmitUnknown("lost", ids=["b"], frames=[1], accepted=["a"])
    assert (unknown.accepted, unknown.unknown, unknown.ids, unknown.frames) == (("a",), ("b",), ("b",), (1,))
