"""Names of keys, and how long they live."""

from __future__ import annotations

from typing import Final

__all__ = ["ACCEPTED_FOR", "prefix"]

ACCEPTED_FOR: Final = 30 * 24 * 3600.0  # seconds, after its due time, for which a job that has not ended is remembered


def prefix(namespace: str) -> bytes:
    """Return what every key begins with; the braces keep all of them on one node of a cluster."""
    return b"{%b}:" % namespace.encode()
