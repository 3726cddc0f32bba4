"""Queues in which a worker keeps what it has in hand for long; when the worker dies, the server empties them itself.

A message in such a queue is unacknowledged from the moment it came, and the time to live does not run out for it then.
When the connection ends that holds it, it is ready and too old at once, and RabbitMQ moves it to its color's queue.
"""

from __future__ import annotations

import logging
import re
from typing import Any

__all__ = ["Held"]

_TIME_TO_LIVE = 1000  # milliseconds that a message may be there without being in hand; it is handed over at once
_KEPT = 48  # times the limit, a day by default: as long as a color's queue may be out of the server's reach
_SHORTEST_USE = 60.0  # seconds
# The text of error 406, in RabbitMQ 3.10: nothing else over AMQP says what the limit is.
_COMPLAINT = re.compile(r"delivery acknowledgement .* timed out.* used: (\d+) ms")
_log = logging.getLogger("queuelib.broker")


class Held:
    """How such queues are declared.

    Args:
        limit: The server's consumer_timeout in seconds, as far as the user knows.
        is_replicated: Whether they are quorum queues, which move a message at least once.
    """

    def __init__(self, limit: float, *, is_replicated: bool = True) -> None:
        self.limit = limit
        self._is_replicated = is_replicated

    def learn(self, complaint: str) -> None:
        """Read the limit from an error of the server, if it is about that, and keep to it from now on."""
        found = _COMPLAINT.search(complaint)
        if found is None or int(found[1]) / 1000 >= self.limit:
            return
        limit = int(found[1]) / 1000
        _log.warning(
            "the server takes back what is in hand for %g s, not for %g s, and did so; from now on such messages are "
            "moved in time. Say so in the URL of every worker: ?consumer_timeout=%d",
            limit,
            self.limit,
            limit,
        )
        self.limit = limit

    def arguments(self, queue: str) -> dict[str, Any]:
        """Return with which arguments one is declared from which `queue` gets at once what nobody holds any more."""
        arguments: dict[str, Any] = {
            "x-message-ttl": _TIME_TO_LIVE,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": queue,
            # Nobody consumes it any more, and all that was in it has gone long before.
            "x-expires": int(max(_KEPT * self.limit, _SHORTEST_USE) * 1000),
        }
        if self._is_replicated:
            arguments |= {
                "x-queue-type": "quorum",
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",  # at-least-once asks for it
            }
        return arguments
