"""`map`: a stream of calls in, a stream of results out, with a bounded number on the way."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from queuelib.bundle import TARGET
from queuelib.ids import Key

if TYPE_CHECKING:
    from queuelib.bundle import Chunk, Chunks, Sizes
    from queuelib.job import Outcomes
    from queuelib.outcome import Record

__all__ = ["Stream"]

FEWEST_AHEAD = 1024  # jobs on the way, however slowly they come back
SECONDS_AHEAD = 4 * TARGET  # of what comes back in that time: four bundles for each child that works on it
_MEASURED_FOR = 0.05  # seconds
_BUNDLES_A_PUBLISH = 16
_WINDOW = 32  # jobs looked up at once: quick ones come many to a record, and slow ones few at a time


@dataclass(slots=True)
class _OnItsWay:
    """A bundle of which not every result was handed on: the jobs from `at` on are still to come."""

    id: bytes
    size: int
    first: int  # position of its first job in the stream
    at: int = 0

    def window(self) -> list[Key]:
        return [Key(self.id, index) for index in range(self.at, min(self.size, self.at + _WINDOW))]


@dataclass
class Stream:
    """One running `map`.

    Args:
        chunks: The encoded calls, lazily.
        send: Publishes chunks as bundles and returns their ids.
        outcomes: Where results come from.
        sizes: Told how long the jobs ran.
        about: Task and color, for the notice that nobody serves it.
    """

    chunks: Chunks
    send: Callable[[list[Chunk]], list[bytes]]
    outcomes: Outcomes
    sizes: Sizes
    about: tuple[str, str]
    _submitted: int = 0
    _in_flight: int = 0
    _bundles: deque[_OnItsWay] = field(default_factory=deque["_OnItsWay"])
    _is_exhausted: bool = False
    _ahead: int = FEWEST_AHEAD
    _came: int = 0
    _since: float = field(default_factory=time.monotonic)

    def results(self, *, ordered: bool) -> Generator[Any]:
        """Return a generator of results, or of `(index, result)` as jobs end; closing it cancels what has not started."""
        generator = self._ordered() if ordered else self._unordered()
        next(generator)  # a generator that was never entered would not notice that it is closed
        return generator

    def _ordered(self) -> Generator[Any]:
        try:
            yield None
            while self._bundles:
                bundle = self._bundles[0]
                found = self._ended(bundle)
                if not found:
                    key = Key(bundle.id, bundle.at)
                    found = [self.outcomes.wait_for([key], None, self.about, are_open=True)]
                for record in found:
                    yield from self._values(bundle, record)
                if bundle.at == bundle.size:
                    self._bundles.popleft()
                    self.refill()
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
                        index = bundle.first + bundle.at
                        yield from enumerate(self._values(bundle, record), index)
                    if bundle.at == bundle.size:
                        self._bundles.remove(bundle)
                if has_found:
                    self.refill()
                else:
                    keys = [Key(bundle.id, bundle.at) for bundle in self._bundles]
                    self.outcomes.wait_for(keys, None, self.about, are_open=True)
        finally:
            self._cancel_rest()

    def refill(self) -> None:
        """Submit until enough is on the way; waits until half of it has come back.

        Raises:
            Exception: What reading the calls or publishing them raised; what is on the way is then cancelled.
        """
        if self._is_exhausted or self._is_enough(2):
            return
        try:
            while not self._is_enough(1) and self._fill():
                pass
        except BaseException:
            self._cancel_rest()
            raise

    def _is_enough(self, fraction: int) -> bool:
        return self._in_flight >= self._ahead // fraction

    def _fill(self) -> bool:
        """Submit some more; return whether there may be yet more."""
        batch: list[Chunk] = []
        count = 0
        for chunk in self.chunks:
            batch.append(chunk)
            count += chunk.count
            if len(batch) >= _BUNDLES_A_PUBLISH or self._in_flight + count >= self._ahead:
                break
        else:
            self._is_exhausted = True
        for bundle, chunk in zip(self.send(batch) if batch else (), batch, strict=True):
            self._bundles.append(_OnItsWay(bundle, chunk.count, self._submitted))
            self._submitted += chunk.count
            self._in_flight += chunk.count
        return not self._is_exhausted

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
        """Return the values of a record that come next, all of which count as handed on: their jobs have ended."""
        values, seconds = self.outcomes.values(record)
        self.sizes.ran(seconds, len(values))
        self._measure(len(values))
        left = values[bundle.at - record.key.index :]
        bundle.at += len(left)
        self._in_flight -= len(left)
        return left

    def _cancel_rest(self) -> None:
        results = self.outcomes.open_results()
        while self._bundles:
            bundle = self._bundles.popleft()
            rest = [Key(bundle.id, index) for index in range(bundle.at, bundle.size)]
            unfinished = [key for key, r in zip(rest, results.fetch(rest), strict=True) if r is None or not r.is_final]
            if unfinished:
                results.cancel(unfinished)
