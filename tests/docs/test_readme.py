"""Figures that the README quotes are those of the records."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SYSTEMS = ("queuelib", "celery", "celery-tuned", "rq", "dramatiq", "huey")
ROWS = (1, 2, 3, 9, 19)  # of the fault suite, in the order of the table


def test_what_is_lost_is_what_was_recorded() -> None:
    """Of each fault and each system."""
    latest = max((ROOT / "docs" / "reliability").glob("peers-*.json"))
    results = json.loads(latest.read_text(encoding="utf-8"))["results"]
    recorded = {(one["row"], one["system"]): f"{one['lost']} of {one['accepted']}" for one in results}
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("| fault, on Redis |")[2].partition("\n\n")[0]
    quoted = [re.findall(r"\d+ of \d+", line) for line in table.splitlines()[2:]]
    assert quoted == [[recorded[row, system] for system in SYSTEMS] for row in ROWS]
