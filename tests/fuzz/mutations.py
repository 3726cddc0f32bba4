"""Mutations: of bytes without regard for what they mean, of the values inside them, and of text."""

from __future__ import annotations

from random import Random
from typing import Any

import msgpack

__all__ = ["mutated_bytes", "mutated_text", "mutated_value"]

_MOST = 64 * 1024  # bytes of an input; larger ones take long by right
_BYTES = (
    0x00,
    0x01,
    0x7F,
    0x80,
    0x90,
    0x91,
    0x94,
    0x9F,
    0xC0,
    0xC1,
    0xC4,
    0xC6,
    0xC9,
    0xCB,
    0xCF,
    0xD3,
    0xDB,
    0xDD,
    0xDF,
    0xFF,
)
_RUNS = (
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\x90" * 300,
    b"\x91" * 1100,
    b"\x81\x01" * 600,
)
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63 - 1, 2**64 - 1, -(2**63), 0.0, -0.0, 1e300, -1e300, float("nan"), float("inf"),
    "", "x", "\x1b[2J\r\n\u202e", "os.system", "__import__", "../../etc/passwd", "1e999999999", "x" * 3000, b"", b"\xc1",
    b"\x90", bytes(300), [], [[]], [[[[]]]] * 30, {}, {"a": 1}, {1: {2: {3: {}}}}, [0] * 500, ["a", 1, None],
)  # fmt: skip
_CHARACTERS = "/:@?#&=%;,[] \x00\n\x1b\u202e\ud800é測0aZ._-+*'\"{}\\"
_WORDS = (
    "://",
    "%00",
    "%ff",
    "[::1]",
    "[",
    "]:",
    "@",
    "localhost",
    "99999999999999999999",
    "-1",
    "nan",
    "\uff11\uff12",
    "//",
    "?a=b&a=c",
)


def mutated_bytes(data: bytes, other: bytes, random: Random) -> bytes:
    """Return bytes with some of them flipped, cut, doubled, put in, or taken from `other`."""
    found = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        at = random.randrange(len(found) + 1)
        match random.randrange(8):
            case 0 if at < len(found):
                found[at] ^= 1 << random.randrange(8)
            case 1 if at < len(found):
                found[at] = random.choice(_BYTES)
            case 2:
                found[at:at] = bytes([random.choice(_BYTES)])
            case 3:
                del found[at : at + random.choice((1, 1, 2, 4, 16))]
            case 4:
                del found[at:]
            case 5:
                found[at:at] = found[at : at + random.randrange(64)]
            case 6:
                found[at : at + random.choice((0, 1, 5))] = random.choice(_RUNS)
            case _:
                start = random.randrange(len(other) + 1)
                found[at:] = other[start:]
    return bytes(found[:_MOST])


def mutated_value(data: bytes, random: Random) -> bytes:
    """Return msgpack in which a value, wherever it lies, is another one; also inside of byte strings that are msgpack."""
    try:
        value = msgpack.unpackb(data, strict_map_key=False, unicode_errors="surrogatepass")
        return bytes(_packed(_changed(value, random, 0)))[:_MOST]
    except Exception:  # noqa: BLE001 - it is none, or cannot be written again
        return data + bytes([random.choice(_BYTES)])


def mutated_text(text: str, other: str, random: Random) -> str:
    """Return text with characters put in, cut, doubled, or taken from `other`."""
    for _ in range(random.choice((1, 1, 2, 4))):
        at, end = random.randrange(len(text) + 1), random.randrange(len(text) + 1)
        match random.randrange(6):
            case 0:
                text = text[:at] + random.choice(_CHARACTERS) + text[at:]
            case 1:
                text = text[:at] + text[at + 1 :]
            case 2:
                text = text[:at] + random.choice(_WORDS) + text[at:]
            case 3:
                text = text[:at] + text[min(at, end) : max(at, end)] * random.choice((1, 2, 30)) + text[at:]
            case 4:
                text = text[:at] + other[random.randrange(len(other) + 1) :]
            case _:
                text = text.swapcase() if random.random() < 0.5 else text[:at]
    return text[:4096]


def _changed(value: Any, random: Random, depth: int) -> Any:
    if depth > 8 or random.random() < 0.15:
        return _other(value, random)
    if isinstance(value, list) and value:
        items = list(value)
        at = random.randrange(len(items))
        match random.randrange(6):
            case 0:
                del items[at]
            case 1:
                items.insert(at, _other(items[at], random))
            case 2:
                items.reverse()
            case _:
                items[at] = _changed(items[at], random, depth + 1)
        return items
    if isinstance(value, dict) and value:
        key = random.choice(list(value))
        return {**value, key: _changed(value[key], random, depth + 1)}
    if isinstance(value, msgpack.ExtType):
        if random.random() < 0.3:
            return msgpack.ExtType(random.randrange(20), value.data)
        return msgpack.ExtType(value.code, _inside(value.data, random, depth))
    if isinstance(value, bytes) and value and random.random() < 0.8:
        return _inside(value, random, depth)
    return _other(value, random)


def _inside(data: bytes, random: Random, depth: int) -> bytes:
    try:
        inner = msgpack.unpackb(data, strict_map_key=False, unicode_errors="surrogatepass")
    except Exception:  # noqa: BLE001 - it is none
        return mutated_bytes(data, data, random)
    return bytes(_packed(_changed(inner, random, depth + 1)))


def _other(value: Any, random: Random) -> Any:
    chosen = random.randrange(6)
    if chosen == 0 and isinstance(value, int | float) and not isinstance(value, bool):
        return value * random.choice((-1, 2, 1000)) + random.choice((-1, 0, 1))
    if chosen == 1:
        return msgpack.ExtType(random.randrange(20), bytes(_packed(random.choice(_VALUES))))
    if chosen == 2:
        return [value] * random.choice((1, 2, 17))
    return random.choice(_VALUES)


def _packed(value: Any) -> Any:
    return msgpack.packb(value, unicode_errors="surrogatepass")
