"""Signed and encrypted records survive everything that result backends do with records: the conformance suite again."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from queuelib.ports import ResultCapabilities
from queuelib.sealed import SealedBlobs, SealedMemos, SealedResults
from queuelib.signing import Keyring
from queuelib.testing import BlobConformance, MemoConformance, ResultConformance

if TYPE_CHECKING:
    from pathlib import Path

    from queuelib.ports import Blobs, Memos, ResultBackend

SECRET = "a" * 32


@pytest.fixture(params=["k1:" + SECRET, "k1/aes:" + SECRET], ids=["signed", "encrypted"], autouse=True)
def keys(request: pytest.FixtureRequest) -> Keyring:
    """The key of all records."""
    return Keyring(request.param)


class _Sealed(ResultConformance):
    """Any backend, with every record signed and checked, and encrypted besides or not."""

    @pytest.fixture(autouse=True)
    def _know_keys(self, keys: Keyring) -> None:
        self._keys = keys

    def open(self, url: str, place: str) -> ResultBackend:
        """Open the backend behind signatures."""
        return SealedResults(super().open(url, place), self._keys, shows_forged=True)


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

    expected = ResultCapabilities(crosses_processes=True, survives_restart=True, large_apart=False)

    @pytest.fixture
    def url(self, amqp_url: str) -> str:
        """The server of the tests."""
        return amqp_url


class _SealedBlobs(BlobConformance):
    """Any keeper of blobs, with every piece signed and checked, and encrypted besides or not."""

    @pytest.fixture(autouse=True)
    def _know_keys(self, keys: Keyring) -> None:
        self._keys = keys

    def open(self, url: str, place: str, keep: float) -> Blobs:
        """Open the keeper behind signatures."""
        return SealedBlobs(super().open(url, place, keep), self._keys)


class TestMemoryBlobs(_SealedBlobs):
    """Within one process."""

    crosses_processes = False

    @pytest.fixture
    def url(self) -> str:
        """A server of this test's own."""
        return f"memory://{uuid.uuid4().hex}"


class TestSqliteBlobs(_SealedBlobs):
    """A file."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        """A file of this test's own."""
        return f"sqlite:///{tmp_path}/results.db"


class TestRedisBlobs(_SealedBlobs):
    """A server."""

    @pytest.fixture
    def url(self, redis_url: str) -> str:
        """The server of the tests."""
        return redis_url


class TestRabbitmqBlobs(_SealedBlobs):
    """Queues."""

    @pytest.fixture
    def url(self, amqp_url: str) -> str:
        """The server of the tests."""
        return amqp_url


class _SealedMemos(MemoConformance):
    """Any keeper of memos, with each signed and checked, and encrypted besides or not."""

    @pytest.fixture(autouse=True)
    def _know_keys(self, keys: Keyring) -> None:
        self._keys = keys

    def open(self, url: str, place: str) -> Memos:
        """Open the keeper behind signatures."""
        return SealedMemos(super().open(url, place), self._keys)


class TestMemoryMemos(_SealedMemos):
    """Within one process."""

    @pytest.fixture
    def url(self) -> str:
        """A server of this test's own."""
        return f"memory://{uuid.uuid4().hex}"


class TestSqliteMemos(_SealedMemos):
    """A file."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        """A file of this test's own."""
        return f"sqlite:///{tmp_path}/results.db"
