"""queuelib's task; nothing is configured."""

from __future__ import annotations

from queuelib import Dispatcher
from tests.benchmarks.peers.place import Place
from tests.crash.peers import work as common

_place = Place.here()
_urls = {"redis": _place.redis, "amqp": _place.amqp, "sqlite": f"sqlite:///{_place.folder}/queuelib.db"}
dispatcher = Dispatcher(_urls[_place.broker], namespace=_place.name)


@dispatcher.task(name="work")
def work(label: str, seconds: float, is_poison: bool) -> str:  # noqa: FBT001 - a call as it travels: by position
    """Run one job."""
    return common.work(label, seconds, is_poison)
