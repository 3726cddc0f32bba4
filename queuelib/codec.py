"""Plain values to bytes and back, with the msgpack package and a fixed table of extension types.

What msgpack has itself (nil, bool, integers of 64 bits, float, str, bytes, list, map) travels as such; a tuple
arrives as a list, a dataclass as a map of its fields, an Enum member as its value, until a schema says otherwise.
Nothing here is built by a name from the wire: a code stands for one of the types below.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import math
import re
import reprlib
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from itertools import chain, pairwise
from pathlib import Path, PurePath
from struct import Struct
from typing import Annotated, Any, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack

from queuelib.errors import BrokerUnavailable, DecodeError, EncodeError, SharedGone, SoftTimeLimit, TooLarge
from queuelib.handle import ARGUMENT, HASH_BYTES, RESULT, Shared, Stored, reader
from queuelib.outcome import Failure
from queuelib.settings import MAX_CONTAINERS, MAX_DEPTH, MAX_MESSAGE_BYTES, MAX_SHARED_BYTES
from queuelib.shown import shown, words_of

__all__ = [
    "EXTENSIONS",
    "StoredInside",
    "check_array",
    "check_dtype",
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

EXTENSIONS: Mapping[str, int] = {  # never renumbered: docs/wire-format.md describes each payload
    "datetime": 1,
    "date": 2,
    "time": 3,
    "timedelta": 4,
    "Decimal": 5,
    "UUID": 6,
    "complex": 7,
    "set": 8,
    "frozenset": 9,
    "Path": 10,
    "int": 11,
    "ndarray": 12,
    "numpy scalar": 13,
    "Fraction": 14,
    "Shared": 15,
    "Failure": 16,
    "Stored": 17,
}
_packb = cast("Callable[..., bytes]", msgpack.packb)  # which says that it may return None, and never does
_COMPLEX = Struct("<dd")
_ARRAY_KINDS = frozenset("biufcmMSU")  # numpy's letters for what has no Python objects inside
_SCALARS = frozenset({int, float, str, bytes, bool, type(None)})
_LISTS = frozenset({list, tuple})
_NATIVE = (int, float, str, bytes, bytearray, list, tuple, dict, type(None))  # msgpack asks no more about these
_ONE = b"\x91"  # the header of a list of one
_MAX_MAP = 1_000_000
_UNFIT = (TypeError, ValueError, OverflowError, RecursionError)  # what the encoder raises, or we do
_MOST_NESTED = 4 * MAX_MESSAGE_BYTES  # bytes of extensions within each other
_MOST_FRACTION_BITS = 65_536  # reducing one takes 15 ms, and ten times the bits a hundred times as long
_ZONE = re.compile(
    r"[A-Za-z0-9_+-]{1,32}(?:/[A-Za-z0-9_+-]{1,32}){0,2}"
)  # others would be looked for as files or modules
_DTYPE = re.compile(r"[<>|=][biufcmMSUV]\d{0,9}(?:\[\d{0,9}[A-Za-zμ]{1,2}\])?")  # numpy parses more than that
_MOST_FIELDS = 32  # of a list of ours; a later version may have more than this one
_MOST_NUMBERS = 65_536  # in a field: an index for each job of a bundle
_MAX_LIST = 16_000_000  # a byte an element at the least: no more can be in a message


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
        value: Anything made of the types above.
        max_bytes: The most bytes it may take.
        max_depth: The deepest nesting of containers.
        is_flat: Whether the caller knows that it is not nested deeply.

    Raises:
        EncodeError: A part of it cannot travel, or it is nested too deeply or contains itself; the message has the path.
        TooLarge: It takes more bytes.
    """
    try:
        data = _packb(value, default=_extension, unicode_errors="surrogatepass")
    except _UNFIT as error:
        if not _is_shallow(value, max_depth):
            raise EncodeError(_too_deep(value, max_depth)) from error
        raise EncodeError(_explain(value, error)) from error
    except SoftTimeLimit:
        raise  # it struck here and is not about this
    except Exception as error:  # what a value is made of may have code of its own
        raise EncodeError(_explain(value, error)) from error
    if (
        not is_flat and len(data) > max_depth and not _is_shallow(value, max_depth)
    ):  # each level takes a byte at the least
        raise EncodeError(_too_deep(value, max_depth))
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
            max_array_len=min(_MAX_LIST, len(data)),
            max_map_len=min(_MAX_MAP, len(data)),
        )
    except (DecodeError, SharedGone, BrokerUnavailable):
        raise
    except Exception as error:  # hostile bytes reach constructors of many types; every failure means the same
        msg = f"not readable: {type(error).__name__}: {error}"
        raise DecodeError(shown(msg)) from error
    if len(data) > max_depth and type(value) not in _SCALARS and not _is_shallow(value, max_depth):
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
        return {_hashable(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return type(value)(_hashable(plain(item)) for item in value)
    return value


def fields_of(value: object) -> dict[str, object] | None:
    """Return the fields of a dataclass, msgspec.Struct or attrs instance, or None for any other value."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _attribute(value, field.name) for field in dataclasses.fields(value)}
    names = getattr(type(value), "__struct_fields__", None)
    if names is None:
        attributes = getattr(type(value), "__attrs_attrs__", None)
        names = None if attributes is None else [attribute.name for attribute in attributes]
    return None if names is None else {name: _attribute(value, name) for name in names}


def _attribute(value: object, name: str) -> object:
    try:
        return getattr(value, name)
    except AttributeError as error:
        msg = f"{type(value).__name__}.{name} was never set"
        raise TypeError(msg) from error


def _extension(value: object) -> Any:
    """Return what msgpack can write for a value that it cannot; called for nothing else."""
    for cls in type(value).__mro__:
        write = _WRITERS.get(cls)
        if write is not None:
            return write(value)
    if isinstance(value, enum.Enum):
        return value.value if isinstance(value.value, _NATIVE) else _extension(value.value)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
        return _array(value, numpy)
    fields = fields_of(value)
    if fields is not None:
        return fields
    msg = f"cannot encode {type(value).__qualname__}"
    raise TypeError(msg)


def _ext(name: str, payload: bytes) -> msgpack.ExtType:
    return msgpack.ExtType(EXTENSIONS[name], payload)


def _pack(*fields: object) -> bytes:
    return _packb(fields, default=_extension, unicode_errors="surrogatepass")


def _zone(zone: dt.tzinfo | None, at: dt.datetime | None) -> object:
    """Return a time zone as nil, its name, or its offset from UTC in seconds."""
    if zone is None:
        return None
    if isinstance(zone, ZoneInfo) and zone.key:
        return zone.key
    offset = zone.utcoffset(at)
    return None if offset is None else offset.total_seconds()


def _datetime(value: Any) -> msgpack.ExtType:
    date = (value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond, value.fold)
    return _ext("datetime", _pack(*date, _zone(value.tzinfo, value)))


def _time(value: Any) -> msgpack.ExtType:
    fields = (value.hour, value.minute, value.second, value.microsecond, value.fold, _zone(value.tzinfo, None))
    return _ext("time", _pack(*fields))


def check_array(value: Any) -> None:
    """Return if a numpy array, or scalar, is one that travels.

    Raises:
        TypeError: It is masked, or has Python objects or fields inside.
    """
    if hasattr(value, "mask"):
        msg = "cannot encode a masked array: send its data and its mask"
        raise TypeError(msg)
    if value.dtype.kind not in _ARRAY_KINDS or value.dtype.names is not None:
        msg = f"cannot encode a numpy array of dtype {value.dtype}: only numbers, booleans, times and fixed-width text travel"
        raise TypeError(msg)


def check_dtype(dtype: Any) -> None:
    """Return if arrays of a dtype that was read travel.

    Raises:
        DecodeError: They do not.
    """
    if dtype.kind not in _ARRAY_KINDS or dtype.names is not None:
        msg = f"an array of dtype {shown(str(dtype), 40)!r} does not travel"
        raise DecodeError(msg)


def _array(value: Any, numpy: Any) -> msgpack.ExtType:
    check_array(value)
    dtype = value.dtype
    name = "ndarray" if isinstance(value, numpy.ndarray) else "numpy scalar"
    return _ext(name, _pack(dtype.str, value.shape, numpy.ascontiguousarray(value).tobytes()))


_WRITERS: Mapping[type, Callable[[Any], Any]] = {
    int: lambda v: _ext("int", v.to_bytes((v.bit_length() + 8) // 8, "big", signed=True)),
    dt.datetime: _datetime,
    dt.date: lambda v: _ext("date", _pack(v.year, v.month, v.day)),
    dt.time: _time,
    dt.timedelta: lambda v: _ext("timedelta", _pack(v.days, v.seconds, v.microseconds)),
    Decimal: lambda v: _ext("Decimal", str(v).encode()),
    UUID: lambda v: _ext("UUID", v.bytes),
    complex: lambda v: _ext("complex", _COMPLEX.pack(v.real, v.imag)),
    set: lambda v: _ext("set", _pack(*v)),
    frozenset: lambda v: _ext("frozenset", _pack(*v)),
    PurePath: lambda v: _ext("Path", str(v).encode(errors="surrogateescape")),
    Fraction: lambda v: _ext("Fraction", _pack(int(v.numerator), int(v.denominator))),
    Shared: lambda v: _ext("Shared", _pack(v.hash, v.size_bytes)),
    Stored: lambda v: _ext("Stored", bytes((v.kind,)) + v.hash + v.size_bytes.to_bytes(8, "big")),
    Failure: lambda v: _ext("Failure", _pack(v.state, v.type, v.message, v.job)),
}


def _from_extension(code: int, payload: bytes, max_depth: int, budget: _Budget) -> Any:
    read = _READERS.get(code)
    if read is not None:
        return read(payload)
    read_fields = _FIELD_READERS.get(code)
    if read_fields is None or max_depth <= 0:
        msg = f"extension type {code} is not one of queuelib's, or nested too deeply"
        raise DecodeError(msg)
    # The list of its fields is no level of the value: one more may open here, and the outermost call counts them all.
    return read_fields(_decode(payload, max_depth + 1, max_depth - 1, budget))


def _read_zone(zone: object) -> dt.tzinfo | None:
    if zone is None:
        return None
    if isinstance(zone, str):
        if not _ZONE.fullmatch(zone):
            msg = f"{shown(zone, 40)!r} is no name of a time zone"
            raise DecodeError(msg)
        return ZoneInfo(zone)
    if isinstance(zone, int | float):
        return dt.timezone(dt.timedelta(seconds=zone))
    msg = "a time zone is nil, a name or an offset"
    raise DecodeError(msg)


def _read_datetime(fields: Any) -> dt.datetime:
    year, month, day, hour, minute, second, microsecond, fold, zone = fields
    return dt.datetime(year, month, day, hour, minute, second, microsecond, tzinfo=_read_zone(zone), fold=fold)


def _read_time(fields: Any) -> dt.time:
    hour, minute, second, microsecond, fold, zone = fields
    return dt.time(hour, minute, second, microsecond, tzinfo=_read_zone(zone), fold=fold)


def _read_array(fields: Any) -> Any:
    import numpy as np  # noqa: PLC0415 - only whoever receives arrays needs it

    name, shape, data = fields
    if type(name) is not str or not _DTYPE.fullmatch(name):
        msg = f"an array of dtype {reprlib.repr(name)} does not travel"
        raise DecodeError(msg)
    if any(type(size) is not int or not 0 <= size <= _MAX_LIST for size in shape):
        msg = f"an array of shape {reprlib.repr(shape)} does not travel"
        raise DecodeError(msg)
    if 0 in shape and math.prod(size or 1 for size in shape) > _MAX_LIST:
        msg = f"an empty array of shape {reprlib.repr(shape)} does not travel"  # its rows would be too many lists
        raise DecodeError(msg)
    dtype = np.dtype(name)
    check_dtype(dtype)
    return np.frombuffer(data, dtype).reshape(shape).copy()


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


_READERS: Mapping[int, Callable[[bytes], Any]] = {
    EXTENSIONS["Decimal"]: lambda p: Decimal(p.decode("ascii")),
    EXTENSIONS["UUID"]: lambda p: UUID(bytes=p),
    EXTENSIONS["complex"]: lambda p: complex(*_COMPLEX.unpack(p)),
    EXTENSIONS["Path"]: lambda p: Path(p.decode(errors="surrogateescape")),
    EXTENSIONS["int"]: lambda p: int.from_bytes(p, "big", signed=True),
    EXTENSIONS["Stored"]: _stored,
}
_FIELD_READERS: Mapping[int, Callable[[Any], Any]] = {  # of payloads that are msgpack lists themselves
    EXTENSIONS["datetime"]: _read_datetime,
    EXTENSIONS["date"]: lambda fields: dt.date(*fields),
    EXTENSIONS["time"]: _read_time,
    EXTENSIONS["timedelta"]: lambda fields: _timedelta(*fields),
    EXTENSIONS["set"]: lambda items: {_hashable(item) for item in items},
    EXTENSIONS["frozenset"]: lambda items: frozenset(_hashable(item) for item in items),
    EXTENSIONS["ndarray"]: _read_array,
    EXTENSIONS["numpy scalar"]: lambda fields: _read_array(fields)[()],
    EXTENSIONS["Fraction"]: lambda fields: _fraction(*fields),
    EXTENSIONS["Shared"]: lambda fields: _shared(*fields),
    EXTENSIONS["Failure"]: lambda fields: _failure(*fields),
}


def _fraction(numerator: object, denominator: object) -> Fraction:
    if type(numerator) is not int or type(denominator) is not int:  # "1e999999999" would take minutes to become one
        msg = "a fraction is of two integers"
        raise DecodeError(msg)
    if max(numerator.bit_length(), denominator.bit_length()) > _MOST_FRACTION_BITS:
        msg = (
            f"a fraction is of two integers of at most {_MOST_FRACTION_BITS:,} bits"  # whose common divisor takes long
        )
        raise DecodeError(msg)
    return Fraction(numerator, denominator)


def _shared(content_hash: object, size_bytes: object) -> Shared[Any]:
    if type(content_hash) is not bytes or len(content_hash) != HASH_BYTES:
        msg = f"a handle has the {HASH_BYTES} bytes of a hash"
        raise DecodeError(msg)
    if type(size_bytes) is not int or not 0 < size_bytes <= MAX_SHARED_BYTES:
        msg = f"a handle is of at most {MAX_SHARED_BYTES:,} bytes"
        raise DecodeError(msg)
    return Shared(content_hash, size_bytes, reader.get())


def _failure(*fields: object) -> Failure:
    match fields:
        case str(state), str(type_name), str(message), str(job):
            return Failure(state, type_name, message, job)
        case _:
            msg = "a failure has the texts of a state, a class, a message and an id"
            raise DecodeError(msg)


def _timedelta(days: int, seconds: int, microseconds: int) -> dt.timedelta:
    return dt.timedelta(days=days, seconds=seconds, microseconds=microseconds)


def _map(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    result = {_hashable(key): value for key, value in pairs}
    if len(result) != len(pairs):
        msg = "a map has the same key twice"
        raise DecodeError(msg)
    return result


def _hashable(value: Any) -> Any:
    """Return a key as it was: of what msgpack writes, only lists cannot be keys, and they were tuples."""
    return tuple(_hashable(item) for item in value) if isinstance(value, list) else value


def _children(value: object) -> Iterator[tuple[str, object]]:
    """Yield the containers directly inside a value, with the path to each."""
    if isinstance(value, dict):
        for key, item in value.items():
            if type(item) not in _SCALARS:
                yield f"[{_shown(key)}]", item
            if type(key) not in _SCALARS:
                yield f"<key {_shown(key)}>", key
    elif isinstance(value, list | tuple | set | frozenset):
        for position, item in enumerate(value):
            if type(item) not in _SCALARS:
                yield f"[{position}]", item
    else:
        for name, item in _fields_set(value).items():
            if type(item) not in _SCALARS:
                yield f".{name}", item


def _fields_set(value: object) -> dict[str, object]:
    try:
        return fields_of(value) or {}
    except SoftTimeLimit:
        raise
    except Exception:  # noqa: BLE001 - one was never set, or does harm, which is said elsewhere
        return {}


def _shown(key: object) -> str:
    try:
        return repr(key)[:40]
    except Exception:  # noqa: BLE001 - a foreign __repr__, or an integer of more digits than Python prints
        return type(key).__name__


def _is_shallow(value: object, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        if not level:
            return True
        if _LISTS.issuperset(map(type, level)):  # the common case, without generators
            lists = cast("list[list[object]]", level)
            children = (item for item in chain.from_iterable(lists) if type(item) not in _SCALARS)
        else:
            children = (child for item in level for _, child in _children(item))
        # each object once, or what contains itself in two places would double from level to level
        level = list({id(child): child for child in children}.values())
        if len(level) > _MAX_LIST:
            return False
    return not level


def _too_deep(value: object, depth: int) -> str:
    return f"value{_deepest(value, depth)} is nested deeper than {depth} containers, or contains itself"


def _deepest(value: object, depth: int) -> str:
    path = ""
    for _ in range(depth):
        for step, child in _children(value):
            if not _is_shallow(child, depth):
                path, value = path + step, child
                break
        if len(path) > 60:  # noqa: PLR2004 - enough to find it
            return path + "..."
    return path


def _explain(value: object, error: Exception) -> str:
    """Return a message that says which part of a value cannot be encoded, and why."""
    path, culprit = "value", value
    reason: Exception = error
    while True:
        for step, child in _children(culprit):
            try:
                msgpack.packb(child, default=_extension, unicode_errors="surrogatepass")
            except SoftTimeLimit:
                raise
            except Exception as inner:  # noqa: BLE001 - as it was raised for the whole, whatever that was
                path, culprit, reason = path + step, child, inner
                break
        else:
            return f"{path}: {reason if isinstance(reason, _UNFIT) else words_of(reason)}"
