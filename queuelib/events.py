"""Observers: told what has already happened; an error in one is logged and changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Events", "Observer"]

Observer = Callable[[str, Mapping[str, Any]], None]
_log = logging.getLogger("queuelib.events")


class Events:
    """A list of observers, called in the order in which they came."""

    def __init__(self) -> None:
        self._observers: list[Observer] = []

    def add(self, observer: Observer) -> Observer:
        """Add an observer, a function of the event's name and its facts; return it, so that this decorates."""
        self._observers.append(observer)
        return observer

    def tell(self, name: str, **facts: Any) -> None:
        """Tell every observer."""
        for observer in self._observers:
            try:
                observer(name, facts)
            except Exception:  # noqa: BLE001 - observers are foreign code, and a job must not suffer from one
                _log.exception("an observer failed on %s", name)
