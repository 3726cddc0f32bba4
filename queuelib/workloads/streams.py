"""Random streams named by what they are for, so that no draw depends on which worker makes it, or when."""

from __future__ import annotations

from numpy.random import PCG64, Generator, SeedSequence

__all__ = ["stream"]


def stream(root_seed: int, *key: int) -> Generator:
    """Return the random stream of the piece of work that `key` names.

    Two different keys give independent streams (O'Neill's seed mixing, as in numpy's "Parallel random number
    generation"): the chance that any two of a million coincide is about 2**-88. Use the position in the input as the
    key, never a worker, a bundle or an attempt: then a job that runs twice draws the same numbers twice.

    Args:
        root_seed: Seed of the whole run, any integer from 0 up.
        key: What tells this piece of work from all others, integers from 0 up.

    Raises:
        ValueError: The seed or a part of the key is negative.

    Example:
        >>> stream(20260101, 0).random() == stream(20260101, 0).random()
        True
    """
    return Generator(PCG64(SeedSequence(root_seed, spawn_key=key)))
