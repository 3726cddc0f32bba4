"""What signing and encrypting cost a quick job: the same work without a key and with either, in turns; see docs/security.md.

    python tests/benchmarks/signing.py URL JOBS ROUNDS

Processor time is that of the program and its worker together, and includes a start of the worker in both cases.
"""

from __future__ import annotations

import resource
import secrets
import statistics
import sys
import time

from queuelib import Dispatcher
from queuelib.address import Address

SECRET = secrets.token_hex(32)
KEYS = {"plain": None, "signed": f"bench:{SECRET}", "encrypted": f"bench/aes:{SECRET}"}
dispatcher = Dispatcher("memory://signing")


@dispatcher.task(name="signing.add")
def add(x: int, y: int) -> int:
    """Do next to nothing."""
    return x + y


def once(url: str, key: str | None, jobs: int) -> tuple[float, float, float]:
    """Return the seconds to submit, in all, and of processor time, for so many jobs in a namespace of their own."""
    cpu = processor_time()
    dispatcher.close()
    dispatcher._connections.address = Address(url, namespace=f"sign{secrets.token_hex(4)}", key=key)
    rows = [(i, i) for i in range(jobs)]
    with dispatcher.workers(processes=2):
        dispatcher.gather(add.submit_many(rows[:2000]), timeout=60)  # so that the sizes of bundles have settled
        began = time.perf_counter()
        submitted = add.submit_many(rows)
        middle = time.perf_counter()
        assert dispatcher.gather(submitted, timeout=300)[-1] == 2 * jobs - 2
        ended = time.perf_counter()
    dispatcher.close()
    return middle - began, ended - began, processor_time() - cpu


def processor_time() -> float:
    """Return the seconds that this process and those it has waited for have used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    """Print medians, in microseconds a job."""
    url = sys.argv[1]
    jobs, rounds = int(sys.argv[2]), int(sys.argv[3])
    found: dict[str, list[tuple[float, float, float]]] = {way: [] for way in KEYS}
    for _ in range(rounds):
        for way, key in KEYS.items():
            found[way].append(once(url, key, jobs))
    for way, times in found.items():
        submit, whole, cpu = (statistics.median(column) / jobs * 1e6 for column in zip(*times, strict=True))
        print(f"{way:>9}: submit {submit:6.2f} us, all {whole:6.2f} us, processor {cpu:6.2f} us a job", flush=True)


if __name__ == "__main__":
    main()
