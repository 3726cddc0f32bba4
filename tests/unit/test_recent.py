"""What was seen lately."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from queuelib.recent import Recent


@given(values=st.lists(st.integers(0, 30)), fewest=st.integers(1, 8))
def test_the_latest_are_known_and_not_many_others(values: list[int], fewest: int) -> None:
    """Of whatever came, the latest are there; what never came is not; and there is a bound."""
    recent = Recent[int](fewest)
    for value in values:
        recent.add([value])
        assert value in recent
        assert len(recent) <= 2 * fewest
    assert all(value in recent for value in values[-fewest:])
    assert all(value not in recent for value in range(31, 40))
