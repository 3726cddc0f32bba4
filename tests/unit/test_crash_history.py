"""The checker of the fault suite itself: it must see what is wrong, or its green rows say nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.crash.history import check, note_kill, note_lost, read

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_a_clean_history(tmp_path: Path) -> None:
    """One run each, and a killed one that ran again afterwards."""
    path = write(tmp_path / "h", "start a 1 1 10.0", "finish a 1 1 11.0", "start b 2 1 10.0", "kill - 2 0 12.0",
                 "start b 3 1 12.5", "finish b 3 1 13.0")  # fmt: skip
    assert check(read(path), ["a", "b"], faults=1).is_clean


def test_what_was_lost_or_never_submitted(tmp_path: Path) -> None:
    """An accepted job without a finish is lost; one that nobody submitted is unexpected, one in doubt is not."""
    path = write(tmp_path / "h", "start a 1 1 10.0", "start x 2 1 10.0", "finish x 2 1 11.0", "start y 2 1 12.0")
    verdict = check(read(path), ["a", "b"], in_doubt=["y"])
    assert (verdict.lost, verdict.unexpected, verdict.is_clean) == (["a", "b"], ["x"], False)


def test_jobs_that_are_meant_to_end_otherwise_are_not_lost(tmp_path: Path) -> None:
    """A quarantined job has no finish."""
    path = write(tmp_path / "h", "start a 1 1 10.0")
    assert check(read(path), ["a"], unfinished=["a"]).is_clean


def test_two_runs_at_a_time(tmp_path: Path) -> None:
    """They overlap, whoever finished first; one whose process was killed before is over by then."""
    path = write(tmp_path / "h", "start a 1 1 10.0", "start a 2 1 11.0", "finish a 2 1 12.0", "finish a 1 1 13.0",
                 "start b 3 1 10.0", "start b 4 1 11.0", "kill - 3 0 11.5", "finish b 4 1 12.0")  # fmt: skip
    assert check(read(path), ["a", "b"], faults=2).overlapping == ["a", "b"]


def test_more_starts_than_faults(tmp_path: Path) -> None:
    """Each fault explains one start more, and no fault explains none."""
    path = write(tmp_path / "h", "start a 1 1 10.0", "finish a 1 1 11.0", "start a 1 1 12.0", "finish a 1 1 13.0")
    assert check(read(path), ["a"]).repeated == ["a"]
    assert check(read(path), ["a"], faults=1).repeated == []


def test_a_kill_is_noted_and_a_torn_line_left_out(tmp_path: Path) -> None:
    """The last line may be cut short by a kill of its writer."""
    path = tmp_path / "h"
    write(path, "start a 7 1 10.0")
    note_kill(path, [7, 8])
    with path.open("a", encoding="utf-8") as file:
        file.write("start b 9")
    (run,) = read(path)
    assert run.end is not None
    assert not run.is_finished


def test_a_run_that_finishes_just_before_it_is_killed(tmp_path: Path) -> None:
    """The kill is noted before it happens, so that what runs elsewhere afterwards is no overlap by mistake."""
    path = write(tmp_path / "h", "start a 1 1 10.0", "kill - 1 0 11.0", "finish a 1 1 11.001")
    (run,) = read(path)
    assert (run.end, run.is_finished) == (11.001, True)


def test_what_a_worker_does_that_has_lost_its_claim(tmp_path: Path) -> None:
    """Its finish is not the job's, and another's run is no overlap; what it begins later counts as any other run."""
    path = tmp_path / "h"
    write(path, "start a 1 1 10.0")
    note_lost(path, [1])
    with path.open("a", encoding="utf-8") as file:
        file.write("start a 2 1 9000000000.0\nfinish a 1 1 9000000001.0\n")
    first, second = read(path)
    assert first.end is not None
    assert not first.is_finished
    assert check([first, second], ["a"], faults=1) == (["a"], [], [], [])
    with path.open("a", encoding="utf-8") as file:
        file.write("start a 1 1 9000000002.0\nfinish a 2 1 9000000003.0\n")
    assert check(read(path), ["a"], faults=2).overlapping == ["a"]
