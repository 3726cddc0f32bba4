"""Deliveries in hand, and the jobs in them."""

from __future__ import annotations

from queuelib.envelope import decode
from queuelib.ids import Key
from queuelib.worker.lease import Hold, Member
from tests.unit.fakes import BUNDLE_ID, make_bundle, make_delivery, make_hold


def test_a_job_knows_its_id_by_its_place() -> None:
    """In a part of a bundle the first job is not number 0."""
    hold = make_hold(make_bundle(size=9, indexes=[4, 7], arguments=[b"a", b"b"], attempt=2))
    assert [member.key for member in hold.pending.values()] == [Key(BUNDLE_ID, 4), Key(BUNDLE_ID, 7)]
    assert hold.pending[1].identity == (BUNDLE_ID, 7, 2)
    assert hold.pending[1].bundle is hold.bundle


def test_one_job_by_two_deliveries() -> None:
    """It has one identity and is two members: what is started once may be held twice."""
    one, other = make_hold().pending[0], make_hold().pending[0]
    assert one.identity == other.identity
    assert one != other


def test_the_next_attempt_is_another_start() -> None:
    """A retry of a job that still runs elsewhere is not taken for that run."""
    first, second = make_hold(make_bundle(attempt=1)), make_hold(make_bundle(attempt=2))
    assert first.pending[0].key == second.pending[0].key
    assert first.pending[0].identity != second.pending[0].identity


def test_the_remainder_is_what_has_no_outcome() -> None:
    """It travels on under the same ids and attempt, at once, and past a broker that accepts each id once."""
    hold = make_hold(make_bundle(4, due=5.0, attempt=2, deaths=1, reply="inbox"))
    del hold.pending[2], hold.pending[0]
    rest = hold.remainder()
    bundle = decode(rest.frame)
    assert (bundle.indexes, bundle.arguments) == ([1, 3], [b"1", b"3"])
    assert (bundle.id, bundle.size, bundle.attempt, bundle.deaths, bundle.reply) == (BUNDLE_ID, 4, 2, 1, "inbox")
    assert (bundle.due, rest.due, rest.is_successor) == (None, None, True)


def test_the_remainder_is_in_order() -> None:
    """Even when its jobs were put back in another one."""
    bundle = make_bundle(3)
    hold = Hold(make_delivery(bundle), bundle)
    hold.pending = {position: Member(hold, position) for position in (2, 0)}
    assert decode(hold.remainder().frame).indexes == [0, 2]


def test_untouched() -> None:
    """A delivery can go back as it came until one of its jobs has an outcome."""
    hold = make_hold(make_bundle(2))
    assert hold.is_untouched
    del hold.pending[0]
    assert not hold.is_untouched


def test_an_empty_entry() -> None:
    """It is for this delivery and tells whoever waits for it."""
    hold = make_hold(make_bundle(reply="inbox"))
    entry = hold.settled()
    assert (entry.delivery, entry.reply, entry.is_complete) == (hold.delivery, "inbox", False)
    assert (entry.records, entry.successors, entry.quarantined) == ([], [], [])
