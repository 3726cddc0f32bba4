"""`python -m tests.fuzz --count 1000000 --seed 1`: a long run, reported as a table."""

from __future__ import annotations

import sys
import time

import click

from tests.fuzz.runner import fuzz


@click.command()
@click.option("--count", type=click.IntRange(1), default=1_000_000, show_default=True, help="Inputs.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same inputs.")
def main(count: int, seed: int) -> None:
    """Feed mutated inputs to everything that reads bytes or text from elsewhere."""
    started = time.monotonic()
    found = fuzz(count, seed)
    click.echo(f"{'target':20} {'inputs':>10} {'read':>10} {'mean, us of CPU':>16} {'slowest, ms':>12}")
    for name, tried in found.tried.items():
        click.echo(
            f"{name:20} {tried:>10,} {found.read[name]:>10,} {found.seconds[name] / tried * 1e6:>16.1f} {found.slowest[name] * 1000:>12.2f}"
        )
    click.echo(
        f"{found.count:,} inputs, seed {seed}, {time.monotonic() - started:.0f} s, {found.grown_mib:.1f} MiB more memory"
    )
    for wrong in found.wrong[:50]:
        click.echo(f"WRONG {wrong}")
    if found.wrong:
        click.echo(f"{len(found.wrong):,} wrong")
        sys.exit(1)


if __name__ == "__main__":
    main()
