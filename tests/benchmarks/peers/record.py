"""The record of a run: one JSON file, written after each session, so that a run can be broken off and gone on with."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["Record"]

_FORMAT = 1


class Record:
    """What is known so far."""

    def __init__(self, path: Path) -> None:
        """Start an empty one; nothing is written yet."""
        self.path = path
        self.facts: dict[str, Any] = {"format": _FORMAT, "about": {}, "sessions": {}, "imports": {}}

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read one.

        Raises:
            OSError: It is not there.
            ValueError: It is no record, or one of another format.
        """
        record = cls(path)
        record.facts = json.loads(path.read_text())
        if record.facts.get("format") != _FORMAT:
            raise ValueError(f"{path} is not a record of format {_FORMAT}")
        return record

    @classmethod
    def go_on(cls, path: Path, about: dict[str, Any]) -> Record:
        """Return the record of a run of the same things that was broken off, else an empty one."""
        if path.exists():
            record = cls.read(path)
            known = record.facts["about"]
            if "seconds" not in known and all(known.get(name) == value for name, value in about.items()):
                return record
        return cls(path)

    def has(self, key: str) -> bool:
        """Say whether this session has been measured without an error."""
        session = self.facts["sessions"].get(key)
        return session is not None and "error" not in session["figures"]

    def keep(self, key: str, order: dict[str, Any], figures: dict[str, Any], seconds: float) -> None:
        """Keep a session's figures, and write the file."""
        self.facts["sessions"][key] = {"order": order, "figures": figures, "seconds": round(seconds, 1)}
        self.write()

    def write(self) -> None:
        """Write the file whole, or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps(_rounded(self.facts), indent=1) + "\n")
        os.replace(beside, self.path)  # noqa: PTH105 - says that it replaces

    def figures(self, broker: str, contestant: str, kind: str) -> list[dict[str, Any]]:
        """Return the figures of all rounds of a session that were measured."""
        start = f"{broker}/{contestant}/{kind}/"
        found = [session["figures"] for key, session in self.facts["sessions"].items() if key.startswith(start)]
        return [figures for figures in found if figures]

    def value(
        self, broker: str, contestant: str, figure: str, *, kind: str = "queue", of: Callable[[Any], Any] = median
    ) -> float | None:
        """Return the median of a figure over the rounds; None if there is none."""
        values = [figures[figure] for figures in self.figures(broker, contestant, kind) if figure in figures]
        return float(of(values)) if values else None


def _rounded(value: Any) -> Any:
    """Five digits are more than any of it is worth."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value
