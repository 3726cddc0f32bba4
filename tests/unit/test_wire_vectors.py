"""The fixed frames that docs/wire-format.md quotes: what was written once is written and read so for ever."""

from __future__ import annotations

import json
from typing import Any

import pytest

from queuelib.envelope import decode, encode
from tests.unit.wire_vectors import EXAMPLES, FILE, from_json

VECTORS: list[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
class TestVectors:
    """Each frame in the file."""

    def test_written(self, vector: dict[str, Any]) -> None:
        """The bundle becomes exactly these bytes."""
        assert encode(from_json(vector["bundle"])).hex() == vector["frame"]

    def test_read(self, vector: dict[str, Any]) -> None:
        """These bytes become exactly this bundle."""
        bundle = decode(bytes.fromhex(vector["frame"]))
        assert bundle._replace(indexes=list(bundle.indexes)) == from_json(vector["bundle"])


def test_the_file_holds_every_example() -> None:
    """No example was added or changed without its frame."""
    assert {vector["name"]: from_json(vector["bundle"]) for vector in VECTORS} == EXAMPLES
