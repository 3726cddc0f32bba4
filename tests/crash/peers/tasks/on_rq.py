"""What RQ runs: a plain function."""

from tests.crash.peers.work import work

__all__ = ["work"]
