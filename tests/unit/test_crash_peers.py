"""The comparison of crashes: what is counted in a history, how runs are summed up, and how the record is shown."""

from __future__ import annotations

from typing import Any

import pytest

from tests.crash.history import Run
from tests.crash.peers.catalog import FAULTS, SYSTEMS
from tests.crash.peers.checker import count
from tests.crash.peers.record import sum_up, updated
from tests.crash.peers.table import table

ACCEPTED = ("a", "b")


def finished(label: str, start: float, end: float, pid: int = 1) -> Run:
    return Run(label, pid, 0, start, end, is_finished=True)


def killed(label: str, start: float, end: float, pid: int = 2) -> Run:
    return Run(label, pid, 0, start, end)


def one_run(**changes: Any) -> dict[str, Any]:
    clean = {
        "accepted": 2,
        "ran": 2,
        "lost": [],
        "again": [],
        "overlapping": [],
        "recovered_after": 1.0,
        "exits": 0,
        "is_alive": True,
        "has_warned": False,
        "facts": [],
    }
    return {**clean, **changes}


def record(*results: dict[str, Any]) -> dict[str, Any]:
    systems = dict.fromkeys(result["system"] for result in results)
    return {
        "date": "2026-01-02",
        "machine": {"cpu": "a CPU", "cpus": 2, "system": "a system", "python": "Python", "queuelib_commit": "abc"},
        "servers": {"redis": "Redis 7"},
        "seed": "feed",
        "wait": 150.0,
        "parallel": 3,
        "faults": {str(row): title for row, title in FAULTS.items()},
        "systems": {name: {"title": name, "version": "1.2", "setup": "As it comes."} for name in systems},
        "results": list(results),
    }


def test_a_job_that_never_ended_is_lost_and_nothing_has_recovered() -> None:
    """A job is lost whether it never started or only died; the rest is counted all the same."""
    counted = count([finished("a", 1, 2), killed("b", 1, 3)], ACCEPTED, since=3, touched=ACCEPTED)
    assert (counted.accepted, counted.ran, counted.lost) == (2, 1, ["b"])
    assert counted.recovered_after is None


def test_recovery_is_the_last_touched_jobs_first_end() -> None:
    """What was not touched, and a second end of the same job, do not count; before the fault is no time at all."""
    runs = [finished("a", 1, 2), killed("b", 1, 3), finished("b", 7, 8), finished("b", 9, 20), finished("a", 30, 40)]
    assert count(runs, ACCEPTED, since=3, touched=["b"]).recovered_after == pytest.approx(5)
    assert count(runs, ACCEPTED, since=3, touched=["a"]).recovered_after == 0


def test_a_start_after_an_injected_death_is_no_repetition() -> None:
    """One start more for each death; a second start without one is counted."""
    runs = [killed("a", 1, 3), finished("a", 4, 5), finished("b", 1, 2), finished("b", 4, 5)]
    counted = count(runs, ACCEPTED, since=3, touched=ACCEPTED)
    assert counted.again == ["b"]
    assert counted.overlapping == []


def test_two_runs_at_the_same_time_overlap() -> None:
    """A run that went on beside another is counted, once a job."""
    runs = [finished("a", 1, 9), finished("a", 4, 5, pid=3), finished("b", 1, 2)]
    assert count(runs, ACCEPTED, since=3, touched=ACCEPTED).overlapping == ["a"]


def test_jobs_that_are_left_out_are_not_counted() -> None:
    """A poison's runs are in the history, and are neither lost nor again."""
    runs = [finished("a", 1, 2), finished("b", 1, 2), finished("poison", 1, 2), finished("poison", 1, 2)]
    counted = count(runs, ACCEPTED, since=3, touched=ACCEPTED)
    assert (counted.ran, counted.again, counted.overlapping) == (2, [], [])


def test_runs_are_summed_up() -> None:
    """Numbers are added, times are summed up by median and maximum over the runs that recovered."""
    runs = [
        one_run(recovered_after=1.0),
        one_run(recovered_after=2.0),
        one_run(recovered_after=9.04),
        one_run(ran=1, lost=["a"], recovered_after=None, facts=["the lost are 'gone'"]),
    ]
    summed = sum_up(1, "rq", runs, broken=1)
    assert (summed["runs"], summed["broken"], summed["accepted"], summed["ran"], summed["lost"]) == (4, 1, 8, 7, 1)
    assert (summed["recovered"], summed["seconds_median"], summed["seconds_max"]) == (3, 2.0, 9.0)


def test_what_was_seen_says_in_how_many_runs() -> None:
    """The life of the worker is told where jobs were lost, and where not all runs agree, how many did."""
    silent = one_run(lost=["a"], recovered_after=None)
    assert sum_up(1, "rq", [silent, silent])["seen"] == "worker alive, silent"
    mixed = sum_up(1, "rq", [one_run(), one_run(lost=["a"], has_warned=True, is_alive=False, exits=1)])["seen"]
    assert mixed == "worker ended, a warning logged (1 of 2); the worker ended by itself or with its job (1 of 2)"


def test_what_is_measured_anew_replaces_its_like_only() -> None:
    """Another system's result of the same fault stays, and a new fault comes in its place among the numbers."""
    old = record(sum_up(1, "rq", [one_run()]), sum_up(1, "huey", [one_run()]))
    news = record(sum_up(1, "rq", [one_run(lost=["a"])]), sum_up(2, "rq", [one_run()]))
    found = {(result["row"], result["system"]): result["lost"] for result in updated(old, news)["results"]}
    assert found == {(1, "rq"): 1, (1, "huey"): 0, (2, "rq"): 0}


def test_the_table_has_a_cell_for_each_fault_and_system() -> None:
    """Losses stand out; a fault that makes no sense on a system is a dash; all rows have as many cells."""
    shown = table(
        record(
            sum_up(1, "celery", [one_run(lost=["a"], ran=1, recovered_after=None)]),
            sum_up(1, "rq", [one_run(again=["b"])]),
            sum_up(18, "rq", [one_run()]),
        )
    )
    overview = shown[: shown.index("")]
    assert overview[0] == "| fault | celery 1.2 | rq 1.2 |"
    assert overview[2].endswith("| **1 of 2 lost** | none lost, 1 s, 1 ran again |")
    assert overview[3].endswith("| - | none lost, 1 s |")
    assert {line.count("|") for line in overview} == {4}


def test_the_details_of_a_fault_name_the_systems_that_met_it() -> None:
    """Each system has its line below the fault's title; what was seen cannot break the table."""
    shown = table(record(sum_up(19, "huey", [one_run(facts=["a | b"]), one_run(lost=["a"], recovered_after=None)])))
    detail = shown[shown.index(f"**19. {FAULTS[19]}**") :]
    assert detail[-1].startswith("| huey 1.2 | 2 | 4 | 1 | 0 | 0 | 1 / 1 s (1 of 2 runs) |")
    assert "a \\| b" in detail[-1]


def test_a_records_own_notes_are_shown() -> None:
    """What has to be known of one record only stands among the notes."""
    assert "- A busy machine." in table({**record(sum_up(1, "rq", [one_run()])), "notes": ["A busy machine."]})


def test_every_system_has_faults_that_are_known() -> None:
    """The catalog names nothing that cannot be injected."""
    assert all(set(system.rows) <= set(FAULTS) for system in SYSTEMS.values())
