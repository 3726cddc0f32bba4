"""Signed records: what a record says, bound to its job by a signature in front of its body.

A record of several successes is signed as one. Backends may have to split it all the same, without a key: each job's
part then takes along what proves that it belongs to the whole, the digests of about the square root of their number of
slices of results. Where keys encrypt, the body is a box, or each slice of results is one: signatures and digests are of
what is stored. docs/wire-format.md describes the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from math import isqrt
from typing import Any, NamedTuple, cast

import msgpack

from queuelib import codec
from queuelib.encryption import decrypt, encrypt, is_encrypted, refusal
from queuelib.errors import BadSignature, DecodeError
from queuelib.ids import Key
from queuelib.outcome import Record
from queuelib.signing import BLOB, OUTCOME, SIGNATURE_BYTES, Keyring

__all__ = ["is_sealed", "open_blob", "open_sealed", "parts", "seal", "seal_blob", "without_seal"]

_MARK = 0xC1  # a byte with which no msgpack begins
_WHOLE, _COLUMN, _PART, _BLOB, _HIDDEN_BLOB = range(1, 6)
_DIGEST_BYTES = 32
_MOST_SLICES = 256  # of a record: it has at most 65,536 jobs
_packb = cast("Callable[..., bytes]", msgpack.packb)  # which says that it may return None, and never does


class _Sealed(NamedTuple):
    form: int
    key_id: str
    signature: bytes
    content: bytes


class _Part(NamedTuple):
    """One success of several: a slice of the results with its own, and the digests of all slices."""

    first: int
    span: int  # how many they are
    at: int  # which of them it is, from 0
    head: bytes
    digests: bytes
    results: bytes

    @property
    def width(self) -> int:
        return _width(self.span)


def seal(record: Record, keys: Keyring) -> Record:
    """Return a record with a signed body, encrypted before if the keys encrypt."""
    form = _WHOLE if record.count == 1 else _COLUMN
    context, body = _context(form, record), record.body
    if keys.encrypts and body:
        body = encrypt(keys, context, body) if form == _WHOLE else _encrypted_column(keys, context, record)
    proof = body if form == _WHOLE else _proof(*_slices(body, record.count))
    key_id, signature = keys.sign(OUTCOME, context, proof)
    return record._replace(body=_packed(form, key_id, signature, body))


def is_sealed(body: bytes) -> bool:
    """Return whether a body bears a signature, right or wrong."""
    return body[:1] == b"\xc1"


def open_sealed(record: Record, keys: Keyring) -> Record:
    """Return a record with the body that was signed, decrypted.

    Raises:
        BadSignature: None of the keys signed that this is what became of this job.
        CannotDecrypt: It was signed, and is encrypted, for which the package is missing here.
    """
    try:
        sealed = _read(record.body)
        part = _read_part(sealed.content) if sealed.form == _PART else None
        context, proof = _covered(record, sealed, part)
    except DecodeError as error:
        msg = f"its signature cannot be read: {error}"
        raise BadSignature(msg) from error
    keys.verify((sealed.key_id, sealed.signature), OUTCOME, context, proof)
    body = sealed.content
    if part is not None:
        results = part.results
        if is_encrypted(results):
            results = decrypt(keys, _context_of_slice(context, part.at // part.width), results)
        body = _single(part, results)
    elif is_encrypted(body) and record.count == 1:
        body = decrypt(keys, context, body)
    elif is_encrypted(body):
        body = _decrypted_column(keys, context, body, record.count)
    return record._replace(body=body)


def without_seal(body: bytes) -> bytes:
    """Return a body without its signature, which is not looked at: for whoever has no key.

    Raises:
        CannotDecrypt: It is encrypted.
        DecodeError: It cannot be read.
    """
    form, _, _, content = _read(body)
    part = _read_part(content) if form == _PART else None
    if is_encrypted(content if part is None else part.results):
        raise refusal()
    return content if part is None else _single(part, part.results)


def _covered(record: Record, sealed: _Sealed, part: _Part | None) -> tuple[bytes, bytes]:
    """Return what the signature of a record has to cover, in two pieces."""
    form, _, _, content = sealed
    if form == _WHOLE and record.count == 1:
        return _context(form, record), content
    if form == _COLUMN and record.count > 1:
        head, slices = _slices(content, record.count)
        return _context(form, record), _proof(head, slices)
    if part is not None and record.count == 1 and record.key.index == part.first + part.at:
        key = Key(record.key.bundle, part.first)
        whole = Record(key, record.state, record.attempt, count=part.span)
        return _context(_COLUMN, whole), sha256(part.head).digest() + _with_own(part)
    msg = "it was made for another record"
    raise DecodeError(msg)


def parts(record: Record) -> list[Record]:
    """Return a signed record of several successes as one record a job, each with what proves that it was signed.

    Raises:
        DecodeError: Its body cannot be read.
    """
    form, key_id, signature, content = _read(record.body)
    if form != _COLUMN:
        msg = "a record of several jobs bears the signature of one"
        raise DecodeError(msg)
    width = _width(record.count)
    head, slices = _slices(content, record.count)
    digests = _digests(slices)
    found: list[Record] = []
    for at, key in enumerate(record.keys):
        part = _packb((record.key.index, record.count, at, head, digests, slices[at // width]))
        body = _packed(_PART, key_id, signature, part)
        found.append(Record(key, record.state, record.attempt, body, record.at))
    return found


def seal_blob(name: bytes, data: bytes, keys: Keyring) -> bytes:
    """Return a blob with a signature in front, encrypted before if the keys encrypt."""
    form = _HIDDEN_BLOB if keys.encrypts else _BLOB
    context = _context_of_blob(form, name)
    if keys.encrypts:
        data = encrypt(keys, context, data)
    return _packed(form, *keys.sign(BLOB, context, data), data)


def open_blob(name: bytes, data: bytes, keys: Keyring) -> bytes:
    """Return the blob that was signed, decrypted.

    Raises:
        BadSignature: None of the keys signed that this is the blob of this name.
        CannotDecrypt: It was signed, and is encrypted, for which the package is missing here.
    """
    try:
        sealed = _read(data)
    except DecodeError as error:
        msg = f"its signature cannot be read: {error}"
        raise BadSignature(msg) from error
    context = _context_of_blob(sealed.form, name)
    keys.verify((sealed.key_id, sealed.signature), BLOB, context, sealed.content)
    return decrypt(keys, context, sealed.content) if sealed.form == _HIDDEN_BLOB else sealed.content


def _context_of_blob(form: int, name: bytes) -> bytes:
    return b"%d %b\n" % (form, name.hex().encode())


def _context(form: int, record: Record) -> bytes:
    (bundle, index), state, attempt, _, _, count = record
    return b"%d %b %d %d %d %b\n" % (form, bundle.hex().encode(), index, count, attempt, state.encode())


def _packed(form: int, key_id: str, signature: bytes, content: bytes) -> bytes:
    name = key_id.encode()
    return b"%c%c%c%b%b%b" % (_MARK, form, len(name), name, signature, content)


def _read(body: bytes) -> _Sealed:
    start = 3 + (body[2] if len(body) > 2 else 0)  # noqa: PLR2004 - mark, form, length of the key's id
    end = start + SIGNATURE_BYTES
    if body[:1] != b"\xc1" or len(body) < end:
        msg = "it is not a signed body, or cut short"
        raise DecodeError(msg)
    try:
        key_id = body[3:start].decode("ascii")
    except UnicodeDecodeError as error:
        msg = "the id of its key is not ASCII"
        raise DecodeError(msg) from error
    return _Sealed(body[1], key_id, body[start:end], body[end:])


def _width(count: int) -> int:
    """Return how many results a slice has."""
    return isqrt(count - 1) + 1


def _slices(content: bytes, count: int) -> tuple[bytes, Sequence[bytes]]:
    """Return what several successes have in common, encoded, and their encoded results a slice at a time, or its box."""
    if is_encrypted(content):
        return _boxes(content, count)
    match _unpacked(content):
        case [str(), str(), float(), bytes(results)] as fields:
            return _packb(fields[:3]), codec.split_list_every(results, count, _width(count))
        case _:
            msg = "it does not hold results"
            raise DecodeError(msg)


def _encrypted_column(keys: Keyring, context: bytes, record: Record) -> bytes:
    """Return the body of several successes with a box for each slice of their results."""
    head, slices = _slices(record.body, record.count)
    boxes = [encrypt(keys, _context_of_slice(context, number), one) for number, one in enumerate(slices)]
    return b"%c%b" % (_MARK, _packb((head, boxes)))


def _decrypted_column(keys: Keyring, context: bytes, content: bytes, count: int) -> bytes:
    head, boxes = _boxes(content, count)
    slices = [decrypt(keys, _context_of_slice(context, number), box) for number, box in enumerate(boxes)]
    return _success(head, codec.joined_list(count, b"".join(slices)))


def _boxes(content: bytes, count: int) -> tuple[bytes, Sequence[bytes]]:
    number = -(-count // _width(count))
    match _unpacked(content[1:]):
        case [bytes(head), list(boxes)] if len(boxes) == number and all(type(box) is bytes for box in boxes):
            return head, boxes
        case _:
            msg = f"it does not hold the {number} encrypted slices of {count} results"
            raise DecodeError(msg)


def _context_of_slice(context: bytes, number: int) -> bytes:
    return b"%b%d" % (context, number)


def _proof(head: bytes, slices: Iterable[bytes]) -> bytes:
    return sha256(head).digest() + _digests(slices)


def _digests(slices: Iterable[bytes]) -> bytes:
    return b"".join(sha256(one).digest() for one in slices)


def _read_part(content: bytes) -> _Part:
    match _unpacked(content):
        case [int(first), int(span), int(at), bytes(head), bytes(digests), bytes(results)] if 0 <= at < span:
            part = _Part(first, span, at, head, digests, results)
        case _:
            msg = "it is not one of several successes"
            raise DecodeError(msg)
    if len(digests) != -(-span // part.width) * _DIGEST_BYTES:
        msg = "it has not a digest for each slice"
        raise DecodeError(msg)
    return part


def _with_own(part: _Part) -> bytes:
    """Return the digests of all slices, with that of its own slice made from the results that are here."""
    start = part.at // part.width * _DIGEST_BYTES
    own = sha256(part.results).digest()
    return part.digests[:start] + own + part.digests[start + _DIGEST_BYTES :]


def _single(part: _Part, results: bytes) -> bytes:
    """Return the body that the job would have had alone, from the results of its slice."""
    before = part.at // part.width * part.width
    there = min(part.width, part.span - before)
    return _success(part.head, codec.split_list(codec.joined_list(there, results), there)[part.at - before])


def _success(head: bytes, result: bytes) -> bytes:
    match _unpacked(head):
        case [str(task), str(ran_by), float(seconds)]:
            return _packb((task, ran_by, seconds, result))
        case _:
            msg = "it does not say what its result is of"
            raise DecodeError(msg)


def _unpacked(data: bytes) -> Any:
    try:
        return msgpack.unpackb(data, max_array_len=_MOST_SLICES, max_map_len=0, max_ext_len=0)
    except ValueError as error:
        msg = f"it is not readable: {error}"
        raise DecodeError(msg) from error
