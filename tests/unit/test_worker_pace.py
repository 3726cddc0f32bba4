"""How much to take and to hand over, from how long jobs take here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuelib.worker.pace import MOST_TAKEN, QUICK, Pace
from tests.unit.fakes import quick

RUNS = st.floats(0, 100)


def paced(elapsed: float, runs: int = 1, bundle: int = 1) -> Pace:
    """Return a pace that has seen the same run so many times."""
    pace = Pace()
    for _ in range(runs):
        pace.ran("lab.work", "red", elapsed)
    pace.took("red", bundle)
    return pace


@pytest.mark.parametrize(("elapsed", "estimate"), [(0.001, 0.001), (0.0199, 0.0199), (QUICK, None), (2.0, None)])
def test_only_quick_tasks_are_estimated(elapsed: float, estimate: float | None) -> None:
    """A slow task, like an unknown one, has no estimate: it goes to a child by itself."""
    assert paced(elapsed).estimate("lab.work") == estimate
    assert paced(elapsed).estimate("lab.other") is None


def test_a_slow_run_is_noticed_at_once_and_forgotten_in_time() -> None:
    """One run of a second makes a quick task slow; enough quick ones make it quick again."""
    pace = paced(0.001, runs=50)
    pace.ran("lab.work", "red", 1.0)
    assert pace.estimate("lab.work") is None
    for _ in range(30):
        pace.ran("lab.work", "red", 0.001)
    assert pace.estimate("lab.work") == pytest.approx(0.001, abs=0.005)


@pytest.mark.parametrize("pace", [Pace(), paced(0.5)])
@pytest.mark.parametrize(("waiting", "room"), [(0, 3), (2, 1), (3, 0), (9, 0)])
def test_behind_slow_jobs_nothing_is_hoarded(pace: Pace, waiting: int, room: int) -> None:
    """Of unknown and slow colors as much is taken as there are free children, less what waits already."""
    assert pace.room("red", waiting, free=3, children=4) == room


def test_of_quick_jobs_there_is_work_for_a_tenth_of_a_second() -> None:
    """100 jobs of 1 ms for each child, idle or not, less what waits."""
    assert paced(0.001).room("red", 0, free=0, children=4) == 400
    assert paced(0.001).room("red", 390, free=0, children=4) == 10


def test_bundles_count_by_their_jobs() -> None:
    """Room is in bundles: of bundles of 64 fewer are taken, and one at least while anything is missing."""
    assert paced(0.001, bundle=64).room("red", 0, free=0, children=4) == 6
    assert paced(0.001, bundle=64).room("red", 399, free=0, children=4) == 1
    assert paced(0.001, bundle=64).room("red", 400, free=0, children=4) == 0


def test_colors_are_measured_apart() -> None:
    """A quick red says nothing of green."""
    assert paced(0.001).room("green", 0, free=1, children=4) == 1


@quick
@given(
    runs=st.lists(RUNS, max_size=5),
    sizes=st.lists(st.integers(1, 65_536), max_size=3),
    waiting=st.integers(0, 5000),
    children=st.integers(1, 256),
    data=st.data(),
)
def test_room_keeps_to_its_bounds(
    runs: list[float], sizes: list[int], waiting: int, children: int, data: st.DataObject
) -> None:
    """It is never negative, never more than the most a worker takes, and never zero while a free child has no job."""
    pace = Pace()
    for elapsed in runs:
        pace.ran("lab.work", "red", elapsed)
    for size in sizes:
        pace.took("red", size)
    free = data.draw(st.integers(0, children))
    room = pace.room("red", waiting, free, children)
    assert 0 <= room <= max(0, MOST_TAKEN - waiting)
    assert room > 0 or waiting >= min(free, MOST_TAKEN)
