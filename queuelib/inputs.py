"""Arguments with gaps where results of other jobs belong: cut at the client, made whole in a worker, never looked into.

What is encoded by msgpack may be put together byte by byte: the encoding of a result takes the place of a stand-in in the
encoding of the arguments.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from queuelib import codec
from queuelib.errors import DecodeError
from queuelib.ids import Key
from queuelib.message import Input, Run

__all__ = ["cut", "filled", "keys_of", "pieces", "runs_of", "stand_in"]

_MARK = 16  # random bytes: nobody's arguments hold them by chance


def stand_in() -> bytes:
    """Return the encoding of a value that stands for a result until `cut`, unlike any other."""
    return codec.encode(os.urandom(_MARK))


def cut(arguments: bytes, stand_ins: Sequence[bytes]) -> bytes:
    """Return the column of a job that waits for inputs.

    Args:
        arguments: The encoded argument list.
        stand_ins: What stands in it for results, in the order in which it stands there.
    """
    left, found = arguments, list[bytes]()
    for mark in stand_ins:
        before, _, left = left.partition(mark)
        found.append(before)
    return codec.encode([*found, left])


def pieces(column: bytes) -> list[bytes]:
    """Return the pieces of arguments that `cut` made.

    Raises:
        DecodeError: The column holds something else.
    """
    found = codec.decode(column)
    if type(found) is not list or not all(type(piece) is bytes for piece in found):
        msg = "arguments that wait for inputs are a list of byte strings"
        raise DecodeError(msg)
    return found


def filled(column: bytes, values: Sequence[bytes]) -> bytes:
    """Return the column of a job whose inputs are there.

    Args:
        column: What `cut` returned.
        values: The encoding of each input.

    Raises:
        DecodeError: The column holds something else, or another number of gaps.
    """
    found = pieces(column)
    if len(found) != len(values) + 1:
        msg = f"{len(found)} pieces of arguments cannot lie around {len(values)} inputs"
        raise DecodeError(msg)
    joined = [part for pair in zip(found, values, strict=False) for part in pair]
    whole = codec.encoded_list([b"".join([*joined, found[-1]])])
    codec.split_list(whole, 1)  # which raises unless it is one value
    return whole


def runs_of(keys: Iterable[Key]) -> list[Run]:
    """Return jobs as runs of those that follow each other, in order."""
    runs: list[Run] = []
    for bundle, index in keys:
        if runs and runs[-1].bundle == bundle and runs[-1].first + runs[-1].count == index:
            runs[-1] = runs[-1]._replace(count=runs[-1].count + 1)
        else:
            runs.append(Run(bundle, index))
    return runs


def keys_of(given: Input) -> list[Key]:
    """Return the jobs that an input names, in order."""
    return [Key(run.bundle, index) for run in given.runs for index in range(run.first, run.first + run.count)]
