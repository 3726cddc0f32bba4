"""The way from the thread that watches jobs into event loops: any number of endings to one wake-up of a loop."""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from queuelib.outcome import Record
    from queuelib.watch import Ending, Watch

__all__ = ["Mailbox", "ending_of", "mailbox"]


class Mailbox:
    """What threads have for one event loop; of a loop that was closed nothing is kept."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._posted: deque[tuple[asyncio.Future[Any], Any]] = deque()
        self._is_called = False

    def post(self, future: asyncio.Future[Any], result: object) -> None:
        """Have a future of the loop get its result, unless it has one; from any thread."""
        self._posted.append((future, result))
        if self._is_called:
            return
        self._is_called = True
        loop = self._loop()
        try:
            if loop is not None:
                loop.call_soon_threadsafe(self._deliver)
                return
        except RuntimeError:
            pass
        self._is_called = False  # the loop was closed, so nobody waits there
        self._posted.clear()

    def _deliver(self) -> None:
        self._is_called = False  # before the posted ones are taken: who posts after that calls again
        while self._posted:
            future, result = self._posted.popleft()
            if not future.done():
                future.set_result(result)


def mailbox() -> Mailbox:
    """Return the mailbox of the running loop."""
    loop = asyncio.get_running_loop()
    found = _mailboxes.get(loop)
    if found is None:
        found = _mailboxes[loop] = Mailbox(loop)
    return found


async def ending_of(job: Any, watch: Watch, about: tuple[str, str]) -> Record:
    """Wait until a job has ended and return its record; whoever is cancelled leaves nothing behind.

    Raises:
        UnknownJob: The id was never given out.
        BrokerUnavailable: The server has not answered for some seconds.
    """
    future: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
    tell = functools.partial(_post, mailbox(), future)
    watch.add((job,), tell, about)
    try:
        ending = await future
    except BaseException:
        watch.drop((job,), tell)
        raise
    if isinstance(ending, Exception):
        raise ending
    return ending


def _post(box: Mailbox, future: asyncio.Future[Any], _: object, ending: Ending) -> None:
    box.post(future, ending)


_mailboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox] = weakref.WeakKeyDictionary()
