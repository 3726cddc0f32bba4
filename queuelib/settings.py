"""Numbers that the whole project shares, each with its reason, and URLs that are safe to print."""

from __future__ import annotations

import re

__all__ = [
    "BLOB_BYTES",
    "DEATHS",
    "DEFAULT_NAMESPACE",
    "KEEP",
    "LARGE_BYTES",
    "LEASE",
    "LONGEST_DELAY",
    "MAX_CONTAINERS",
    "MAX_DEPTH",
    "MAX_MESSAGE_BYTES",
    "MAX_RETRIES",
    "MAX_SEED",
    "MAX_SHARED_BYTES",
    "NAMESPACE",
    "PROGRESS_KEEP",
    "SUBMIT_DEADLINE",
    "UNKNOWN_DELAY",
    "UNKNOWN_PATIENCE",
    "mask",
]

LEASE = 15.0  # seconds a silent worker keeps what it took; it renews every second
SUBMIT_DEADLINE = 5.0  # seconds within which submit answers
MAX_DEPTH = 64  # nesting of arguments and results
MAX_CONTAINERS = 1_000_000  # lists and maps in one value: an empty one takes a byte on the wire and a hundred here
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
MAX_SHARED_BYTES = 4 * 1024**3  # of one object, which has to fit the memory of whoever shares it twice
# Of an encoded argument or result: what is larger may travel apart from its message or outcome.
LARGE_BYTES = 256 * 1024
BLOB_BYTES = 1024 * 1024  # into which what is shared is cut: never changed, as a name says which piece of so many bytes
# Of one job: a forged or forgotten number ends, and a week of one every second does not reach it.
MAX_RETRIES = 1_000_000
MAX_SEED = 2**64  # what is below it is an integer on the wire; numpy takes any
LONGEST_DELAY = 10 * 365 * 24 * 3600.0  # seconds; every server's clocks and integers hold such a time
DEATHS = 3  # under the same job, then it is set aside
KEEP = 24 * 3600.0  # seconds an outcome is kept
PROGRESS_KEEP = 600.0  # seconds what a job told last is kept; of one that runs it is written again before
UNKNOWN_DELAY = 30.0  # seconds between two tries of a task that no worker here knows: a deploy is under way
UNKNOWN_PATIENCE = 3600.0  # seconds until such a message is set aside
DEFAULT_NAMESPACE = "queuelib"
NAMESPACE = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")

# A user and a password may hold '@' themselves: up to the last one, but not into the next URL of a list.
_USERINFO = re.compile(r"(://[^:/\s]*):(?:(?![;,][\w+.-]+://)\S)*@")
_SPACES = re.compile(r"(\s+)")
_QUERY_SECRET = re.compile(r"((?:password|passwd|secret|token|key)=)[^&;\s]*", re.IGNORECASE)


def mask(text: str) -> str:
    """Return a URL, or text that holds one, with its passwords replaced by `***`.

    >>> mask("redis://me:secret@host/0")
    'redis://me:***@host/0'
    """
    if "@" in text:
        text = "".join([_masked(word) for word in _SPACES.split(text)])
    return _QUERY_SECRET.sub(r"\1***", text)


def _masked(word: str) -> str:
    # What is looked at ends with '@': where none follows, each '://' would be a reason to look at all the rest.
    end = word.rfind("@") + 1
    return _USERINFO.sub(r"\1:***@", word[:end]) + word[end:]
