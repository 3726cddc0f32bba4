"""Waiting for one descriptor."""

from __future__ import annotations

import os
import resource
from fcntl import F_DUPFD, fcntl

import pytest

from queuelib.polling import is_readable


@pytest.mark.parametrize("fewest", [0, 1024])
def test_any_number(fewest: int) -> None:
    """A worker with hundreds of children has descriptors with high numbers."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] <= fewest:
        resource.setrlimit(resource.RLIMIT_NOFILE, (fewest + 64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    reading, writing = os.pipe()
    high = fcntl(reading, F_DUPFD, fewest)
    try:
        assert not is_readable(high, 0.0)
        os.write(writing, b"x")
        assert is_readable(high, 0.0)
    finally:
        for fd in (reading, writing, high):
            os.close(fd)


def test_an_end_is_readable() -> None:
    """There is nothing more to wait for."""
    reading, writing = os.pipe()
    os.close(writing)
    try:
        assert is_readable(reading, 10.0)
    finally:
        os.close(reading)
