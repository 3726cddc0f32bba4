"""Submits marks one by one and says of each whether it was accepted: `submits.py HISTORY COUNT PREFIX`."""

from __future__ import annotations

import sys

from deeds import dispatcher, mark


def main() -> None:
    """Submit them."""
    path, count, prefix = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    for number in range(count):
        label = f"{prefix}{number}"
        try:
            mark.submit(path, label)
        except RuntimeError:  # what a fault point raises
            continue
        sys.stdout.write(f"{label}\n")
        sys.stdout.flush()
    dispatcher.close()


if __name__ == "__main__":
    main()
