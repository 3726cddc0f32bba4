"""URLs that are safe to print."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from queuelib.settings import mask
from tests.unit.fakes import LETTERS, quick

VISIBLE = "".join(letter for letter in LETTERS if not letter.isspace())
PASSWORDS = st.text(VISIBLE, min_size=1, max_size=20)


@quick
@given(
    password=PASSWORDS, user=st.sampled_from(["", "me", "me@corp"]), scheme=st.sampled_from(["redis", "kombu+amqps"])
)
def test_the_password_never_appears(password: str, user: str, scheme: str) -> None:
    """Whatever visible characters it has, encoded or not, nothing of it is left."""
    assume(";" not in password)  # which divides the URLs of a list
    for text in (password, quote(password, safe="")):
        assert mask(f"{scheme}://{user}:{text}@host/0") == f"{scheme}://{user}:***@host/0"


@quick
@given(
    password=st.text(VISIBLE.replace("&", "").replace(";", ""), min_size=1, max_size=20),
    name=st.sampled_from(["password", "Passwd", "SECRET", "token", "key", "ssl_key"]),
)
def test_nor_in_the_query(password: str, name: str) -> None:
    """A secret given as a parameter is masked as well, up to the next one."""
    assert mask(f"redis://host?{name}={password}&db=1") == f"redis://host?{name}=***&db=1"


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("amqp://u:p1@a//;amqp://u:p2@b//", "amqp://u:***@a//;amqp://u:***@b//"),
        ("sentinel://:p1@a,sentinel://:p2@b", "sentinel://:***@a,sentinel://:***@b"),
        ("cannot reach redis://u:p@host/0: refused", "cannot reach redis://u:***@host/0: refused"),
        ("redis://u:p@@x@host", "redis://u:***@host"),
        ("redis://u:a/b?c#d@host", "redis://u:***@host"),
        ("redis://:@host", "redis://:***@host"),
    ],
)
def test_where_passwords_hide(url: str, masked: str) -> None:
    """In each URL of a list, in the middle of a text, and whatever signs they hold."""
    assert mask(url) == masked


@pytest.mark.parametrize(
    "text", ["redis://host:6379/0", "amqp://user@host//", "sqlite:///jobs.db", "memory://", "no URL at all: a b", ""]
)
def test_what_holds_no_password_stays(text: str) -> None:
    """Ports, users and paths are shown."""
    assert mask(text) == text
