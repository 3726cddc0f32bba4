"""The result backend shown in docs/writing-a-backend.md is the one here, and passes the suite with the core as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from queuelib.ports import ResultBackend, ResultCapabilities
from queuelib.testing import ResultConformance
from tests.contract.third_party_results import JournalResults

HERE = Path(__file__).parent


class TestJournal(ResultConformance):
    """A file of JSON lines."""

    expected = ResultCapabilities(records=True, survives_restart=True)

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        """The file."""
        return str(tmp_path / "journal")

    def open(self, url: str, place: str) -> ResultBackend:
        """Open the file."""
        return JournalResults(Path(f"{url}-{place}"))


def test_page_shows_what_is_tested() -> None:
    """The page's code is the module under test, to the letter."""
    page = (HERE.parent.parent / "docs" / "writing-a-backend.md").read_text(encoding="utf-8")
    source = (HERE / "third_party_results.py").read_text(encoding="utf-8")
    shown = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert source in shown


def test_core_cannot_be_switched_off() -> None:
    """A subclass that replaces a test of the core is refused when it is defined."""
    with pytest.raises(TypeError, match="test_first_success_stands"):
        type("Lenient", (ResultConformance,), {"test_first_success_stands": None})
