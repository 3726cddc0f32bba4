"""Calls to jobs: packed, cut into bundles, handed to the broker, and once it has accepted them told by their ids."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from queuelib import mapping, workflow
from queuelib.bundle import Chunk, Chunks, outgoing
from queuelib.codec import encoded_list
from queuelib.errors import BrokerUnavailable, EncodeError, SubmitUnknown
from queuelib.ids import Key, job_id
from queuelib.job import Job
from queuelib.message import Bundle, Outgoing
from queuelib.naming import refuse_while_importing
from queuelib.options import NO_OPTIONS, CallOptions
from queuelib.task import Definition, Signature

if TYPE_CHECKING:
    from queuelib.bundler import Bundler
    from queuelib.clock import Clock
    from queuelib.connections import Connections
    from queuelib.job import Outcomes
    from queuelib.registry import TaskRegistry
    from queuelib.routing import Routing

__all__ = ["Producer"]

_FRAMES_A_PUBLISH = 256


class Producer:
    """Submits for one dispatcher and its tasks.

    Args:
        registry: The tasks.
        routing: Which color calls get.
        bundler: Makes bundles of calls.
        connections: The way to the broker.
        outcomes: What the jobs ask how they ended.
        clock: Counts the time.
        deadline: Seconds within which the broker is to accept a batch of frames.
    """

    def __init__(
        self,
        registry: TaskRegistry,
        routing: Routing,
        bundler: Bundler,
        connections: Connections,
        outcomes: Outcomes,
        *,
        clock: Clock,
        deadline: float,
    ) -> None:
        self._registry = registry
        self._routing = routing
        self._bundler = bundler
        self._connections = connections
        self._outcomes = outcomes
        self._clock = clock
        self._deadline = deadline

    def use_clock(self, clock: Clock) -> Clock:
        """Go by another clock from now on; return the one of before."""
        before, self._clock, self._bundler.clock = self._clock, clock, clock
        return before

    def submit_call(
        self, definition: Definition, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: CallOptions
    ) -> Job[Any]:
        """Submit one call; this is what `task.submit` calls."""
        refuse_while_importing("submit()")
        if any(map(workflow.waits, (*args, *kwargs.values()))):
            return self.submit_signatures([Signature(self, definition, options, args, kwargs)])[0]
        try:
            column = encoded_list([definition.schema.pack(args, kwargs)])
        except EncodeError:
            workflow.refuse_hidden(definition.name, (*args, *kwargs.values()))
            raise
        return self._submit_bundles([self._bundler.bundle(definition, Chunk(column, 1), options)])[0]

    def submit_rows(
        self, definition: Definition, rows: Iterable[tuple[Any, ...]], options: CallOptions
    ) -> list[Job[Any]]:
        """Submit calls of one task; this is what `task.submit_many` calls."""
        refuse_while_importing("submit()")
        chunks = Chunks(rows, workflow.packed_rows(definition), definition.sizes)
        return self._submit_bundles(self._bundler.bundles(definition, chunks, options))

    def submit_messages(self, messages: Iterable[object]) -> list[Job[Any]]:
        """Submit typed messages; this is what `dispatcher.submit_many` calls."""
        refuse_while_importing("submit()")
        bundles: list[Bundle] = []
        for definition, same in groupby(messages, self._registry.of_message):
            chunks = Chunks(same, definition.schema.pack_messages, definition.sizes)
            bundles += self._bundler.bundles(definition, chunks, NO_OPTIONS)
        return self._submit_bundles(bundles)

    def submit_signatures(self, signatures: Sequence[Signature[Any]]) -> list[Job[Any]]:
        """Submit calls, and before them those that they wait for; this is what `task.s(...).submit` calls."""
        refuse_while_importing("submit()")
        places: dict[int, int] = {}
        plan = workflow.Plan(self, lambda *about: self._bundler.bundle(*about, places=places))
        placed = plan.place(signatures)
        keys = self._connections.address.keys
        for bundles in (plan.plain, plan.waiting):  # nothing waits for what was not accepted
            self.publish([outgoing(bundle, keys) for bundle in bundles])
        return [Job(self._outcomes, one.key, (one.task, one.color)) for one in placed]

    def map_rows(
        self,
        definition: Definition,
        rows: Iterable[tuple[Any, ...]],
        options: CallOptions,
        *,
        ordered: bool,
        total: int | None = None,
        bar: bool = False,
    ) -> Generator[Any]:
        """Submit calls lazily and yield their results; this is what `task.map` calls."""
        stream = self.open_stream(definition, rows, options, total=total)
        stream.refill()
        return stream.shown(definition.name, total, ordered=ordered) if bar else stream.results(ordered=ordered)

    def open_stream(
        self,
        definition: Definition,
        rows: Iterable[tuple[Any, ...]],
        options: CallOptions,
        *,
        total: int | None = None,
        limits: mapping.Limits = mapping.NO_LIMITS,
    ) -> mapping.Stream:
        """Return calls as a stream of which nothing is submitted yet.

        Args:
            definition: The task.
            rows: Arguments, by position.
            options: Options of all calls.
            total: Number of calls if it is known.
            limits: How far the stream may run ahead, and how long it may take.
        """
        refuse_while_importing("submit()")
        places: dict[int, int] = {}

        def send(batch: list[Chunk]) -> list[bytes]:
            bundles = self._bundler.bundles(definition, batch, options, places)
            keys = self._connections.address.keys
            self.publish([outgoing(bundle, keys) for bundle in bundles])
            return [bundle.id for bundle in bundles]

        about = (definition.name, self._routing.color_of(definition, options))
        sizes = limits.sizes(definition.sizes)
        chunks = Chunks(rows, workflow.packed_rows(definition), sizes, total)
        return mapping.Stream(chunks, send, self._outcomes, sizes, about, limits)

    def _submit_bundles(self, bundles: Sequence[Bundle]) -> list[Job[Any]]:
        keys = self._connections.address.keys
        self.publish([outgoing(bundle, keys) for bundle in bundles])
        made: list[Job[Any]] = []
        for bundle in bundles:
            about = (bundle.task, bundle.color)
            made += [Job(self._outcomes, Key(bundle.id, index), about) for index in bundle.indexes]
        return made

    def publish(self, frames: Sequence[Outgoing]) -> None:
        """Hand frames to the broker, in batches; what all of the above end in.

        Raises:
            BrokerUnavailable: `error.accepted` has the ids of the jobs that were accepted before.
            SubmitUnknown: A confirmation was lost; `error.ids` are all that were not confirmed.
        """
        connections = self._connections
        end = self._clock.monotonic() + self._deadline
        accepted: list[str] = []
        for start in range(0, len(frames), _FRAMES_A_PUBLISH):
            batch = frames[start : start + _FRAMES_A_PUBLISH]
            try:
                publisher, results = connections.publisher(), connections.results()
                (results.expect if connections.transport_keeps_records else results.accept)(batch)
                publisher.publish(batch, max(0.1, end - self._clock.monotonic()))
            except BrokerUnavailable as error:
                error.accepted = (*accepted, *_ids(f for f in batch if f.bundle.hex() in error.accepted))
                raise
            except SubmitUnknown as error:
                doubtful = [frame for frame in error.frames if isinstance(frame, Outgoing)]
                error.accepted = (*accepted, *_ids(f for f in batch if f not in doubtful))
                doubtful += frames[start + _FRAMES_A_PUBLISH :]  # so that resubmit completes the call
                error.frames, error.ids = tuple(doubtful), tuple(_ids(doubtful))
                error.unknown = error.ids
                raise
            accepted += _ids(batch) if len(frames) > _FRAMES_A_PUBLISH else ()
            end = self._clock.monotonic() + self._deadline


def _ids(frames: Iterable[Outgoing]) -> list[str]:
    return [job_id(frame.bundle, index) for frame in frames for index in range(frame.size)]
