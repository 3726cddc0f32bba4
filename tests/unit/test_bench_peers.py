"""The comparison with peers: what is planned, what a broken-off run keeps, and what the page says."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.peers import report
from tests.benchmarks.peers.catalog import BROKERS, ENTRIES, ROWS
from tests.benchmarks.peers.place import ROOT, Place
from tests.benchmarks.peers.plan import Scale, plan
from tests.benchmarks.peers.record import Record

SCALE = Scale(rounds=2, jobs=1000, latencies=200, items=5000, deep=10_000)
ABOUT = {"scale": asdict(SCALE), "machine": {"cpus": 2}, "servers": {}, "versions": {"rq": "2.0"}}


def test_contestants_take_turns() -> None:
    """On a broker every contestant has its first round before any has its second."""
    entries = [ENTRIES["queuelib"], ENTRIES["rq"]]
    keys = [step.key for step in plan(entries, ["redis"], ["drain"], SCALE)]
    assert keys == ["redis/queuelib/queue/1", "redis/rq/queue/1", "redis/queuelib/queue/2", "redis/rq/queue/2"]


def test_a_plan_has_what_was_asked_for() -> None:
    """Brokers and rows that were not asked for are not run; sessions are known by different keys."""
    steps = list(plan(list(ENTRIES.values()), BROKERS, ROWS, SCALE))
    assert {step.broker for step in steps} == set(BROKERS)
    assert len({step.key for step in steps}) == len(steps)
    assert {step.order.kind for step in plan(list(ENTRIES.values()), ["sqlite"], ["map"], SCALE)} == {"map"}


def test_slow_contestants_get_fewer_jobs() -> None:
    """A share of the jobs below 1 is a share of what is drained."""
    slow = replace(ENTRIES["rq"], share=0.25)
    assert [step.order.jobs for step in plan([slow], ["redis"], ["drain"], SCALE)] == [250, 250]


def test_a_run_that_was_broken_off_goes_on(tmp_path: Path) -> None:
    """An unfinished record of the same things is gone on with, without what failed in it."""
    path = tmp_path / "benchmarks" / "record.json"
    record = Record(path)
    record.facts["about"] = dict(ABOUT)
    record.keep("redis/rq/queue/1", {}, {"drain_per_s": 1.0}, 2.0)
    record.keep("redis/rq/queue/2", {}, {"error": "no"}, 2.0)
    again = Record.go_on(path, ABOUT)
    assert again.has("redis/rq/queue/1")
    assert not again.has("redis/rq/queue/2")
    assert not again.has("redis/rq/queue/3")


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.facts["about"].update(seconds=5),
        lambda record: record.facts["about"].update(versions={"rq": "3.0"}),
    ],
    ids=["finished", "of other versions"],
)
def test_another_run_starts_anew(tmp_path: Path, change: Callable[[Record], object]) -> None:
    """What is finished, or was measured with other versions, is not mixed with what is measured now."""
    record = Record(tmp_path / "record.json")
    record.facts["about"] = dict(ABOUT)
    change(record)
    record.keep("redis/rq/queue/1", {}, {"drain_per_s": 1.0}, 2.0)
    assert not Record.go_on(record.path, ABOUT).has("redis/rq/queue/1")


def test_medians_are_reported(tmp_path: Path) -> None:
    """A figure is the median of its rounds, and a round that failed before it does not count."""
    record = Record(tmp_path / "record.json")
    figures: list[dict[str, Any]] = [{"drain_per_s": 9.0}, {"error": "no"}, {"drain_per_s": 1.0}, {"drain_per_s": 2.0}]
    for number, one in enumerate(figures):
        record.keep(f"redis/rq/queue/{number}", {}, one, 1.0)
    assert record.value("redis", "rq", "drain_per_s") == 2.0
    assert record.value("redis", "rq", "drain_per_s", of=max) == 9.0
    assert record.value("redis", "huey", "drain_per_s") is None


def test_pika_is_told_the_default_virtual_host_in_its_own_way() -> None:
    """A second slash is %2F for pika; a named host stays as it is."""
    place = Place("amqp", "", "amqp://localhost:5672//", "", "")
    assert place.amqp_for_pika == "amqp://localhost:5672/%2F"
    assert replace(place, amqp="amqp://localhost/own").amqp_for_pika == "amqp://localhost/own"


def test_the_page_is_what_the_report_writes() -> None:
    """docs/benchmarks.md is made of its record and of notes.md: `make bench-peers BENCH_ARGS=--report` writes it."""
    written = (ROOT / "docs" / "benchmarks.md").read_text()
    name = re.search(r"report\.py from (\S+\.json)", written)
    assert name is not None
    folder = ROOT / "docs" / "benchmarks"
    assert report.page(Record.read(folder / name[1]), (folder / "notes.md").read_text()) == written
