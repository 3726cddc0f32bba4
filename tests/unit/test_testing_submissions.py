"""Assertions about what was submitted: what they accept, and what they say when they do not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import ANY

import pytest

from queuelib import Dispatcher, Message
from queuelib.testing import AssertSubmitted, in_process
from queuelib.testing.submissions import recorded

dispatcher = Dispatcher("redis://production.example/0")
other = Dispatcher("redis://production.example/0")


@dataclass(frozen=True)
class Address:
    user: str
    host: str


@dispatcher.task(name="shop.mail")
def mail(to: Address, subject: str = "Hello", *cc: str, **headers: str) -> None: ...


@dispatcher.task(name="shop.scale")
def scale(factor: float, values: Any = None) -> None: ...


@dispatcher.message(name="shop.Resize")
@dataclass(frozen=True)
class Resize(Message[None]):
    path: str
    size: tuple[int, int] = (1, 1)


@other.task(name="other.ping")
def ping() -> None: ...


ANN = Address("ann", "example.com")
BOB = Address("bob", "example.com")


@pytest.fixture
def assert_submitted() -> Iterator[AssertSubmitted]:
    made = AssertSubmitted()
    with in_process([dispatcher, other]), recorded([dispatcher, other], made):
        yield made


def failure(assertion: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        assertion(*args, **kwargs)
    return str(caught.value)


def test_it_gives_the_jobs(assert_submitted: AssertSubmitted) -> None:
    """Those that match, in order."""
    jobs = [mail.submit(ANN), mail.submit(BOB), mail.submit(ANN)]
    assert assert_submitted(mail, ANN) == [jobs[0], jobs[2]]
    assert assert_submitted(mail) == jobs
    assert assert_submitted.times(2, mail, ANN) == [jobs[0], jobs[2]]
    assert assert_submitted.times(0, scale) == []
    assert_submitted.never(mail, ANN, "Bye")


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((ANN, "Hello"), {}),
        ((), {"subject": "Hello", "to": ANN}),
        ((ANN,), {}),
    ],
)
def test_defaults_and_names_do_not_matter(
    assert_submitted: AssertSubmitted, args: tuple[Any, ...], kwargs: Any
) -> None:
    """Arguments are compared by parameter, as the handler gets them."""
    mail.submit(ANN)
    assert_submitted(mail, *args, **kwargs)


def test_arguments_are_compared_as_they_travel(assert_submitted: AssertSubmitted) -> None:
    """An integer for a float, a tuple for a list, the order of a dictionary: the handler sees no difference."""
    scale.submit(2, values=({"a": 1, "b": 2}, "x"))
    assert_submitted(scale, 2.0, values=[{"b": 2, "a": 1}, "x"])
    assert_submitted.never(scale, 2.5, values=[{"b": 2, "a": 1}, "x"])
    mail.submit(ANN, "Hi", "c1", "c2", urgent="yes")
    assert_submitted(mail, ANN, "Hi", "c1", "c2", urgent="yes")
    assert_submitted.never(mail, ANN, "Hi", "c1", urgent="yes")


def test_arrays_are_compared_by_what_is_in_them(assert_submitted: AssertSubmitted) -> None:
    """Byte by byte, so that an array is no question of its own."""
    numpy = pytest.importorskip("numpy")
    scale.submit(1.0, values=numpy.arange(5000.0))
    assert_submitted(scale, 1.0, values=numpy.arange(5000.0))
    different = numpy.arange(5000.0)
    different[2500] = -1.0
    assert_submitted.never(scale, 1.0, values=different)


def test_what_cannot_travel_is_compared_as_it_is(assert_submitted: AssertSubmitted) -> None:
    """So that stand-ins for any value work."""
    scale.submit(0.1 + 0.2, values="x")
    assert_submitted(scale, pytest.approx(0.3), values=ANY)
    assert_submitted.never(scale, pytest.approx(0.4), values=ANY)


def test_messages_are_given_whole_or_by_class(assert_submitted: AssertSubmitted) -> None:
    """An instance; its class with fields; its class alone for any."""
    job = dispatcher.submit(Resize("a.png", (2, 3)))
    assert assert_submitted(Resize("a.png", (2, 3))) == [job]
    assert assert_submitted(Resize, "a.png", size=(2, 3)) == [job]
    assert assert_submitted(Resize) == [job]
    assert "size: (2, 3), and not (1, 1)" in failure(assert_submitted, Resize("a.png"))
    with pytest.raises(TypeError, match="has its fields already"):
        assert_submitted(Resize("a.png"), 2)


def test_all_ways_to_submit_are_seen(assert_submitted: AssertSubmitted) -> None:
    """One by one, many at once, lazily, with options, and by any of the dispatchers."""
    mail.options(color="red", delay=60).submit(ANN)
    scale.submit_many([(float(i),) for i in range(600)])
    list(scale.map([1000.0, 1001.0]))
    ping.submit()
    assert_submitted(mail, ANN)
    assert_submitted(scale, 599.0)
    assert_submitted.times(602, scale)
    assert_submitted(scale, 1001.0)
    assert_submitted.times(1, ping)
    first = assert_submitted.submissions[0]
    assert (first.color, first.delay, first.arguments["to"]) == ("red", 60.0, ANN)


def test_a_failure_says_what_was_submitted_instead(assert_submitted: AssertSubmitted) -> None:
    """The nearest calls first, argument by argument, and the other tasks by name."""
    mail.submit(BOB, "Bye")
    mail.submit(ANN, "Hello, Ann")
    scale.submit(1.0)
    scale.submit(2.0)
    assert failure(assert_submitted, mail, ANN).splitlines() == [
        "shop.mail(to=Address(user='ann', host='example.com'), subject='Hello', cc=(), headers={}) was not submitted.",
        "  shop.mail was submitted twice, otherwise:",
        "    shop.mail(to=Address(user='ann', host='example.com'), subject='Hello, Ann', cc=(), headers={})",
        "      subject: 'Hello, Ann', and not 'Hello'",
        "    shop.mail(to=Address(user='bob', host='example.com'), subject='Bye', cc=(), headers={})",
        "      to: Address(user='bob', host='example.com'), and not Address(user='ann', host='example.com')",
        "      subject: 'Bye', and not 'Hello'",
        "  Submitted besides:",
        "    shop.scale, twice",
    ]


def test_large_values_are_compared_line_by_line(assert_submitted: AssertSubmitted) -> None:
    """What differs stands there, and not all that is the same."""
    rows = [{"sku": f"article-{i}", "count": i} for i in range(50)]
    scale.submit(1.0, values=rows)
    wrong = [dict(row) for row in rows]
    wrong[20]["count"] = 21
    said = failure(assert_submitted, scale, 1.0, values=wrong).splitlines()
    assert "        - {'count': 21, 'sku': 'article-20'}," in said
    assert "        + {'count': 20, 'sku': 'article-20'}," in said
    assert not any("article-30" in line for line in said)
    assert max(map(len, said)) < 300


def test_nothing_at_all_is_said_too(assert_submitted: AssertSubmitted) -> None:
    """Where nothing was submitted, that is the reason."""
    assert_submitted.nothing()
    assert failure(assert_submitted, ping).splitlines() == [
        "other.ping was not submitted.",
        "  Nothing was submitted in this test.",
    ]


def test_what_does_not_fit_is_named(assert_submitted: AssertSubmitted) -> None:
    """An expectation that no submit could fulfil is a mistake in the test, and the message says which."""
    scale.submit(1.0)
    assert "(It could not have been: factor: expected float, got str)" in failure(assert_submitted, scale, "one")
    with pytest.raises(TypeError, match="unexpected keyword"):
        assert_submitted(scale, 1.0, color="red")


def test_counts_and_negations_say_what_there_was(assert_submitted: AssertSubmitted) -> None:
    """How often, with which arguments."""
    for _ in range(7):
        ping.submit()
    assert failure(assert_submitted.times, 2, ping) == "other.ping should have been submitted twice, and was 7 times."
    assert failure(assert_submitted.never, ping).splitlines() == [
        "other.ping was submitted 7 times, and should not have been:",
        *["    other.ping()"] * 5,
        "    and 2 more",
    ]
    assert failure(assert_submitted.nothing).startswith("submitted 7 times, and nothing should have been:")
    assert_submitted.clear()
    assert_submitted.nothing()


def test_a_function_that_is_no_task_is_refused(assert_submitted: AssertSubmitted) -> None:
    """An assertion about it would always hold, or never."""
    with pytest.raises(TypeError, match="is no task of these dispatchers"):
        assert_submitted.never(failure)
    with pytest.raises(TypeError, match="is no task of these dispatchers"):
        assert_submitted.never(Address)
