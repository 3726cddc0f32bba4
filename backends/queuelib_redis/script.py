"""Lua scripts of this package."""

from __future__ import annotations

from hashlib import sha1
from importlib import resources

__all__ = ["Script"]


class Script:
    """A script behind what it shares with others, named on the wire by its digest."""

    def __init__(self, *names: str) -> None:
        folder = resources.files("queuelib_redis").joinpath("scripts")
        self.text = "\n".join(folder.joinpath(f"{name}.lua").read_text("utf-8") for name in names)
        self.digest = sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        self._head = b"\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n$1\r\n1\r\n" % self.digest.encode()

    def head(self, arguments: int) -> bytes:
        """Return the bytes of a call with one key up to that key."""
        return b"*%d%b" % (arguments + 4, self._head)
