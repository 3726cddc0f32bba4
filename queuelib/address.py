"""Where a dispatcher's servers are and who signs what goes there: as it was given, else as the environment says."""

from __future__ import annotations

import os

from queuelib.errors import ConfigurationError
from queuelib.settings import DEFAULT_NAMESPACE, NAMESPACE
from queuelib.signing import Keyring, Secret

__all__ = ["Address"]

DEFAULT_BROKER = "sqlite:///queuelib.db"


class Address:
    """URLs, namespace and keys of one dispatcher; nothing is read from the environment before it is asked for.

    Args:
        broker: URL of the broker; None or empty: $QUEUELIB_BROKER, else the file queuelib.db in the current folder.
        results: URL of the result backend; None or empty: $QUEUELIB_RESULTS, else that of the broker.
        namespace: Prefix of all names; None: $QUEUELIB_NAMESPACE, else `queuelib`.
        key: As in $QUEUELIB_KEY, which None stands for.

    Raises:
        ConfigurationError: The namespace cannot work.
    """

    def __init__(
        self,
        broker: str | None = None,
        results: str | None = None,
        namespace: str | None = None,
        key: str | None = None,
    ) -> None:
        if namespace is not None:
            _check_namespace(namespace)
        self._broker = Secret(broker or "")  # a URL may hold a password
        self._results = Secret(results or "")
        self._namespace = namespace
        self._key = None if key is None else Secret(key)
        self._keys: Keyring | None = None
        self._has_read_keys = False

    def moved(
        self,
        broker: str | None = None,
        results: str | None = None,
        namespace: str | None = None,
        key: str | None = None,
    ) -> Address:
        """Return the same address with what is given in its place; keys are read anew.

        Raises:
            ConfigurationError: The namespace cannot work.
        """
        own_key = None if self._key is None else self._key.reveal()
        return Address(
            broker or self._broker.reveal(),
            results or self._results.reveal(),
            self._namespace if namespace is None else namespace,
            own_key if key is None else key,
        )

    @property
    def broker_url(self) -> str:
        """URL of the broker, with a relative file made absolute by whoever opens it."""
        return self._broker.reveal() or os.environ.get("QUEUELIB_BROKER") or DEFAULT_BROKER

    @property
    def results_url(self) -> str:
        """URL of the result backend."""
        return self._results.reveal() or os.environ.get("QUEUELIB_RESULTS") or self.broker_url

    @property
    def namespace(self) -> str:
        """Prefix of all names.

        Raises:
            ConfigurationError: $QUEUELIB_NAMESPACE cannot work.
        """
        if self._namespace:
            return self._namespace
        name = os.environ.get("QUEUELIB_NAMESPACE") or DEFAULT_NAMESPACE
        _check_namespace(name)
        return name

    @property
    def keys(self) -> Keyring | None:
        """Who signs and whose signatures count; None: nothing is signed or checked. Read once.

        Raises:
            ConfigurationError: The key, or $QUEUELIB_UNSIGNED, makes no sense.
        """
        if not self._has_read_keys:
            given = os.environ.get("QUEUELIB_KEY") if self._key is None else self._key.reveal()
            unsigned = os.environ.get("QUEUELIB_UNSIGNED", "refuse")
            if unsigned not in {"refuse", "accept"}:
                msg = f"QUEUELIB_UNSIGNED is refuse or accept, not {unsigned!r:.40}"
                raise ConfigurationError(msg)
            self._keys = None if given is None else Keyring(given, accepts_unsigned=unsigned == "accept")
            self._has_read_keys = True
        return self._keys


def _check_namespace(namespace: str) -> None:
    if not NAMESPACE.match(namespace):
        msg = f"a namespace is 1 to 64 letters, digits, '_' or '-', not {namespace!r}"
        raise ConfigurationError(msg)
