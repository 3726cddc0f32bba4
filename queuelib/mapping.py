"""`map`: a stream of calls in, a stream of results out, with a bounded number on the way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from queuelib.bundle import Chunks
from queuelib.ids import Key
from queuelib.outcome import SUCCEEDED

if TYPE_CHECKING:
    from queuelib.job import Outcomes
    from queuelib.outcome import Record

__all__ = ["Stream"]

AHEAD = 4096  # jobs on the way: 64 bundles of 64, enough for the children of a dozen machines
_BUNDLES_A_PUBLISH = 16


@dataclass
class Stream:
    """One running `map`.

    Args:
        chunks: The encoded arguments of the calls, lazily.
        send: Publishes columns as bundles and returns their ids.
        outcomes: Where results come from.
        about: Task and color, for the notice that nobody serves it.
    """

    chunks: Chunks
    send: Callable[[list[list[bytes]]], list[bytes]]
    outcomes: Outcomes
    about: tuple[str, str]
    _submitted: int = 0
    _in_flight: int = 0
    _bundles: deque[tuple[bytes, int, int]] = field(default_factory=deque["tuple[bytes, int, int]"])
    _is_exhausted: bool = False

    def results(self, *, ordered: bool) -> Generator[Any]:
        """Return a generator of results, or of `(index, result)` as jobs end; closing it cancels what has not started."""
        generator = self._ordered() if ordered else self._unordered()
        next(generator)  # a generator that was never entered would not notice that it is closed
        return generator

    def _ordered(self) -> Generator[Any]:
        try:
            yield None
            while self._bundles:
                bundle, size, _ = self._bundles[0]
                for record in self._finals([Key(bundle, i) for i in range(size)]):
                    value = self.outcomes.value(record)
                    self._in_flight -= 1
                    yield value
                self._bundles.popleft()
                self.refill()
        finally:
            self._cancel_rest()

    def _unordered(self) -> Generator[Any]:
        pending: dict[Key, int] = {}
        try:
            yield None
            while self._bundles or pending:
                while self._bundles:
                    bundle, size, first = self._bundles.popleft()
                    pending.update({Key(bundle, i): first + i for i in range(size)})
                keys = list(pending)
                self.outcomes.wait_for(keys, None, self.about)
                for record in self.outcomes.records(keys):
                    if record.is_final:
                        index = pending.pop(record.key)
                        self._in_flight -= 1
                        yield index, self.outcomes.value(record)
                        self.refill()
        finally:
            self._cancel_rest(list(pending))

    def refill(self) -> None:
        """Submit until enough is on the way; waits until half of it has come back.

        Raises:
            Exception: What reading the calls or publishing them raised; what is on the way is then cancelled.
        """
        if self._is_exhausted or self._in_flight > AHEAD // 2:
            return
        try:
            self._fill()
        except BaseException:
            self._cancel_rest()
            raise

    def _fill(self) -> None:
        while self._in_flight < AHEAD and not self._is_exhausted:
            batch: list[list[bytes]] = []
            for chunk in self.chunks:
                batch.append(chunk)
                self._submitted += len(chunk)
                if len(batch) >= _BUNDLES_A_PUBLISH or self._in_flight + sum(map(len, batch)) >= AHEAD:
                    break
            else:
                self._is_exhausted = True
            self._publish(batch)

    def _publish(self, batch: list[list[bytes]]) -> None:
        if not batch:
            return
        first = self._submitted - sum(map(len, batch))
        for bundle, chunk in zip(self.send(batch), batch, strict=True):
            self._bundles.append((bundle, len(chunk), first))
            first += len(chunk)
            self._in_flight += len(chunk)

    def _finals(self, keys: list[Key]) -> Iterator[Record]:
        known: dict[Key, Record] = {}
        for position, key in enumerate(keys):
            if key not in known:
                rest = [other for other in keys[position:] if other not in known]
                known.update({r.key: r for r in self.outcomes.records(rest) if r.is_final})
            yield known.pop(key) if key in known else self.outcomes.wait_for([key], None, self.about)

    def _cancel_rest(self, pending: list[Key] | None = None) -> None:
        rest = [*(pending or ()), *(Key(bundle, i) for bundle, size, _ in self._bundles for i in range(size))]
        unfinished = [r.key for r in self.outcomes.records(rest) if r.state != SUCCEEDED and not r.is_final]
        if unfinished:
            self.outcomes.open_results().cancel(unfinished)
        self._bundles.clear()
