"""What somebody can do about shared objects who can write to the server, or only read it."""

from __future__ import annotations

import hmac
import logging
import uuid
from collections.abc import Callable

import pytest

from queuelib import SharedGone, content, pieces, plugins
from queuelib.sealed import SealedBlobs
from queuelib.settings import BLOB_BYTES
from queuelib.signing import Keyring
from queuelib_memory.server import MemoryServer, server_named

SECRET = "0123456789abcdef" * 2
CANARY = "c4nary-in-the-mine"
CONTENT = content.encode([CANARY] * 100_000)
SIGNING, ENCRYPTING = f"k1:{SECRET}", f"k1/aes:{SECRET}"


def place(key: str = "") -> tuple[MemoryServer, SealedBlobs]:
    """Return a server of this test's own, and its blobs behind a key."""
    name = uuid.uuid4().hex
    return server_named(name), SealedBlobs(plugins.blobs_for(f"memory://{name}", "x", 60.0), Keyring(key))


def read(blobs: SealedBlobs, content_hash: bytes) -> bytes:
    """Return content."""
    data = bytearray()
    pieces.load(blobs, content_hash, len(CONTENT), data.extend)
    return bytes(data)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data[:40],
        lambda _: b"",
        lambda _: bytes(CONTENT[:BLOB_BYTES]),
        lambda data: b"\xc1\x04" + data[2:] if data[1] == 5 else b"\xc1\x05" + data[2:],
    ],
)
@pytest.mark.parametrize("key", [SIGNING, ENCRYPTING])
def test_what_was_changed_is_not_believed(
    key: str, change: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """A piece that is not as it was signed is as good as none, and the log says so."""
    server, blobs = place(key)
    known = pieces.store(blobs, CONTENT)
    assert read(blobs, known) == CONTENT
    name, (data, until) = next(iter(server.blobs.items()))
    server.blobs[name] = (change(data), until)
    with caplog.at_level(logging.WARNING), pytest.raises(SharedGone):
        read(blobs, known)
    assert "not believed" in caplog.text


def test_pieces_cannot_be_exchanged() -> None:
    """A piece that was signed stands for itself only."""
    server, blobs = place(SIGNING)
    known = pieces.store(blobs, CONTENT)
    first, second = list(server.blobs)[:2]
    server.blobs[first], server.blobs[second] = server.blobs[second], server.blobs[first]
    with pytest.raises(SharedGone):
        read(blobs, known)


def test_who_reads_the_server_learns_nothing() -> None:
    """Of what is encrypted neither contents nor names tell what it is."""
    server, blobs = place(ENCRYPTING)
    known = pieces.store(blobs, CONTENT)
    seen = b"".join(name + data for (_, name), (data, _) in server.blobs.items())
    assert CANARY.encode() not in seen
    assert known not in seen


def test_unsigned_ones_are_found_only_where_that_is_accepted() -> None:
    """What was shared before there were keys is read while they are introduced, and not after."""
    name = uuid.uuid4().hex
    plain = plugins.blobs_for(f"memory://{name}", "x", 60.0)
    known = pieces.store(plain, CONTENT)
    assert read(SealedBlobs(plain, Keyring(SIGNING, accepts_unsigned=True)), known) == CONTENT
    with pytest.raises(SharedGone):
        read(SealedBlobs(plain, Keyring(SIGNING)), known)


@pytest.mark.parametrize(("key", "digit"), [(SIGNING, b"0"), (ENCRYPTING, b"1")])
def test_names_and_signatures_are_what_the_wire_format_says(key: str, digit: bytes) -> None:
    """Others can find and check a piece by the words of docs/wire-format.md."""
    server, blobs = place(key)
    known = pieces.store(blobs, content.encode([1]))
    ((_, name), (data, _)), *_ = server.blobs.items()
    piece = known + bytes(4)
    assert name == hmac.digest(SECRET.encode(), b"queuelib blob name\0\2k1" + digit + piece, "sha256")
    form = 5 if key == ENCRYPTING else 4
    assert data[:5] == b"\xc1" + bytes([form]) + b"\2k1"
    signed = b"queuelib blob\0\2k1" + f"{form} {name.hex()}\n".encode() + data[37:]
    assert data[5:37] == hmac.digest(SECRET.encode(), signed, "sha256")
    if form == 4:
        assert data[37:] == content.encode([1])
