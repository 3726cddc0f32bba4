"""What RQ runs: plain functions."""

from tests.benchmarks.peers.work import nap, noop

__all__ = ["nap", "noop"]
