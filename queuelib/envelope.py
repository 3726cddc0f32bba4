"""The wire form of a bundle: bytes that every version of queuelib can at least recognize.

An envelope is a msgpack list of four: version, key id, signature, payload. The payload is itself msgpack, in a byte
string, so that a signature can cover it as it is. What all bundles of one call have in common is a byte string in turn:
whoever reads many of them checks it once. docs/wire-format.md describes each field and holds test vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import isfinite
from struct import Struct
from typing import Annotated, Any, cast

import msgpack

from queuelib.codec import decode_fields, list_length
from queuelib.encryption import decrypt, encrypt, is_encrypted, refusal
from queuelib.errors import BadSignature, DecodeError, TooLarge, UnsupportedVersion
from queuelib.ids import BUNDLE_BYTES
from queuelib.inputs import pieces
from queuelib.message import Bundle, Input, Limits, Run
from queuelib.settings import MAX_MESSAGE_BYTES, MAX_RETRIES, MAX_SEED
from queuelib.signing import FRAME, Keyring

__all__ = ["MAX_JOBS", "VERSION", "decode", "encode"]

VERSION = 2
_WITH_INPUTS = 3  # the version of what waits for results of other jobs: older ones give it back unread
_MOST_FLAGS = 3  # of an input: 1 a list, 2 failures are values
_WITH_SEED = 4  # the version of a call with a root for its random numbers, whether it waits or not
_MOST_BYTES = MAX_MESSAGE_BYTES + 1024
_MOST_ATTEMPTS = MAX_RETRIES + 1
MAX_JOBS = 65_536  # in one bundle; a forged count must not make us allocate more
_packb = cast("Callable[..., bytes]", msgpack.packb)  # which says that it may return None, and never does
_LATEST = 2.0**38  # seconds since 1970; no clock goes beyond the year 9999
_MOST_CALL_BYTES = 4096  # of what the bundles of one call have in common: names and limits, remembered while they last
_OPTIONAL_NUMBER = (int, float, type(None))
_NUMBER = (int, float)
_CALL_TYPES: tuple[Any, ...] = (
    str,  # task
    str,  # color
    bytes,  # schema hash
    list,  # limits
    str,  # reply
)
_RUN = Struct(">II")  # first index and count, behind the id of the bundle
_LIMIT_TYPES: tuple[Any, ...] = (_OPTIONAL_NUMBER, _OPTIONAL_NUMBER, int, _NUMBER, _NUMBER)
_PAYLOAD_TYPES: tuple[Any, ...] = (
    bytes,  # call
    bytes,  # bundle id
    int,  # size
    (list, type(None)),  # indexes; nil for all of them
    _NUMBER,  # submitted
    _OPTIONAL_NUMBER,  # due
    _OPTIONAL_NUMBER,  # expires
    int,  # attempt
    int,  # deaths
    bytes,  # trace
    bytes,  # column, or a box with it
)
_PAYLOAD_TYPES_WITH_INPUTS = (*_PAYLOAD_TYPES, list)
_PAYLOAD_TYPES_WITH_SEED = (*_PAYLOAD_TYPES_WITH_INPUTS, int, int)  # seed, and place of the first job in the call
_PLAIN = bytes([0x94, VERSION, 0xC0, 0xC0, 0xC4])  # the beginning of an unsigned envelope below 256 bytes
_Call = tuple[str, str, bytes, Limits, str]


def encode(bundle: Bundle, keys: Keyring | None = None) -> bytes:
    """Return the frame that carries a bundle, signed if there are keys, the arguments encrypted if they encrypt.

    Raises:
        TooLarge: The frame is larger than a message may be, in bytes.
    """
    call = _pack_call(bundle.task, bundle.color, bundle.schema, bundle.limits, bundle.reply)
    column = bundle.column
    if keys is not None and keys.encrypts:
        column = encrypt(keys, bundle.id + call, column)
    fields = (
        call,
        bundle.id,
        bundle.size,
        None if len(bundle.indexes) == bundle.size else list(bundle.indexes),
        bundle.submitted,
        bundle.due,
        bundle.expires,
        bundle.attempt,
        bundle.deaths,
        bundle.trace,
        column,
    )
    version = VERSION
    rest: tuple[Any, ...] = ()
    if bundle.seed is not None:
        version, rest = _WITH_SEED, (_pack_inputs(bundle.inputs), bundle.seed, bundle.first)
    elif bundle.inputs:
        version, rest = _WITH_INPUTS, (_pack_inputs(bundle.inputs),)
    payload = _packb((*fields, *rest) if rest else fields)
    if len(payload) > MAX_MESSAGE_BYTES:
        msg = (
            f"a message for {bundle.task!r} has {len(payload):,} bytes; at most {MAX_MESSAGE_BYTES:,} fit. "
            "Pass a path or an id instead of the data itself"
        )
        raise TooLarge(msg)
    if keys is None:
        return _packb((version, None, None, payload))
    return _packb((version, *keys.sign(FRAME, bytes((version,)), payload), payload))


def decode(frame: bytes, keys: Keyring | None = None) -> Bundle:
    """Return the bundle in a frame; the arguments stay encoded.

    Args:
        frame: The bytes.
        keys: Who may have signed it; None: signatures are not looked at.

    Raises:
        BadSignature: None of the keys signed it, whatever else it may be: its payload is not looked at.
        CannotDecrypt: Its arguments are encrypted, and there are no keys, or not the package for it.
        UnsupportedVersion: Another version of queuelib wrote it.
        DecodeError: The bytes are truncated, foreign or contradict themselves.
    """
    if keys is not None:
        return _signed_bundle(frame, keys)
    if frame[:5] == _PLAIN and len(frame) > 6 and frame[5] == len(frame) - 6:  # noqa: PLR2004 - the length is one byte
        # The common case: a short one without inputs, unsigned.
        return _bundle(_read_payload(frame[6:]))
    return _opened(_unpack(frame, "the envelope"), None)


def _signed_bundle(frame: bytes, keys: Keyring) -> Bundle:
    outer = _unpack(frame, "the envelope")
    match outer:
        case [_, None, None, *_] if keys.accepts_unsigned:
            return decode(frame)
        case [int(version), str() | None as key_id, bytes() | None as signature, bytes(payload)] if 0 <= version < 256:  # noqa: PLR2004 - one byte
            if key_id is None and signature is None:
                msg = (
                    f"it is not signed, and only what a key of QUEUELIB_KEY signed is read here ({', '.join(keys.ids)})"
                )
                raise BadSignature(msg)
            keys.verify((key_id, signature), FRAME, bytes((version,)), payload)
        case _:
            msg = "it is not a signed envelope of queuelib, and only what a key of QUEUELIB_KEY signed is read here"
            raise BadSignature(msg)
    return _opened(outer, keys)


def _opened(outer: Any, keys: Keyring | None) -> Bundle:
    payload = _payload_bytes(outer)
    if outer[0] == VERSION:
        return _bundle(_read_payload(payload), keys)
    if outer[0] == _WITH_INPUTS:
        *fields, written = _payload(payload, _PAYLOAD_TYPES_WITH_INPUTS)
        return _with_inputs(_bundle(fields, keys, fewest_attempts=0), written)
    *fields, written, seed, first = _payload(payload, _PAYLOAD_TYPES_WITH_SEED)
    if not (0 <= seed < MAX_SEED and 0 <= first < MAX_SEED):
        msg = "the seed, or the place of the first job, is out of range"
        raise DecodeError(msg)
    waits = bool(written)
    bundle = _with_inputs(_bundle(fields, keys, fewest_attempts=0), written) if waits else _bundle(fields, keys)
    return bundle._replace(seed=seed, first=first)


def _payload_bytes(outer: Any) -> bytes:
    if type(outer) is not list or not outer or type(outer[0]) is not int:
        msg = "these bytes are not an envelope of queuelib"
        raise DecodeError(msg)
    if outer[0] not in {VERSION, _WITH_INPUTS, _WITH_SEED}:
        msg = f"the envelope has version {outer[0]}; this queuelib reads versions {VERSION} to {_WITH_SEED}"
        raise UnsupportedVersion(msg)
    if len(outer) != 4 or type(outer[3]) is not bytes:  # noqa: PLR2004 - the four parts in the docstring
        msg = "the envelope is not a list of version, key id, signature and payload"
        raise DecodeError(msg)
    payload: bytes = outer[3]
    return payload


@lru_cache(maxsize=1)
def _decoder() -> Any:
    """Return what reads a payload and checks the types of its fields in one step."""
    import msgspec  # noqa: PLC0415 - unneeded by a program without tasks

    indexes = Annotated[list[int], msgspec.Meta(max_length=MAX_JOBS)]
    time = float | None
    return msgspec.msgpack.Decoder(  # the fields of _PAYLOAD_TYPES, in the same order
        tuple[bytes, bytes, int, indexes | None, float, time, time, int, int, bytes, bytes]
    )


def _read_payload(data: bytes) -> Any:
    if len(data) > _MOST_BYTES:
        return _payload(data, _PAYLOAD_TYPES)
    try:
        return _decoder().decode(data)
    except (ValueError, RecursionError):
        return _payload(data, _PAYLOAD_TYPES)  # which says what is wrong with it


def _payload(data: bytes, types: tuple[Any, ...]) -> Any:
    fields = _unpack(data, "the payload")
    _check(fields, types, "payload")
    return fields


def _pack_inputs(inputs: Sequence[Input]) -> list[bytes]:
    return [
        bytes((one.is_list | one.passes << 1,))
        + b"".join(run.bundle + _RUN.pack(run.first, run.count) for run in one.runs)
        for one in inputs
    ]


def _read_inputs(written: list[Any]) -> list[Input]:
    width = BUNDLE_BYTES + _RUN.size
    inputs: list[Input] = []
    for data in written:
        if type(data) is not bytes or len(data) % width != 1 or data[0] > _MOST_FLAGS:
            msg = "an input is not a list of jobs"
            raise DecodeError(msg)
        runs = [
            Run(data[at : at + BUNDLE_BYTES], *_RUN.unpack_from(data, at + BUNDLE_BYTES))
            for at in range(1, len(data), width)
        ]
        is_list, passes = bool(data[0] & 1), bool(data[0] & 2)
        if not all(0 < run.count <= MAX_JOBS - run.first for run in runs) or (
            not is_list and [run.count for run in runs] != [1]
        ):
            msg = "an input names jobs that cannot be"
            raise DecodeError(msg)
        inputs.append(Input(runs, is_list, passes))
    return inputs


def _with_inputs(bundle: Bundle, written: list[Any]) -> Bundle:
    inputs = _read_inputs(written)
    if not inputs or bundle.size != 1 or bundle.attempt:
        msg = "what waits for inputs is one job that was never run, and waits for something"
        raise DecodeError(msg)
    found = pieces(bundle.column)
    if len(found) != len(inputs) + 1:
        msg = f"{len(found)} pieces of arguments cannot lie around {len(inputs)} inputs"
        raise DecodeError(msg)
    return bundle._replace(inputs=inputs)


@lru_cache(maxsize=1024)
def _pack_call(task: str, color: str, schema: bytes, limits: Limits, reply: str) -> bytes:
    numbers = (limits.timeout, limits.hard_timeout, limits.retries, limits.backoff, limits.max_backoff)
    return _packb((task, color, schema, numbers, reply))


@lru_cache(maxsize=1024)
def _read_call(data: bytes) -> _Call:
    if len(data) > _MOST_CALL_BYTES:
        msg = f"the call has {len(data):,} bytes; at most {_MOST_CALL_BYTES:,} are read"
        raise DecodeError(msg)
    fields = _unpack(data, "the call")
    _check(fields, _CALL_TYPES, "call")
    task, color, schema, numbers, reply = fields
    try:
        f"{task}{color}{reply}".encode()
    except UnicodeEncodeError as error:  # a lone surrogate, which no retry of this could be written with
        msg = "a text of the call is not Unicode"
        raise DecodeError(msg) from error
    _check(numbers, _LIMIT_TYPES, "limits")
    if any(limit is not None and limit < 0 for limit in numbers) or numbers[2] > MAX_RETRIES:
        msg = "a limit is out of range"
        raise DecodeError(msg)
    return task, color, schema, Limits(*numbers), reply


def _unpack(data: bytes, what: str) -> Any:
    if len(data) > _MOST_BYTES:
        msg = f"{what} has {len(data):,} bytes; at most {MAX_MESSAGE_BYTES:,} are read"
        raise DecodeError(msg)
    try:
        return decode_fields(data)
    except (ValueError, RecursionError) as error:
        msg = f"{what} is not readable: {type(error).__name__}: {error}"
        raise DecodeError(msg) from error


def _bundle(fields: Any, keys: Keyring | None = None, *, fewest_attempts: int = 1) -> Bundle:
    call, bundle_id, size, written, submitted, due, expires, attempt, deaths, trace, column = fields
    task, color, schema, limits, reply = _read_call(call)
    if not (isfinite(submitted) and (due is None or isfinite(due)) and (expires is None or isfinite(expires))):
        msg = f"a field of the payload is {submitted}, {due} or {expires}, and every number is finite"
        raise DecodeError(msg)
    if not (0 <= submitted <= _LATEST and 0 <= (due or 0) <= _LATEST and 0 <= (expires or 0) <= _LATEST):
        msg = f"a time of the payload is {submitted:g}, {due} or {expires}: that is no wall time"
        raise DecodeError(msg)
    counts_are_sane = fewest_attempts <= attempt <= _MOST_ATTEMPTS and 0 <= deaths <= MAX_RETRIES
    if len(bundle_id) != BUNDLE_BYTES or not 0 < size <= MAX_JOBS or not counts_are_sane:
        msg = "the bundle id, size, attempt or deaths is out of range"
        raise DecodeError(msg)
    if is_encrypted(column):
        if keys is None:
            raise refusal()
        column = decrypt(keys, bundle_id + call, column)
    if not fewest_attempts:
        indexes: Sequence[int] = range(size)
    elif written is None and size == list_length(column):
        indexes = range(size)
    else:
        indexes = _indexes(written, size, list_length(column))
    return Bundle(
        bundle_id,
        task,
        color,
        size,
        indexes,
        column,
        schema,
        limits,
        submitted,
        due,
        expires,
        attempt,
        deaths,
        reply,
        trace,
    )


def _indexes(written: list[Any] | None, size: int, count: int) -> range | list[int]:
    if written is None:
        indexes: range | list[int] = range(size)
    elif all(type(i) is int and 0 <= i < size for i in written) and sorted(set(written)) == written:
        indexes = written
    else:
        msg = "the indexes are not ascending numbers below the size"
        raise DecodeError(msg)
    if count <= 0 or len(indexes) != count:
        msg = f"the bundle has {len(indexes)} indexes and a column of {count} argument lists"
        raise DecodeError(msg)
    return indexes


def _check(values: Any, types: tuple[Any, ...], what: str) -> None:
    if type(values) is not list or len(values) != len(types):
        msg = f"the {what} has not the {len(types)} fields of version {VERSION}"
        raise DecodeError(msg)
    found = (what, *map(type, values))
    if found not in _fitting:
        for position, (value, expected) in enumerate(zip(values, types, strict=True)):
            if not isinstance(value, expected) or value is True or value is False:
                msg = f"field {position} of the {what} has the type {type(value).__name__}"
                raise DecodeError(msg)
        _fitting.add(found)
    for value in values:
        if type(value) is float and not isfinite(value):
            msg = f"a field of the {what} is {value}, and every number is finite"
            raise DecodeError(msg)


_fitting: set[tuple[object, ...]] = (
    set()
)  # the few combinations of types that were found right: two numbers are two types
