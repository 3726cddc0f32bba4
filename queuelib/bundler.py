"""Encoded calls to bundles: an id, a color, times, and the address at which the client waits for their results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from queuelib.ids import new_bundle_id
from queuelib.message import Bundle, Input
from queuelib.settings import LARGE_BYTES

if TYPE_CHECKING:
    from queuelib.bundle import Chunk
    from queuelib.clock import Clock
    from queuelib.connections import Connections
    from queuelib.options import CallOptions
    from queuelib.routing import Routing
    from queuelib.task import Definition

__all__ = ["Bundler"]

_SOON = 24 * 3600.0  # seconds of delay up to which a large argument may be kept apart from its message


class Bundler:
    """Makes the bundles of one dispatcher.

    Args:
        routing: Which color they get.
        connections: Where results come back, and which large arguments are there already.
        clock: When they are made; to be replaced while another is in force.
    """

    def __init__(self, routing: Routing, connections: Connections, clock: Clock) -> None:
        self._routing = routing
        self._connections = connections
        self.clock = clock

    def bundles(
        self,
        definition: Definition,
        chunks: Iterable[Chunk],
        options: CallOptions,
        places: dict[int, int] | None = None,
    ) -> list[Bundle]:
        """Return each chunk as a bundle; `places` as for `bundle`, by default those of this call."""
        places = {} if places is None else places
        return [self.bundle(definition, chunk, options, places=places) for chunk in chunks]

    def bundle(
        self,
        definition: Definition,
        chunk: Chunk,
        options: CallOptions,
        inputs: Sequence[Input] = (),
        *,
        places: dict[int, int] | None = None,
    ) -> Bundle:
        """Return calls as a bundle.

        Args:
            definition: Their task.
            chunk: The calls.
            options: Their options.
            inputs: What they wait for.
            places: How many of each seed went before in the same call; counted on.
        """
        now, seed, first = self.clock.wall(), options.seed, 0
        if seed is not None and places is not None:
            first = places.get(seed, 0)
            places[seed] = first + chunk.count
        column = chunk.column
        # What waits for others is in pieces; what waits for days may outlast what is kept.
        if len(column) > LARGE_BYTES and not inputs and (options.delay or 0.0) <= _SOON:
            column = self._connections.repeats.moved(column, chunk.count)
        return Bundle(
            id=new_bundle_id(now),
            task=definition.name,
            color=self._routing.color_of(definition, options),
            size=chunk.count,
            indexes=range(chunk.count),
            column=column,
            schema=definition.schema.hash,
            limits=options.limits or definition.options.limits,
            submitted=now,
            due=None if not options.delay else now + options.delay,
            expires=None if options.expires is None else now + options.expires,
            attempt=0 if inputs else 1,
            reply=self._connections.results().inbox(),
            inputs=inputs,
            seed=seed,
            first=first,
        )
