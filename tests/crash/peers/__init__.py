"""The same faults, side by side, on queuelib and on other task queues.

`python -m tests.crash.peers` injects them, `make crash-peers` prepares an environment for it first.
"""
