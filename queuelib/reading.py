"""Encoded results to values: of the types that their task returns, with what is kept elsewhere fetched on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from queuelib.codec import StoredInside, decode_list, resolving
from queuelib.handle import Stored, reader
from queuelib.naming import CALL

if TYPE_CHECKING:
    from queuelib.calls import Calls
    from queuelib.sharing import Sharing
    from queuelib.task import Definition

__all__ = ["ResultReader"]


class ResultReader:
    """Reads the results of one dispatcher's jobs, and for the handles in them; what that takes is made once there is one.

    Args:
        definitions: Tasks by wire name; results of others are plain values.
        sharing: Returns what reads shared objects and large values.
        calls: Returns what reads results of pickled calls.
    """

    def __init__(
        self, definitions: Mapping[str, Definition], sharing: Callable[[], Sharing], calls: Callable[[], Calls]
    ) -> None:
        self._definitions = definitions
        self._sharing = sharing
        self._calls = calls

    def values(self, task: str, encoded: bytes) -> list[Any]:
        """Return the values in an encoded list of results of a task.

        Raises:
            DecodeError: They are not of the types that it returns.
            SharedGone, BrokerUnavailable: What one of them stands for cannot be fetched.
            PickleRefused: They are pickled, and this dispatcher does not allow it.
        """
        before = reader.set(self)
        try:
            return self._values(task, encoded)
        except StoredInside:
            with resolving(self.load):
                return self._values(task, encoded)
        finally:
            reader.reset(before)

    def _values(self, task: str, encoded: bytes) -> list[Any]:
        definition = self._definitions.get(task)
        if definition is not None:
            return definition.schema.load_results(encoded)
        return self._calls().results(encoded) if task == CALL else decode_list(encoded)

    # What handles ask of who decoded them: see `queuelib.handle.Reader`.

    def read(self, hash: bytes, size_bytes: int, wanted: Any) -> Any:  # noqa: A002 - as in `Reader`
        """Return what a handle stands for."""
        return self._sharing().read(hash, size_bytes, wanted)

    def load(self, stored: Stored) -> bytes:
        """Return an encoded value."""
        return self._sharing().load(stored)

    def keep(self, result: bytes) -> Stored:
        """Keep an encoded result."""
        return self._sharing().keep(result)
