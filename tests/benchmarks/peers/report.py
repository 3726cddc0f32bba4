"""Writes docs/benchmarks.md and its charts from a record; what is said by hand is in docs/benchmarks/notes.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.peers import chart
from tests.benchmarks.peers.catalog import ENTRIES
from tests.benchmarks.peers.record import Record

__all__ = ["page", "write"]

_BROKERS = {"redis": "Redis", "amqp": "RabbitMQ", "sqlite": "SQLite", "none": "No broker"}
_US = "queuelib"
_PAGE = """\
# Benchmarks

<!-- Written by tests/benchmarks/peers/report.py from {record}: change docs/benchmarks/notes.md, or run `make bench-peers`. -->

The same work, in one run on one machine, on queuelib, on other task queues, and on a floor written by hand. The figures
are medians of {rounds}; they compare within this page, not with figures from elsewhere.
[What was recorded]({folder}/{record}), every session of it.

{charts}

{sections}

## Where this was measured

{machine}

{versions}

The load of the machine was {load} before the run. Each session is a process of its own, on a fresh namespace, with two worker
processes; contestants take turns, A B C A B C, so that a slow minute of the machine meets all of them.

## How each is set up

{setups}

{notes}
"""
_DRAIN = """\
Each job does nothing and is submitted by its own call, so that it is a broker message of its own; all of them wait
before the workers, which are up and idle and held back by `SIGSTOP`, are let go. *Drained* counts jobs from then until
the results are stored. *And read* is the same with every result then fetched by its id, by the same client.
*Submitted* is one call after the other, each acknowledged by the broker; *of LPUSH* divides it by a bare `LPUSH` of as
many bytes. *At once* is the way for many, where there is one. The range is that of the rounds, and *queuelib is* how
many times as quick as this one.
"""
_SINGLE = """\
Jobs one at a time on idle workers: from the call of submit until the client has the result. *Start* goes from starting
the worker's command to the first result of a job that was waiting. *Memory* is the sum of the proportional set sizes
of all of the worker's processes, idle.
"""
_MAP = """\
fib(12), from a generator, results in order, as one call. *Growth* is how much larger the client became meanwhile, at its
peak. *Broker messages* is how many the client sent, as a share of the items.
"""
_WAITING = """\
Jobs done a second, over {window:,} jobs, while as many wait: 500 are submitted at once whenever the oldest 500 have
been fetched.
"""


def write(record: Record, notes: Path) -> list[Path]:
    """Write the page beside the record's folder, and charts into it; return their paths."""
    folder = record.path.parent
    written = [folder.with_suffix(".md")]
    written[0].write_text(page(record, notes.read_text() if notes.exists() else ""))
    for one in _charts(record):
        written.append(folder / f"{one.name}.svg")
        chart.draw(one, written[-1])
    return written


def page(record: Record, notes: str) -> str:
    """Return the page, in Markdown, with `notes` at its end."""
    folder = record.path.parent.name
    about = record.facts["about"]
    text = _PAGE.format(
        folder=folder,
        record=record.path.name,
        rounds=_rounds(about["scale"]["rounds"]),
        charts="\n\n".join(f"![{one.alt}]({folder}/{one.name}.svg)" for one in _charts(record)),
        sections="\n\n".join(_sections(record)),
        machine=_table(["", ""], [[name.replace("_", " "), str(value)] for name, value in _facts(about)]),
        versions="Versions: " + ", ".join(f"{name} {version}" for name, version in about["versions"].items()) + ".",
        load=about.get("load_before", "not noted"),
        setups=_setups(record),
        notes=notes.strip(),
    )
    return text.rstrip() + "\n"


def _sections(record: Record) -> Iterator[str]:
    for broker, title in _BROKERS.items():
        present = [name for name in ENTRIES if record.figures(broker, name, "queue")]
        if present:
            yield f"## Single jobs: {title}\n\n{_DRAIN if broker == 'redis' else ''}\n{_drain_table(record, broker, present)}"
            yield f"{_SINGLE if broker == 'redis' else ''}\n{_single_table(record, broker, present)}"
    if rows := list(_map_rows(record)):
        head = ["", "broker", "items", "chunk", "items/s", "of Pool.imap", "growth, MiB", "broker messages"]
        yield f"## A map over many items\n\n{_MAP}\n{_table(head, rows)}"
    if rows := list(_waiting_rows(record)):
        window = record.facts["about"]["scale"]["window"]
        head = ["broker", "few wait", "jobs/s", "many wait", "jobs/s", "many / few"]
        yield f"## Many jobs waiting\n\n{_WAITING.format(window=window)}\n{_table(head, rows)}"
    if imports := record.facts["imports"]:
        rows = [[f"`{name}`", f"{ms:,.0f}"] for name, ms in sorted(imports.items(), key=lambda item: item[1])]
        yield f"## Importing\n\nBeyond an empty program.\n\n{_table(['', 'ms'], rows)}"


def _drain_table(record: Record, broker: str, present: Sequence[str]) -> str:
    head = ["", "delivery", "jobs", "drained/s", "range", "queuelib is", "and read/s", "submitted, µs", "at once/s"]
    if broker == "redis":
        head.insert(-1, "of LPUSH")
    if broker == "none":
        head.remove("queuelib is")
    ours = record.value(broker, _US, "drain_per_s")
    rows = []
    for name in _by(record, broker, present, "drain_per_s"):
        get = _getter(record, broker, name)
        drained, submitted, plain = get("drain_per_s"), get("submit_us"), get("lpush_us")
        low, high = get("drain_per_s", of=min), get("drain_per_s", of=max)
        row = [
            _bold(name),
            ENTRIES[name].delivery,
            _number(get("drain_jobs")),
            _number(drained),
            f"{_number(low)} to {_number(high)}",
            *([_times(ours, drained) if name != _US else ""] if broker != "none" else []),
            _number(get("drain_read_per_s")),
            _number(submitted),
            *([_times(submitted, plain)] if broker == "redis" else []),
            _number(get("bulk_per_s")),
        ]
        rows.append(row)
    return _table(head, rows) + _failures(record, broker, present, "queue")


def _single_table(record: Record, broker: str, present: Sequence[str]) -> str:
    head = ["", "median, ms", "99th percentile, ms", "start, s", "memory, MiB", "processes"]
    rows = []
    for name in _by(record, broker, present, "latency_p50_ms", is_descending=False):
        get = _getter(record, broker, name)
        figures = ("latency_p50_ms", "latency_p99_ms", "start_s", "pss_mib")
        rows.append([_bold(name), *(_number(get(figure)) for figure in figures), _number(get("processes"), whole=True)])
    return _table(head, rows)


def _map_rows(record: Record) -> Iterator[list[str]]:
    found = [(broker, name) for broker in _BROKERS for name in ENTRIES if record.figures(broker, name, "map")]
    pool = record.value("none", "multiprocessing", "map_per_s", kind="map")
    for broker, name in found:
        get = _getter(record, broker, name, kind="map")
        messages = get("map_messages_share")
        yield [
            _bold(name),
            _BROKERS[broker] if broker != "none" else "",
            _number(get("map_jobs")),
            _number(get("map_chunk"), whole=True),
            _number(get("map_per_s")),
            _times(get("map_per_s"), pool),
            _number(get("map_growth_mib")),
            f"{messages:.2%}" if messages is not None else "",
        ]


def _waiting_rows(record: Record) -> Iterator[list[str]]:
    for broker, title in _BROKERS.items():
        for figures in record.figures(broker, _US, "waiting"):
            rates = {int(count): rate for count, rate in figures.get("waiting_per_s", {}).items()}
            if rates:
                few, many = min(rates), max(rates)
                ratio = _times(rates[many], rates[few])
                yield [title, f"{few:,}", _number(rates[few]), f"{many:,}", _number(rates[many]), ratio]


def _charts(record: Record) -> list[chart.Chart]:
    """One panel a broker for what is drained, and one for the map; what was not measured is left out."""
    drained = {
        title: _present({name: record.value(broker, name, "drain_per_s") for name in ENTRIES})
        for broker, title in _BROKERS.items()
        if broker != "none"
    }
    mapped = _present(
        {
            name if broker == "none" else f"{name}, {title}": record.value(broker, name, "map_per_s", kind="map")
            for broker, title in _BROKERS.items()
            for name in ENTRIES
        }
    )
    charts = [
        chart.Chart(
            "drain",
            "Jobs drained a second by two worker processes, each a broker message",
            [
                chart.Panel(f"{title}: jobs drained a second", values, _US)
                for title, values in drained.items()
                if values
            ],
        ),
        chart.Chart(
            "map",
            "Items mapped a second by two processes",
            [chart.Panel("fib(12), items a second, two processes", mapped, _US)] if mapped else [],
        ),
    ]
    return [one for one in charts if one.panels]


def _present(values: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _facts(about: dict[str, Any]) -> list[tuple[str, Any]]:
    return [("started", about["started"]), *about["machine"].items(), *about["servers"].items()]


def _setups(record: Record) -> str:
    seen = {key.split("/")[1] for key in record.facts["sessions"]}
    return _table(
        ["", "delivery", "configuration"],
        [[_bold(entry.name), entry.delivery, entry.setup] for entry in ENTRIES.values() if entry.name in seen],
    )


def _failures(record: Record, broker: str, present: Sequence[str], kind: str) -> str:
    failed = {
        name: [figures["error"] for figures in record.figures(broker, name, kind) if "error" in figures]
        for name in present
    }
    lines = [f"{name} failed in a round: `{errors[0][:160]}`." for name, errors in failed.items() if errors]
    return "\n\n" + "\n".join(lines) if lines else ""


def _getter(record: Record, broker: str, name: str, kind: str = "queue") -> Callable[..., float | None]:
    def get(figure: str, **options: Any) -> float | None:
        return record.value(broker, name, figure, kind=kind, **options)

    return get


def _by(
    record: Record, broker: str, present: Sequence[str], figure: str, *, is_descending: bool = True
) -> Sequence[str]:
    known = {name: record.value(broker, name, figure) for name in present}
    return sorted(present, key=lambda name: known[name] or 0.0, reverse=is_descending)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _bold(name: str) -> str:
    return f"**{name}**" if name == _US else name


def _times(value: float | None, base: float | None) -> str:
    return f"{value / base:.2f} x" if value is not None and base else ""


def _number(value: float | None, *, whole: bool = False) -> str:
    """Three digits that count, and none that do not."""
    if value is None:
        return ""
    if whole or value >= 1000:
        return f"{value:,.0f}" if whole else f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _rounds(count: int) -> str:
    return f"{count} rounds" if count > 1 else "one round: too few to rely on"
