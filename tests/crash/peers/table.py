"""The record as Markdown: a table of what was lost, one of each fault, and what has to be known to read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["table"]


def table(record: Mapping[str, Any]) -> list[str]:
    """Return the lines that show a record of `python -m tests.crash.peers`.

    Args:
        record: As read from its JSON file.
    """
    results = {(result["row"], result["system"]): result for result in record["results"]}
    rows = [row for row in record["faults"] if any(str(number) == row for number, _ in results)]
    systems = [name for name in record["systems"] if any(system == name for _, system in results)]
    lines = [
        f"| fault | {' | '.join(_title(record, name) for name in systems)} |",
        f"|---|{'---|' * len(systems)}",
    ]
    for row in rows:
        cells = (_cell(results.get((int(row), name))) for name in systems)
        lines.append(f"| {row}. {record['faults'][row]} | {' | '.join(cells)} |")
    lines += ["", *_notes(record, systems)]
    for row in rows:
        lines += [
            "",
            f"**{row}. {record['faults'][row]}**",
            "",
            "| system | runs | accepted | lost | ran again | overlapping | recovered after, median / max | seen |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [_detail(record, results[int(row), name]) for name in systems if (int(row), name) in results]
    return lines


def _title(record: Mapping[str, Any], name: str) -> str:
    system = record["systems"][name]
    return f"{system['title']} {system['version']}".strip()


def _cell(result: Mapping[str, Any] | None) -> str:
    if result is None:
        return "-"
    if not result["runs"]:
        return "no run"
    parts = [f"**{result['lost']} of {result['accepted']} lost**" if result["lost"] else "none lost"]
    if result["seconds_median"] is not None:
        parts.append(f"{result['seconds_median']:g} s")
    if result["again"]:
        parts.append(f"{result['again']} ran again")
    return ", ".join(parts)


def _detail(record: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    seconds = "never"
    if result["seconds_median"] is not None:
        seconds = f"{result['seconds_median']:g} / {result['seconds_max']:g} s"
        if result["recovered"] < result["runs"]:
            seconds += f" ({result['recovered']} of {result['runs']} runs)"
    runs = f"{result['runs']}" + (f" (and {result['broken']} without a result)" if result["broken"] else "")
    numbers = " | ".join(str(result[name]) for name in ("accepted", "lost", "again", "overlapping"))
    seen = result["seen"].replace("|", "\\|")
    return f"| {_title(record, result['system'])} | {runs} | {numbers} | {seconds} | {seen} |"


def _notes(record: Mapping[str, Any], systems: list[str]) -> list[str]:
    machine, servers = record["machine"], record["servers"]
    lines = [
        (
            f"Measured on {record['date']}: {machine['cpus']} CPUs ({machine['cpu']}), {machine['system']}, "
            f"{machine['python']}, {', '.join(servers.values())}; up to {record['parallel']} runs at a time, seed "
            f"`{record['seed']}`, queuelib at commit {machine['queuelib_commit']}. All workers and the server are on one "
            "host. The jobs write their starts and ends to a file themselves."
        ),
        "",
        (
            f"- **Lost**: accepted, and not run to its end within {record['wait']:g} s of the fault. It may come later where "
            "a longer time is set, see below."
        ),
        (
            "- **Ran again**: jobs that were started more often than once and once more for each process that was killed "
            "amid them. **Overlapping**: jobs of which two runs went on at the same time; a frozen run "
            "counts as going on, so that row 13 has both wherever another worker took the job over."
        ),
        (
            "- **Recovered after**: seconds from the fault, or from its end, until the last job that it touched had ended; in "
            "brackets in how many of the runs all of them did. Booting a new worker is part of it in rows 3 and 9."
        ),
    ]
    lines += [f"- {note}" for note in record.get("notes", ())]
    lines += [f"- **{_title(record, name)}**: {record['systems'][name]['setup']}" for name in systems]
    return lines
