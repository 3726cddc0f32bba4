"""`map`: a stream of calls in, a stream of results out, with a bounded number on the way."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from threading import RLock
from typing import TYPE_CHECKING, Any

from queuelib import body as bodies
from queuelib.bundle import TARGET, BoundedSizes
from queuelib.errors import JobTimeout
from queuelib.ids import Key

if TYPE_CHECKING:
    from queuelib.bundle import Chunk, Chunks, Sizes
    from queuelib.job import Outcomes
    from queuelib.outcome import Record

__all__ = ["NO_LIMITS", "Limits", "Stream"]

FEWEST_AHEAD = 1024  # jobs on the way, however slowly they come back
SECONDS_AHEAD = 4 * TARGET  # of what comes back in that time: four bundles for each child that works on it
_MEASURED_FOR = 0.05  # seconds
_BUNDLES_A_PUBLISH = 16
_WINDOW = 32  # jobs looked up at once: quick ones come many to a record, and slow ones few at a time
_LOOKED_AT = 256  # jobs looked up at once where they are all waited for
_BUNDLES_IN_ROOM = 8  # at least, so that the room is filled again before all of it has come back


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a stream may run ahead of its reader, and how long it may take.

    Attributes:
        until: Monotonic time after which waiting for a result raises `JobTimeout`; None for no limit.
        timeout: The seconds that were given, for that message.
        room: Most calls that were taken from the input and whose results were not handed on; None: by their pace.
        chunk: Jobs in a bundle; None: by their run times.
    """

    until: float | None = None
    timeout: float | None = None
    room: int | None = None
    chunk: int | None = None

    def sizes(self, usual: Sizes) -> Sizes:
        """Return how many jobs go into a bundle under these limits, where it would be `usual`."""
        most = None if self.room is None else max(1, self.room // _BUNDLES_IN_ROOM)
        if self.chunk is None:
            return usual if most is None else BoundedSizes(usual, 1, most)
        return BoundedSizes(usual, self.chunk, self.chunk if most is None else min(self.chunk, most))


NO_LIMITS = Limits()


@dataclass(slots=True)
class _OnItsWay:
    """A bundle of which not every result was handed on: the jobs from `at` on are still to come."""

    id: bytes
    size: int
    first: int  # position of its first job in the stream
    at: int = 0

    def window(self) -> list[Key]:
        return [Key(self.id, index) for index in range(self.at, min(self.size, self.at + _WINDOW))]


@dataclass(slots=True)
class Stream:
    """One running `map`: one thread reads it, others may submit its rest, cut it and cancel it meanwhile.

    Args:
        chunks: The encoded calls, lazily.
        send: Publishes chunks as bundles and returns their ids.
        outcomes: Where results come from.
        sizes: Told how long the jobs ran.
        about: Task and color, for the notice that nobody serves it.
        limits: How far it may run ahead, and how long it may take.

    Attributes:
        is_exhausted: Whether all calls were submitted.
    """

    chunks: Chunks
    send: Callable[[list[Chunk]], list[bytes]]
    outcomes: Outcomes
    sizes: Sizes
    about: tuple[str, str]
    limits: Limits = NO_LIMITS
    is_exhausted: bool = False
    _submitted: int = 0
    _handed: int = 0
    _bundles: deque[_OnItsWay] = field(default_factory=deque["_OnItsWay"])  # the reader alone takes from it
    _filling: RLock = field(default_factory=RLock)  # held while the input is read, however long that takes
    _is_filling: bool = False
    _sending: RLock = field(default_factory=RLock)  # held while bundles are sent and noted, for no longer
    _is_ending: bool = False
    _is_cut: bool = False
    _is_cancelled: bool = False
    _is_left: bool = False
    _has_dropped: bool = False  # calls that were taken from the input
    _error: BaseException | None = None
    _unread: Exception | None = None  # the next result cannot be read here
    _ahead: int = FEWEST_AHEAD
    _came: int = 0
    _since: float = field(default_factory=time.monotonic)

    def results(self, *, ordered: bool) -> Generator[Any]:
        """Return a generator of results, or of `(index, result)` as jobs end; closing it cancels what has not started."""
        generator = self._ordered() if ordered else self._unordered()
        next(generator)  # a generator that was never entered would not notice that it is closed
        return generator

    def shown(self, label: str, total: int | None, *, ordered: bool) -> Generator[Any]:
        """Return what `results` does, which shows a bar, and cancels at Ctrl-C while it is waited for."""
        generator = self._shown(label, total, self.results(ordered=ordered))
        next(generator)
        return generator

    def _shown(self, label: str, total: int | None, results: Generator[Any]) -> Generator[Any]:
        from queuelib.bars import Bar, Interrupt  # noqa: PLC0415 - for those who look

        bar = Bar(label, total)
        interrupt = Interrupt(self._open_jobs, self.cut_off)
        is_over = object()
        try:
            yield None
            while True:
                failed = True
                try:
                    with interrupt.waiting():
                        value = next(results, is_over)
                    failed = False
                finally:
                    if failed:
                        bar.count(failed=1)
                if value is is_over:
                    break
                bar.count()
                yield value
            interrupt.end()
        finally:
            results.close()
            interrupt.close()
            bar.close()

    def _open_jobs(self) -> list[tuple[Outcomes, list[Key]]]:
        keys = [Key(bundle.id, index) for bundle in list(self._bundles) for index in range(bundle.at, bundle.size)]
        return [(self.outcomes, keys)]

    def _ordered(self) -> Generator[Any]:
        try:
            yield None
            while self._bundles:
                bundle = self._bundles[0]
                found = self._ended(bundle)
                if not found:
                    key = Key(bundle.id, bundle.at)
                    found = [self._wait_for([key])]
                for record in found:
                    values = self._values(bundle, record)
                    while values:  # what was handed on is kept by nobody here
                        yield values.pop()
                    self._raise_unread()
                if bundle.at == bundle.size:
                    self._bundles.popleft()
                    self.refill()
            self._raise_error()
        finally:
            self._cancel_rest()

    def _unordered(self) -> Generator[Any]:
        try:
            yield None
            while self._bundles:
                has_found = False
                for bundle in list(self._bundles):
                    for record in self._ended(bundle):
                        has_found = True
                        values = self._values(bundle, record)
                        while values:
                            yield bundle.first + bundle.at - len(values), values.pop()
                        self._raise_unread()
                    if bundle.at == bundle.size:
                        with self._sending:
                            self._bundles.remove(bundle)
                if has_found:
                    self.refill()
                else:
                    keys = [Key(bundle.id, bundle.at) for bundle in list(self._bundles)]
                    self._wait_for(keys)
            self._raise_error()
        finally:
            self._cancel_rest()

    def refill(self) -> None:
        """Submit until enough is on the way; waits until half of it has come back.

        Raises:
            Exception: What reading the calls or publishing them raised; what is on the way is then cancelled.
        """
        try:
            self._submit()
        except BaseException:
            self._cancel_rest()
            raise

    def submit_rest(self) -> None:
        """Submit all that is left, however much is on the way then; not beyond the room that it was given.

        Raises:
            Exception: As `refill`. What is on the way goes on then, and after it the reader gets the same error.
        """
        with self._filling:
            self._is_ending = True
            try:
                self._submit()
            except BaseException as error:
                self._error, self._is_cut = error, True
                raise

    def cut(self) -> None:
        """Submit nothing more; returns at once."""
        self._is_cut = True

    def cut_off(self) -> None:
        """Submit nothing more, and have what is being submitted just now cancelled; returns at once."""
        self._is_cut = self._is_cancelled = True

    def leave(self) -> None:
        """In a process that was forked off: leave what is on the way to the parent, whose threads held the locks."""
        self._has_dropped = self._is_filling or not self.is_exhausted
        self._is_cut = self._is_left = True
        self._filling, self._sending, self._is_filling = RLock(), RLock(), False

    @property
    def is_short(self) -> bool:
        """Whether it was cut before all calls were submitted; to be asked when nothing is on the way any more."""
        with self._filling:
            if not self._is_cut or self._has_dropped or self._is_filling:
                return self._is_cut
            return not self.is_exhausted and next(self.chunks, None) is not None

    def wait(self) -> None:
        """Wait until all that is on the way has ended.

        Raises:
            BrokerUnavailable: The server has not answered for some seconds.
        """
        with self._sending:
            bundles = list(self._bundles)
        for bundle in bundles:
            for start in range(bundle.at, bundle.size, _LOOKED_AT):
                keys = [Key(bundle.id, index) for index in range(start, min(bundle.size, start + _LOOKED_AT))]
                while keys := [r.key for r in self.outcomes.records(keys) if not r.is_final]:
                    self.outcomes.wait_for(keys[:1], None, self.about, are_open=True)

    def cancel(self) -> None:
        """Submit nothing more, and ask that nothing starts that has not; how each ended is still handed on."""
        self.cut_off()
        [(_, keys)] = self._open_jobs()
        if keys:
            self.outcomes.open_results().cancel(keys)

    @property
    def _in_flight(self) -> int:
        return self._submitted - self._handed

    def _submit(self) -> None:
        with self._filling:
            is_half_full = self.limits.room is None and not self._is_ending and self._in_flight >= self._ahead // 2
            # It may be filling while this thread has the lock: a signal struck there, whose handler is here.
            if self.is_exhausted or self._is_cut or self._is_filling or is_half_full:
                return
            self._is_filling = True
            try:
                while self._has_room(0) and self._fill():
                    pass
            finally:
                self._is_filling = False

    def _raise_error(self) -> None:
        """Raise what ended the input while its rest was submitted."""
        with self._filling:
            error = self._error
        if error is not None:
            raise error

    def _has_room(self, more: int) -> bool:
        """Return whether another bundle may be sent, besides so many calls that were taken just now."""
        taken = self._in_flight + more
        if self.limits.room is None:
            return self._is_ending or taken < self._ahead
        return taken + self.sizes.at(self._submitted + more) <= self.limits.room

    def _wait_for(self, keys: list[Key]) -> Record:
        """Wait until one of these jobs, none of which had ended, has."""
        until, timeout = self.limits.until, None
        if until is not None:
            timeout = max(0.0, until - time.monotonic())
        try:
            return self.outcomes.wait_for(keys, timeout, self.about, are_open=True)
        except JobTimeout as error:
            msg = f"the next result did not come within {self.limits.timeout:g} s of the start of the map"
            raise JobTimeout(msg) from error

    def _fill(self) -> bool:
        """Submit some more; return whether there may be yet more."""
        batch: list[Chunk] = []
        count = 0
        is_last, failure = False, None
        try:
            for chunk in self.chunks:
                batch.append(chunk)
                count += chunk.count
                if len(batch) >= _BUNDLES_A_PUBLISH or not self._has_room(count):
                    break
            else:
                is_last = True
        except Exception as error:
            if not self._is_ending:
                raise
            failure = error  # what came before it was promised to be run
        self._send(batch)
        if failure is not None:
            raise failure
        self.is_exhausted = is_last
        return not (is_last or self._is_cut)

    def _send(self, batch: list[Chunk]) -> None:
        if not batch:
            return
        with self._sending:
            if self._is_cut:
                self._has_dropped = True
                return
            for bundle, chunk in zip(self.send(batch), batch, strict=True):
                self._bundles.append(_OnItsWay(bundle, chunk.count, self._submitted))
                self._submitted += chunk.count
        if self._is_cancelled:  # meanwhile
            self.cancel()

    def _measure(self, count: int) -> None:
        """Note that results came back, and have as many on the way as their pace asks for."""
        self._came += count
        now = time.monotonic()
        elapsed = now - self._since
        if elapsed >= _MEASURED_FOR:
            self._ahead = max(FEWEST_AHEAD, int(SECONDS_AHEAD * self._came / elapsed))
            self._came, self._since = 0, now

    def _ended(self, bundle: _OnItsWay) -> list[Record]:
        """Return the records of the jobs that come next in a bundle and have ended, in order."""
        found: list[Record] = []
        for record in self.outcomes.records(bundle.window()):
            if not record.is_final:
                break
            if not found or record is not found[-1]:
                found.append(record)
        return found

    def _values(self, bundle: _OnItsWay, record: Record) -> list[Any]:
        """Return the values of a record that come next, the last one first; their jobs have ended, and so they count as handed on."""
        try:
            values, seconds = self.outcomes.values(record)
        except Exception as error:
            if record.count == 1:
                raise
            values, seconds = self._readable(record, error)
        self.sizes.ran(seconds, len(values))
        self._measure(len(values))
        left = values[bundle.at - record.key.index :]
        bundle.at += len(left)
        self._handed += len(left)
        left.reverse()
        return left

    def _readable(self, record: Record, error: Exception) -> tuple[list[Any], float]:
        """Return the values of a record before the one that cannot be read here, whose error is raised after them."""
        values: list[Any] = []
        seconds = 0.0
        for one in bodies.singles(record):
            try:
                (value,), seconds = self.outcomes.values(one)
            except Exception as its_own:  # noqa: BLE001 - a class may raise anything where a value is made
                self._unread = its_own
                break
            values.append(value)
        if not values or self._unread is None:
            raise self._unread or error
        return values, seconds

    def _raise_unread(self) -> None:
        if self._unread is not None:
            raise self._unread

    def _cancel_rest(self) -> None:
        with self._sending:
            self._is_cut = True
            bundles = list(self._bundles)
            self._bundles.clear()
        if self._is_left or not bundles:
            return
        results = self.outcomes.open_results()
        for bundle in bundles:
            rest = [Key(bundle.id, index) for index in range(bundle.at, bundle.size)]
            unfinished = [key for key, r in zip(rest, results.fetch(rest), strict=True) if r is None or not r.is_final]
            if unfinished:
                results.cancel(unfinished)
