"""How the processes of pytest-xdist share the tests: a file on one broker at a time, and what needs the machine alone.

A test that is marked `alone` measures, or makes so much work that its neighbors would fail; `tests/rounds.py` runs these
in a second round, one after another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    import pytest

Round = Literal["together", "alone"]
BROKERS = frozenset({"sqlite", "redis", "amqp"})


class ByFileAndBroker(LoadScopeScheduling):
    """Hands out the tests of one file on one broker as a piece, so that they share its standing workers."""

    def _split_scope(self, nodeid: str) -> str:
        return piece(nodeid)


def piece(nodeid: str) -> str:
    """Return what the test shares its process and its fixtures with: its file, and its broker if it has one."""
    file, _, rest = nodeid.partition("::")
    parameters = rest.partition("[")[2].removesuffix("]").split("-")
    return " on ".join([file, *(name for name in parameters if name in BROKERS)])


def of_round(items: list[pytest.Item], which: Round) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Return the tests of one round, and the rest."""
    wanted: list[pytest.Item] = []
    rest: list[pytest.Item] = []
    for item in items:
        is_alone = item.get_closest_marker("alone") is not None
        (wanted if is_alone == (which == "alone") else rest).append(item)
    return wanted, rest
