"""A child's desk: what handlers tell leaves whole, not too often, and never for another job."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from queuelib import body, codec
from queuelib.context import Context, Progress
from queuelib.errors import DecodeError, EncodeError, QueuelibError, SoftTimeLimit, TooLarge
from queuelib.ids import Key
from queuelib.polling import is_readable
from queuelib.worker.child import Lot
from queuelib.worker.children import Child
from queuelib.worker.desk import PROGRESS, STATE, Desk
from queuelib.worker.frames import FrameReader, pack_frame, send_frame
from queuelib.worker.lease import Hold, Part
from queuelib.worker.shared import NUMBER, REFUSED, SAVED, SHARED_BYTES, Slot
from tests.unit.fakes import BUNDLE_ID, make_bundle, make_delivery

PATIENCE = 5.0


class Pair:
    """A desk, and the supervisor's end of its socket."""

    def __init__(self) -> None:
        self.theirs, ours = socket.socketpair()
        self.ours = ours
        self.slot = Slot(mmap.mmap(-1, SHARED_BYTES))
        self.states: dict[Key, bytes] = {}
        self.desk = Desk(ours, self.slot, self.states.get)
        self.reader = FrameReader(self.theirs, is_flat=True)
        self.slot.words[NUMBER] = 7

    def frames(self) -> list[Any]:
        """Return what has arrived."""
        return self.reader.ready()[0]

    def close(self) -> None:
        """Close both ends."""
        self.theirs.close()
        self.ours.close()
        self.slot.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    """One, closed at the end."""
    pair = Pair()
    yield pair
    timer = pair.desk._timer
    if timer is not None:
        timer.join(PATIENCE)
    pair.close()


def told(frames: list[Any]) -> list[float]:
    """Return what progress of frames says is done."""
    return [body.progress_in(frame[2]).done for frame in frames]


class TestProgress:
    """Told often, sent now and then."""

    def test_a_burst_leaves_as_two(self, pair: Pair) -> None:
        """The first one at once, the newest of the rest when its job ends."""
        for done in range(1000):
            pair.desk.tell(7, Progress(done))
        pair.desk.leave(7)
        frames = pair.frames()
        assert [(frame[0], frame[1], frame[3]) for frame in frames] == [(PROGRESS, 7, False)] * 2
        assert told(frames) == [0, 999]

    def test_the_newest_leaves_by_itself(self, pair: Pair) -> None:
        """Though the handler never tells anything again."""
        for done in range(3):
            pair.desk.tell(7, Progress(done))
        pair.theirs.settimeout(PATIENCE)
        assert told([pair.reader.next(), pair.reader.next()]) == [0, 2]

    def test_nothing_of_a_job_that_has_ended(self, pair: Pair) -> None:
        """What a thread tells that its job has left behind goes nowhere, and a state it saves is an error."""
        pair.desk.tell(6, Progress(1))
        with pytest.raises(QueuelibError, match="after its job had ended"):
            pair.desk.save(6, 1, wait=False)
        pair.desk.leave(6)
        assert pair.frames() == []

    def test_its_bytes(self) -> None:
        """They come back as they were; others are refused."""
        for progress in (Progress(1), Progress(0.5, 2, "half \udc80 way", 3.0)):
            assert body.progress_in(body.of_progress(progress))[:2] == progress[:2]
        for data in (b"", b"\xc1", b"\x90", codec.encode([1, 2, 3, 4]), codec.encode(["1", None, "", 0.0])):
            with pytest.raises(DecodeError):
                body.progress_in(data)

    def test_a_process_that_the_handler_has_forked(self, pair: Pair) -> None:
        """It tells nothing, and saves nothing: whose frames would it cut?"""
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            status = 1
            try:
                pair.desk.tell(7, Progress(1))
                pair.desk.save(7, 1, wait=False)
            except QueuelibError:
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert pair.frames() == []


class TestState:
    """Saved now, stored soon."""

    def test_it_leaves_at_once(self, pair: Pair) -> None:
        """Each save is a frame, whole, before `save` returns."""
        pair.desk.save(7, {"at": 1}, wait=False)
        pair.desk.save(7, [2], wait=False)
        assert pair.frames() == [[STATE, 7, codec.encode({"at": 1}), False], [STATE, 7, codec.encode([2]), False]]

    def test_what_cannot_travel(self, pair: Pair) -> None:
        """It is an error where it is saved, and nothing leaves."""
        with pytest.raises(EncodeError):
            pair.desk.save(7, object(), wait=False)
        with pytest.raises(TooLarge):
            pair.desk.save(7, bytes(16 * 1024 * 1024), wait=False)
        assert pair.frames() == []

    def test_waiting(self, pair: Pair) -> None:
        """It returns once as many were stored, and raises where the last was dropped or nobody is there."""

        def answer(stored: int, refused: int) -> None:
            pair.theirs.settimeout(PATIENCE)
            FrameReader(pair.theirs).next()
            pair.slot.words[REFUSED] = refused
            pair.slot.words[SAVED] = stored

        for stored, refused in ((1, 0), (2, 2), (3, 2)):
            thread = threading.Thread(target=answer, args=(stored, refused))
            thread.start()
            if refused == stored:
                with pytest.raises(QueuelibError, match="dropped"):
                    pair.desk.save(7, stored, wait=True)
            else:
                pair.desk.save(7, stored, wait=True)
            thread.join()
        pair.theirs.shutdown(socket.SHUT_RDWR)
        with pytest.raises((QueuelibError, OSError)):
            pair.desk.save(7, 4, wait=True)

    def test_loading(self, pair: Pair) -> None:
        """What is stored comes back as a value, None where there is nothing."""
        key = Key(BUNDLE_ID, 1)
        context = Context(key, desk=pair.desk, number=7)
        assert context.state is None
        pair.states[key] = codec.encode([1, {"a": 2}])
        assert context.state is None, "it is read once"
        assert Context(key, desk=pair.desk, number=7).state == [1, {"a": 2}]


def test_a_signal_strikes_behind_a_frame(pair: Pair) -> None:
    """What interrupts a handler while a large state is written is raised when all of it is out: no frame is torn."""
    content = os.urandom(8 * 1024 * 1024)
    frames: list[Any] = []
    is_blocked = threading.Event()

    def strike(*_: object) -> None:
        error = SoftTimeLimit("too long")
        if not pair.desk.holds(error):
            raise error

    def write(sock: socket.socket, value: Any) -> None:
        is_blocked.set()
        send_frame(sock, value)

    def read() -> None:
        assert is_blocked.wait(PATIENCE)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        while not frames and is_readable(pair.theirs.fileno(), PATIENCE):
            frames.extend(pair.frames())

    pair.desk._write = write
    before = signal.signal(signal.SIGUSR1, strike)
    thread = threading.Thread(target=read)
    thread.start()
    try:
        with pytest.raises(SoftTimeLimit):
            pair.desk.save(7, content, wait=False)
    finally:
        thread.join(PATIENCE)
        signal.signal(signal.SIGUSR1, before)
    assert frames == [[STATE, 7, codec.encode(content), False]]


def test_a_limit_strikes_behind_progress(pair: Pair) -> None:
    """It is a TimeoutError, so an OSError, and is not taken for one of the socket."""
    frames: list[Any] = []

    def write(sock: socket.socket, value: Any) -> None:
        assert pair.desk.holds(SoftTimeLimit("too long"))  # as the handler of the signal does
        send_frame(sock, value)
        frames.append(value)

    pair.desk._write = write
    with pytest.raises(SoftTimeLimit):
        pair.desk.tell(7, Progress(1))
    assert len(frames) == len(pair.frames()) == 1


def test_who_is_cancelled_or_lost(pair: Pair) -> None:
    """Only the job that runs, and only if its number was said."""
    assert not pair.desk.is_cancelled(7)
    pair.slot.cancel(7)
    assert pair.desk.is_cancelled(7)
    assert pair.desk.cancelled() == 7
    assert not pair.desk.is_cancelled(6)
    pair.slot.words[NUMBER] = 8
    assert not pair.desk.is_cancelled(8)
    assert pair.desk.cancelled() == 0
    assert not pair.desk.is_lost(8)
    pair.slot.lose(8)
    assert pair.desk.is_lost(8)


def test_a_lot_has_one_context_for_each_job(pair: Pair) -> None:
    """All who ask in a job get the same, and the next job another one."""
    lot = Lot(("lab.work", b"", None, BUNDLE_ID, [3, 5], 2, b"", (7, 100)), "w1", pair.desk)
    context = lot.running()
    assert lot.running() is context
    assert (context.key, context.attempt, context._draws) == (Key(BUNDLE_ID, 3), 2, (7, 103))
    lot.leave()
    assert lot.running().key == Key(BUNDLE_ID, 3), "a thread that it has left behind asks between two jobs"
    lot.position = 1
    assert lot.running().key == Key(BUNDLE_ID, 5)


def test_what_a_thread_asks_late_is_of_its_own_job(pair: Pair) -> None:
    """Though another one runs by then: it tells and saves nothing for that."""
    lot = Lot(("lab.work", b"", None, BUNDLE_ID, None, 1, b"", None), "w1", pair.desk)
    lot.shift = 7
    lot.running().progress(1)
    assert len(pair.frames()) == 1
    pair.slot.words[NUMBER] = 8
    late = lot.running()
    late.progress(2)
    assert pair.frames() == []
    with pytest.raises(QueuelibError, match="after its job had ended"):
        late.save(1)


# At the supervisor's end


@pytest.fixture
def handed() -> Iterator[tuple[Child, socket.socket, Hold]]:
    """A child that was handed three jobs, and its end of the socket."""
    ours, theirs = socket.socketpair()
    tokens = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK)
    child = Child(ours, tokens, Slot(mmap.mmap(-1, SHARED_BYTES)))
    hold = Hold(make_delivery(), make_bundle(3))
    child.hand([Part(hold, 0, 3)])
    with theirs:
        yield child, theirs, hold
        child.close()


def test_what_is_told_is_that_of_a_job(handed: tuple[Child, socket.socket, Hold]) -> None:
    """By its number, with the count of states so far; and it is taken once."""
    child, sock, hold = handed
    for frame in ((STATE, 2, b"s", True), (PROGRESS, 1, b"p", False), (STATE, 3, b"t", False)):
        send_frame(sock, frame)
    child.read()
    assert [one[1:] for one in child.take_told()] == [
        (hold, 1, STATE, b"s", True, 1),
        (hold, 0, PROGRESS, b"p", False, 1),
        (hold, 2, STATE, b"t", False, 2),
    ]
    assert child.take_told() == []


@pytest.mark.parametrize(
    "frame",
    [
        (STATE, 4, b"of a job it was never handed", False),
        (STATE, 0, b"of none", False),
        ("outcome", 1, b"of an unknown kind", False),
        (STATE, 1, "no bytes", False),
        (STATE, 1, b"no flag", 1),
    ],
)
def test_forged_frames(handed: tuple[Child, socket.socket, Hold], frame: tuple[Any, ...]) -> None:
    """User code that writes to the socket speaks for no other job: its child is killed."""
    child, sock, _ = handed
    send_frame(sock, frame)
    with pytest.raises(ValueError, match=r"not a report|does not run"):
        child.read()


def test_what_comes_late_is_forgotten(handed: tuple[Child, socket.socket, Hold]) -> None:
    """A thread may have told it while the outcome of its job went out."""
    child, sock, _ = handed
    send_frame(sock, (1, 0.5, 0, b"\xc0"))
    child.read()
    assert len(child.reports()) == 1
    sock.sendall(pack_frame((STATE, 1, b"late", False)))
    child.read()
    assert child.take_told() == []


def test_answers(handed: tuple[Child, socket.socket, Hold]) -> None:
    """They never go back, and after its end a child has none."""
    child, _, _ = handed
    child.answer(2, is_stored=True)
    child.answer(1, is_stored=False)
    words = child.slot.words
    assert (words[SAVED], words[REFUSED]) == (2, 1)
    del words
