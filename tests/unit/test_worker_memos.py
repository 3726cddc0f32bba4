"""What handlers tell is stored while the job is ours: the newest, a few times a second, and before it runs again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from queuelib.errors import BrokerUnavailable, ConfigurationError
from queuelib.ids import Key
from queuelib.message import Limits
from queuelib.outcome import Again, Failed
from queuelib.ports import Memo
from queuelib.settings import PROGRESS_KEEP
from queuelib.worker.children import Report, Successes, Told
from queuelib.worker.desk import PROGRESS, STATE
from queuelib.worker.lease import Hold
from queuelib.worker.memos import Notebook
from tests.unit.fakes import BUNDLE_ID, FakeMemos, Time, make_bundle, make_delivery

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuelib.ports import Delivery, Memos


@dataclass
class Line:
    """A connection whose server may have given deliveries to others."""

    lost: list[Delivery] = field(default_factory=list["Delivery"])
    may_try: bool = True
    asked: int = 0

    @property
    def link(self) -> Any:
        """Itself: it is a lane, too."""
        return self

    @property
    def lane(self) -> Any:
        """Itself."""
        return self

    def find_lost(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Say whose they are."""
        self.asked += 1
        return [delivery for delivery in deliveries if delivery in self.lost]

    def attempt(self, operation: Any, *arguments: Any) -> Any:
        """Call it; None after a failure, and a pause."""
        try:
            return operation(*arguments)
        except BrokerUnavailable:
            self.may_try = False
            return None

    ask = attempt


class Child:
    """Hears what became of its states."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, bool]] = []

    def answer(self, saves: int, *, is_stored: bool) -> None:
        """Note it."""
        self.heard.append((saves, is_stored))


class Desk:
    """A notebook, and all around it."""

    def __init__(self, retries: int = 0) -> None:
        self.time = Time()
        self.line, self.keeper, self.child = Line(), FakeMemos(), Child()
        self.hold = Hold(make_delivery(), make_bundle(3, limits=Limits(retries=retries)))
        line: Any = self.line
        self.notebook = Notebook(line, lambda: self.keeper, 3600.0, self.time.clock)
        self.saves = 0

    def tell(self, at: int, data: bytes, kind: str = STATE, *, is_urgent: bool = False) -> None:
        """Have a handler tell or save something."""
        self.saves += kind == STATE
        child: Any = self.child
        self.notebook.enter([Told(child, self.hold, at, kind, data, is_urgent, self.saves)])

    def write(self) -> None:
        """Write what is due."""
        self.notebook.write(self.time.now)

    def stored(self, at: int, kind: str = STATE) -> bytes | None:
        """Return what is stored."""
        return self.keeper.read(kind, [Key(BUNDLE_ID, at)])[0]


@pytest.fixture
def desk() -> Desk:
    """One."""
    return Desk()


def test_the_newest_is_written_at_once_and_then_from_time_to_time(desk: Desk) -> None:
    """The first word leaves without delay; what comes within 0.2 s of it is written together, the newest of each job."""
    desk.tell(0, b"1")
    desk.write()
    assert desk.stored(0) == b"1"
    for number in range(5):
        desk.tell(0, b"%d" % number)
        desk.tell(1, b"p%d" % number, PROGRESS)
        desk.write()
    assert len(desk.keeper.writes) == 1
    assert 0.0 < desk.notebook.rest(desk.time.now) <= 0.2
    desk.time.now += 0.2
    assert desk.notebook.rest(desk.time.now) == 0.0
    desk.write()
    assert len(desk.keeper.writes) == 2
    assert (desk.stored(0), desk.stored(1, PROGRESS)) == (b"4", b"p4")
    assert desk.notebook.rest(desk.time.now) == float("inf")


def test_who_waits_is_answered(desk: Desk) -> None:
    """An urgent state is written in the same round, and its child learns of it."""
    desk.tell(0, b"1")
    desk.write()
    desk.tell(0, b"2")
    desk.tell(0, b"3", is_urgent=True)
    desk.write()
    assert desk.stored(0) == b"3"
    assert desk.child.heard == [(1, True), (3, True)]


def test_what_is_not_ours_is_dropped_and_counted(desk: Desk) -> None:
    """Neither what is known to be lost is written, nor what the server says belongs to others."""
    desk.line.lost.append(desk.hold.delivery)
    desk.tell(0, b"1", is_urgent=True)
    desk.tell(1, b"p", PROGRESS)
    desk.write()
    assert (desk.stored(0), desk.stored(1, PROGRESS)) == (None, None)
    assert desk.hold.delivery.is_lost
    assert desk.notebook.dropped == 2
    assert desk.child.heard == [(1, False)]
    desk.line.lost.clear()
    desk.tell(0, b"2")
    desk.time.now += 1.0
    desk.write()
    assert desk.stored(0) is None
    assert desk.notebook.dropped == 3
    assert not desk.notebook.unsaved


def test_a_server_that_is_away(desk: Desk) -> None:
    """What could not be written is kept, can be read here by the job's next run, and is written when the server is back."""
    desk.keeper.is_away = True
    desk.tell(0, b"1", is_urgent=True)
    desk.write()
    assert desk.notebook.unsaved == {Key(BUNDLE_ID, 0): b"1"}
    assert desk.notebook.rest(desk.time.now) > 0.0, "it spins until the server is back"
    assert desk.line.may_try, "outcomes wait for what is said about jobs"
    desk.keeper.is_away = False
    desk.time.now += desk.notebook.rest(desk.time.now)
    desk.tell(0, b"2")
    desk.write()
    assert desk.stored(0) == b"2"
    assert not desk.notebook.unsaved
    assert desk.child.heard == [(2, True)]


def test_what_cannot_be_written_holds_no_outcome_up(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """It is tried after pauses of its own and said once; last words are dropped, and the newest of what runs is kept."""
    desk.keeper.is_away = True
    desk.tell(0, b"p", PROGRESS)
    desk.tell(1, b"1")
    desk.tell(2, b"q", PROGRESS)
    desk.notebook.end([Successes(desk.hold, 0, 1, b"\xc0", 0.1, 1)])
    pauses: list[float] = []
    for _ in range(10):
        desk.write()
        assert not desk.notebook.is_owing()
        pauses.append(desk.notebook.rest(desk.time.now))
        desk.time.now += pauses[-1]
    assert desk.line.may_try
    assert 0.0 < pauses[0] < pauses[-1] <= 10.0
    assert len(caplog.records) == 1
    desk.keeper.is_away = False
    desk.write()
    assert [desk.stored(at, PROGRESS) for at in (0, 2)] == [None, b"q"]
    assert desk.stored(1) == b"1"
    assert desk.child.heard == [(1, True)]


def test_a_retry_waits_a_moment_for_its_state() -> None:
    """Whoever runs it next is to find that; where it cannot be stored the retry does not wait for ever."""
    desk = Desk(retries=1)
    desk.keeper.is_away = True
    for at in (0, 1):
        desk.tell(at, b"1")
    desk.notebook.end([Report(desk.hold, 0, Again(None, b"e"), 0.1)])
    desk.write()
    assert desk.notebook.is_owing()
    desk.time.now += 6.0
    assert not desk.notebook.is_owing()
    desk.write()
    assert desk.notebook.unsaved == {Key(BUNDLE_ID, 1): b"1"}, "one is kept though its job may run elsewhere"
    assert desk.child.heard == [(1, False)]


def test_the_end_of_the_worker_waits_for_no_pause(desk: Desk) -> None:
    """There is no later time."""
    desk.keeper.is_away = True
    desk.tell(0, b"1")
    desk.write()
    desk.keeper.is_away = False
    desk.notebook.press()
    desk.write()
    assert desk.stored(0) == b"1"


def test_a_job_that_was_lost_leaves_the_state_to_others() -> None:
    """Whether it was known when it ended, or was only found out as its ending was to be written."""
    for is_late in (False, True):
        one = Desk()
        one.tell(0, b"1")
        one.write()
        one.keeper.inner.write([Memo(Key(BUNDLE_ID, 0), STATE, b"theirs", 3600.0)])
        one.hold.delivery.is_lost = not is_late
        one.notebook.end([Report(one.hold, 0, Failed(b"e"), 0.1)])
        one.hold.delivery.is_lost = True
        one.notebook.sweep(one.time.now, may_drop=True)
        assert one.stored(0) == b"theirs"


def test_a_state_goes_with_its_job(desk: Desk) -> None:
    """Once the ending is written; what was just saved is not stored any more, and progress stays."""
    desk.tell(0, b"1")
    desk.tell(0, b"p", PROGRESS)
    desk.write()
    desk.tell(0, b"2")
    desk.tell(0, b"last", PROGRESS)
    desk.notebook.end([Successes(desk.hold, 0, 1, b"\xc0", 0.1, 1)])
    desk.write()
    assert desk.stored(0) == b"1"
    assert desk.stored(0, PROGRESS) == b"last"
    desk.notebook.sweep(desk.time.now, may_drop=False)
    assert desk.stored(0) == b"1"
    desk.notebook.sweep(desk.time.now, may_drop=True)
    assert desk.stored(0) is None
    assert desk.stored(0, PROGRESS) == b"last"
    assert desk.child.heard == [(1, True), (2, True)]


def test_a_state_that_was_only_read_goes_too(desk: Desk) -> None:
    """It was saved by another attempt, perhaps in another worker."""
    desk.keeper.inner.write([])
    other = Desk()
    other.tell(2, b"1")
    other.write()
    desk.keeper = other.keeper
    assert desk.notebook.reader(lambda: other.keeper)(Key(BUNDLE_ID, 2)) == b"1"
    desk.notebook.end([Report(desk.hold, 2, Failed(b"e"), 0.1)])
    desk.notebook.sweep(desk.time.now, may_drop=True)
    assert desk.stored(2) is None


def test_a_retry_finds_its_state() -> None:
    """It is written before the outcome is, and stays; where no retry is left it goes."""
    for retries, expected in ((1, b"1"), (0, None)):
        desk = Desk(retries)
        desk.tell(1, b"0")
        desk.write()
        desk.tell(1, b"1")
        desk.notebook.end([Report(desk.hold, 1, Again(None, b"e"), 0.1)])
        desk.write()
        desk.notebook.sweep(desk.time.now, may_drop=True)
        assert desk.stored(1) == expected


def test_a_death_has_all_written(desk: Desk) -> None:
    """The job goes on from its state at once, here or elsewhere."""
    desk.tell(0, b"1")
    desk.write()
    desk.tell(0, b"2")
    desk.notebook.press()
    desk.write()
    assert desk.stored(0) == b"2"


def test_progress_of_a_long_job_is_not_forgotten(desk: Desk) -> None:
    """While the job runs what it told last is written again before its time is over."""
    desk.tell(0, b"p", PROGRESS)
    desk.write()
    desk.notebook.sweep(desk.time.now, may_drop=True)
    assert len(desk.keeper.writes) == 1
    desk.time.now += PROGRESS_KEEP * 0.6
    desk.notebook.sweep(desk.time.now, may_drop=True)
    desk.notebook.sweep(desk.time.now, may_drop=True)
    assert len(desk.keeper.writes) == 2
    desk.hold.end(0, 1)
    desk.notebook.sweep(desk.time.now, may_drop=True)
    desk.time.now += PROGRESS_KEEP
    desk.notebook.sweep(desk.time.now, may_drop=True)
    assert len(desk.keeper.writes) == 2


def test_a_backend_that_keeps_none(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once, and nobody waits for ever."""

    def refuse() -> Memos:
        msg = "it keeps no memos"
        raise ConfigurationError(msg)

    desk.notebook._connect = refuse
    for number in range(2):
        desk.tell(0, b"%d" % number, is_urgent=True)
        desk.write()
    assert desk.child.heard == [(1, False), (2, False)]
    assert caplog.text.count("it keeps no memos") == 1


def test_last_words_of_many_quick_jobs(caplog: pytest.LogCaptureFixture) -> None:
    """A hundred at once, then ten a second: a server may keep a queue for each."""
    time, count = Time(), 150
    line, keeper, child = Line(), FakeMemos(), Child()
    anything: Any = line
    notebook = Notebook(anything, lambda: keeper, 3600.0, time.clock)
    hold = Hold(make_delivery(), make_bundle(2 * count))

    def run(first: int, end: int) -> int:
        someone: Any = child
        for at in range(first, end):
            notebook.enter([Told(someone, hold, at, PROGRESS, b"p", is_urgent=False, saves=0)])
        notebook.end([Successes(hold, first, end - first, b"\xc0" * (end - first), 0.1, 1)])
        before = sum(map(len, keeper.writes))
        time.now += 1.0
        notebook.write(time.now)
        return sum(map(len, keeper.writes)) - before

    assert run(0, count) == 100
    assert run(count, 2 * count) == 10
    assert notebook.rest(time.now) == float("inf")
    assert not caplog.records
