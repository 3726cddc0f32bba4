"""Feeds mutated inputs to the targets and notes what should not have happened."""

from __future__ import annotations

import logging
import resource
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from tests.fuzz.mutations import mutated_bytes, mutated_text, mutated_value
from tests.fuzz.targets import TARGETS, Target

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MOST_MIB", "MOST_SECONDS", "Findings", "fuzz"]

MOST_SECONDS = 0.050  # of processor time for one input
MOST_MIB = 64.0  # of resident memory more than before the first
_KEEP_SHARE = 0.05
_KEPT = 200  # inputs of a target that were read, to mutate further


@dataclass
class Findings:
    """What a run found.

    Attributes:
        count: Inputs.
        read: How many were read after all, by target.
        seconds: Processor seconds, by target.
        slowest: Processor seconds of the slowest input, by target.
        grown_mib: Peak memory beyond that before the run.
        wrong: What should not have happened, each with the target and the input.
    """

    count: int = 0
    read: Counter[str] = field(default_factory=Counter[str])
    tried: Counter[str] = field(default_factory=Counter[str])
    slowest: dict[str, float] = field(default_factory=dict[str, float])
    grown_mib: float = 0.0
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    wrong: list[str] = field(default_factory=list[str])


def fuzz(count: int, seed: int, targets: Sequence[Target] = TARGETS) -> Findings:
    """Mutate and read so many inputs, by turns for each target; the same seed gives the same inputs."""
    random, found = Random(seed), Findings()
    pools: dict[str, list[bytes | str]] = {target.name: list(target.seeds) for target in targets}
    for target in targets:
        for honest in target.seeds:  # imports and caches are not what is measured
            _run(target, honest)
    logging.disable(logging.WARNING)  # some say that they skip what is not theirs
    before = _peak_mib()
    try:
        for number in range(count):
            target = targets[number % len(targets)]
            pool = pools[target.name]
            data = _mutated(random.choice(pool), random.choice(pool), random)
            if _try(target, data, found) and random.random() < _KEEP_SHARE:
                pool.append(data)
                if len(pool) > _KEPT:
                    del pool[len(target.seeds) + random.randrange(_KEPT - len(target.seeds))]
    finally:
        logging.disable(logging.NOTSET)
    found.grown_mib = _peak_mib() - before
    if found.grown_mib > MOST_MIB:
        found.wrong.append(f"memory grew by {found.grown_mib:.0f} MiB")
    return found


def _try(target: Target, data: bytes | str, found: Findings) -> bool:
    """Read one input and note how it went; return whether it was read."""
    seconds, error = _run(target, data)
    if seconds > MOST_SECONDS:
        seconds = min(seconds, *[_run(target, data)[0] for _ in range(3)])  # the first may have met the collector
    name = target.name
    found.count += 1
    found.seconds[name] += seconds
    found.tried[name] += 1
    found.slowest[name] = max(seconds, found.slowest.get(name, 0.0))
    if seconds > MOST_SECONDS:
        found.wrong.append(f"{name}: {seconds:.3f} s for {data!r:.2000}")
    if error is None:
        found.read[name] += 1
    elif not isinstance(error, target.allowed):
        found.wrong.append(f"{name}: {type(error).__name__}: {error!s:.200} from {data!r:.2000}")
    return error is None


def _mutated(data: bytes | str, other: bytes | str, random: Random) -> bytes | str:
    if isinstance(data, str):
        return mutated_text(data, str(other), random)
    if random.random() < 0.5:
        return mutated_value(data, random)
    return mutated_bytes(data, other if isinstance(other, bytes) else b"", random)


def _run(target: Target, data: bytes | str) -> tuple[float, BaseException | None]:
    started = time.thread_time()
    try:
        target.read(data)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return time.thread_time() - started, error
    return time.thread_time() - started, None


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
