"""Signed records survive everything that result backends do with records: the conformance suite, behind signatures."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from queuelib.ports import ResultCapabilities
from queuelib.sealed import SealedResults
from queuelib.signing import Keyring
from queuelib.testing import ResultConformance

if TYPE_CHECKING:
    from pathlib import Path

    from queuelib.ports import ResultBackend

KEYS = Keyring("k1:" + "a" * 32)


class _Sealed(ResultConformance):
    """Any backend, with every record signed and checked."""

    def open(self, url: str, place: str) -> ResultBackend:
        """Open the backend behind signatures."""
        return SealedResults(super().open(url, place), KEYS, shows_forged=True)


class TestMemory(_Sealed):
    """Within one process."""

    expected = ResultCapabilities(records=True, crosses_processes=False, cancels_at_once=True)

    @pytest.fixture
    def url(self) -> str:
        """A server of this test's own."""
        return f"memory://{uuid.uuid4().hex}"


class TestSqlite(_Sealed):
    """A file."""

    expected = ResultCapabilities(records=True, survives_restart=True, cancels_at_once=True)

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        """A file of this test's own."""
        return f"sqlite:///{tmp_path}/results.db"


class TestRedis(_Sealed):
    """A server."""

    expected = ResultCapabilities(records=True)

    @pytest.fixture
    def url(self, redis_url: str) -> str:
        """The server of the tests."""
        return redis_url


class TestRabbitmq(_Sealed):
    """A stream."""

    expected = ResultCapabilities(crosses_processes=True, survives_restart=True)

    @pytest.fixture
    def url(self, amqp_url: str) -> str:
        """The server of the tests."""
        return amqp_url
