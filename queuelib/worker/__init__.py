"""The worker: a supervisor process that owns every connection, and child processes that run handlers and own none."""
