"""The judgement of the long run: it must see what grows, or that nothing grew says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.soak import Fault, Sample, check_tally, judge, slope, table, verdict
from tests.integration.apps.soaked import ROW

FLAT = {"collected": 20, "lost": 0, "twice": 0, "wrong": []}
FAULT = Fault("worker", 10.0, 11.0, 5)


def life(growth: float, jobs: int = 300_000, pid: int = 1, start: float = 40.0) -> list[Sample]:
    """Return samples of a process that grows by so many MiB for 100,000 jobs, in steps of a quarter."""
    steps = range(0, jobs, 10_000)
    sizes = [start + int(growth * done / 100_000 * 4) / 4 for done in steps]
    return [Sample("supervisor", pid, done, size, size, 9, 1) for done, size in zip(steps, sizes, strict=True)]


def tally(path: Path, *rows: tuple[int, int, int]) -> Path:
    """Write (number, milliseconds, attempt) of starts."""
    path.write_bytes(b"".join(ROW.pack(number, at, 1, attempt) for number, at, attempt in rows))
    return path


@pytest.mark.parametrize("growth", [0.0, 0.5, 2.0, 10.0])
def test_growth_is_found_although_memory_comes_in_steps(growth: float) -> None:
    """About as much as there is."""
    assert judge(life(growth), "redis")["supervisor"]["rss_growth"] == pytest.approx(growth, abs=0.2)


def test_a_restart_is_no_growth_and_hides_none() -> None:
    """Each life counts by itself."""
    lives = [*life(2.0, start=40.0), *life(2.0, pid=2, start=10.0)]
    assert judge(lives, "redis")["supervisor"]["rss_growth"] == pytest.approx(2.0, abs=0.2)


def test_what_fills_at_first_is_no_growth() -> None:
    """A cache that is full after a few jobs."""
    points = [(done, 40.0 + min(10.0, done / 3000)) for done in range(0, 300_000, 10_000)]
    assert slope([points]) == 0.0


def test_a_client_is_judged_once_its_caches_are_full() -> None:
    """They have a bound that a few hundred thousand jobs reach; who goes on growing is seen."""
    points = [(done, 40.0 + min(60.0, done / 3000)) for done in range(0, 500_000, 10_000)]
    assert slope([points], 250_000) == 0.0
    assert slope([points[:30]], 250_000) is None
    assert slope([[(done, done / 100_000) for done in range(0, 500_000, 10_000)]], 250_000) == 1.0


def test_short_lives_are_not_judged() -> None:
    """Nothing is said of them."""
    assert judge(life(5.0, jobs=50_000), "redis")["supervisor"]["rss_growth"] is None


def test_descriptors_that_become_more() -> None:
    """One more for each sample."""
    samples = [Sample("child", 1, done, 9.0, 9.0, done, 1) for done in range(30)]
    assert judge(samples, "redis")["child"]["has_more_descriptors"]
    just_started = [Sample("child", 1, done, 9.0, 9.0, 3 if done < 2 else 20, 1) for done in range(6)]
    assert not judge(just_started, "redis")["child"]["has_more_descriptors"]
    assert not judge(life(0.0), "redis")["supervisor"]["has_more_descriptors"]


def test_starts_are_explained_by_faults_between_them(tmp_path: Path) -> None:
    """A second start of one attempt needs one; a second attempt does not."""
    path = tally(tmp_path / "t", (0, 9000, 1), (0, 12000, 1), (1, 1000, 1), (1, 2000, 2))
    assert check_tally(path, 2, [FAULT], 0)["unexplained"] == 0
    assert check_tally(path, 2, [FAULT], 0)["after_faults"] == [["worker", 1, 2.0]]
    assert check_tally(path, 2, [], 0)["unexplained"] == 1
    assert check_tally(path, 3, [FAULT], 0)["never"] == 1


def test_the_verdict_names_what_is_wrong(tmp_path: Path) -> None:
    """A lost job, a start too many, a process that grows."""
    fine = check_tally(tally(tmp_path / "t", *((number, 1, 1) for number in range(20))), 20, [], 0)
    assert verdict(20, FLAT, fine, judge(life(0.5), "redis")) == []
    assert len(verdict(20, {**FLAT, "lost": 1}, {**fine, "unexplained": 1}, judge(life(2.0), "redis"))) == 3


def test_table_of_a_record() -> None:
    """Each process has its line, and what is wrong is said."""
    server = {"rss": 1.0}
    run = {
        "broker": "redis", "collected": 20, "seconds": 3.0, "faults": [], "client": FLAT, "tally": {"again": 0},
        "processes": judge(life(0.0), "redis"), "errors": ["it grew"],
        "server": {"baseline": server, "ended": server, "forgotten": server},
    }  # fmt: skip
    lines = table({"runs": [run]})
    assert "| redis | 20 | 3 | 0 | 0 | 0 | supervisor | 0.00 | 40 to 40 | 9 to 9 |" in lines
    assert "Not as promised on redis: it grew" in lines
