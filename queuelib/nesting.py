"""How deeply a value is nested, and where: measured level by level, for what is too deep for recursion."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import cast

from queuelib.errors import SoftTimeLimit
from queuelib.extensions import MAX_LIST, fields_of

__all__ = ["SCALARS", "children_of", "is_shallow", "too_deep"]

SCALARS = frozenset({int, float, str, bytes, bool, type(None)})
_LISTS = frozenset({list, tuple})


def is_shallow(value: object, depth: int) -> bool:
    """Return whether a value has at most so many containers within each other."""
    level = [value]
    for _ in range(depth):
        if not level:
            return True
        if _LISTS.issuperset(map(type, level)):  # the common case, without generators
            lists = cast("list[list[object]]", level)
            children = (item for item in chain.from_iterable(lists) if type(item) not in SCALARS)
        else:
            children = (child for item in level for _, child in children_of(item))
        # each object once, or what contains itself in two places would double from level to level
        level = list({id(child): child for child in children}.values())
        if len(level) > MAX_LIST:
            return False
    return not level


def too_deep(value: object, depth: int) -> str:
    """Return a message that says where a value is nested too deeply."""
    return f"value{_deepest(value, depth)} is nested deeper than {depth} containers, or contains itself"


def _deepest(value: object, depth: int) -> str:
    path = ""
    for _ in range(depth):
        for step, child in children_of(value):
            if not is_shallow(child, depth):
                path, value = path + step, child
                break
        if len(path) > 60:  # noqa: PLR2004 - enough to find it
            return path + "..."
    return path


def children_of(value: object) -> Iterator[tuple[str, object]]:
    """Yield the containers directly inside a value, with the path to each."""
    if isinstance(value, dict):
        for key, item in value.items():
            if type(item) not in SCALARS:
                yield f"[{_words(key)}]", item
            if type(key) not in SCALARS:
                yield f"<key {_words(key)}>", key
    elif isinstance(value, list | tuple | set | frozenset):
        for position, item in enumerate(value):
            if type(item) not in SCALARS:
                yield f"[{position}]", item
    else:
        for name, item in _fields_set(value).items():
            if type(item) not in SCALARS:
                yield f".{name}", item


def _fields_set(value: object) -> dict[str, object]:
    try:
        return fields_of(value) or {}
    except SoftTimeLimit:
        raise
    except Exception:  # noqa: BLE001 - one was never set, or does harm, which is said elsewhere
        return {}


def _words(key: object) -> str:
    try:
        return repr(key)[:40]
    except Exception:  # noqa: BLE001 - a foreign __repr__, or an integer of more digits than Python prints
        return type(key).__name__
