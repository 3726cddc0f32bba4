"""`python -m queuelib` is the command `queuelib`."""

from __future__ import annotations

from queuelib.cli import main

if __name__ == "__main__":
    main()
