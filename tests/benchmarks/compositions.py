"""How long compositions take, from `submit()` to `result()`: medians and the longest, in seconds.

A chord of so many jobs that do nothing, with its callback; the same joined in steps; a chain of a hundredth of them.
"""

from __future__ import annotations

import argparse
import secrets
import statistics
import time
from collections.abc import Callable

from queuelib import Dispatcher, Signature, chain, chord, group

dispatcher = Dispatcher("memory://compositions")


@dispatcher.task(name="compositions.same")
def same(x: int) -> int:
    """Do nothing."""
    return x


@dispatcher.task(name="compositions.total")
def total(values: list[int]) -> int:
    """Return the sum."""
    return sum(values)


def timed(make: Callable[[], Signature[int]], rounds: int) -> list[float]:
    """Return how long each round took."""
    times: list[float] = []
    for _ in range(rounds):
        began = time.perf_counter()
        make().submit().result(timeout=600)
        times.append(time.perf_counter() - began)
    return times


def main() -> None:
    """Print a line for each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="of the broker")
    parser.add_argument("--members", type=int, default=10_000, help="of each chord (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of each kind (default: %(default)s)")
    given = parser.parse_args()
    members, rounds = given.members, given.rounds
    kinds: dict[str, Callable[[], Signature[int]]] = {
        f"chord of {members:,}": lambda: chord(group(map(same.s, range(members))), total.s()),
        f"chord of {members:,}, joined in steps": lambda: chord(map(same.s, range(members)), same.s(), reduce=total),
        f"chain of {members // 100:,}": lambda: chain(same.s(1), *(same.s() for _ in range(members // 100 - 1))),
    }
    dispatcher.configure(broker=given.url, namespace=f"compose{secrets.token_hex(4)}")
    with dispatcher.workers(processes=2):
        dispatcher.gather(
            same.submit_many([(i,) for i in range(2000)]), timeout=60
        )  # the sizes of bundles have settled
        for kind, make in kinds.items():
            times = timed(make, rounds)
            print(f"{kind:40} median {statistics.median(times):6.2f}  longest {max(times):6.2f}")


if __name__ == "__main__":
    main()
