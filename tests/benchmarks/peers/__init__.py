"""The same work, side by side, on queuelib, on other task queues and on a hand-written floor.

`python -m tests.benchmarks.peers` runs it, `make bench-peers` prepares an environment for it first.
"""
