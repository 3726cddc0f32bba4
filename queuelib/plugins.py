"""From a URL's scheme to the package that serves it; loads a backend on its first use."""

from __future__ import annotations

import importlib
import sys
from functools import cache
from typing import TYPE_CHECKING

from queuelib.errors import ConfigurationError, MissingDriver
from queuelib.ports import BlobBackend, MemoBackend
from queuelib.settings import mask
from queuelib.shown import shown

if TYPE_CHECKING:
    from queuelib.ports import Backend, Blobs, Memos

__all__ = ["backend_for", "blobs_for", "find_backend", "memos_for", "scheme_of", "schemes"]

GROUP = "queuelib.backends"
_OURS = {  # serves a source tree that is on sys.path without being installed
    "memory": "queuelib_memory",
    "sqlite": "queuelib_sqlite",
    "redis": "queuelib_redis",
    "rediss": "queuelib_redis",
    "sentinel": "queuelib_redis",
    "amqp": "queuelib_rabbitmq",
    "amqps": "queuelib_rabbitmq",
    "pyamqp": "queuelib_rabbitmq",
}
_EXTRAS = ("redis", "rabbitmq")  # the backends whose drivers an extra of the distribution brings


def scheme_of(url: str) -> str:
    """Return a URL's scheme in lower case.

    Raises:
        ConfigurationError: The text is not a URL.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or not scheme:
        msg = f"{mask(url)!r} is not a broker URL; examples: sqlite:///jobs.db, redis://host/0, amqp://host//"
        raise ConfigurationError(msg)
    if not url.isprintable():
        msg = f"{shown(mask(url))!r} has characters that do not print: write them as %0A and the like"
        raise ConfigurationError(msg)
    return scheme.lower()


def schemes() -> list[str]:
    """Return the schemes of our own backends."""
    return sorted(_OURS)


def find_backend(url: str) -> Backend | None:
    """Return the backend for a URL, or None if no installed package serves its scheme.

    Raises:
        ConfigurationError: The text is not a URL.
        MissingDriver: The backend needs a package that is not installed.
    """
    scheme = scheme_of(url)
    package = _OURS.get(scheme)
    if package is not None:
        return _load(package)
    from importlib.metadata import entry_points  # noqa: PLC0415 - 20 ms of import, for backends of third parties only

    for entry in entry_points(group=GROUP):
        if entry.value.partition(":")[0] in _OURS.values():
            continue
        backend: Backend = entry.load()
        if scheme in backend.schemes:
            return backend
    return None


def backend_for(url: str) -> Backend:
    """Return the backend for a URL, which has to keep results.

    Raises:
        ConfigurationError: No installed package serves its scheme; the message lists those that are.
    """
    backend = find_backend(url)
    if backend is None:
        msg = (
            f"nothing keeps results at {mask(url)!r}; known schemes: {', '.join(sorted(_OURS))}. A broker that only kombu "
            "knows needs results elsewhere: Dispatcher(url, results='redis://host/0')"
        )
        raise ConfigurationError(msg)
    return backend


def blobs_for(url: str, namespace: str, keep: float) -> Blobs:
    """Return the keeper of blobs for a results URL; it connects on first use.

    Raises:
        ConfigurationError: Its backend keeps none.
    """
    backend = backend_for(url)
    if not isinstance(backend, BlobBackend):
        msg = f"the backend of {mask(url)!r} keeps outcomes and no shared objects: keep results elsewhere, results='redis://host/0'"
        raise ConfigurationError(msg)
    return backend.blobs(url, namespace, keep)


def memos_for(url: str, namespace: str) -> Memos:
    """Return the keeper of memos for a results URL; it connects on first use.

    Raises:
        ConfigurationError: Its backend keeps none.
    """
    backend = backend_for(url)
    if not isinstance(backend, MemoBackend):
        msg = (
            f"the backend of {mask(url)!r} keeps outcomes, and neither progress nor states of running jobs: keep results "
            "elsewhere, results='redis://host/0'"
        )
        raise ConfigurationError(msg)
    return backend.memos(url, namespace)


@cache
def _load(package: str) -> Backend:
    try:
        backend: Backend = importlib.import_module(package).BACKEND
    except ModuleNotFoundError as error:
        if error.name == package:
            msg = f"the package {package} is not importable: reinstall queuelib-kombu ({sys.executable} -m pip)"
        else:
            name = package.removeprefix("queuelib_")
            cure = f': pip install "queuelib-kombu[{name}]"' if name in _EXTRAS else ", which this Python lacks"
            msg = f"the {name} backend needs {error.name}{cure}"
        raise MissingDriver(msg) from error
    return backend
