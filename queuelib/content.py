r"""What is shared as bytes and back: arrays in numpy's own file format, which maps into memory, all else as arguments are.

The first bytes tell which it is: in msgpack `\x93NUM` is a list of three numbers, behind which nothing else can follow.
"""

from __future__ import annotations

import io
import math
import mmap
import sys
from typing import Any

from queuelib import codec
from queuelib.errors import DecodeError, EncodeError, TooLarge
from queuelib.extensions import check_array, check_dtype
from queuelib.settings import MAX_SHARED_BYTES
from queuelib.shown import shown

__all__ = ["decode", "encode", "is_array"]

_MAGIC = b"\x93NUMPY"
_MOST_HEAD = 65_536  # bytes; numpy reads no header beyond 10,000 without being told to


def encode(value: object) -> memoryview:
    """Return an object as bytes.

    Raises:
        EncodeError: A part of it cannot travel, or nobody could read it: the message says which or why.
        TooLarge: It takes more than `MAX_SHARED_BYTES`.
    """
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.ndarray):
        data = codec.encode(value, max_bytes=MAX_SHARED_BYTES)
        try:
            codec.decode(data)
        except DecodeError as error:
            msg = f"what is shared could not be read again: {error}"
            raise EncodeError(msg) from error
        return memoryview(data)
    try:
        check_array(value)
    except TypeError as error:
        raise EncodeError(str(error)) from error
    array: Any = value
    if array.nbytes > MAX_SHARED_BYTES:
        msg = (
            f"the array takes {array.nbytes:,} bytes; at most {MAX_SHARED_BYTES:,} are shared. Pass a path to the data"
        )
        raise TooLarge(msg)
    file = io.BytesIO()
    numpy.lib.format.write_array(file, array, allow_pickle=False)
    return file.getbuffer()


def decode(data: bytes | mmap.mmap) -> Any:
    """Return the object in bytes that `encode` made; an array is read-only and uses the very memory of `data`.

    Raises:
        DecodeError: The bytes are foreign, or hold a value that cannot be.
    """
    if not is_array(data):
        return codec.decode(data[:])
    try:
        return _array(data)
    except DecodeError:
        raise
    except Exception as error:  # numpy parses text there, and raises what it likes
        msg = f"not a readable array: {type(error).__name__}: {error}"
        raise DecodeError(shown(msg)) from error


def is_array(data: bytes | mmap.mmap) -> bool:
    """Return whether content is that of an array, which `decode` does not copy."""
    return data[: len(_MAGIC)] == _MAGIC


def _array(data: bytes | mmap.mmap) -> Any:
    import numpy as np  # noqa: PLC0415 - only whoever receives arrays needs it

    head = io.BytesIO(data[:_MOST_HEAD])
    version = np.lib.format.read_magic(head)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, is_fortran, dtype = read_header(head)
    check_dtype(dtype)
    count = math.prod(shape)
    if head.tell() + count * dtype.itemsize != len(data):
        msg = f"an array of shape {shape} and dtype {dtype} is not what these bytes hold"
        raise DecodeError(msg)
    if count * dtype.itemsize == 0:
        array = np.empty(shape, dtype)
        array.flags.writeable = False
        return array
    flat: Any = np.frombuffer(data, dtype, count, head.tell())
    return flat.reshape(shape, order="F" if is_fortran else "C")
