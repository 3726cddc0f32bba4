"""Keys and signatures: who may write what others run and believe, proven by HMAC-SHA256 and nothing else.

Keys may encrypt besides: then what jobs carry is unreadable to others, see encryption.py.

A key has an id, which travels, and a secret, which never does. Each signature covers a tag for what is signed and the
id of the key besides the data, so that none can stand for another. There is no way to say that something needs none.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import NoReturn

from queuelib import encryption
from queuelib.errors import BadSignature, ConfigurationError

__all__ = ["BLOB", "FRAME", "OUTCOME", "SIGNATURE_BYTES", "Keyring", "Secret"]

FRAME = b"frame"
OUTCOME = b"outcome"
BLOB = b"blob"
_ENCRYPTION = b"encryption"
_NAME = b"blob name"
SIGNATURE_BYTES = 32
_MIN_SECRET = 16  # bytes; what has fewer can be guessed
_KEY_ID = re.compile(r"[A-Za-z0-9_.-]{1,32}\Z")
_HOW = "write QUEUELIB_KEY=ID:SECRET, with several separated by commas, the one that signs first"


class Secret:
    """A text that is never shown by accident: not by `repr`, `str` or formatting; and it refuses to be pickled.

    >>> Secret("open-sesame")
    ***
    >>> Secret("open-sesame").reveal()
    'open-sesame'
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return "***"

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        msg = "a secret is not pickled: pass reveal() where it has to go"
        raise TypeError(msg)


class _Key:
    """One key, with what all its signatures begin with hashed already."""

    __slots__ = ("_begun", "encrypts", "id")

    def __init__(self, key_id: str, secret: bytes, *, encrypts: bool) -> None:
        self.id = key_id
        self.encrypts = encrypts
        name = key_id.encode()
        self._begun = {
            tag: hmac.new(secret, b"queuelib %b\0%c%b" % (tag, len(name), name), hashlib.sha256)
            for tag in (FRAME, OUTCOME, BLOB, _ENCRYPTION, _NAME)
        }

    def signature(self, tag: bytes, head: bytes, data: bytes) -> bytes:
        mac = self._begun[tag].copy()
        mac.update(head)
        mac.update(data)
        return mac.digest()


class Keyring:
    """The keys that this program knows: the first one signs, each of them verifies.

    Args:
        text: `id:secret`, or `id/aes:secret` for a key that encrypts as well; or several separated by commas. An id has 1
            to 32 letters, digits, `_`, `.` or `-`; a secret at least 16 bytes and no comma.
        accepts_unsigned: Whether what bears no signature is taken for good, while signing is introduced. A wrong
            signature never is.

    Raises:
        ConfigurationError: The text is no list of keys; the message does not show it.
        MissingDriver: A key encrypts, and the package for it is not installed.
    """

    __slots__ = ("_keys", "_signer", "accepts_unsigned", "secret")

    def __init__(self, text: str, *, accepts_unsigned: bool = False) -> None:
        self.secret = Secret(text)
        self.accepts_unsigned = accepts_unsigned
        self._keys: dict[str, _Key] = {}
        for place, entry in enumerate(text.split(","), 1):
            name, colon, secret = entry.strip().partition(":")
            key_id, slash, way = name.partition("/")
            if not colon or not _KEY_ID.match(key_id) or (slash and way != "aes"):
                msg = f"key {place} is not ID:SECRET or ID/aes:SECRET, where the id has 1 to 32 letters, digits, '_', '.' or '-': {_HOW}"
                raise ConfigurationError(msg)
            if len(secret.encode()) < _MIN_SECRET:
                msg = f"the secret of key {key_id!r} has fewer than {_MIN_SECRET} bytes and could be guessed"
                raise ConfigurationError(msg)
            if key_id in self._keys:
                msg = f"two keys have the id {key_id!r}: give the new one another"
                raise ConfigurationError(msg)
            if slash:
                encryption.require()
            self._keys[key_id] = _Key(key_id, secret.encode(), encrypts=bool(slash))
        self._signer = next(iter(self._keys.values()))

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the keys; the first one signs."""
        return tuple(self._keys)

    @property
    def encrypts(self) -> bool:
        """Whether what this program writes is encrypted: whether the first key encrypts. All of them decrypt."""
        return self._signer.encrypts

    def derive(self, salt: bytes, key_id: str | None = None) -> tuple[str, bytes]:
        """Return the id of a key, the first one unless named, and 32 bytes that only who has it can make from `salt`.

        Raises:
            BadSignature: There is no such key here.
        """
        key = self._signer if key_id is None else self._keys.get(key_id)
        if key is None:
            msg = f"it is encrypted with the key {key_id!r:.66}, and QUEUELIB_KEY here has {', '.join(self._keys)}"
            raise BadSignature(msg)
        return key.id, key.signature(_ENCRYPTION, salt, b"")

    def names(self, name: bytes) -> list[bytes]:
        """Return under which names a blob may be stored that is called `name` without keys.

        A name tells nobody without the key what it was made from, and is another one for each key, and where it encrypts:
        what was stored under other keys is neither believed nor taken for what would be stored now.

        Returns:
            The name under which this program stores it, then those under which others may have.
        """
        return [
            key.signature(_NAME, b"%d" % encrypts, name)
            for key in self._keys.values()
            for encrypts in (key.encrypts, not key.encrypts)
        ]

    def sign(self, tag: bytes, head: bytes, data: bytes) -> tuple[str, bytes]:
        """Return the id of the key that signs, and the signature of `head` and `data` as they follow each other.

        Args:
            tag: What is signed: `FRAME`, `OUTCOME` or `BLOB`.
            head: Of a form that tells where it ends.
            data: The rest.
        """
        return self._signer.id, self._signer.signature(tag, head, data)

    def verify(self, signed_by: tuple[object, object], tag: bytes, head: bytes, data: bytes) -> None:
        """Return if a key of this ring signed this.

        Args:
            signed_by: Id of the key and signature, as they were read.
            tag: As for `sign`.
            head: As for `sign`.
            data: As for `sign`.

        Raises:
            BadSignature: None did; the message says why, for people.
        """
        key_id, signature = signed_by
        if not isinstance(key_id, str) or not isinstance(signature, bytes) or len(signature) != SIGNATURE_BYTES:
            msg = f"its signature is incomplete: it is not a key id and {SIGNATURE_BYTES} bytes"
            raise BadSignature(msg)
        key = self._keys.get(key_id)
        if key is None:
            msg = f"it is signed with the key {key_id[:64]!r}, and QUEUELIB_KEY here has {', '.join(self._keys)}"
            raise BadSignature(msg)
        if not hmac.compare_digest(key.signature(tag, head, data), signature):
            msg = f"its signature is wrong: changed after it was signed, or another secret under the id {key_id!r}"
            raise BadSignature(msg)

    def __repr__(self) -> str:
        return f"<Keyring {', '.join(self._keys)}>"

    def __reduce__(self) -> NoReturn:
        msg = "keys are not pickled or copied: pass secret.reveal() where they have to go"
        raise TypeError(msg)
