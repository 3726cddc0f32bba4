"""Deliveries in hand, and how far the jobs in them are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuelib import codec
from queuelib.envelope import decode
from queuelib.ids import Key
from queuelib.worker.lease import Hold, Holds, Part
from tests.unit.fakes import BUNDLE_ID, make_bundle, make_delivery, make_hold, positions, quick

MOVES = st.lists(st.tuples(st.sampled_from(["hand", "put_back", "end"]), st.integers(0, 7), st.integers(1, 4)))


class TestHold:
    """One delivery."""

    def test_a_job_knows_its_id_by_its_place(self) -> None:
        """In a part of a bundle the first job is not number 0."""
        hold = make_hold(make_bundle(2, size=9, indexes=[4, 7], attempt=2))
        assert [hold.key(at) for at in (0, 1)] == [Key(BUNDLE_ID, 4), Key(BUNDLE_ID, 7)]

    @quick
    @given(moves=MOVES, count=st.integers(1, 8))
    def test_every_job_is_in_one_place(self, moves: list[tuple[str, int, int]], count: int) -> None:
        """It waits, or a child has it, or it has ended; ended it stays so, and is counted once."""
        hold = make_hold(make_bundle(count))
        states = ["waits"] * count
        for move, at, length in moves:
            end = min(count, at + length)
            if at >= end:
                continue
            if move == "end":
                is_new = "ended" not in states[at:end]
                assert hold.end(at, end) == is_new
                states[at:end] = ["ended"] * (end - at) if is_new else states[at:end]
            elif "ended" not in states[at:end]:
                if move == "hand":
                    hold.hand(at, end)
                else:
                    assert [(part.at, part.end) for part in hold.put_back(Part(hold, at, end))] == [(at, end)]
                states[at:end] = ["handed" if move == "hand" else "waits"] * (end - at)
        assert positions(hold.waiting()) == [at for at, state in enumerate(states) if state == "waits"]
        assert hold.left == count - states.count("ended")
        assert hold.has_handed == ("handed" in states)
        assert hold.is_untouched == ("ended" not in states)
        assert [hold.has_ended(at) for at in range(count)] == [state == "ended" for state in states]

    def test_what_waits_is_as_few_parts_as_can_be(self) -> None:
        """Jobs beside each other are one, except that those with a start behind them stand alone."""
        hold = make_hold(make_bundle(8))
        hold.end(2, 3)
        hold.suspect(5, 1)
        assert [(part.at, part.end) for part in hold.waiting()] == [(0, 2), (3, 5), (5, 6), (6, 8)]

    def test_suspects_are_noted_one_by_one(self) -> None:
        """What was noted before is not copied for each: a redelivered bundle may be of very many jobs."""
        hold, other = make_hold(make_bundle(3)), make_hold(make_bundle(3))
        hold.suspect(0, 1)
        noted = hold.starts
        hold.suspect(2, 4)
        assert hold.starts is noted
        assert (noted, other.starts) == ({0: 1, 2: 4}, {})

    def test_the_remainder_is_what_has_no_outcome(self) -> None:
        """It travels on under the same ids and attempt, at once, and past a broker that accepts each id once."""
        hold = make_hold(make_bundle(4, due=5.0, attempt=2, deaths=1, reply="inbox"))
        hold.end(2, 3)
        hold.end(0, 1)
        hold.hand(3, 4)
        rest = hold.remainder()
        bundle = decode(rest.frame)
        assert (bundle.indexes, codec.decode(bundle.column)) == ([1, 3], [[1], [3]])
        assert (bundle.id, bundle.size, bundle.attempt, bundle.deaths, bundle.reply) == (BUNDLE_ID, 4, 2, 1, "inbox")
        assert (bundle.due, rest.due, rest.is_successor) == (None, None, True)

    def test_what_has_ended_does_not_come_back(self) -> None:
        """Of what a child had, and another worker ended meanwhile."""
        hold, news = make_hold(make_bundle(4)), make_hold(make_bundle(4))
        hold.hand(0, 4)
        news.end(1, 2)
        assert hold.learn(news)
        assert not hold.learn(news)
        assert [(part.at, part.end) for part in hold.put_back(Part(hold, 0, 4))] == [(0, 1), (2, 3), (3, 4)]
        assert positions(hold.waiting()) == [0, 2, 3]


class TestPart:
    """Jobs that follow each other."""

    @quick
    @given(count=st.integers(2, 9), data=st.data())
    def test_cut(self, count: int, data: st.DataObject) -> None:
        """The first ones go, with their numbers; the others stay, with theirs."""
        part = Part(make_hold(make_bundle(count)), 0, count)
        part.number, part.cost, part.size = 10, 0.5, 77
        at = data.draw(st.integers(1, count - 1))
        first = part.cut(at)
        assert (first.at, first.end, first.number, first.cost, first.size) == (0, at, 10, 0.5, 77)
        assert (part.at, part.end, part.number, part.cost, part.size) == (at, count, 10 + at, 0.5, 0)

    def test_suspect(self) -> None:
        """It is one whose first job has a start behind it."""
        hold = make_hold(make_bundle(2))
        hold.suspect(1, 2)
        assert [Part(hold, at, at + 1).is_suspect for at in (0, 1)] == [False, True]


class TestSame:
    """Two deliveries of one bundle."""

    @pytest.mark.parametrize(
        ("changes", "is_same", "overlaps"),
        [
            ({}, True, True),
            ({"attempt": 2}, False, False),
            ({"indexes": [2, 5, 6]}, False, True),
            ({"indexes": [6, 7, 8]}, False, False),
        ],
    )
    def test_by_jobs_and_attempt(self, changes: dict[str, object], is_same: bool, overlaps: bool) -> None:  # noqa: FBT001
        """The next attempt is another start, and a part may share some jobs."""
        hold = make_hold(make_bundle(3, size=9, indexes=[2, 3, 4]))
        other = make_bundle(3, size=9, **{"indexes": [2, 3, 4], **changes})
        assert (hold.is_same(other), hold.overlaps(other)) == (is_same, overlaps)

    def test_of_a_lost_one_only_what_was_handed_over_counts(self) -> None:
        """The rest was forgotten with the connection."""
        hold = make_hold(make_bundle(4))
        hold.delivery.is_lost = True
        hold.hand(0, 2)
        parts = [make_bundle(2, size=4, indexes=indexes) for indexes in ([0, 1], [1, 2], [2, 3])]
        assert [hold.overlaps(bundle) for bundle in parts] == [True, True, False]


class TestHolds:
    """All deliveries."""

    def test_they_are_found_by_bundle(self) -> None:
        """Several deliveries may have jobs of one: retries travel alone."""
        one, retry, other = make_hold(), make_hold(make_bundle(attempt=2)), make_hold(make_bundle(id=b"o" * 16))
        holds = Holds()
        for hold in (one, retry, other):
            holds.add(hold)
        assert list(holds.of_bundle(BUNDLE_ID)) == [one, retry]
        holds.discard(one.delivery)
        holds.discard(make_delivery())
        assert list(holds.of_bundle(BUNDLE_ID)) == [retry]
        holds.discard(retry.delivery)
        assert list(holds.of_bundle(BUNDLE_ID)) == []
        assert list(holds) == [other]

    def test_one_answers_for_a_second_delivery(self) -> None:
        """From then on it is found by that one, and by its bundle as before."""
        hold, again = make_hold(), make_delivery()
        holds = Holds()
        holds.add(hold)
        old = hold.delivery
        assert holds.adopt(hold, again) is old
        holds.discard(old)
        assert (list(holds), hold.delivery) == ([hold], again)
        holds.discard(again)
        assert (len(holds), list(holds.of_bundle(BUNDLE_ID))) == (0, [])

    def test_a_lost_connection(self) -> None:
        """All deliveries are lost, and those idle of which no child has jobs."""
        waits, runs, ended = (make_hold(make_bundle(2, id=bytes([n]) * 16)) for n in range(3))
        runs.hand(1, 2)
        ended.end(0, 2)
        holds = Holds()
        for hold in (waits, runs, ended):
            holds.add(hold)
        assert holds.idle_lost() == []
        holds.lose()
        assert holds.idle_lost() == [waits.delivery, ended.delivery]
        assert all(hold.delivery.is_lost for hold in (waits, runs, ended))

    def test_one_job_by_two_deliveries(self) -> None:
        """It is held twice: two deliveries are never taken for one."""
        bundle = make_bundle()
        one, other = (Hold(make_delivery(bundle), bundle) for _ in range(2))
        holds = Holds()
        holds.add(one)
        holds.add(other)
        holds.discard(one.delivery)
        assert list(holds) == [other]
