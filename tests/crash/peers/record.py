"""What was measured: a JSON file, and how the runs of a fault on a system are summed up in it."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["sum_up", "updated"]


def sum_up(row: int, system: str, runs: Sequence[Mapping[str, Any]], *, broken: int = 0) -> dict[str, Any]:
    """Sum the runs of one fault on one system up; `broken` is how many came to no result."""
    times = [run["recovered_after"] for run in runs if run["recovered_after"] is not None]
    return {
        "row": row,
        "system": system,
        "runs": len(runs),
        "broken": broken,
        "accepted": sum(run["accepted"] for run in runs),
        "ran": sum(run["ran"] for run in runs),
        "lost": sum(len(run["lost"]) for run in runs),
        "again": sum(len(run["again"]) for run in runs),
        "overlapping": sum(len(run["overlapping"]) for run in runs),
        "recovered": len(times),
        "seconds_median": round(statistics.median(times), 1) if times else None,
        "seconds_max": round(max(times), 1) if times else None,
        "seen": _seen(runs),
        "each": list(runs),
    }


def updated(record: Mapping[str, Any], news: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record in which what was measured anew takes the place of what it has of the same fault and system."""
    results = {(result["row"], result["system"]): result for result in record["results"]}
    results |= {(result["row"], result["system"]): {**result, "anew": news["date"]} for result in news["results"]}
    faults = record["faults"] | news["faults"]
    return {
        **record,
        "faults": dict(sorted(faults.items(), key=lambda item: int(item[0]))),
        "systems": record["systems"] | news["systems"],
        "results": list(results.values()),
    }


def _seen(runs: Sequence[Mapping[str, Any]]) -> str:
    """Say in a line what was seen, with how many runs it was seen in where it was not all."""
    found: Counter[str] = Counter()
    for run in runs:
        if run["lost"]:
            life = "worker alive" if run["is_alive"] else "worker ended"
            found[f"{life}, {'a warning logged' if run['has_warned'] else 'silent'}"] += 1
        if run["exits"]:
            found["the worker ended by itself or with its job"] += 1
        found.update(run["facts"])
    return "; ".join(
        what if times == len(runs) else f"{what} ({times} of {len(runs)})" for what, times in found.items()
    )
