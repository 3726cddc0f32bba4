"""Types beside those of msgpack: what travels of each of them, under a number of its own, and how it is read again.

A number stands for one of the types below; nothing is built by a name from the wire.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import math
import re
import reprlib
import sys
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePath
from struct import Struct
from typing import Any, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack

from queuelib.errors import DecodeError
from queuelib.handle import HASH_BYTES, Shared, Stored, reader
from queuelib.outcome import Failure
from queuelib.settings import MAX_SHARED_BYTES
from queuelib.shown import shown

__all__ = [
    "EXTENSIONS",
    "FIELD_READERS",
    "MAX_LIST",
    "PAYLOAD_READERS",
    "check_array",
    "check_dtype",
    "extension",
    "fields_of",
    "hashable",
    "packb",
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
packb = cast("Callable[..., bytes]", msgpack.packb)  # which says that it may return None, and never does
_COMPLEX = Struct("<dd")
_ARRAY_KINDS = frozenset("biufcmMSU")  # numpy's letters for what has no Python objects inside
_NATIVE = (int, float, str, bytes, bytearray, list, tuple, dict, type(None))  # msgpack asks no more about these
_MOST_FRACTION_BITS = 65_536  # reducing one takes 15 ms, and ten times the bits a hundred times as long
_ZONE = re.compile(
    r"[A-Za-z0-9_+-]{1,32}(?:/[A-Za-z0-9_+-]{1,32}){0,2}"
)  # others would be looked for as files or modules
_DTYPE = re.compile(r"[<>|=][biufcmMSUV]\d{0,9}(?:\[\d{0,9}[A-Za-zμ]{1,2}\])?")  # numpy parses more than that
MAX_LIST = 16_000_000  # a byte an element at the least: no more can be in a message


def extension(value: object) -> Any:
    """Return what msgpack can write for a value that it cannot; called for nothing else."""
    for cls in type(value).__mro__:
        write = _WRITERS.get(cls)
        if write is not None:
            return write(value)
    if isinstance(value, enum.Enum):
        return value.value if isinstance(value.value, _NATIVE) else extension(value.value)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
        return _array(value, numpy)
    fields = fields_of(value)
    if fields is not None:
        return fields
    msg = f"cannot encode {type(value).__qualname__}"
    raise TypeError(msg)


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


def _ext(name: str, payload: bytes) -> msgpack.ExtType:
    return msgpack.ExtType(EXTENSIONS[name], payload)


def _pack(*fields: object) -> bytes:
    return packb(fields, default=extension, unicode_errors="surrogatepass")


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
    if any(type(size) is not int or not 0 <= size <= MAX_LIST for size in shape):
        msg = f"an array of shape {reprlib.repr(shape)} does not travel"
        raise DecodeError(msg)
    if 0 in shape and math.prod(size or 1 for size in shape) > MAX_LIST:
        msg = f"an empty array of shape {reprlib.repr(shape)} does not travel"  # its rows would be too many lists
        raise DecodeError(msg)
    dtype = np.dtype(name)
    check_dtype(dtype)
    return np.frombuffer(data, dtype).reshape(shape).copy()


PAYLOAD_READERS: Mapping[int, Callable[[bytes], Any]] = {
    EXTENSIONS["Decimal"]: lambda p: Decimal(p.decode("ascii")),
    EXTENSIONS["UUID"]: lambda p: UUID(bytes=p),
    EXTENSIONS["complex"]: lambda p: complex(*_COMPLEX.unpack(p)),
    EXTENSIONS["Path"]: lambda p: Path(p.decode(errors="surrogateescape")),
    EXTENSIONS["int"]: lambda p: int.from_bytes(p, "big", signed=True),
}
FIELD_READERS: Mapping[int, Callable[[Any], Any]] = {  # of payloads that are msgpack lists themselves
    EXTENSIONS["datetime"]: _read_datetime,
    EXTENSIONS["date"]: lambda fields: dt.date(*fields),
    EXTENSIONS["time"]: _read_time,
    EXTENSIONS["timedelta"]: lambda fields: _timedelta(*fields),
    EXTENSIONS["set"]: lambda items: {hashable(item) for item in items},
    EXTENSIONS["frozenset"]: lambda items: frozenset(hashable(item) for item in items),
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


def hashable(value: Any) -> Any:
    """Return a key as it was: of what msgpack writes, only lists cannot be keys, and they were tuples."""
    return tuple(hashable(item) for item in value) if isinstance(value, list) else value
