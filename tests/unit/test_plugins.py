"""From a URL's scheme to its backend."""

from __future__ import annotations

import importlib
import importlib.metadata
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

import pytest

from queuelib import plugins
from queuelib.errors import ConfigurationError, MissingDriver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class LabBackend:
    """A third party's backend."""

    name = "lab"
    schemes = ("lab", "labs")


BACKEND = LabBackend()


@pytest.fixture
def _fresh() -> Iterator[None]:
    """Forget which backends were loaded, before and after."""
    plugins._load.cache_clear()
    yield
    plugins._load.cache_clear()


def missing(name: str) -> Callable[[str], Any]:
    """Return an `import_module` that finds everything but `name`."""

    def import_module(package: str) -> Any:
        message = f"No module named {name!r}"
        raise ModuleNotFoundError(message, name=name)

    return import_module


@pytest.mark.parametrize("scheme", ["memory", "sqlite", "MEMORY"])
def test_ours_are_found(scheme: str) -> None:
    """A backend is found by its scheme, upper or lower case, and is the same each time."""
    backend = plugins.backend_for(f"{scheme}://x")
    assert scheme.lower() in backend.schemes
    assert plugins.find_backend(f"{scheme}://y") is backend


@pytest.mark.parametrize("text", ["", "redis", "redis:/host", "://host", "host:6379"])
def test_not_a_url(text: str) -> None:
    """Text without a scheme is refused, with examples of what is meant."""
    with pytest.raises(ConfigurationError, match=r"is not a broker URL; examples: sqlite:///jobs\.db"):
        plugins.backend_for(text)


def test_an_unknown_scheme() -> None:
    """The error lists those that are known, and hides the password."""
    assert plugins.find_backend("gopher://host") is None
    with pytest.raises(ConfigurationError, match=r"'gopher://me:\*\*\*@host'; known schemes: amqp, ") as caught:
        plugins.backend_for("gopher://me:hush@host")
    assert "hush" not in str(caught.value)


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize(
    ("url", "driver", "hint"),
    [
        ("redis://host", "redis", r'the redis backend needs redis: pip install "queuelib-kombu\[redis\]"'),
        ("sentinel://host", "hiredis", r'the redis backend needs hiredis: pip install "queuelib-kombu\[redis\]"'),
        ("amqp://host", "pika", r'the rabbitmq backend needs pika: pip install "queuelib-kombu\[rabbitmq\]"'),
        ("sqlite:///x", "_sqlite3", r"the sqlite backend needs _sqlite3, which this Python lacks"),
        ("redis://host", "queuelib_redis", r"the package queuelib_redis is not importable: reinstall queuelib-kombu"),
    ],
)
def test_a_missing_driver(monkeypatch: pytest.MonkeyPatch, url: str, driver: str, hint: str) -> None:
    """The error says what to install, under the name of our distribution."""
    monkeypatch.setattr(importlib, "import_module", missing(driver))
    with pytest.raises(MissingDriver, match=hint) as caught:
        plugins.backend_for(url)
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.usefixtures("_fresh")
def test_a_driver_installed_later_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure is not remembered."""
    with monkeypatch.context() as patch, pytest.raises(MissingDriver):
        patch.setattr(importlib, "import_module", missing("pika"))
        plugins.backend_for("memory://x")
    assert plugins.backend_for("memory://x").name == "memory"


def test_a_third_partys_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its schemes are found through its entry point; ours are not loaded to look for them."""

    def load(entry: EntryPoint) -> Any:
        assert entry.value == "queuelib_lab:BACKEND"
        return BACKEND

    entries = [
        EntryPoint("redis", "queuelib_redis:BACKEND", plugins.GROUP),
        EntryPoint("lab", "queuelib_lab:BACKEND", plugins.GROUP),
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: entries if group == plugins.GROUP else [])
    monkeypatch.setattr(EntryPoint, "load", load)
    found: object = plugins.backend_for("labs://host")
    assert found is BACKEND
    assert plugins.find_backend("gopher://host") is None
