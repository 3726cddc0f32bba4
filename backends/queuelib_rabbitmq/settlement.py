"""Settling where messages and outcomes are one RabbitMQ: on the channel that holds the deliveries.

Endings, quarantine entries and successors are published there, in this order; once all are confirmed come the states
on the way, so that whoever reads `retrying` knows that the successor exists; then the deliveries are acknowledged. The connection is the fence: when it is gone, so is the right to speak for its deliveries, and of
their outcomes only successes are stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from queuelib import faults
from queuelib.errors import BrokerUnavailable, SubmitUnknown
from queuelib.outcome import SUCCEEDED, TERMINAL
from queuelib.settings import SUBMIT_DEADLINE
from queuelib_rabbitmq import wire

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from queuelib.message import Outgoing
    from queuelib.outcome import Record
    from queuelib.ports import Delivery, Settled, TransportSettings
    from queuelib_rabbitmq.results import RabbitResults

__all__ = ["RabbitSettlement", "SettlingLane"]


@runtime_checkable
class SettlingLane(Protocol):
    """What a settlement asks of the lane that holds the deliveries; its parcels and channels are its own affair."""

    settings: TransportSettings

    def is_ours(self, delivery: Delivery) -> bool:
        """Return whether a delivery came over this very connection and is not settled."""
        ...

    def parcel(self, frame: Outgoing) -> Any:
        """Return a frame with its address."""
        ...

    def parcel_to(self, queue: str, body: bytes, headers: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
        """Return a message for any queue, declared with `arguments` if it is missing."""
        ...

    def send_on(self, parcels: Mapping[str, Sequence[Any]], deadline: float) -> None:
        """Publish on the channels of some colors, and wait until all is confirmed."""
        ...

    def acknowledge(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Acknowledge."""
        ...


class RabbitSettlement:
    """One door for outcomes and acknowledgements."""

    def __init__(self, lane: SettlingLane, results: RabbitResults) -> None:
        self._lane = lane
        self._results = results

    def settle(self, batch: Sequence[Settled]) -> list[bool]:
        """Write a batch; at least once: an outcome may be published and its delivery not acknowledged.

        Raises:
            BrokerUnavailable: The connection is gone, or did not confirm in time; nothing was acknowledged.
        """
        ours = [self._lane.is_ours(settled.delivery) for settled in batch]
        by_color: dict[str, list[Settled]] = {}
        for settled, is_ours in zip(batch, ours, strict=True):
            if is_ours:
                by_color.setdefault(settled.delivery.color, []).append(settled)
        has_successors = any(settled.successors for entries in by_color.values() for settled in entries)
        endings = {color: self._parcels(entries) for color, entries in by_color.items()}
        states = {color: self._outcomes(entries, are_final=False) for color, entries in by_color.items()}
        if not has_successors:
            rounds = [{color: endings[color] + states[color] for color in by_color}]
        else:
            rounds = [endings, states]
        try:
            for parcels in rounds:
                if any(parcels.values()):
                    self._lane.send_on(parcels, SUBMIT_DEADLINE)
                if faults.ACTIVE and parcels is endings and has_successors:
                    faults.point("after_successor")
        except SubmitUnknown as error:
            raise BrokerUnavailable(str(error)) from error
        if faults.ACTIVE:
            faults.point("after_result")
            faults.point("before_ack")
        self._lane.acknowledge(
            [settled.delivery for settled, is_ours in zip(batch, ours, strict=True) if is_ours and settled.is_complete]
        )
        self._store_successes([settled for settled, is_ours in zip(batch, ours, strict=True) if not is_ours])
        return ours

    def _parcels(self, entries: Sequence[Settled]) -> list[Any]:
        """Return what is published for one color before any state on the way."""
        parcels = self._outcomes(entries, are_final=True)
        stream = self._results.quarantine_stream
        for settled in entries:
            for item in settled.quarantined:
                body = wire.encode(wire.ITEM, wire.item_row(item))
                parcels.append(self._lane.parcel_to(stream, body, {}, self._results.streams[stream]))
            parcels += [self._lane.parcel(frame) for frame in settled.successors]
        return parcels

    def _outcomes(self, entries: Sequence[Settled], *, are_final: bool) -> list[Any]:
        """Return endings, or states on the way, as few messages, one for each reply queue."""
        records: dict[tuple[str, bool], list[Record]] = {}
        for settled in entries:
            some = [record for record in settled.records if (record.state in TERMINAL) is are_final]
            if some:
                records.setdefault((settled.reply, settled.delivery.redelivered), []).extend(some)
        results = self._results
        arguments = results.streams[results.stream]
        return [
            self._lane.parcel_to(results.stream, body, {"CC": [reply]} if reply else {}, arguments)
            for (reply, is_doubtful), some in records.items()
            for body in wire.outcome_messages(some, doubtful=is_doubtful)
        ]

    def _store_successes(self, lost: Sequence[Settled]) -> None:
        for settled in lost:
            successes = [record for record in settled.records if record.state == SUCCEEDED]
            if successes:
                self._results.store(successes, settled.reply)
