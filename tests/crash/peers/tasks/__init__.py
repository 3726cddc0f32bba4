"""Each system's one task, in a module that its workers import."""
