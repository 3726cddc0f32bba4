"""Ids of bundles and jobs: made by the submitter, sortable by time, and checked when they come back.

A bundle id is 16 bytes: 48 bits of wall time in milliseconds, then 80 random bits. A job's id is text:
the bundle id in hex (32 characters), the job's index in the bundle in hex (1 or more), and 6 hex digits of CRC-32
over both, which tell a mistyped or made-up id from one that was given out.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from queuelib.errors import UnknownJob

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BUNDLE_BYTES", "Key", "created_at", "job_id", "new_bundle_id", "parse_job_id", "running_mark"]

BUNDLE_BYTES = 16
_BUNDLE_HEX = 2 * BUNDLE_BYTES
_CHECK_HEX = 6
_MAX_INDEX_HEX = 8


class Key(NamedTuple):
    """What names one job everywhere below the public interface."""

    bundle: bytes
    index: int  # type: ignore[assignment]  # tuple.index is not missed


def new_bundle_id(wall: float, random: Callable[[int], bytes] = os.urandom) -> bytes:
    """Return a fresh bundle id for the wall time `wall` (seconds since 1970)."""
    return int(wall * 1000).to_bytes(6, "big") + random(BUNDLE_BYTES - 6)


def created_at(bundle: bytes) -> float:
    """Return the wall time in seconds, to the millisecond, at which the bundle id was made."""
    return int.from_bytes(bundle[:6], "big") / 1000


def job_id(bundle: bytes, index: int) -> str:
    """Return the public id of one job of a bundle."""
    return f"{bundle.hex()}{index:x}{_check(bundle, index):06x}"


def parse_job_id(text: str) -> Key:
    """Return the key behind a public id.

    Raises:
        UnknownJob: The text is not an id that queuelib made: wrong length, alphabet or check.
    """
    index_text = text[_BUNDLE_HEX:-_CHECK_HEX]
    try:
        bundle = bytes.fromhex(text[:_BUNDLE_HEX])
        index, check = int(index_text, 16), int(text[-_CHECK_HEX:], 16)
    except ValueError:
        index = check = -1
        bundle = b""
    key_is_sound = len(bundle) == BUNDLE_BYTES and 0 < len(index_text) <= _MAX_INDEX_HEX and index >= 0
    if not key_is_sound or job_id(bundle, index) != text or check != _check(bundle, index):
        msg = f"no job has the id {text[:64]!r}: it is mistyped or was never given out"
        raise UnknownJob(msg)
    return Key(bundle, index)


def running_mark(key: Key) -> Key:
    """Return under which key a job is marked as cancelled also where it runs.

    It has the complement of the bundle's id, which no bundle can have: its time lies some thousand years ahead.
    """
    return Key(bytes(byte ^ 0xFF for byte in key.bundle), key.index)


def _check(bundle: bytes, index: int) -> int:
    return crc32(index.to_bytes(4, "big"), crc32(bundle)) & 0xFFFFFF
