"""Named places at which a process can be made to fail, so that tests prove what dying there costs.

`QUEUELIB_FAULT=before_settle:3` ends the process that passes `before_settle` for the third time. The form is
`name:times:what:seconds`; all but the name may be left out. `what` is `exit` (at once, status 9; the default), `kill`
(SIGKILL for the whole process group), `raise` (`FaultInjected`), `stop` (SIGSTOP) or `sleep` (60 s unless given).
Each process counts for itself. Nothing is decided after the import: without the variable `ACTIVE` is False for good.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

from queuelib.errors import ConfigurationError

__all__ = ["ACTIVE", "POINTS", "Fault", "FaultInjected", "parse", "point"]

VARIABLE = "QUEUELIB_FAULT"
POINTS = {
    "after_publish": "client: the broker has accepted the frames, the submitter has not been told",
    "after_take": "worker: messages were taken, nothing was done with them",
    "before_start": "child: the job counts as running, its handler was not called",
    "after_run": "child: the handler has returned, its outcome has not left the child",
    "after_value": "child: a large result is kept apart, its outcome has not left the child",
    "mid_frame": "child: half of an outcome that goes through the socket was written",
    "before_settle": "worker: outcomes are known, nothing of them was written",
    "after_result": "worker: endings are stored, the messages are not acknowledged",
    "after_successor": "worker: a retry is published, the original is not acknowledged",
    "before_ack": "worker: everything is stored, nothing is acknowledged",
    "after_settle": "worker: all is written and acknowledged, the worker has not noted it",
}
_WAYS = ("exit", "kill", "raise", "stop", "sleep")
_STATUS = 9
_SLEEP = 60.0  # seconds


class FaultInjected(RuntimeError):
    """What a point raises that was told to raise; on purpose nothing that the worker expects."""


@dataclass
class Fault:
    """What is to happen where, and when.

    Attributes:
        name: The point.
        times: Which time it is passed, from 1.
        what: `exit`, `kill`, `raise`, `stop` or `sleep`.
        seconds: How long it sleeps.
    """

    name: str
    times: int = 1
    what: str = "exit"
    seconds: float = _SLEEP
    _passed: int = 0

    def is_struck(self, name: str) -> bool:
        """Count a point that is passed; return whether this is the time."""
        if name != self.name:
            return False
        self._passed += 1
        return self._passed == self.times

    def strike(self) -> None:
        """Fail as told, after a word on stderr."""
        os.write(2, f"fault point {self.name} passed {self.times} times: {self.what}\n".encode())
        if self.what == "exit":
            os._exit(_STATUS)
        elif self.what == "kill":
            os.killpg(0, signal.SIGKILL)
        elif self.what == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.what == "sleep":
            time.sleep(self.seconds)
        else:
            msg = f"the fault point {self.name} was told to raise"
            raise FaultInjected(msg)


def parse(text: str) -> Fault:
    """Return the fault that a value of the variable asks for.

    Raises:
        ConfigurationError: It names no point, or asks for what does not exist.
    """
    try:
        name, times, what, seconds = [*text.split(":"), *_DEFAULTS[text.count(":") :]]
        fault = Fault(name, int(times), what, float(seconds))
    except (ValueError, IndexError):
        fault = Fault("")
    if fault.name not in POINTS or fault.what not in _WAYS or fault.times < 1 or not fault.seconds >= 0:
        msg = (
            f"{VARIABLE}={text} is not of the form name:times:what:seconds. Points are {', '.join(POINTS)}; "
            f"what may be {', '.join(_WAYS)}"
        )
        raise ConfigurationError(msg)
    return fault


def point(name: str) -> None:
    """Fail here if the variable says so. Where it counts, ask `ACTIVE` first, which costs less than a call."""
    if _fault is not None and _fault.is_struck(name):
        _fault.strike()


_DEFAULTS = ("1", "exit", str(_SLEEP))
# Read at import, unlike all other settings: a point must cost nothing where nobody asks for it.
_fault = parse(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None
ACTIVE = _fault is not None
