"""Plain values to bytes and back, with the msgpack package, and within bounds that hold for what strangers wrote.

What msgpack has itself (nil, bool, integers of 64 bits, float, str, bytes, list, map) travels as such; a tuple
arrives as a list, a dataclass as a map of its fields, an Enum member as its value, until a schema says otherwise. Other
types are those of `queuelib.extensions`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any, cast

import msgpack

from queuelib.errors import BrokerUnavailable, DecodeError, EncodeError, SharedGone, SoftTimeLimit, TooLarge
from queuelib.extensions import EXTENSIONS, FIELD_READERS, MAX_LIST, PAYLOAD_READERS, extension, hashable, packb
from queuelib.handle import ARGUMENT, HASH_BYTES, RESULT, Stored
from queuelib.nesting import SCALARS, children_of, is_shallow, too_deep
from queuelib.settings import MAX_CONTAINERS, MAX_DEPTH, MAX_MESSAGE_BYTES, MAX_SHARED_BYTES
from queuelib.shown import shown, words_of

__all__ = [
    "StoredInside",
    "decode",
    "decode_fields",
    "decode_list",
    "encode",
    "encode_number",
    "encoded_list",
    "is_list_of_one",
    "joined_list",
    "joined_lists",
    "list_length",
    "plain",
    "resolving",
    "split_any",
    "split_list",
]

_ONE = b"\x91"  # the header of a list of one
_MAX_MAP = 1_000_000
_UNFIT = (TypeError, ValueError, OverflowError, RecursionError)  # what the encoder raises, or we do
_MOST_NESTED = 4 * MAX_MESSAGE_BYTES  # bytes of extensions within each other
_MOST_FIELDS = 32  # of a list of ours; a later version may have more than this one
_MOST_NUMBERS = 65_536  # in a field: an index for each job of a bundle
_STORED_BYTES = 1 + HASH_BYTES + 8
_loads: ContextVar[Callable[[Stored], bytes] | None] = ContextVar("queuelib_loads", default=None)


class StoredInside(DecodeError):
    """A part of a value is kept elsewhere: whoever can fetch it decodes the same bytes `with resolving(...)`.

    Attributes:
        data: The bytes, where whoever caught this has noted them.
    """

    data: bytes = b""


@contextmanager
def resolving(load: Callable[[Stored], bytes]) -> Generator[None]:
    """Have values that are kept elsewhere loaded and read where they belong, while the block lasts."""
    before = _loads.set(load)
    try:
        yield
    finally:
        _loads.reset(before)


def encode(
    value: object, *, max_bytes: int = MAX_MESSAGE_BYTES, max_depth: int = MAX_DEPTH, is_flat: bool = False
) -> bytes:
    """Return a value as bytes.

    Args:
        value: Anything made of these types.
        max_bytes: The most bytes it may take.
        max_depth: The deepest nesting of containers.
        is_flat: Whether the caller knows that it is not nested deeply.

    Raises:
        EncodeError: A part of it cannot travel, or it is nested too deeply or contains itself; the message has the path.
        TooLarge: It takes more bytes.
    """
    try:
        data = packb(value, default=extension, unicode_errors="surrogatepass")
    except _UNFIT as error:
        if not is_shallow(value, max_depth):
            raise EncodeError(too_deep(value, max_depth)) from error
        raise EncodeError(_explain(value, error)) from error
    except SoftTimeLimit:
        raise  # it struck here and is not about this
    except Exception as error:  # what a value is made of may have code of its own
        raise EncodeError(_explain(value, error)) from error
    if (
        not is_flat and len(data) > max_depth and not is_shallow(value, max_depth)
    ):  # each level takes a byte at the least
        raise EncodeError(too_deep(value, max_depth))
    if len(data) > max_bytes:
        msg = f"the value takes {len(data):,} bytes; at most {max_bytes:,} fit. Pass a path or an id instead of the data itself"
        raise TooLarge(msg)
    return data


encode_number = cast("Callable[[float], bytes]", msgpack.Packer().pack)  # of exactly int, float or bool, within 64 bits


def decode(data: bytes, *, max_depth: int = MAX_DEPTH) -> Any:
    """Return the value in bytes that `encode` made.

    Raises:
        DecodeError: The bytes are truncated, foreign, nested too deeply, or hold a value that cannot be.
    """
    return _decode(data, max_depth, max_depth, _Budget())


def decode_fields(data: bytes) -> list[Any]:
    """Return the few plain values in a list of ours, of which each may be a list of numbers and the like.

    It never takes much more memory than the bytes do: lists within each other are refused at the first of them,
    before anything is made of it.

    Raises:
        ValueError, RecursionError: The bytes are something else.
    """
    fields, numbers = _field_readers()
    return [
        numbers.decode(raw)
        if list_length(raw) >= 0
        else msgpack.unpackb(raw, max_array_len=0, max_map_len=0, max_ext_len=0, unicode_errors="surrogatepass")
        for raw in map(bytes, fields.decode(data))
    ]


@lru_cache(maxsize=1)
def _field_readers() -> tuple[Any, Any]:
    import msgspec  # noqa: PLC0415 - unneeded by a program without tasks

    fields = Annotated[list[msgspec.Raw], msgspec.Meta(max_length=_MOST_FIELDS)]
    numbers = Annotated[list[int | float | bool | bytes | None], msgspec.Meta(max_length=_MOST_NUMBERS)]
    return msgspec.msgpack.Decoder(fields), msgspec.msgpack.Decoder(numbers)


def decode_list(data: bytes) -> list[Any]:
    """Return the values in a list that `encoded_list` made; it is no level of theirs.

    Raises:
        DecodeError: As for `decode`, because of any of them.
    """
    values = decode(data, max_depth=MAX_DEPTH + 1)
    if type(values) is not list:
        msg = f"a list belongs here, and not a value of type {type(values).__name__}"
        raise DecodeError(msg)
    return values


class _Budget:
    """What may still be made of one value's bytes.

    Attributes:
        containers: How many more lists, maps and extensions.
        nested: How many more bytes of extensions, each of which is a copy while it is read.
    """

    __slots__ = ("containers", "nested")

    def __init__(self) -> None:
        self.containers = MAX_CONTAINERS
        self.nested = _MOST_NESTED

    def spend(self, containers: int, nested: int = 0) -> None:
        """Count.

        Raises:
            DecodeError: There were too many.
        """
        self.containers -= containers
        self.nested -= nested
        if self.containers < 0:
            msg = f"more than {MAX_CONTAINERS:,} lists and maps; pass an array, or a path to the data"
            raise DecodeError(msg)
        if self.nested < 0:
            msg = f"more than {_MOST_NESTED:,} bytes in extensions within each other"
            raise DecodeError(msg)


def _decode(data: bytes, max_depth: int, extensions: int, budget: _Budget) -> Any:
    # A container takes a byte at the least: most data is too short to hold too many, and nothing is counted.
    is_counted = len(data) > MAX_CONTAINERS

    def read(code: int, payload: bytes) -> Any:
        budget.spend(is_counted, len(payload))
        # Each extension is one level: C code below us does not count them, and has a stack that ends.
        return _from_extension(code, payload, extensions, budget)

    def read_list(items: list[Any]) -> list[Any]:
        budget.spend(1)
        return items

    def read_map(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        budget.spend(1)
        return _map(pairs)

    try:
        value = msgpack.unpackb(
            data,
            ext_hook=read,
            list_hook=read_list if is_counted else None,
            object_pairs_hook=read_map if is_counted else _map,
            strict_map_key=False,
            unicode_errors="surrogatepass",
            max_array_len=min(MAX_LIST, len(data)),
            max_map_len=min(_MAX_MAP, len(data)),
        )
    except (DecodeError, SharedGone, BrokerUnavailable):
        raise
    except Exception as error:  # hostile bytes reach constructors of many types; every failure means the same
        msg = f"not readable: {type(error).__name__}: {error}"
        raise DecodeError(shown(msg)) from error
    if len(data) > max_depth and type(value) not in SCALARS and not is_shallow(value, max_depth):
        msg = f"nested deeper than {max_depth} containers"
        raise DecodeError(msg)
    return value


def encoded_list(items: Sequence[bytes]) -> bytes:
    """Return encoded values as the encoding of the list of them."""
    return _array_header(len(items)) + b"".join(items)


def is_list_of_one(data: bytes) -> bool:
    """Return whether an encoded list begins as one with a single item does: the item follows the first byte."""
    return data[:1] == _ONE


def joined_lists(lists: Sequence[bytes]) -> bytes | None:
    """Return encoded lists of one item each as one list, or None if one of them has not exactly one item."""
    items = [data[1:] for data in lists]
    joined = joined_list(len(items), b"".join(items))
    try:
        is_sound = split_list(joined, len(items)) == items
    except DecodeError:
        return None
    return joined if is_sound else None


def joined_list(count: int, data: bytes) -> bytes:
    """Return the encoding of a list of `count` values whose encodings follow each other in `data`."""
    return _array_header(count) + data


def list_length(data: bytes) -> int:
    """Return the length of an encoded list, or -1 if the bytes begin otherwise; the values are not looked at."""
    first = data[0] if data else 0
    if 0x90 <= first <= 0x9F:  # noqa: PLR2004 - msgpack's fixarray
        return first & 0x0F
    width = {0xDC: 2, 0xDD: 4}.get(first, 0)
    return int.from_bytes(data[1 : 1 + width], "big") if width and len(data) > width else -1


def split_list(data: bytes, count: int) -> list[bytes]:
    """Return the encoding of each value in an encoded list of `count` values.

    Raises:
        DecodeError: It is not the encoding of a list of that length.
    """
    return split_list_every(data, count, 1)


def split_list_every(data: bytes, count: int, width: int) -> list[bytes]:
    """Return the encodings of `width` values at a time, as they follow each other in an encoded list of `count`.

    Raises:
        DecodeError: It is not the encoding of a list of that length.
    """
    unpacker = msgpack.Unpacker(max_buffer_size=len(data) + 1)
    unpacker.feed(data)
    try:
        found = unpacker.read_array_header()
        if found != count:
            msg = f"{found} values where {count} belong"
            raise DecodeError(msg)
        ends = [unpacker.tell()]
        for number in range(1, count + 1):
            unpacker.skip()
            if number % width == 0 or number == count:
                ends.append(unpacker.tell())
    except (ValueError, msgpack.UnpackException) as error:
        msg = f"not the encoding of a list: {type(error).__name__}: {error}"
        raise DecodeError(msg) from error
    if ends[-1] != len(data):
        msg = "something follows the encoding of a list"
        raise DecodeError(msg)
    return [data[start:end] for start, end in pairwise(ends)]


def split_any(data: bytes) -> tuple[bytes, list[bytes]]:
    """Return how an encoded list or map begins, and the encodings of what is in it, keys and values of a map in turn.

    Raises:
        DecodeError: It is neither.
    """
    if list_length(data) >= 0:
        items = split_list(data, list_length(data))
        return data[: len(data) - sum(map(len, items))], items
    unpacker = msgpack.Unpacker(max_buffer_size=len(data) + 1)
    unpacker.feed(data)
    try:
        count = 2 * unpacker.read_map_header()
        ends = [unpacker.tell()]
        for _ in range(count):
            unpacker.skip()
            ends.append(unpacker.tell())
    except (ValueError, msgpack.UnpackException) as error:
        msg = f"not the encoding of a list or map: {type(error).__name__}: {error}"
        raise DecodeError(msg) from error
    return data[: ends[0]], [data[start:end] for start, end in pairwise([*ends[:-1], len(data)])]


def _array_header(count: int) -> bytes:
    if count < 16:  # noqa: PLR2004 - msgpack's fixarray
        return bytes((0x90 | count,))
    return b"\xdc" + count.to_bytes(2, "big") if count < 65_536 else b"\xdd" + count.to_bytes(4, "big")  # noqa: PLR2004


def plain(value: object) -> Any:
    """Return a value with numpy scalars as Python scalars and arrays as lists, however deep they lie."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
        return cast("Any", value).tolist()
    if isinstance(value, dict):
        return {hashable(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return type(value)(hashable(plain(item)) for item in value)
    return value


def _from_extension(code: int, payload: bytes, max_depth: int, budget: _Budget) -> Any:
    read = _PAYLOAD_READERS.get(code)
    if read is not None:
        return read(payload)
    read_fields = FIELD_READERS.get(code)
    if read_fields is None or max_depth <= 0:
        msg = f"extension type {code} is not one of queuelib's, or nested too deeply"
        raise DecodeError(msg)
    # The list of its fields is no level of the value: one more may open here, and the outermost call counts them all.
    return read_fields(_decode(payload, max_depth + 1, max_depth - 1, budget))


def _stored(payload: bytes) -> Any:
    size_bytes = int.from_bytes(payload[1 + HASH_BYTES :], "big")
    if len(payload) != _STORED_BYTES or payload[0] not in {ARGUMENT, RESULT} or not 0 < size_bytes <= MAX_SHARED_BYTES:
        msg = "what stands for a large value is a kind, a hash and a length"
        raise DecodeError(msg)
    load = _loads.get()
    if load is None:
        msg = "a part of it is kept elsewhere, because it is large"
        raise StoredInside(msg)
    before = _loads.set(None)  # what is kept has nothing in it that is kept elsewhere again
    try:
        return decode(load(Stored(payload[0], payload[1 : 1 + HASH_BYTES], size_bytes)))
    finally:
        _loads.reset(before)


_PAYLOAD_READERS = {**PAYLOAD_READERS, EXTENSIONS["Stored"]: _stored}


def _map(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    result = {hashable(key): value for key, value in pairs}
    if len(result) != len(pairs):
        msg = "a map has the same key twice"
        raise DecodeError(msg)
    return result


def _explain(value: object, error: Exception) -> str:
    """Return a message that says which part of a value cannot be encoded, and why."""
    path, culprit = "value", value
    reason: Exception = error
    while True:
        for step, child in children_of(culprit):
            try:
                packb(child, default=extension, unicode_errors="surrogatepass")
            except SoftTimeLimit:
                raise
            except Exception as inner:  # noqa: BLE001 - as it was raised for the whole, whatever that was
                path, culprit, reason = path + step, child, inner
                break
        else:
            return f"{path}: {reason if isinstance(reason, _UNFIT) else words_of(reason)}"
