"""What jobs carry, unreadable to whoever can only read the broker: AES-256-GCM, each time under a key of its own.

A box is a byte with which no msgpack begins, the id of a key (its length first), 16 random bytes, and the ciphertext
with its tag. The AES key is the HMAC-SHA256 of those random bytes under the secret of the named key, and serves for
this one box: no count of messages makes a nonce come twice. What a box stands for is authenticated with it.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING

from queuelib.errors import BadSignature, CannotDecrypt, MissingDriver

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from queuelib.signing import Keyring

__all__ = ["decrypt", "encrypt", "is_encrypted", "refusal", "require"]

_MARK = 0xC1
_SALT_BYTES = 16
_NONCE = bytes(12)  # the key is used once
_HOW = "install queuelib-kombu[crypto]"


def require() -> None:
    """Return if this program can encrypt.

    Raises:
        MissingDriver: The package for it is not installed.
    """
    try:
        _aead()
    except ImportError as error:
        msg = f"a key of QUEUELIB_KEY is to encrypt, for which the package cryptography is missing: {_HOW}"
        raise MissingDriver(msg) from error


def encrypt(keys: Keyring, context: bytes, plain: bytes) -> bytes:
    """Return bytes as a box that only who has the signing key of `keys` can open.

    Args:
        keys: The first one encrypts.
        context: What the bytes belong to; the box opens with the same context only.
        plain: The bytes.
    """
    salt = os.urandom(_SALT_BYTES)
    key_id, key = keys.derive(salt)
    name = key_id.encode()
    return b"%c%c%b%b%b" % (_MARK, len(name), name, salt, _aead()(key).encrypt(_NONCE, plain, context))


def is_encrypted(data: bytes) -> bool:
    """Return whether bytes that are msgpack otherwise are a box."""
    return data[:1] == b"\xc1"


def decrypt(keys: Keyring, context: bytes, box: bytes) -> bytes:
    """Return what was encrypted.

    Raises:
        BadSignature: It was encrypted with another key or for another context, or changed since.
        CannotDecrypt: The package for it is not installed here.
    """
    start = 2 + (box[1] if len(box) > 1 else 0)
    end = start + _SALT_BYTES
    try:
        aead = _aead()
    except ImportError as error:
        msg = f"it is encrypted, and the package cryptography is missing here: {_HOW}"
        raise CannotDecrypt(msg) from error
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - unneeded by programs that encrypt nothing

    _, key = keys.derive(box[start:end], box[2:start].decode("ascii", "replace"))
    try:
        return aead(key).decrypt(_NONCE, box[end:], context)
    except InvalidTag as error:
        msg = "it cannot be decrypted: made with another secret or for another job, or changed since"
        raise BadSignature(msg) from error


def refusal() -> CannotDecrypt:
    """Return what to raise where there are no keys to open a box with."""
    return CannotDecrypt(f"it is encrypted: to read it takes its key, in QUEUELIB_KEY, and the package for it: {_HOW}")


@lru_cache(maxsize=1)
def _aead() -> type[AESGCM]:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - as above

    return AESGCM
