"""What Linux offers to keep a family of processes together; elsewhere these do nothing and the caller falls back."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Sequence

__all__ = [
    "STOP_JOB",
    "become_subreaper",
    "die_with_parent",
    "interrupt",
    "is_linux",
    "keep_signals",
    "kill_group",
    "raise_fd_limit",
    "reap_strangers",
    "stop_job",
]

is_linux = sys.platform == "linux"
STOP_JOB = signal.SIGURG  # which does nothing to who does not ask for it, and which programs hardly use
_MOST_FDS = 65_536
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def raise_fd_limit() -> None:
    """Let this process have as many file descriptors as it may have without further rights, within reason.

    Those that it has started are left as they are, so that no `select` in the code of users meets a high one.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FDS if hard == resource.RLIM_INFINITY else min(hard, _MOST_FDS)
    if soft not in {resource.RLIM_INFINITY, hard} and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def become_subreaper() -> None:
    """Have orphaned descendants become our children, so that we learn of their end."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies; end at once if `parent` is not the parent any more."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def keep_signals(numbers: Sequence[int]) -> None:
    """Have the present handlers of these signals be this process's alone: what it forks is ended by them as any process.

    A process that was forked would raise in the midst of a handler's code, or have an event loop of this process take its
    signals for its own, since both write to one descriptor.
    """
    ours = {number: signal.getsignal(number) for number in numbers}

    def leave() -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in ours.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, signal.SIG_DFL)

    os.register_at_fork(after_in_child=leave)


def kill_group(pid: int) -> None:
    """Kill a child and whatever it started, as far as it stayed in the child's process group."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def interrupt(pid: int) -> None:
    """Send SIGTERM to a child alone: what it started is its own to end."""
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass


def stop_job(pid: int) -> None:
    """Have a child look whether its job is to stop."""
    try:
        os.kill(pid, STOP_JOB)
    except ProcessLookupError:
        pass


def reap_strangers(ours: set[int]) -> None:
    """Reap what our descendants left behind and the kernel made our child; children of ours are left to their reapers."""
    if not is_linux:
        return
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return
    if ended is not None and ended.si_pid not in ours:
        os.waitpid(ended.si_pid, os.WNOHANG)


def _prctl(option: int, value: int) -> None:
    if is_linux and ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")
