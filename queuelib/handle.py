"""The handle of something that is shared: what travels in its place, and how whoever holds one comes to the thing."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from queuelib.errors import QueuelibError

__all__ = ["ARGUMENT", "HASH_BYTES", "RESULT", "Reader", "Shared", "Stored", "reader"]

HASH_BYTES = 32
T_co = TypeVar("T_co", covariant=True)


ARGUMENT: Final = 0
RESULT: Final = 1  # kinds of stored values


@dataclass(frozen=True, slots=True)
class Stored:
    """Stands, in the encoding of a value, for a part of it that is kept elsewhere because it is large.

    Attributes:
        kind: `ARGUMENT` or `RESULT`, which are kept for different times.
        hash: SHA-256 of what is kept.
        size_bytes: Its length.
    """

    kind: int
    hash: bytes
    size_bytes: int


class Reader(Protocol):
    """Comes to what handles stand for, and to values that are kept because they are large."""

    def read(self, hash: bytes, size_bytes: int, wanted: Any) -> Any:  # noqa: A002 - what it is
        """Return what a handle stands for.

        Args:
            hash: SHA-256 of its content.
            size_bytes: Length of its content.
            wanted: Type to convert it to, `Any` for none.

        Raises:
            SharedGone: It is not kept any more.
            BrokerUnavailable: Nobody who has it answers.
        """
        ...

    def load(self, stored: Stored) -> bytes:
        """Return an encoded value.

        Raises:
            SharedGone: It is not kept any more.
            BrokerUnavailable: Nobody who has it answers.
        """
        ...

    def keep(self, result: bytes) -> Stored:
        """Keep an encoded result, and return what stands for it.

        Raises:
            QueuelibError: It is not kept.
        """
        ...


reader: ContextVar[Reader | None] = ContextVar("queuelib_reader", default=None)  # for handles that are decoded here


class Shared(Generic[T_co]):
    """Stands for an object that was put where all workers find it: `dispatcher.share(obj)` returns one.

    It is small and travels as an argument of parameters that are annotated with it, `graph: Shared[Graph]`; the handler
    calls `graph.get()`. Handles are equal if what they stand for was encoded to the same bytes.

    Attributes:
        hash: SHA-256 of the encoded object.
        size_bytes: Its length.
    """

    __slots__ = ("_reader", "_wanted", "hash", "size_bytes")

    def __init__(
        self,
        hash: bytes,  # noqa: A002 - what it is
        size_bytes: int,
        reader: Reader | None = None,
        wanted: Any = Any,
    ) -> None:
        self.hash = hash
        self.size_bytes = size_bytes
        self._reader = reader
        self._wanted = wanted

    def get(self) -> T_co:
        """Return the object; read it, do not change it: it is the same one for all jobs of this process.

        A numpy array is read-only, and mapped into memory in a worker: all its processes share one copy.

        Raises:
            SharedGone: It was not used for longer than it is kept, or dropped: share it again.
            BrokerUnavailable: The server that has it does not answer.
            QueuelibError: This handle is neither of `share()` nor an argument of the job that runs here.
        """
        if self._reader is None:
            msg = "this handle came neither from share() nor with a job that runs here: what it stands for is not found"
            raise QueuelibError(msg)
        value: T_co = self._reader.read(self.hash, self.size_bytes, self._wanted)
        return value

    def wanting(self, wanted: Any) -> Shared[Any]:
        """Return the same handle, of something that is to be of another type."""
        return Shared(self.hash, self.size_bytes, self._reader, wanted)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shared) and (self.hash, self.size_bytes) == (other.hash, other.size_bytes)

    def __hash__(self) -> int:
        return hash(self.hash)

    def __repr__(self) -> str:
        return f"<Shared {self.hash.hex()[:12]}, {self.size_bytes:,} bytes>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _found, (self.hash, self.size_bytes)


def _found(content_hash: bytes, size_bytes: int) -> Shared[Any]:
    return Shared(content_hash, size_bytes, reader.get())
