"""Runs the cases of plain kombu programs on our transports and on kombu's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu import Connection

from tests.contract.plain_kombu import KINDS, Place, open_place


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a case on every transport; where its module's `DIFFERENCES` name it, it must fail."""
    is_told = any(mark.args[0] == "kind" for mark in metafunc.definition.iter_markers("parametrize"))
    if "kind" not in metafunc.fixturenames or is_told:
        return
    differences = metafunc.module.DIFFERENCES
    assert not differences.keys() - vars(metafunc.module).keys(), "a difference names a case that is not there"
    reasons = differences.get(metafunc.function.__name__, {})
    marks = {kind: [pytest.mark.xfail(strict=True, reason=reason)] for kind, reason in reasons.items()}
    metafunc.parametrize("kind", [pytest.param(kind, marks=marks.get(kind, [])) for kind in KINDS])


@pytest.fixture
def place(kind: str, request: pytest.FixtureRequest, namespace: str, tmp_path: Path) -> Iterator[Place]:
    """A transport's corner of a server, for one test."""
    with open_place(kind, request, namespace, tmp_path) as found:
        yield found


@pytest.fixture
def connection(place: Place) -> Iterator[Connection]:
    """A plain kombu connection to it."""
    with place.connect() as opened:
        yield opened
