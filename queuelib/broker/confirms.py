"""Publishing on a kombu channel: with confirms in batches where the server has them, plainly elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from queuelib.broker.incoming import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ConfirmedChannel", "Parcel"]

_PUBLISH = (60, 40)  # class and method of basic.publish in AMQP 0-9-1
_PERSISTENT = 2


class Parcel(NamedTuple):
    """One message on its way to an exchange or, through the default exchange, to a queue.

    Attributes:
        queue: The queue it ends in; declared when the server finds no way to it.
        body: Its bytes.
        headers: Its headers.
        exchange: Exchange, empty for the default one.
        key: Routing key; empty for the queue's name.
        arguments: How to declare the queue; None for a color's queue.
        owner: Whatever the sender wants to know it by.
    """

    queue: str
    body: bytes
    headers: Mapping[str, Any]
    exchange: str = ""
    key: str = ""
    arguments: Mapping[str, Any] | None = None
    owner: Any = None


class ConfirmedChannel:
    """A channel, and which of the messages published on it the server has not answered for.

    kombu publishes and waits for each answer, which is twenty times slower than counting them here (542 against
    24 us a message). `Producer.publish` also reads the socket before every write, without a limit of time when the
    server stalls inside a frame; so the method frame is written directly.
    """

    def __init__(self, channel: Any, *, is_confirmed: bool) -> None:
        self.raw = channel
        self.unconfirmed: dict[int, Parcel] = {}
        self.refused: list[Parcel] = []
        self._is_confirmed = is_confirmed
        self._sequence = 0
        self._returned: set[str] = set()
        if is_confirmed:
            channel.auto_decode = False  # bodies are bytes; amqp would try to decode them as text
            channel.events["basic_ack"].add(self._on_ack)
            channel.events["basic_nack"].add(self._on_nack)
            channel.events["basic_return"].add(self._on_return)
            channel.confirm_select()

    def send(self, parcel: Parcel) -> int:
        """Write one message; return under which number it is unconfirmed until the server's answer was drained."""
        properties: dict[str, Any] = {"delivery_mode": _PERSISTENT}
        self._sequence += 1
        self.unconfirmed[self._sequence] = parcel
        if self._is_confirmed:
            properties["message_id"] = str(self._sequence)
        message = self.raw.prepare_message(
            parcel.body,
            content_type=CONTENT_TYPE,
            content_encoding="binary",
            headers=parcel.headers,
            properties=properties,
        )
        key = parcel.key or parcel.queue
        if self._is_confirmed:
            self.raw.send_method(_PUBLISH, "Bssbb", (0, parcel.exchange, key, True, False), message)  # mandatory
        else:
            self.raw.basic_publish(message, exchange=parcel.exchange, routing_key=key)
            del self.unconfirmed[self._sequence]  # its return is the answer; until then nobody knows
        return self._sequence

    def take_refused(self) -> list[Parcel]:
        """Return, once, what the server returned or refused."""
        refused, self.refused = self.refused, []
        return refused

    def _on_ack(self, number: int, is_multiple: bool) -> None:  # noqa: FBT001 - amqp's signature
        for parcel, was_returned in self._answered(number, is_multiple=is_multiple):
            if was_returned:
                self.refused.append(parcel)

    def _on_nack(self, number: int, is_multiple: bool) -> None:  # noqa: FBT001 - amqp's signature
        self.refused.extend(parcel for parcel, _ in self._answered(number, is_multiple=is_multiple))

    def _on_return(self, _error: Exception, _exchange: str, _key: str, message: Any) -> None:
        self._returned.add(message.properties.get("message_id", ""))

    def _answered(self, number: int, *, is_multiple: bool) -> list[tuple[Parcel, bool]]:
        unconfirmed = self.unconfirmed
        if not is_multiple:
            numbers = [number] if number in unconfirmed else []
        else:
            numbers = []
            for one in unconfirmed:  # ascending: in the order of publication
                if one > number:
                    break
                numbers.append(one)
        if not self._returned:
            return [(unconfirmed.pop(one), False) for one in numbers]
        answers = []
        for one in numbers:
            text = str(one)
            answers.append((unconfirmed.pop(one), text in self._returned))
            self._returned.discard(text)
        return answers
