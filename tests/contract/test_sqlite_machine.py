"""Any interleaving of putting, taking, settling, dying and reaping on SQLite neither loses nor invents a message."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from queuelib.broker import open_lane, settings_for
from tests.contract.machine import Machine, check

if TYPE_CHECKING:
    from queuelib.ports import Lane


class SqliteMachine(Machine):
    """Takers of a file of their own, whose claims end with them."""

    folder = Path()

    def open_server(self) -> None:
        """Name the file."""
        self.path = self.folder / f"{self.namespace}.db"

    def new(self) -> Lane:
        """Open a lane."""
        return open_lane(settings_for(f"sqlite:///{self.path}", self.namespace), self.namespace, 5.0)

    def stored(self) -> list[bytes]:
        """Read the table."""
        if not self.numbers:
            return []  # the first to use the file makes the table
        with closing(sqlite3.connect(self.path)) as connection:
            return [row[0] for row in connection.execute("SELECT frame FROM message")]

    def kill(self, lane: Any) -> None:
        """Drop its claim, as the kernel does, and nothing of what it holds."""
        channel = lane.handle
        if channel._claim is not None:
            channel._claim.release()
            channel._claim = None
        lane.close()

    def clean(self) -> None:
        """Leave it to the folder's end."""


@pytest.mark.parametrize("examples", [40])
def test_any_interleaving_keeps_every_message(tmp_path: Path, examples: int) -> None:
    """Whatever happens in whichever order, each message is in one place until it is acknowledged."""
    check(SqliteMachine, examples, folder=tmp_path)
