"""The tests, and their own tools: servers, waiting, leaks."""
