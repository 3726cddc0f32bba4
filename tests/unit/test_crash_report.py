"""The page that the fault suite's records are made into."""

from __future__ import annotations

import json
from pathlib import Path

from tests.crash.report import page
from tests.crash.rows import LATER

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"


def result(row: str, broker: str, *, ok: bool, seed: int = 1, **figures: object) -> str:
    """Return a line of a record."""
    fields = {"row": row, "title": f"what {row} does", "broker": broker, "seed": seed, "lease": 1.5, "ok": ok,
              "seconds": 1.0, "error": "" if ok else "lost: 1", "figures": figures, "at": 1_800_000_000}  # fmt: skip
    return json.dumps(fields)


def test_the_page_is_what_the_records_say() -> None:
    """Nobody types a figure: `python -m tests.crash.report` makes docs/reliability.md."""
    assert (DOCS / "reliability.md").read_text(encoding="utf-8") == page(DOCS / "reliability")


def test_a_failure_is_on_the_page(tmp_path: Path) -> None:
    """A cell says how many runs held, what they measured, and by its count that one did not."""
    lines = [result("1", "redis", ok=True, seed=1, death=[0.5, 0.7]), result("1", "redis", ok=False, seed=2),
             result("10-full", "sqlite", ok=True, jobs=100_000, starts=100_002)]  # fmt: skip
    (tmp_path / "rows-2027-01-15.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = page(tmp_path)
    assert "| 1 | what 1 does |  | 1 of 2; death 0.60/0.70 |  |" in text
    assert "| 10-full | what 10-full does | 1 of 1; jobs 100,000; starts 100,002 |  |  |" in text
    assert "3 runs, 2 held, 1 failed" in text


def test_what_cannot_be_tried_is_on_the_page(tmp_path: Path) -> None:
    """Rows of what is not built are listed with the reason."""
    (tmp_path / "rows-2027-01-15.jsonl").write_text(result("1", "redis", ok=True) + "\n", encoding="utf-8")
    text = page(tmp_path)
    assert all(f"| {number} | not here: {reason} |" in text for number, reason in LATER.items())
