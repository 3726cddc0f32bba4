"""The supervisor's side of a child: what it was handed, what is taken back, and what its death leaves."""

from __future__ import annotations

import mmap
import os
import selectors
import socket
import threading
from contextlib import closing
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from queuelib import codec
from queuelib.color import DEFAULT_PALETTE
from queuelib.errors import WorkerError
from queuelib.outcome import Failed
from queuelib.worker import staff
from queuelib.worker.child import DROP, JOBS, STOP
from queuelib.worker.children import Child, Report, Successes
from queuelib.worker.crew import TemplateCrew
from queuelib.worker.frames import FrameReader, send_frame
from queuelib.worker.lease import Part
from queuelib.worker.pace import MOST_BYTES_AHEAD, MOST_HANDED
from queuelib.worker.plan import Plan
from queuelib.worker.shared import NUMBER, RING_AT, SHARED_BYTES, STARTED, Slot, outbox
from queuelib.worker.staff import Staff
from tests.unit.fakes import BUNDLE_ID, make_bundle, make_part, positions

if TYPE_CHECKING:
    from collections.abc import Iterator


class Pair:
    """A child as the supervisor has it, and the child's own end, played by the test."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        tokens = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        memory = mmap.mmap(-1, SHARED_BYTES)
        self.child = Child(ours, tokens, Slot(memory))
        self.slot = Slot(memory)
        self.put = outbox(self.slot)
        self.reader = FrameReader(self.theirs)

    def start(self, count: int = 1) -> None:
        """Take tokens, as a child does before each start."""
        for _ in range(count):
            os.eventfd_read(self.child.tokens)

    def begin(self, number: int, now: float) -> None:
        """Say that a job starts, as a child does."""
        self.slot.times[STARTED], self.slot.words[NUMBER] = now, number

    def report(self, number: int) -> None:
        """Report the next job as done, through the ring."""
        assert self.put(codec.encode(number), 0.25)

    def send(self, number: int, *fields: Any) -> None:
        """Report a job through the socket."""
        send_frame(self.theirs, (number, 0.25, *fields))

    def frames(self) -> list[int]:
        """Return the kinds of frames that have come."""
        return [kind for kind, _ in self.reader.ready()[0]]

    @property
    def tokens(self) -> int:
        """Take all tokens that are left, and return how many they were."""
        count = 0
        while True:
            try:
                self.start()
            except BlockingIOError:
                return count
            count += 1


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Give a child and its end."""
    made = Pair()
    with closing(made.child), closing(made.theirs):
        yield made


def jobs(count: int) -> Part:
    """Return jobs of one delivery."""
    return make_part(make_bundle(count, schema=b"schema", attempt=2))


class TestHand:
    """What a child gets."""

    def test_a_lot_and_a_run(self, pair: Pair) -> None:
        """What the bundle says once, which of its jobs under which numbers, and a token for each."""
        part = jobs(2)
        pair.child.hand([part])
        column = codec.encoded_list([codec.encode([0]), codec.encode([1])])
        lot = ["lab.work", b"schema", None, BUNDLE_ID, None, 2, column, None]
        assert pair.reader.ready()[0] == [[JOBS, [[lot], [[1, 0, 0, 2]]]]]
        assert pair.tokens == 2
        assert part.hold.has_handed

    def test_parts_of_one_bundle_share_its_lot(self, pair: Pair) -> None:
        """The column travels once a frame, however its jobs are mixed with others."""
        one, other = jobs(5), make_part(make_bundle(1, id=b"o" * 16))
        first, second = one.cut(2), one.cut(1)
        pair.child.hand([first, other, second])
        ((_, (lots, runs)),) = pair.reader.ready()[0]
        assert [lot[3] for lot in lots] == [BUNDLE_ID, [b"o" * 16]]
        assert runs == [[1, 0, 0, 2], [3, 1, 0, 1], [4, 0, 2, 3]]
        assert (pair.child.unreported, pair.tokens) == (4, 4)

    def test_jobs_that_came_alone_share_a_lot(self, pair: Pair) -> None:
        """If they have all in common but their ids and arguments; each can still be recalled and reported by itself."""
        alone = [make_part(make_bundle(1, id=bytes([at]) * 16, column=codec.encode([[at]]))) for at in range(5)]
        other = make_part(make_bundle(1, id=b"o" * 16, attempt=2))
        part_of_many = make_part(make_bundle(1, id=b"p" * 16, size=9, indexes=[7]))
        pair.child.hand([*alone[:3], other, *alone[3:], part_of_many])
        ((_, (lots, runs)),) = pair.reader.ready()[0]
        names = [[b"\0" * 16, b"\1" * 16, b"\2" * 16], [b"o" * 16], [b"\3" * 16, b"\4" * 16, b"p" * 16]]
        assert [lot[3] for lot in lots] == names
        assert [lot[4] for lot in lots] == [[0, 0, 0], [0], [0, 0, 7]]
        assert [lot[5] for lot in lots] == [1, 2, 1]
        assert lots[0][6] == [codec.encode([[at]]) for at in range(3)]
        assert runs == [[1, 0, 0, 3], [4, 1, 0, 1], [5, 2, 0, 3]]
        pair.start(2)
        pair.report(1)
        (report,) = pair.child.reports()
        assert report.hold is alone[0].hold
        recalled = pair.child.recall()
        assert [part.hold.bundle.id for part in recalled] == [b"\2" * 16, b"o" * 16, b"\3" * 16, b"\4" * 16, b"p" * 16]
        assert recalled[0].number == 3

    def test_jobs_of_a_bundle_that_somebody_died_over_are_read_apart(self, pair: Pair) -> None:
        """Each has a lot of its own, so that whoever dies over its arguments dies for it alone."""
        part = jobs(4)
        part.hold.suspect(0, 1)
        part.cut(1)
        pair.child.hand([part])
        ((_, (lots, runs)),) = pair.reader.ready()[0]
        assert [lot[4] for lot in lots] == [[1], [2], [3]]
        assert [lot[6] for lot in lots] == [codec.encode([[at]]) for at in (1, 2, 3)]
        assert runs == [[1, 0, 0, 1], [2, 1, 0, 1], [3, 2, 0, 1]]
        assert (pair.child.unreported, pair.tokens) == (3, 3)

    def test_one_whose_column_cannot_be_cut_goes_whole(self, pair: Pair) -> None:
        """The child says what is wrong with it."""
        part = make_part(make_bundle(2, column=b"\x92\xc1\xc1"))
        part.hold.suspect(0, 1)
        pair.child.hand([part])
        ((_, (lots, runs)),) = pair.reader.ready()[0]
        assert [lot[6] for lot in lots] == [b"\x92\xc1\xc1"]
        assert runs == [[1, 0, 0, 2]]

    def test_a_part_of_a_bundle_says_which_jobs_it_has(self, pair: Pair) -> None:
        """By their indexes, where those are not their places."""
        part = make_part(make_bundle(2, size=9, indexes=[4, 7]))
        pair.child.hand([part])
        ((_, (lots, _)),) = pair.reader.ready()[0]
        assert lots[0][4] == [4, 7]

    def test_numbers_are_never_used_again(self, pair: Pair) -> None:
        """A job handed over after a recall has a new one, so that no report is taken for another's."""
        part = jobs(2)
        pair.child.hand([part])
        recalled = pair.child.recall()
        assert recalled == [part]
        pair.child.hand(recalled)
        assert part.number == 3

    def test_the_work_before_it_is_counted(self, pair: Pair) -> None:
        """In seconds until the report or the recall, and in bytes until nothing is before it, for recalled ones lie there."""
        part = jobs(4)
        part.cost = 0.5
        pair.child.hand([part])
        size = pair.child.bytes_ahead
        assert size > len(part.hold.bundle.column)
        assert pair.child.ahead == 2.0
        pair.start(2)
        pair.report(1)
        pair.child.reports()
        assert (pair.child.ahead, pair.child.bytes_ahead) == (1.5, size)
        pair.child.recall()
        assert pair.child.ahead == 0.5
        assert pair.child.bytes_ahead > size
        pair.report(2)
        pair.child.reports()
        assert (pair.child.ahead, pair.child.bytes_ahead) == (0.0, 0)

    @pytest.mark.parametrize("is_recalled", [False, True])
    def test_a_child_that_does_not_read_blocks_nobody(self, pair: Pair, is_recalled: bool) -> None:  # noqa: FBT001
        """While a job runs for long, what its child is sent stays below what its socket's buffer holds."""
        pair.child.sock.setblocking(False)  # noqa: FBT003 - socket's own signature
        pair.child.hand([jobs(1)])
        pair.start()
        sent = 1
        for _ in range(MOST_HANDED - 1):
            if pair.child.bytes_ahead > MOST_BYTES_AHEAD:
                break
            pair.child.hand([jobs(1)])
            sent += 1
            if is_recalled:
                assert len(pair.child.recall()) == 1
                sent += 1
        assert len(pair.frames()) == sent


class TestRecall:
    """What is taken back."""

    @pytest.mark.parametrize("started", [1, 2, 3])
    def test_the_unstarted_tail(self, pair: Pair, started: int) -> None:
        """What the child has taken tokens for stays, and it is told what to drop; a run is cut where it must be."""
        pair.child.hand([jobs(4)])
        pair.start(started)
        recalled = pair.child.recall()
        assert positions(recalled) == list(range(started, 4))
        assert positions(pair.child.handed) == list(range(started))
        assert pair.reader.ready()[0][1] == [DROP, [started + 1, 1]]
        assert pair.slot.epoch == 1
        assert pair.child.recall() == []
        assert pair.frames() == []

    def test_whole_parts_come_back_as_they_were(self, pair: Pair) -> None:
        """In their order."""
        first, second, third = jobs(1), jobs(3), jobs(2)
        pair.child.hand([first, second, third])
        pair.start()
        assert pair.child.recall() == [second, third]
        assert list(pair.child.handed) == [first]

    def test_a_retiring_child_keeps_what_it_runs(self, pair: Pair) -> None:
        """The token of its stop is not that of its last job, which must not be started elsewhere while it runs."""
        part = jobs(1)
        pair.child.hand([part])
        pair.start()
        pair.child.stop()
        assert pair.child.recall() == []
        assert list(pair.child.handed) == [part]
        assert pair.frames() == [JOBS, STOP]


class TestReports:
    """What a child says."""

    def test_successes_in_a_row_are_one_report(self, pair: Pair) -> None:
        """With their results, and the time they took together; they end the first jobs that were handed over."""
        part = jobs(3)
        pair.child.pid = 4711
        pair.child.hand([part])
        pair.report(1)
        pair.report(2)
        assert pair.child.reports() == [Successes(part.hold, 0, 2, b"\x01\x02", 0.5, 4711)]
        assert (pair.child.done, pair.child.unreported, positions(pair.child.handed)) == (2, 1, [2])

    def test_each_delivery_has_its_own(self, pair: Pair) -> None:
        """A report never spans two of them."""
        one, other = jobs(1), jobs(2)
        pair.child.hand([one, other])
        for number in (1, 2, 3):
            pair.report(number)
        assert pair.child.reports() == [
            Successes(one.hold, 0, 1, b"\x01", 0.25, 0),
            Successes(other.hold, 0, 2, b"\x02\x03", 0.5, 0),
        ]
        assert pair.child.is_idle

    def test_other_outcomes_stand_alone(self, pair: Pair) -> None:
        """In their order between the successes."""
        part = jobs(3)
        pair.child.hand([part])
        pair.report(1)
        pair.send(2, 2, b"no")
        pair.report(3)
        assert pair.child.reports() == [
            Successes(part.hold, 0, 1, b"\x01", 0.25, 0),
            Report(part.hold, 1, Failed(b"no"), 0.25),
            Successes(part.hold, 2, 1, b"\x03", 0.25, 0),
        ]

    def test_a_large_or_long_success_comes_by_the_socket(self, pair: Pair) -> None:
        """And is one like any other, in its turn, with its own time."""
        part = jobs(3)
        pair.child.hand([part])
        pair.report(1)
        pair.send(2, 0, b"large")
        pair.report(3)
        assert pair.child.reports() == [
            Successes(part.hold, 0, 1, b"\x01", 0.25, 0),
            Successes(part.hold, 1, 1, b"large", 0.25, 0),
            Successes(part.hold, 2, 1, b"\x03", 0.25, 0),
        ]

    def test_what_came_by_the_socket_waits_for_its_neighbors(self, pair: Pair) -> None:
        """The ring may be read a moment before they are in it."""
        part = jobs(2)
        pair.child.hand([part])
        pair.send(2, 2, b"no")
        assert not pair.child.read()
        assert pair.child.reports() == []
        pair.report(1)
        assert [report.at for report in pair.child.reports()] == [0, 1]

    def test_a_child_is_idle_when_it_has_nothing_to_do(self, pair: Pair) -> None:
        """With a job in hand it is not, and neither while it is to end."""
        states = [pair.child.is_idle]
        pair.child.hand([jobs(1)])
        states.append(pair.child.is_idle)
        pair.report(1)
        pair.child.reports()
        states.append(pair.child.is_idle)
        pair.child.stop()
        states.append(pair.child.is_idle)
        assert states == [True, False, True, False]

    @pytest.mark.parametrize("number", [0, -1])
    def test_a_child_names_only_what_it_was_handed(self, pair: Pair, number: int) -> None:
        """A report of a job that it had reported before is refused: user code wrote there."""
        pair.child.hand([jobs(2)])
        pair.send(number, 0, b"r")
        with pytest.raises(ValueError, match="reported a job that it does not run"):
            pair.child.read()

    def test_a_child_reports_no_more_than_it_was_handed(self, pair: Pair) -> None:
        """However it does."""
        pair.child.hand([jobs(1)])
        pair.report(1)
        pair.report(2)
        with pytest.raises(ValueError, match="reported more jobs than it was handed"):
            pair.child.reports()

    @pytest.mark.parametrize("value", [b"bytes", [1], [1, 0.5, 9], ["1", 0.5, 0, b""], 7, [1, 0.5, 0, "text"]])
    def test_what_is_no_report_is_refused(self, pair: Pair, value: Any) -> None:
        """Of whichever shape."""
        pair.child.hand([jobs(1)])
        send_frame(pair.theirs, value)
        with pytest.raises(ValueError, match="not a report of a child|not readable"):
            for _ in range(2):
                pair.child.read()
                pair.child.reports()

    def test_damage_in_the_socket_spoils_nothing_in_the_ring(self, pair: Pair) -> None:
        """What was reported is not run again because user code wrote to the socket afterwards."""
        part = jobs(3)
        pair.child.hand([part])
        pair.start(2)
        pair.report(7)
        pair.theirs.sendall(b"printed by a library")
        assert pair.child.reports() == [Successes(part.hold, 0, 1, b"\x07", 0.25, 0)]
        unstarted, running = pair.child.leave()
        assert running is not None
        assert (positions([running]), positions(unstarted)) == ([1], [2])
        assert pair.child.death_note

    def test_a_wrong_report_spoils_nothing_before_it(self, pair: Pair) -> None:
        """What stands before it was reported; the job that it is about was running, and what is behind it comes back."""
        part = jobs(4)
        pair.child.hand([part])
        pair.start(3)
        pair.send(1, 0, b"\x07")
        assert pair.child.reports() == []
        pair.report(8)
        pair.send(3, 99)
        assert not pair.child.read()
        assert pair.child.reports() == [
            Successes(part.hold, 0, 1, b"\x07", 0.25, 0),
            Successes(part.hold, 1, 1, b"\x08", 0.25, 0),
        ]
        unstarted, running = pair.child.leave()
        assert running is not None
        assert (positions([running]), positions(unstarted)) == ([2], [3])
        assert pair.child.death_note

    def test_damage_is_looked_at_twice(self, pair: Pair) -> None:
        """What one end wrote first may be seen last; what stays wrong was written by user code."""
        pair.child.hand([jobs(1)])
        pair.report(1)
        pair.slot.memory[RING_AT] ^= 1
        assert pair.child.reports() == []
        with pytest.raises(ValueError, match="that is no result"):
            pair.child.reports()

    def test_what_runs(self, pair: Pair) -> None:
        """The slot's number says it, if it is that of the first job that was not reported."""
        part = jobs(2)
        pair.child.hand([part])
        assert pair.child.running() is None
        pair.begin(1, 12.5)
        assert pair.child.running() == (part.hold, 0, 1, 12.5)
        pair.report(1)
        pair.child.reports()
        assert pair.child.running() is None
        pair.begin(2, 13.5)
        assert pair.child.running() == (part.hold, 1, 2, 13.5)


class TestDeath:
    """What a child leaves."""

    def test_what_it_was_running(self, pair: Pair) -> None:
        """The job whose token is gone and whose outcome is not here; the others come back."""
        pair.child.hand([jobs(3)])
        pair.start(2)
        pair.report(1)
        pair.child.reports()
        unstarted, running = pair.child.leave()
        assert running is not None
        assert (positions([running]), running.number, positions(unstarted)) == ([1], 2, [2])
        assert (pair.child.unreported, list(pair.child.handed)) == (0, [])

    def test_nothing(self, pair: Pair) -> None:
        """A death between jobs counts against none of them."""
        pair.child.hand([jobs(3)])
        pair.start()
        pair.report(1)
        pair.child.reports()
        unstarted, running = pair.child.leave()
        assert (positions(unstarted), running) == ([1, 2], None)

    def test_while_it_was_to_end(self, pair: Pair) -> None:
        """The token of its stop is not that of the job it ran, whose death counts."""
        pair.child.hand([jobs(1)])
        pair.start()
        pair.child.stop()
        unstarted, running = pair.child.leave()
        assert unstarted == []
        assert running is not None

    def test_its_end_is_seen(self, pair: Pair) -> None:
        """What it had reported before is not lost, and handing it more does not raise."""
        pair.child.hand([jobs(1)])
        pair.report(1)
        pair.theirs.close()
        assert pair.child.read()
        assert len(pair.child.reports()) == 1
        pair.child.hand([jobs(1)])
        assert pair.child.reports() == []


def test_last_words_through_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that ends after its socket was read has reported all the same: its job is over and does not run again."""
    pair, part = Pair(), jobs(1)
    crew: Any = SimpleNamespace(bell=os.eventfd(0), can_kill=False, hire=lambda: pair.child)
    plan = Plan("staff", DEFAULT_PALETTE.names, DEFAULT_PALETTE, 1)
    with selectors.DefaultSelector() as selector, closing(pair.theirs):
        the_staff = Staff(crew, plan, selector)
        the_staff.hire()
        pair.child.hand([part])
        pair.start()

        def ends(_: Child) -> bool:
            pair.send(1, 0, b"\x07")
            return True

        monkeypatch.setattr(staff, "_has_ended", ends)
        heard = the_staff.hear([pair.child])
        os.close(crew.bell)
    assert heard.reports == [Successes(part.hold, 0, 1, b"\x07", 0.25, 0)]
    assert (heard.deaths, heard.returned) == ([], [])


def test_jobs_of_one_delivery_to_two_children(pair: Pair) -> None:
    """Each is accounted for by itself."""
    other = Pair()
    with closing(other.child), closing(other.theirs):
        rest = jobs(4)
        first = rest.cut(2)
        pair.child.hand([first])
        other.child.hand([rest])
        other.report(1)
        pair.report(1)
        assert [r.at for r in other.child.reports()] == [2]
        assert [r.at for r in pair.child.reports()] == [0]


class TestHire:
    """How a child is made."""

    def crew(self) -> tuple[TemplateCrew, socket.socket]:
        """Return a crew without a process, and the socket at which a test plays the template."""
        ours, theirs = socket.socketpair()
        crew = TemplateCrew.__new__(TemplateCrew)
        crew._control, crew.bell = ours, os.eventfd(0)
        crew._door = ours  # any descriptor
        return crew, theirs

    def test_one_that_is_killed_at_once_is_made_again(self) -> None:
        """A child may die before it has said who it is; that is no reason for its worker to end."""
        crew, template = self.crew()

        def play() -> None:
            for is_stillborn in (True, True, False):
                _, fds, _, _ = socket.recv_fds(template, 64, 5)
                with closing(socket.socket(fileno=fds[0])) as sock:
                    if not is_stillborn:
                        send_frame(sock, ("hello", os.getpid()))
                for fd in fds[1:]:
                    os.close(fd)

        thread = threading.Thread(target=play)
        thread.start()
        child = crew.hire()
        thread.join()
        assert child.pid == os.getpid()
        child.close()
        self.close(crew, template)

    def test_worker_ends_without_its_template(self) -> None:
        """Where nobody makes children any more, it cannot go on."""
        crew, template = self.crew()
        template.close()
        with pytest.raises(WorkerError, match="the process that makes children has ended"):
            crew.hire()
        self.close(crew, template)

    def close(self, crew: TemplateCrew, template: socket.socket) -> None:
        """Close what `crew` opened."""
        crew._control.close()
        template.close()
        os.close(crew.bell)
