"""`queuelib bench`: what it prints, on few jobs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner

from queuelib.cli import figures
from queuelib.cli.bench import bench
from queuelib.cli.descendants import descendants, held, pss_mib
from queuelib.testing import eventually
from queuelib.workloads.noop import fib, noop

FEW = ("--jobs", "200", "--items", "300", "--latencies", "10", "--processes", "1")
FIGURES = {
    "submit_us",
    "drain_per_s",
    "read_per_s",
    "submit_many_per_s",
    "latency_p50_ms",
    "latency_p99_ms",
    "map_per_s",
    "map_messages_share",
    "map_growth_mib",
    "start_s",
    "import_ms",
    "worker_mib",
    "few_waiting_per_s",
    "many_waiting_per_s",
}


def run(*arguments: str) -> str:
    result = CliRunner().invoke(bench, [*arguments, *FEW], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one run on an SQLite file says; it takes seconds."""
    folder = tmp_path_factory.mktemp("bench")
    printed = json.loads(run(f"sqlite:///{folder}/bench.db", "--waiting", "1500", "--json"))
    assert isinstance(printed, dict)
    return printed


def test_it_prints_one_json_object_with_what_was_asked_and_what_was_found(found: dict[str, Any]) -> None:
    """`--json` prints the broker, the amounts, and every figure, none of them negative."""
    assert found["broker"].startswith("sqlite:///")
    assert found["results"] == found["broker"]
    assert (found["jobs"], found["items"], found["processes"]) == (200, 300, 1)
    assert set(found) >= FIGURES
    assert all(found[name] > 0 for name in FIGURES - {"map_growth_mib"})
    assert found["map_growth_mib"] >= 0
    assert found["latency_p50_ms"] <= found["latency_p99_ms"]


def test_a_map_sends_fewer_messages_than_items(found: dict[str, Any]) -> None:
    """Items share broker messages, and the share says so."""
    assert 0 < found["map_messages_share"] < 1


def test_the_table_has_a_line_for_each_figure_that_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --json there is a table; memory:// has no worker to weigh, and no waiting jobs were asked for."""
    monkeypatch.setattr(figures, "descendants", list[int])  # other tests may have left some to this process
    table = run("memory://bench-table")
    assert "drain of jobs that were submitted one by one" in table
    assert "submit_many" in table
    assert "memory of the idle worker" not in table
    assert "while as many wait" not in table


def test_help_shows_examples_as_they_are_typed() -> None:
    """Each example of --help stands on a line of its own."""
    lines = [line.strip() for line in CliRunner().invoke(bench, ["--help"]).stdout.splitlines()]
    assert "queuelib bench redis://localhost/0" in lines


def test_two_different_brokers_are_refused() -> None:
    """URL and --broker are one thing: both with different values is a usage error."""
    result = CliRunner().invoke(bench, ["memory://one", "--broker", "memory://two"])
    assert result.exit_code == 2
    assert "give the broker once" in result.stderr


def test_the_jobs_are_what_they_say() -> None:
    """`noop` returns its argument and fib the Fibonacci number."""
    assert noop(7) == 7
    assert [fib(n) for n in range(8)] == [0, 1, 1, 2, 3, 5, 8, 13]


@pytest.mark.skipif(sys.platform != "linux", reason="workers run on Linux")
def test_descendants_are_held_back_and_let_go() -> None:
    """A child of a child is found and weighed, answers nothing while it is held, and answers afterwards."""
    before = descendants()
    # The shell does not replace itself by cat: there is a command after it.
    with subprocess.Popen(["sh", "-c", "cat; true"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        shell.stdin.write(b"a\n")
        shell.stdin.flush()
        assert shell.stdout.readline() == b"a\n"  # cat runs
        below = [pid for pid in descendants() if pid not in before]
        assert below[0] == shell.pid
        assert len(below) == 2
        assert pss_mib() > 0
        with held():
            eventually(lambda: [_state(pid) for pid in below] == ["T", "T"], within=5.0)  # the signal is on its way
        shell.stdin.write(b"b\n")
        shell.stdin.flush()
        assert shell.stdout.readline() == b"b\n"
        shell.stdin.close()
    assert shell.returncode == 0
    assert os.getpid() not in below


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:  # noqa: PTH123 - one line
        return stat.read().rpartition(")")[2].split()[0]
