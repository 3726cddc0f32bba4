"""Objects of any kind to bytes and back, code among them: only for programs and workers that trust each other.

Whoever reads a pickle runs what its writer wants. So nothing here is called but where both sides have allowed it.
"""

from __future__ import annotations

import importlib.util
import pickle
from typing import Any

from queuelib.errors import DecodeError, MissingDriver, Shutdown
from queuelib.shown import words_of

__all__ = ["dumps", "loads", "require"]

_PROTOCOL = 5
_STACK_GLOBAL = b"\x93"  # what refers to a module, in every protocol since 4


def require() -> None:
    """Make sure that functions can travel.

    Raises:
        MissingDriver: cloudpickle is not installed.
    """
    if importlib.util.find_spec("cloudpickle") is None:
        msg = 'functions travel by cloudpickle, which is not installed: pip install "queuelib-kombu[pickle]"'
        raise MissingDriver(msg)


def dumps(value: object) -> bytes:
    """Return an object as bytes, with the code of whatever the other side cannot import.

    Raises:
        Exception: It cannot be pickled; whatever it, or a part of it, raises then.
    """
    try:
        data = pickle.dumps(value, _PROTOCOL)
    except Exception:  # noqa: BLE001 - a lambda for one; what is wrong beyond that is raised below
        data = _STACK_GLOBAL
    if _STACK_GLOBAL not in data:
        return data  # it refers to no code, so that cloudpickle would make the same of it, in twenty times the time
    import cloudpickle  # noqa: PLC0415 - only who allows pickle needs it

    pickled: bytes = cloudpickle.dumps(value, _PROTOCOL)
    return pickled


def loads(data: bytes) -> Any:
    """Return the object in bytes, running what they say.

    Raises:
        Exception: Anything; what would end this process, `SystemExit` for one, comes as a `DecodeError`.
        KeyboardInterrupt: Likewise.
    """
    try:
        return pickle.loads(data)  # noqa: S301 - the callers have asked whether they may
    except (Exception, KeyboardInterrupt, Shutdown):
        raise
    except BaseException as error:  # a pickle may run what ends the process, and is no reason to end it
        msg = f"what was pickled cannot be read: {words_of(error)}"
        raise DecodeError(msg) from error
