"""Which of two records of a job stands."""

from __future__ import annotations

from functools import reduce
from itertools import permutations, product

from hypothesis import given
from hypothesis import strategies as st

from queuelib.ids import Key
from queuelib.outcome import (
    FAILED,
    QUEUED,
    RETRYING,
    RUNNING,
    SCHEDULED,
    SUCCEEDED,
    TERMINAL,
    Record,
    supersedes,
)
from tests.unit.fakes import BUNDLE_ID, quick

KEY = Key(BUNDLE_ID, 0)
ON_THE_WAY = [QUEUED, SCHEDULED, RUNNING, RETRYING]
OTHER_ENDINGS = sorted(TERMINAL - {SUCCEEDED})


def record(state: str, attempt: int = 1, body: bytes = b"") -> Record:
    """Return a record of the one job here."""
    return Record(KEY, state, attempt, body)


RECORDS = st.builds(record, st.sampled_from([*ON_THE_WAY, *OTHER_ENDINGS, SUCCEEDED]), st.integers(1, 3), st.binary())
LISTS = st.lists(RECORDS, min_size=1, max_size=6)


def standing(records: list[Record]) -> Record:
    """Return the record that stands after all of them were stored in this order."""
    return reduce(lambda old, new: new if supersedes(new, old) else old, records)


@quick
@given(before=LISTS, body=st.binary(), after=LISTS)
def test_once_succeeded_always_succeeded(before: list[Record], body: bytes, after: list[Record]) -> None:
    """After a success the state and the value never change, whatever comes, another success included."""
    first = next((r for r in before if r.state == SUCCEEDED), record(SUCCEEDED, body=body))
    assert standing([*before, first, *after]) == first


@quick
@given(records=LISTS)
def test_a_success_stands_in_any_order(records: list[Record]) -> None:
    """Whether a job has succeeded does not depend on the order in which its records arrive."""
    had_success = any(r.state == SUCCEEDED for r in records)
    for order in list(permutations(records))[:24]:
        assert (standing(list(order)).state == SUCCEEDED) == had_success


@quick
@given(records=LISTS)
def test_an_ending_is_never_undone(records: list[Record]) -> None:
    """A job that has ended never looks unfinished again."""
    if any(r.is_final for r in records):
        assert standing(records).is_final


@quick
@given(new=RECORDS)
def test_anything_takes_an_empty_place(new: Record) -> None:
    """The first record stands."""
    assert supersedes(new, None)


def test_the_first_bad_ending_stands() -> None:
    """A failure from a lost lease does not replace the ending that was told to the client."""
    for old, new in product(OTHER_ENDINGS, repeat=2):
        assert not supersedes(record(new, 2), record(old, 1)), (old, new)


def test_a_success_replaces_every_other_ending() -> None:
    """A success is stored if none is there, whoever brings it, even of an earlier attempt."""
    for old in OTHER_ENDINGS:
        assert supersedes(record(SUCCEEDED, 1), record(old, 2)), old


def test_states_on_the_way_follow_the_attempt() -> None:
    """A state of the same or a later attempt replaces one; a state of an earlier attempt comes too late.

    So does the announcement of an attempt that has said something itself, its start above all.
    """
    for old, new in product(ON_THE_WAY, repeat=2):
        verdicts = [supersedes(record(new, attempt), record(old, 2)) for attempt in (1, 2, 3)]
        is_late = new == RETRYING and old != RETRYING
        assert verdicts == [False, not is_late, True], (old, new)


def test_an_ending_replaces_a_state_on_the_way() -> None:
    """It does so even when a later attempt is under way."""
    for old, new in product(ON_THE_WAY, sorted(TERMINAL)):
        assert supersedes(record(new, 1), record(old, 2)), (old, new)


def test_final_states() -> None:
    """A record is final when its job has ended, well or not."""
    states = [*ON_THE_WAY, *OTHER_ENDINGS, SUCCEEDED]
    assert {state for state in states if record(state).is_final} == {
        *(SUCCEEDED, FAILED),
        *("cancelled", "expired", "quarantined", "forged"),
    }
