"""A short run of the fuzzer; `make fuzz` is the long one."""

from __future__ import annotations

import os

from tests.fuzz.runner import fuzz


def test_s39_mutated_inputs_raise_our_errors_only() -> None:
    """Whatever arrives, a reader raises one of its own errors, in little time and memory; each run has other inputs."""
    seed = int.from_bytes(os.urandom(4), "big")
    found = fuzz(20_000, seed)
    assert not found.wrong, f"seed {seed}: {found.wrong[:5]}"
    assert found.count == 20_000
    assert all(0 < found.read[name] < tried or name in _READ_ALL for name, tried in found.tried.items()), found.read


_READ_ALL = {"starts", "record on Redis", "inbox on Redis"}  # what is damaged there tells of nothing
