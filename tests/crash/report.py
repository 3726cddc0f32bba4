"""Makes docs/reliability.md from what the rows, the soak and the comparison with others recorded.

    python -m tests.crash.report [--check]

reads docs/reliability/*.jsonl and *.json, and docs/reliability/notes.md, which people write. Nothing on the page is
typed by hand but the notes.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from tests.crash.rows import BROKERS, LATER

__all__ = ["main", "page"]

_DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
_RECORDS = _DOCS / "reliability"
_PAGE = _DOCS / "reliability.md"
_HEAD = """# Reliability

What becomes of jobs when things break, tried and not argued. Each row below is a fault that a program injects, on every
broker where it makes sense, with seeds that its schedule is drawn from; the jobs themselves write down what runs, and a
checker reads what they wrote: was an accepted job lost, did one run that nobody submitted, did two runs of one overlap,
did one start more often than the faults explain? [Guarantees](guarantees.md) says in words what holds.

    make crash SEEDS=3                                # all rows, on SQLite, Redis and RabbitMQ
    make crash ROWS=9-13 BROKERS=redis CRASH_ARGS='--seed 7'
    make crash-quick                                  # what guards every change
    make crash-peers                                  # some of the rows, on other task queues
    make soak                                         # three million jobs, with a fault each minute

`make crash CRASH_ARGS=--list` lists the rows. A failure prints its seed and the command that repeats it.
"""


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or say whether it is as the records say."""
    parser = argparse.ArgumentParser(prog="tests.crash.report", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page differs")
    wishes = parser.parse_args(arguments)
    text = page(_RECORDS)
    if wishes.check:
        return 0 if _PAGE.read_text(encoding="utf-8") == text else 1
    _PAGE.write_text(text, encoding="utf-8")
    return 0


def page(records: Path) -> str:
    """Return the page for a folder of records."""
    lines = _HEAD.splitlines()
    notes = records / "notes.md"
    if notes.exists():
        lines += ["", *notes.read_text(encoding="utf-8").splitlines()]
    for title, pattern in (("Rows", "rows-*.jsonl"), ("Recovery at the default lease", "recoveries-*.jsonl")):
        for path in sorted(records.glob(pattern), reverse=True)[:1]:
            results = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            lines += ["", f"## {title}", "", *_rows(results, with_later=title == "Rows")]
    for title, pattern, module in (
        ("Beside other task queues", "peers-*.json", "tests.crash.peers.table"),
        ("Soak", "soak-*.json", "tests.crash.soak"),
        ("Bounds", "bounds-*.json", "tests.crash.bounds"),
    ):
        for path in sorted(records.glob(pattern), reverse=True)[:1]:
            table = importlib.import_module(module).table(json.loads(path.read_text(encoding="utf-8")))
            lines += ["", f"## {title}", "", *table]
    return "\n".join(lines) + "\n"


def _rows(results: list[dict[str, Any]], *, with_later: bool) -> list[str]:
    leases = sorted({result["lease"] for result in results})
    days = sorted({_day(result["at"]) for result in results})
    seeds = sorted({result["seed"] for result in results})
    held = sum(result["ok"] for result in results)
    lines = [
        f"{len(results)} runs, {held} held, {len(results) - held} failed; {' to '.join(sorted({days[0], days[-1]}))};",
        f"leases of {', '.join(f'{lease:g} s' for lease in leases)}; {len(seeds)} seeds. A cell: how many runs held, and",
        "what they measured in seconds as median/longest.",
        "",
        "| row | what is done | SQLite | Redis | RabbitMQ |",
        "|---|---|---|---|---|",
    ]
    by_row: defaultdict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        by_row[_order(result["row"])].append(result)
    for number, reason in LATER.items() if with_later else ():
        by_row[number, ""] = [
            {"row": str(number), "title": f"not here: {reason}", "broker": "", "ok": False, "figures": {}}
        ]
    for key in sorted(by_row):
        same = by_row[key]
        cells = [_cell([result for result in same if result["broker"] == broker]) for broker in BROKERS]
        lines.append(f"| {same[0]['row']} | {same[-1]['title']} | {' | '.join(cells)} |")
    return lines


def _order(row: str) -> tuple[int, str]:
    number, _, variant = row.partition("-")
    return int(number), variant


def _cell(results: list[dict[str, Any]]) -> str:
    if not results:
        return ""
    held = sum(result["ok"] for result in results)
    parts = [f"{held} of {len(results)}"]
    measured: defaultdict[str, list[float]] = defaultdict(list)
    for result in results:
        for name, value in result["figures"].items():
            if isinstance(value, list):
                measured[name] += value
    parts += [f"{name} {statistics.median(some):.2f}/{max(some):.2f}" for name, some in measured.items() if some]
    counted = results[-1]["figures"]
    parts += [f"{name} {value:,}" for name, value in counted.items() if isinstance(value, int) and name in _COUNTS]
    return "; ".join(parts)


_COUNTS = ("jobs", "kills of workers", "kills of children", "starts", "set aside")


def _day(at: float) -> str:
    return dt.datetime.fromtimestamp(at, tz=dt.UTC).date().isoformat()


if __name__ == "__main__":
    sys.exit(main())
