"""Fixtures of the end-to-end tests: each runs on SQLite, Redis and RabbitMQ."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest

from queuelib import Dispatcher
from tests.integration.lab import KINDS, Lab, clean, load_deeds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session", params=KINDS)
def broker_kind(request: pytest.FixtureRequest) -> str:
    """Which broker; the tests of one come together, so that they share its standing workers."""
    kind: str = request.param
    return kind


@pytest.fixture(scope="session")
def server_url(request: pytest.FixtureRequest, broker_kind: str) -> str:
    """URL of the server; empty where there is none."""
    return "" if broker_kind == "sqlite" else str(request.getfixturevalue(f"{broker_kind}_url"))


@pytest.fixture
def broker_url(server_url: str, tmp_path: Path) -> str:
    """URL of the broker: that of a server all tests share, or of a file of one's own."""
    return server_url or f"sqlite:///{tmp_path}/jobs.db"


@pytest.fixture
def lab(broker_kind: str, broker_url: str, namespace: str, tmp_path: Path) -> Iterator[Lab]:
    """A namespace without workers; the test starts its own."""
    lab = Lab(broker_kind, broker_url, namespace, tmp_path, load_deeds(broker_url, namespace))
    try:
        yield lab
    finally:
        lab.close()
        clean(broker_kind, broker_url, namespace)


@pytest.fixture
def file_lab(namespace: str, tmp_path: Path) -> Iterator[Lab]:
    """The same on SQLite only, for what no broker has a part in."""
    url = f"sqlite:///{tmp_path}/jobs.db"
    lab = Lab("sqlite", url, namespace, tmp_path, load_deeds(url, namespace))
    try:
        yield lab
    finally:
        lab.close()


@pytest.fixture(scope="session")
def standing(broker_kind: str, server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """URL and namespace that a worker with two children serves for all tests that do it no lasting harm."""
    url = server_url or f"sqlite:///{tmp_path_factory.mktemp('standing')}/jobs.db"
    namespace = f"standing{secrets.token_hex(6)}"
    deeds = load_deeds(url, namespace)
    try:
        with deeds.dispatcher.workers(processes=2, name="standing"):
            deeds.dispatcher.close()
            yield url, namespace
    finally:
        deeds.dispatcher.close()
        clean(broker_kind, url, namespace)


@pytest.fixture
def served(broker_kind: str, standing: tuple[str, str], tmp_path: Path) -> Iterator[Lab]:
    """The standing workers' namespace, and a client of one's own."""
    url, namespace = standing
    lab = Lab(broker_kind, url, namespace, tmp_path, load_deeds(url, namespace))
    try:
        yield lab
    finally:
        lab.close()


@pytest.fixture(scope="module", params=("memory", *KINDS))
def pooled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dispatcher]:
    """A dispatcher that allows pickle, and two processes that serve it."""
    kind, namespace = request.param, f"pool{secrets.token_hex(6)}"
    if kind == "memory":
        url = f"memory://{namespace}"
    elif kind == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('pool')}/jobs.db"
    else:
        url = request.getfixturevalue(f"{kind}_url")
    dispatcher = Dispatcher(url, namespace=namespace, allow_pickle=True)
    try:
        with dispatcher.workers(processes=2):
            dispatcher.close()
            yield dispatcher
    finally:
        dispatcher.close()
        clean(kind, url, namespace)
