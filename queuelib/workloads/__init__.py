"""Programs that people really run on a queue, written with queuelib's public names only: they prove those names.

Each module can be served as it stands, `queuelib worker queuelib.workloads.genetic`, and gives the same bits
as its own serial loop for the same root seed, whatever the broker and however many workers there are.
"""
