"""The wire form of a bundle: bytes that every version of queuelib can at least recognize.

An envelope is a msgpack list of four: version, key id, signature, payload. The payload is itself msgpack, in a byte
string, so that a signature can cover it as it is: a list of the header and the column of arguments, one byte string
a job. docs/wire-format.md describes each field and holds test vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import msgpack

from queuelib.errors import DecodeError, TooLarge, UnsupportedVersion
from queuelib.ids import BUNDLE_BYTES
from queuelib.message import Bundle, Limits
from queuelib.settings import MAX_MESSAGE_BYTES, MAX_RETRIES

__all__ = ["VERSION", "decode", "encode"]

VERSION = 1
MAX_JOBS = 65_536  # in one bundle; a forged count must not make us allocate more
_packb = cast("Callable[..., bytes]", msgpack.packb)  # which says that it may return None, and never does
_OPTIONAL_NUMBER = (int, float, type(None))
_HEADER_TYPES: tuple[Any, ...] = (
    bytes,  # bundle id
    str,  # task
    str,  # color
    int,  # size
    (list, type(None)),  # indexes; nil for all of them
    bytes,  # schema hash
    list,  # limits
    (int, float),  # submitted
    _OPTIONAL_NUMBER,  # due
    _OPTIONAL_NUMBER,  # expires
    int,  # attempt
    int,  # deaths
    str,  # reply
    bytes,  # trace
)
_LIMIT_TYPES: tuple[Any, ...] = (_OPTIONAL_NUMBER, _OPTIONAL_NUMBER, int, (int, float), (int, float))


def encode(bundle: Bundle) -> bytes:
    """Return the frame that carries a bundle.

    Raises:
        TooLarge: The frame is larger than a message may be, in bytes.
    """
    limits = bundle.limits
    is_whole = len(bundle.indexes) == bundle.size
    header = (
        bundle.id,
        bundle.task,
        bundle.color,
        bundle.size,
        None if is_whole else list(bundle.indexes),
        bundle.schema,
        (limits.timeout, limits.hard_timeout, limits.retries, limits.backoff, limits.max_backoff),
        bundle.submitted,
        bundle.due,
        bundle.expires,
        bundle.attempt,
        bundle.deaths,
        bundle.reply,
        bundle.trace,
    )
    payload = _packb((header, bundle.arguments), use_bin_type=True)
    if len(payload) > MAX_MESSAGE_BYTES:
        msg = (
            f"a message for {bundle.task!r} has {len(payload):,} bytes; at most {MAX_MESSAGE_BYTES:,} fit. "
            "Pass a path or an id instead of the data itself"
        )
        raise TooLarge(msg)
    return _packb((VERSION, None, None, payload), use_bin_type=True)


def decode(frame: bytes) -> Bundle:
    """Return the bundle in a frame; the arguments stay encoded.

    Raises:
        UnsupportedVersion: A newer queuelib wrote it.
        DecodeError: The bytes are truncated, foreign or contradict themselves.
    """
    outer = _unpack(frame, "the envelope")
    if not isinstance(outer, list) or not outer or type(outer[0]) is not int:
        msg = "these bytes are not an envelope of queuelib"
        raise DecodeError(msg)
    if outer[0] != VERSION:
        msg = f"the envelope has version {outer[0]}; this queuelib reads version {VERSION}"
        raise UnsupportedVersion(msg)
    if len(outer) != 4 or not isinstance(outer[3], bytes):  # noqa: PLR2004 - the four parts in the docstring
        msg = "the envelope is not a list of version, key id, signature and payload"
        raise DecodeError(msg)
    payload = _unpack(outer[3], "the payload")
    if not isinstance(payload, list) or len(payload) != 2:  # noqa: PLR2004
        msg = "the payload is not a header and a column of arguments"
        raise DecodeError(msg)
    return _bundle(payload[0], payload[1])


def _unpack(data: bytes, what: str) -> Any:
    if len(data) > MAX_MESSAGE_BYTES + 1024:
        msg = f"{what} has {len(data):,} bytes; at most {MAX_MESSAGE_BYTES:,} are read"
        raise DecodeError(msg)
    try:
        return msgpack.unpackb(data, max_array_len=MAX_JOBS, max_map_len=0, max_ext_len=0)
    except (ValueError, TypeError, RecursionError) as error:
        msg = f"{what} is not readable: {type(error).__name__}: {error}"
        raise DecodeError(msg) from error


def _bundle(header: Any, column: Any) -> Bundle:
    _check(header, _HEADER_TYPES, "header")
    _check(header[6], _LIMIT_TYPES, "limits")
    if not isinstance(column, list) or not all(type(value) is bytes for value in column):  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = "the arguments are not a column of byte strings"
        raise DecodeError(msg)
    bundle_id, size, attempt, deaths, retries = header[0], header[3], header[10], header[11], header[6][2]
    counts_are_sane = 1 <= attempt <= MAX_RETRIES + 1 and 0 <= deaths <= MAX_RETRIES and retries <= MAX_RETRIES
    if len(bundle_id) != BUNDLE_BYTES or not 0 < size <= MAX_JOBS or not counts_are_sane:
        msg = "the header's bundle id, size, attempt, deaths or retries is out of range"
        raise DecodeError(msg)
    if any(limit is not None and limit < 0 for limit in header[6]):
        msg = "a limit is negative"
        raise DecodeError(msg)
    return Bundle(
        id=bundle_id,
        task=header[1],
        color=header[2],
        size=size,
        indexes=_indexes(header[4], size, len(column)),
        arguments=column,
        schema=header[5],
        limits=Limits(*header[6]),
        submitted=header[7],
        due=header[8],
        expires=header[9],
        attempt=attempt,
        deaths=deaths,
        reply=header[12],
        trace=header[13],
    )


def _indexes(written: list[Any] | None, size: int, count: int) -> range | list[int]:
    if written is None:
        indexes: range | list[int] = range(size)
    elif all(type(i) is int and 0 <= i < size for i in written) and sorted(set(written)) == written:
        indexes = written
    else:
        msg = "the indexes are not ascending numbers below the size"
        raise DecodeError(msg)
    if not count or len(indexes) != count:
        msg = f"the bundle has {len(indexes)} indexes and {count} argument lists"
        raise DecodeError(msg)
    return indexes


def _check(values: Any, types: tuple[Any, ...], what: str) -> None:
    if not isinstance(values, list) or len(values) != len(types):  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"the {what} has not the {len(types)} fields of version {VERSION}"
        raise DecodeError(msg)
    for position, (value, expected) in enumerate(zip(values, types, strict=True)):
        if not isinstance(value, expected) or value is True or value is False:
            msg = f"field {position} of the {what} has the type {type(value).__name__}"
            raise DecodeError(msg)
        if isinstance(value, float) and not math.isfinite(value):
            msg = f"field {position} of the {what} is {value}, and every number is finite"
            raise DecodeError(msg)
